from contextlib import ExitStack

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


def test_watching_ends_when_no_run_is_active(write_run, root, monkeypatch, capsys):
    write_run("killed")
    folder = write_run("run", seed=1)
    lock = ExitStack()
    lock.enter_context(run_lock(folder))

    def sleep(seconds):
        assert seconds == 5.0
        (folder / "result.json").write_text('{"test_error": 1.0}')
        lock.close()

    monkeypatch.setattr(watching.time, "sleep", sleep)
    watching.watch([root])
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("all runs")]
    assert heads == [
        "all runs: 0 finished, 1 running, 0 failed, 1 stopped",
        "all runs: 1 finished, 0 running, 0 failed, 1 stopped",
    ]
