from types import SimpleNamespace

import pytest

from stn_experiments.runs import progress
from stn_experiments.runs.progress import ProgressLines


@pytest.fixture
def lines(monkeypatch, capsys):
    """What is printed while each step takes as many seconds, with or without a terminal."""

    def run(seconds, steps, terminal=False):
        now = [100.0]
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
        printer = ProgressLines(12, 40)
        for step in steps:
            now[0] += seconds
            printer.update(step)
        return capsys.readouterr().out.splitlines()

    return run


def test_a_line_every_ten_seconds_tells_how_far_and_how_long(lines):
    assert lines(4, range(1, 7)) == [
        "epoch  1/12  step 3 of 480  about 31 min 48 s left",
        "epoch  1/12  step 6 of 480  about 31 min 36 s left",
    ]


def test_the_time_left_counts_only_the_steps_of_this_process(lines):
    assert lines(10, (41, 42)) == [
        "epoch  2/12  step 41 of 480",
        "epoch  2/12  step 42 of 480  about 1 h 13 min left",
    ]


def test_a_terminal_has_a_progress_bar_instead(lines):
    assert lines(4, range(1, 7), terminal=True) == []
