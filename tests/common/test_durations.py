from stn_experiments.common.durations import time_text


def test_times():
    assert [time_text(value) for value in (59.4, 61, 7260)] == ["59 s", "1 min 01 s", "2 h 01 min"]
