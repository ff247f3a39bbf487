"""How far a sweep is: what it prints, what lies in its files, and what a second terminal sees."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

from hydra.plugins.sweeper import Sweeper

from stn_experiments.common.errors import RunLocked, TrainingFailed
from stn_experiments.report import watch as watching
from stn_experiments.runs import train as train_run
from stn_experiments.storage import lock
from stn_experiments.storage.lock import run_lock
from stn_experiments.sweeps import progress as sweeps
from stn_experiments.sweeps.progress import Status, alive, status
from tests.conftest import ROOT
from tests.runs.soak import TOO_LONG, npz_settings, start_script, wait_until

DONE = {"test_error": 1.0, "val_error": 2.0, "best_epoch": 1, "epochs": 1, "train_seconds": 3.0}
START = 1_000_000.0

HOLD = """
import pathlib, sys, time
from stn_experiments.storage.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

# What runs take, in seconds, or how they end; and what is said when each begins, and at the end.
TOLD = [
    (
        "one after the other",
        [100, 200, 50],
        [
            "0 of 3 runs done, 1 running, 2 to come",
            "1 of 3 runs done, 1 running, 1 to come, about 3 min 20 s left",
            "2 of 3 runs done, 1 running, about 2 min 30 s left",
            "3 of 3 runs done",
        ],
    ),
    (
        "those that were finished before tell nothing of the time",
        [1, 1, 60, 20],
        [
            "0 of 4 runs done, 1 running, 3 to come",
            "1 of 4 runs done, 1 running, 2 to come",
            "2 of 4 runs done, 1 running, 1 to come",
            "3 of 4 runs done, 1 running, about 1 min 00 s left",
            "4 of 4 runs done",
        ],
    ),
    (
        "a failed run is one",
        [10, TrainingFailed("too hot"), 10],
        [
            "0 of 3 runs done, 1 running, 2 to come",
            "1 of 3 runs done, 1 running, 1 to come, about 20 s left",
            "1 of 3 runs done, 1 running, 1 failed, about 10 s left",
            "2 of 3 runs done, 1 failed",
        ],
    ),
    (
        "one that another process has is one",
        [RunLocked("held"), RunLocked("held")],
        [
            "0 of 2 runs done, 1 running, 1 to come",
            "0 of 2 runs done, 1 running, 1 failed",
            "0 of 2 runs done, 2 failed",
        ],
    ),
]


@pytest.fixture
def sweep(command, monkeypatch):
    """Sweep over seeds whose runs take so many seconds, or raise: exit code, lines and stderr."""
    now = [START]
    monkeypatch.setattr(sweeps, "time", SimpleNamespace(time=lambda: now[0]))

    def run(lives, *more, meanwhile=lambda seed: None):
        def live(config, after_epoch=None):
            meanwhile(config["seed"])
            took = lives[config["seed"]]
            if not isinstance(took, int | float):
                raise took
            now[0] += took
            return DONE

        monkeypatch.setattr(train_run, "train_run", live)
        seeds = ",".join(map(str, range(len(lives))))
        code, out, err = command("train.py", "-m", f"seed={seeds}", *more)
        return code, out.splitlines(), err

    return run


@pytest.fixture
def root(tmp_path):
    """Where the runs of ``sweep`` go."""
    return tmp_path / "outputs"


@pytest.fixture
def folder(root):
    """The folder of the one sweep that there is."""

    def find():
        (plan,) = root.glob(".sweeps/*/plan.json")
        return plan.parent

    return find


@pytest.mark.parametrize(("lives", "said"), [told[1:] for told in TOLD], ids=[told[0] for told in TOLD])
def test_a_sweep_says_how_far_it_is(sweep, lives, said):
    _, lines, _ = sweep(lives)
    assert [line.strip() for line in lines if " runs done" in line] == said
    assert [line for line in lines if line.startswith("run ") and ":" in line] == [
        f"run {number + 1}: seed={number}" for number in range(len(lives))
    ]


def test_only_what_is_swept_is_said_of_a_run_and_in_one_line(sweep, folder):
    _, lines, _ = sweep([10, 10], "trainer=quick", "stn=none,affine", "optimizer.lr=0.1")
    assert [line for line in lines if re.match(r"run \d:", line)] == [
        f"run {number + 1}: seed={number // 2} stn={('none', 'affine')[number % 2]}" for number in range(4)
    ]
    plan = json.loads((folder() / "plan.json").read_text())
    words = "seed=0,1 trainer=quick stn=none,affine optimizer.lr=0.1"
    assert plan == {"sweep": words, "runs": 4, "began": START}


def test_each_run_has_a_file_and_what_it_came_to_is_in_it(sweep, folder):
    sweep([100, TrainingFailed("too hot"), 7.5])
    assert [json.loads(file.read_text()) for file in sorted(folder().glob("run-*.json"))] == [
        {"state": "done", "began": START, "ended": START + 100},
        {"state": "failed", "began": START + 100, "ended": START + 100},
        {"state": "done", "began": START + 100, "ended": START + 107.5},
    ]
    assert status(folder())._replace(name="") == Status("", 3, 2, 0, 1, None)
    assert sorted(path.name for path in folder().iterdir()) == [
        "plan.json",
        *(f"run-000{number}.json" for number in range(3)),
    ]


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["seed=0,1", "stn=none,affine,tps"], 6),
        (["seed=range(0,3)"], 3),
        (["seed=choice(4,5)"], 2),
        (["stn=glob(*ne)"], 2),
        (["sweep=smoke"], 8),
        (["sweep=table1"], 120),
        (["sweep=table1", "trainer=quick", "seed=0"], 40),
        (["sweep=table1", "data=rts", "backbone=cnn"], 12),
        (["sweep=robustness"], 12),
        (["sweep=localisation_lr"], 36),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_plan_knows_how_many_runs_there_will_be(command, monkeypatch, folder, words, runs):
    class Enough(KeyboardInterrupt):
        """Ends the sweep in its first run."""

    def stop(config, after_epoch=None):
        raise Enough

    monkeypatch.setattr(train_run, "train_run", stop)
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda self, batch: None)  # it takes long
    code, out, err = command("train.py", "-m", *words)
    assert (code, err) == (130, "interrupted\n")
    assert f"0 of {runs} runs done, 1 running" in out
    assert json.loads((folder() / "plan.json").read_text())["runs"] == runs


def test_a_sweep_that_cannot_be_is_one_line(command):
    code, out, err = command("train.py", "-m", "seed=interval(0,1)")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "does not support sweep type" in err


def test_one_run_is_no_sweep(command, monkeypatch, tmp_path):
    monkeypatch.setattr(train_run, "train_run", lambda config: DONE)
    code, out, err = command("train.py", "seed=3")
    assert (code, err) == (0, "")
    assert "runs done" not in out
    assert list(tmp_path.iterdir()) == []


def test_the_same_sweep_again_counts_anew(sweep, folder, root):
    sweep([100, TrainingFailed("too hot"), 100])
    _, lines, err = sweep([1, 100, 1])
    first = next(line.strip() for line in lines if " runs done" in line)
    assert first == "0 of 3 runs done, 1 running, 2 to come"
    assert lines[-1] == "3 of 3 runs done"
    assert err == ""
    assert len(list(root.glob(".sweeps/*/plan.json"))) == 1
    assert status(folder()).done == 3


def test_another_sweep_has_a_folder_of_its_own(sweep, root):
    sweep([1, 1])
    sweep([1, 1], "stn=none")
    sweep([1, 1, 1])
    plans = [json.loads(file.read_text()) for file in root.glob(".sweeps/*/plan.json")]
    assert {plan["sweep"]: plan["runs"] for plan in plans} == {
        "seed=0,1": 2,
        "seed=0,1 stn=none": 2,
        "seed=0,1,2": 3,
    }


# Alive


def test_a_sweep_is_alive_while_it_lasts(sweep, root):
    seen = []
    sweep([100, 50, 50], meanwhile=lambda seed: seen.extend(alive(root)))
    assert [str(one) for one in seen] == [
        "0 of 3 runs done, 1 running, 2 to come",
        "1 of 3 runs done, 1 running, 1 to come, about 3 min 20 s left",
        "2 of 3 runs done, 1 running, about 1 min 15 s left",
    ]
    assert {one.name for one in seen} == {"seed=0,1,2"}
    assert alive(root) == []


@pytest.mark.parametrize("end", [KeyboardInterrupt, ZeroDivisionError], ids=["Ctrl-C", "a defect"])
def test_one_that_ends_early_is_not_alive(sweep, root, end):
    seen = []
    code, _, _ = sweep([100, end, 50], meanwhile=lambda seed: seen.extend(alive(root)))
    assert code
    assert seen
    gc.collect()  # as when the process ends
    assert alive(root) == []


def test_one_that_is_killed_is_not_alive_after_the_locks_patience(root, monkeypatch):
    folder = root / ".sweeps" / "some"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text('{"sweep": "seed=0,1", "runs": 2, "began": 1.0}')
    assert alive(root) == []
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == b"held\n"
        assert [one.name for one in alive(root)] == ["seed=0,1"]
        process.kill()
    last = (folder / "lock").stat().st_mtime
    for later, count in ((lock.PATIENCE - 0.1, 1), (lock.PATIENCE + 0.1, 0)):
        monkeypatch.setattr(lock, "time", SimpleNamespace(time=lambda later=later: last + later))
        assert len(alive(root)) == count


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_what_is_damaged_in_a_sweeps_folder_harms_nobody(root, damage):
    folder = root / ".sweeps" / "some"
    folder.mkdir(parents=True)
    for name in ("plan.json", "run-0000.json"):
        (folder / name).write_text(damage)
    (folder / "lock").touch()
    assert [str(one) for one in alive(root)] == ["0 of 0 runs done"]


# Two terminals


def test_a_sweep_that_runs_elsewhere_is_not_told_of_twice(sweep, folder):
    sweep([100, 100])
    plan, runs = folder() / "plan.json", sorted(folder().glob("run-*.json"))
    before = [(file.read_text(), file.stat().st_mtime_ns) for file in (plan, *runs)]
    with run_lock(folder()):
        code, lines, err = sweep([1, 1])
    assert (code, err) == (0, "")
    assert not any("runs done" in line for line in lines)
    assert sum(line.startswith("test error") for line in lines) == 2
    assert before == [(file.read_text(), file.stat().st_mtime_ns) for file in (plan, *runs)]


def test_two_terminals_with_one_sweep_train_each_run_once(command, root, tmp_path):
    words = ["-m", *npz_settings(tmp_path), f"run.root={root}", "trainer.epochs=1", "seed=0,1"]
    first = start_script(*words)
    try:
        wait_until(lambda: list(root.glob("npz-*/lock")) or first.poll() is not None)
        (lock_file,) = root.glob("npz-*/lock")
        os.kill(first.pid, signal.SIGSTOP)  # or it could be done before the second has begun
        code, out, err = command("train.py", *words)
        assert code == RunLocked.exit_code
        assert err.count("\n") == 1
        assert f"{lock_file.parent} is held by process {first.pid}" in err
        assert "runs done" not in out
        (other,) = (file.parent for file in root.glob("npz-*/result.json"))
        result = (other / "result.json").stat()
        assert [str(one) for one in alive(root)] == ["0 of 2 runs done, 1 running, 1 to come"]
    finally:
        os.kill(first.pid, signal.SIGCONT)
    out, err = first.communicate(timeout=TOO_LONG)
    assert (first.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "2 of 2 runs done"
    assert f"{other} is finished already" in out
    assert os.path.samestat(result, (other / "result.json").stat())
    assert len(list(root.glob("npz-*/result.json"))) == 2
    assert alive(root) == []


# Side by side


def test_runs_side_by_side_are_counted_together(root, tmp_path):
    words = ["-m", *npz_settings(tmp_path), f"run.root={root}", "trainer.epochs=1"]
    words += ["optimizer=sgd", "scheduler=constant", "optimizer.lr=0.01,1e30", "stn=none,affine"]
    process = start_script(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=TOO_LONG)
    assert process.returncode == TrainingFailed.exit_code
    assert [bool(re.search(r"error: .*lr=1e\+30 .*not finite", line)) for line in err.splitlines()] == [
        True
    ] * 2
    lines = out.splitlines()
    begun = [place for place, line in enumerate(lines) if re.match(r"run \d: ", line)]
    assert sorted(lines[place] for place in begun) == [
        f"run {number}: optimizer.lr={lr} stn={stn}"
        for number, (lr, stn) in enumerate(product(("0.01", "1e+30"), ("none", "affine")), 1)
    ]
    assert all(re.match(r"  \d of 4 runs done, [12] running", lines[place + 1]) for place in begun)
    assert lines[-1] == "2 of 4 runs done, 2 failed"
    assert alive(root) == []


# Failures


@pytest.fixture
def small(few_digits):
    """A sweep of two runs, the second of which does not finish while ``break_the_second`` is on."""
    return [
        "-m",
        *few_digits,
        "trainer=quick",
        "trainer.epochs=1",
        "trainer.device=cpu",
        "stn=none",
        "seed=0,1",
    ]


def test_a_failed_run_is_told_everywhere_until_it_finishes(command, small, monkeypatch, root):
    finish = train_run.finish

    def break_the_second(experiment, *rest):
        if experiment.seed == 1:
            raise TrainingFailed("training stopped: a test\nbroke it")
        return finish(experiment, *rest)

    monkeypatch.setattr(train_run, "finish", break_the_second)
    code, out, err = command("train.py", *small)
    assert code == TrainingFailed.exit_code
    assert err.endswith("seed=1: training stopped: a test broke it\n")
    assert out.splitlines()[-1] == "1 of 2 runs done, 1 failed"
    (whole,) = (file.parent for file in root.glob("*-seed0-*/result.json"))
    (broken,) = (file.parent for file in root.glob("*-seed1-*/failure.json"))
    failure = {"status": "failed", "why": "training stopped: a test\nbroke it"}
    assert json.loads((broken / "failure.json").read_text()) == failure
    assert not (whole / "failure.json").exists()
    assert not (broken / "result.json").exists()

    sleepless = SimpleNamespace(sleep=lambda seconds: pytest.fail("it watches what does not go on"))
    monkeypatch.setattr(watching, "time", sleepless)
    code, out, err = command("report.py", root, "--watch", "0.01")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "all runs: 1 finished, 0 running, 1 failed, 0 stopped"
    assert f"  {broken.name}: 1 of 1 epochs, failed: training stopped: a test" in out
    code, out, err = command("report.py", root)
    assert (code, err) == (0, "")
    assert "runs        1 finished, 1 failed\n" in out
    page = (root / "report" / "index.html").read_text()
    assert f"{broken.name}: 1 of 1 epochs, failed: training stopped: a test" in page

    monkeypatch.setattr(train_run, "finish", finish)
    code, out, err = command("train.py", *small)
    assert (code, err) == (0, "")
    assert f"{whole.relative_to(root.parent)} is finished already" in out
    assert f"{broken.relative_to(root.parent)} goes on after step 6" in out
    assert out.splitlines()[-1] == "2 of 2 runs done"
    assert (broken / "result.json").exists()
    assert not (broken / "failure.json").exists()
    code, out, err = command("report.py", root, "--watch", "0.01")
    assert (code, err, out) == (0, "", "all runs: 2 finished, 0 running, 0 failed, 0 stopped\n")


def test_watching_shows_a_sweep_and_ends_with_it(command, small, monkeypatch, root):
    shown = []

    def finish_and_look(*arguments):
        try:
            return finish(*arguments)
        finally:
            watching.watch([root], 0.01)

    def look_once(seconds):
        shown.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=look_once))
    finish = train_run.finish
    monkeypatch.setattr(train_run, "finish", finish_and_look)
    code, out, _ = command("train.py", *small)
    assert code == 0
    lines = out.splitlines()
    heads = [place for place, line in enumerate(lines) if line.startswith("sweep ")]
    assert len(heads) == len(shown) == 2  # in each run, even when what there is of it is finished
    assert lines[heads[0]].endswith("stn=none seed=0,1")
    assert lines[heads[0] + 1].strip() == "0 of 2 runs done, 1 running, 1 to come"
    assert lines[heads[1] + 1].strip().startswith("1 of 2 runs done, 1 running")


def test_a_failure_that_cannot_be_noted_hides_nothing(command, small, monkeypatch, root):
    from stn_experiments import runs

    write = runs.write_atomically

    def full(path, text):
        if path.name in ("failure.json", "result.json"):
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(runs, "write_atomically", full)
    monkeypatch.setattr(train_run, "write_atomically", full)
    code, out, err = command("train.py", *small)
    assert code == TrainingFailed.exit_code
    assert all("cannot be written to" in line for line in err.splitlines())
    assert out.splitlines()[-1] == "0 of 2 runs done, 2 failed"
    assert not list(root.rglob("failure.json*"))
