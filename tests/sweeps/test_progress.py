"""The progress of a sweep: what it prints, what it writes, and what a second terminal sees."""

import gc
import json
import re
from contextlib import suppress
from itertools import product
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper

from stn_experiments.cli.command import Failure
from stn_experiments.common.errors import RunLocked, TrainingFailed
from stn_experiments.report import watch as watching
from stn_experiments.runs import train as runs
from stn_experiments.runs.train import TrainingRun
from stn_experiments.storage import run_folder
from stn_experiments.storage.lock import lock_file, run_lock
from stn_experiments.sweeps import progress
from stn_experiments.sweeps.progress import SweepProgress, SweepStatus, active_sweeps, sweep_status
from tests.conftest import variation
from tests.runs.harness import TOO_LONG, npz_settings, start_script

TRAIN = "train"
"""The function of ``runs.train`` that trains one run."""
RESULT = {"test_error": 1.0, "val_error": 2.0, "best_epoch": 1, "epochs": 1, "train_seconds": 3.0}
START = 1_000_000.0

# The seconds or the error of each run; and the status that is printed as each run begins, and at the end.
CASES = {
    "one after the other": (
        [100, 200, 50],
        """0 of 3 runs done, 1 running, 2 to come
        1 of 3 runs done, 1 running, 1 to come, about 3 min 20 s left
        2 of 3 runs done, 1 running, about 2 min 30 s left
        3 of 3 runs done""",
    ),
    "runs finished before do not count in the estimate": (
        [1, 1, 60, 20],
        """0 of 4 runs done, 1 running, 3 to come
        1 of 4 runs done, 1 running, 2 to come
        2 of 4 runs done, 1 running, 1 to come
        3 of 4 runs done, 1 running, about 1 min 00 s left
        4 of 4 runs done""",
    ),
    "failed runs": (
        [10, TrainingFailed("too hot"), RunLocked("held"), 10],
        """0 of 4 runs done, 1 running, 3 to come
        1 of 4 runs done, 1 running, 2 to come, about 30 s left
        1 of 4 runs done, 1 running, 1 to come, 1 failed, about 20 s left
        1 of 4 runs done, 1 running, 2 failed, about 10 s left
        2 of 4 runs done, 2 failed""",
    ),
}


@pytest.fixture(autouse=True)
def nothing_is_validated(monkeypatch):
    """Hydra's sweeper composes the config of each run before the first one, too."""
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda self, batch: None)


@pytest.fixture
def sweep(command, monkeypatch):
    """Sweep over seeds whose runs take so many seconds, or raise: exit code, lines and stderr."""
    now = [START]
    monkeypatch.setattr(progress, "time", SimpleNamespace(time=lambda: now[0]))

    def run(outcomes, *more, during=lambda seed: None):
        def train(config, folder, show_progress):
            during(config["seed"])
            outcome = outcomes[config["seed"]]
            if not isinstance(outcome, int | float):
                raise outcome
            now[0] += outcome
            return RESULT

        monkeypatch.setattr(runs, TRAIN, train)
        seeds = ",".join(map(str, range(len(outcomes))))
        code, out, err = command("train.py", "-m", f"seed={seeds}", *more)
        return code, out.splitlines(), err

    return run


@pytest.fixture
def root(tmp_path):
    """The folder of the runs of ``sweep``."""
    return tmp_path / "outputs"


@pytest.fixture
def folder(root):
    """The folder of the only sweep."""

    def find():
        (plan,) = root.glob(".sweeps/*/plan.json")
        return plan.parent

    return find


def statuses(lines):
    return [line.strip() for line in lines if " runs done" in line]


# What a sweep prints and writes


@pytest.mark.parametrize(("outcomes", "printed"), CASES.values(), ids=CASES)
def test_the_status_is_printed_as_runs_begin(sweep, outcomes, printed):
    _, lines, _ = sweep(outcomes)
    assert statuses(lines) == [line.strip() for line in printed.splitlines()]
    assert [line for line in lines if re.match(r"run \d+:", line)] == [
        f"run {number + 1}: seed={number}" for number in range(len(outcomes))
    ]


def test_only_swept_settings_are_printed_with_a_run(sweep, folder):
    _, lines, _ = sweep([10, 10], "trainer=quick", "stn=none,affine", "optimizer.lr=0.1")
    assert [line for line in lines if re.match(r"run \d:", line)] == [
        f"run {number + 1}: seed={number // 2} stn={('none', 'affine')[number % 2]}" for number in range(4)
    ]
    plan = json.loads((folder() / "plan.json").read_text())
    words = "seed=0,1 trainer=quick stn=none,affine optimizer.lr=0.1"
    assert plan == {"sweep": words, "runs": 4, "began": START}


def test_each_run_has_a_file_with_its_state_and_its_failure(sweep, folder):
    code, _, err = sweep([100, TrainingFailed("too\nhot"), 7.5])
    assert (code, err) == (4, "error: seed=1: too hot\n")
    failure = {"job": "seed=1", "message": "too\nhot", "exit_code": 4}
    assert [json.loads(file.read_text()) for file in sorted(folder().glob("run-*.json"))] == [
        {"state": "done", "began": START, "ended": START + 100},
        {"state": "failed", "began": START + 100, "ended": START + 100, "failure": failure},
        {"state": "done", "began": START + 100, "ended": START + 107.5},
    ]
    assert sweep_status(folder())._replace(name="") == SweepStatus("", 3, 2, 0, 1, None)
    names = ["plan.json", *(f"run-000{number}.json" for number in range(3))]
    assert sorted(path.name for path in folder().iterdir()) == names


def test_the_exit_code_is_that_of_the_first_failure(sweep):
    code, _, err = sweep([RunLocked("held"), 1, TrainingFailed("hot")])
    assert (code, err) == (5, "error: seed=0: held\nerror: seed=2: hot\n")


def test_a_run_without_a_record_counts_as_failed(sweep, folder):
    def lose(seed):
        if seed == 1:
            (folder() / "run-0000.json").unlink()

    code, lines, err = sweep([10, 10], during=lose)
    assert (code, err) == (4, "error: run 1: ended without a result\n")
    assert lines[-1] == "1 of 2 runs done, 1 failed"


def test_a_failure_that_cannot_be_recorded_ends_the_sweep(capsys):
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = Failure("seed=1", "too hot", 4)
    with pytest.raises(SystemExit) as left:
        SweepProgress().on_job_end(None, done)
    assert (left.value.code, capsys.readouterr().err) == (4, "error: seed=1: too hot\n")


def test_a_sweep_whose_folder_cannot_be_written_is_one_line(refused, root):
    root.mkdir()
    (root / ".sweeps").write_text("")
    assert ".sweeps" in refused("train.py", "-m", "seed=0,1")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("seed=0,1 stn=none,affine,tps", 6),
        variation("seed=range(0,3)", 3),
        ("stn=glob(*ne)", 2),
        variation("sweep=smoke", 8),
        ("sweep=table1 trainer=quick seed=0", 40),
        variation("sweep=robustness", 12),
        variation("sweep=localisation_lr", 36),
    ],
)
def test_the_plan_counts_the_runs(command, monkeypatch, folder, words, count):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, TRAIN, stop)
    code, out, err = command("train.py", "-m", *words.split())
    assert (code, err) == (130, "interrupted\n")
    assert f"0 of {count} runs done, 1 running" in out
    assert json.loads((folder() / "plan.json").read_text())["runs"] == count


def test_a_sweep_over_an_interval_is_refused_in_one_line(refused):
    assert "does not support sweep type" in refused("train.py", "-m", "seed=interval(0,1)")


def test_a_single_run_is_no_sweep(command, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, TRAIN, lambda *_, **__: RESULT)
    code, out, err = command("train.py", "seed=3")
    assert (code, err) == (0, "")
    assert "runs done" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_same_sweep_starts_counting_again_and_another_has_its_own_folder(sweep, root):
    sweep([100, TrainingFailed("too hot"), 100])
    sweep([1, 1], "stn=none")
    code, lines, err = sweep([1, 100, 1])
    assert (code, err) == (0, "")
    assert statuses(lines)[0] == "0 of 3 runs done, 1 running, 2 to come"
    assert lines[-1] == "3 of 3 runs done"
    found = [sweep_status(plan.parent) for plan in root.glob(".sweeps/*/plan.json")]
    assert {(status.name, status.done) for status in found} == {("seed=0,1,2", 3), ("seed=0,1 stn=none", 2)}


# Active sweeps


def test_a_sweep_is_active_while_it_runs(sweep, root):
    seen = []
    sweep([100, 50, 50], during=lambda seed: seen.extend(active_sweeps(root)))
    assert [str(status) for status in seen] == [
        "0 of 3 runs done, 1 running, 2 to come",
        "1 of 3 runs done, 1 running, 1 to come, about 3 min 20 s left",
        "2 of 3 runs done, 1 running, about 1 min 15 s left",
    ]
    assert {status.name for status in seen} == {"seed=0,1,2"}
    assert active_sweeps(root) == []


@pytest.mark.parametrize("end", [KeyboardInterrupt, ZeroDivisionError], ids=["Ctrl-C", "a defect"])
def test_a_sweep_that_ends_early_is_not_active(sweep, root, end):
    seen = []
    try:
        code, _, _ = sweep([100, end, 50], during=lambda seed: seen.extend(active_sweeps(root)))
    except ZeroDivisionError:
        code = 1
    assert code
    assert seen
    gc.collect()  # as when the process ends
    assert active_sweeps(root) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_damaged_files_are_ignored(root, content):
    folder = root / ".sweeps" / "some"
    folder.mkdir(parents=True)
    for name in ("plan.json", "run-0000.json"):
        (folder / name).write_text(content)
    lock_file(folder).touch()
    assert [str(status) for status in active_sweeps(root)] == ["0 of 0 runs done"]


# A second terminal


def test_a_sweep_that_runs_in_another_terminal_prints_only_its_results(sweep, folder):
    sweep([100, 100, 100])
    files = sorted(folder().iterdir())
    before = [(file.read_text(), file.stat().st_mtime_ns) for file in files]
    with run_lock(folder()):
        code, lines, err = sweep([1, RunLocked("held"), 1])
    assert (code, err) == (5, "error: seed=1: held\n")
    assert statuses(lines) == []
    assert sum(line.startswith("test error") for line in lines) == 2
    assert sorted(folder().iterdir()) == files
    assert [(file.read_text(), file.stat().st_mtime_ns) for file in files] == before


@pytest.mark.slow
def test_parallel_runs_are_counted_together(root, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", *npz_settings(tmp_path), f"run.root={root}", "trainer.epochs=1"]
    words += ["optimizer=sgd", "scheduler=constant", "optimizer.lr=0.01,1e30", "stn=none,affine"]
    process = start_script(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=TOO_LONG)
    assert process.returncode == TrainingFailed.exit_code
    is_failure = [bool(re.search(r"error: .*lr=1e\+30 .*not finite", line)) for line in err.splitlines()]
    assert is_failure == [True, True]
    lines = out.splitlines()
    begun = [place for place, line in enumerate(lines) if re.match(r"run \d: ", line)]
    assert sorted(lines[place] for place in begun) == [
        f"run {number}: optimizer.lr={lr} stn={stn}"
        for number, (lr, stn) in enumerate(product(("0.01", "1e+30"), ("none", "affine")), 1)
    ]
    assert all(re.match(r"  \d of 4 runs done, [12] running", lines[place + 1]) for place in begun)
    assert lines[-1] == "2 of 4 runs done, 2 failed"
    assert active_sweeps(root) == []


# Failures and the report


@pytest.fixture
def small(few_digits):
    """A sweep of two small runs."""
    own = ["trainer=quick", "trainer.epochs=1", "trainer.device=cpu", "stn=none", "seed=0,1"]
    return ["-m", *few_digits, *own]


def test_a_failed_run_is_shown_everywhere_until_it_finishes(command, small, monkeypatch, root):
    finish = TrainingRun.finish

    def fail_second(run):
        if run.experiment.seed == 1:
            raise TrainingFailed("training stopped: a test\nbroke it")
        return finish(run)

    monkeypatch.setattr(TrainingRun, "finish", fail_second)
    code, out, err = command("train.py", *small)
    assert code == TrainingFailed.exit_code
    assert err.endswith("seed=1: training stopped: a test broke it\n")
    assert out.splitlines()[-1] == "1 of 2 runs done, 1 failed"
    assert "run outputs" not in out  # a run of a sweep has its own line
    (whole,) = (file.parent for file in root.glob("*-seed0-*/result.json"))
    (broken,) = (file.parent for file in root.glob("*-seed1-*/failure.json"))
    failure = {"status": "failed", "why": "training stopped: a test\nbroke it"}
    assert json.loads((broken / "failure.json").read_text()) == failure
    assert not (whole / "failure.json").exists()
    assert not (broken / "result.json").exists()

    sleepless = SimpleNamespace(sleep=lambda seconds: pytest.fail("all runs have ended"))
    monkeypatch.setattr(watching, "time", sleepless)
    code, out, err = command("report.py", root, "--watch")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "all runs: 1 finished, 0 running, 1 failed, 0 stopped"
    assert f"  {broken.name}: 1 of 1 epochs, failed: training stopped: a test" in out
    code, out, err = command("report.py", root)
    assert (code, err) == (0, "")
    assert "runs        1 finished, 1 failed\n" in out
    page = (root / "report" / "index.html").read_text()
    assert f"{broken.name}: 1 of 1 epochs, failed: training stopped: a test" in page

    monkeypatch.setattr(TrainingRun, "finish", finish)
    code, out, err = command("train.py", *small)
    assert (code, err) == (0, "")
    assert f"{whole.relative_to(root.parent)} is finished already" in out
    assert f"{broken.relative_to(root.parent)} resumes after step 6" in out
    assert out.splitlines()[-1] == "2 of 2 runs done"
    assert (broken / "result.json").exists()
    assert not (broken / "failure.json").exists()
    code, out, err = command("report.py", root, "--watch")
    assert (code, err, out) == (0, "", "all runs: 2 finished, 0 running, 0 failed, 0 stopped\n")


def test_watching_shows_an_active_sweep(command, small, monkeypatch, root):
    shown = []

    def finish_and_watch(run):
        try:
            return finish(run)
        finally:
            with suppress(KeyboardInterrupt):
                watching.watch([root])

    def stop(seconds):
        shown.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=stop))
    finish = TrainingRun.finish
    monkeypatch.setattr(TrainingRun, "finish", finish_and_watch)
    code, out, _ = command("train.py", *small)
    assert code == 0
    lines = out.splitlines()
    heads = [place for place, line in enumerate(lines) if line.startswith("sweep ")]
    assert len(heads) == len(shown) == 2
    assert lines[heads[0]].endswith("stn=none seed=0,1")
    assert lines[heads[0] + 1].strip() == "0 of 2 runs done, 1 running, 1 to come"
    assert lines[heads[1] + 1].strip().startswith("1 of 2 runs done, 1 running")


def test_a_failure_is_reported_even_if_the_run_cannot_note_it(command, small, monkeypatch, root):
    write = run_folder.write_atomically

    def full(path, text):
        if path.name in ("failure.json", "result.json"):
            raise OSError(28, "No space left on device")
        write(path, text)

    for module in (run_folder, runs):
        monkeypatch.setattr(module, "write_atomically", full)
    code, out, err = command("train.py", *small)
    assert code == TrainingFailed.exit_code
    assert len(err.splitlines()) == 2
    assert all("cannot be written to" in line for line in err.splitlines())
    assert out.splitlines()[-1] == "0 of 2 runs done, 2 failed"
    assert not list(root.rglob("failure.json*"))
