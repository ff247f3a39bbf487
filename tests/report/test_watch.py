import pytest

from stn_experiments.report import watch as watching
from stn_experiments.report.collect import collect
from stn_experiments.storage.lock import run_lock


def test_the_status_shows_progress_and_time_left(write_run, root):
    write_run("finished", 1.0)
    write_run("stopped", stn="tps", **{"trainer.epochs": 4})
    write_run("new", stn="projective", history=())
    with run_lock(write_run("running", stn="none", **{"trainer.epochs": 7})):
        records, _ = collect([root])
    # Two epochs of 10 s each are done and five are left.
    assert watching.status(records).splitlines() == [
        "all runs: 1 finished, 1 running, 0 failed, 2 stopped",
        "  new: 0 of 2 epochs, stopped",
        "  running: 2 of 7 epochs, running, about 50 s left",
        "  stopped: 2 of 4 epochs, stopped",
    ]


@pytest.mark.parametrize("end", ["all runs are finished", "Ctrl-C"])
def test_watching_ends(write_run, root, monkeypatch, capsys, end):
    folder = write_run("run")

    def sleep(seconds):
        assert seconds == 5.0
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        (folder / "result.json").write_text('{"test_error": 1.0}')

    monkeypatch.setattr(watching.time, "sleep", sleep)
    watching.watch([root])
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "all runs: 0 finished, 0 running, 0 failed, 1 stopped"
    assert last == ("" if end == "Ctrl-C" else "all runs: 1 finished, 0 running, 0 failed, 0 stopped")
