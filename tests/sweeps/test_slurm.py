"""Jobs of a cluster: lost ones, and sweeps that do not wait. ``test_real_slurm.py`` has a real SLURM."""

import json
import os
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("submitit")

from hydra.plugins.sweeper import Sweeper
from submitit import Executor, Job
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from stn_experiments.cli.workarounds import choose_jobs, continue_after_lost_jobs
from stn_experiments.common.errors import UserError
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.sweeps.progress import active_sweeps, record_lost_job

TRACE = """Job (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "submission.py", line 1, in process_job
ModuleNotFoundError: No module named 'stn_experiments'

----------------------
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
"""


@pytest.fixture
def job(tmp_path):
    submission = DelayedSubmission(print, ["seed=1", "stn=none"], "hydra.sweep.dir", 3)
    paths = SimpleNamespace(stdout=tmp_path / "log.out")
    return SimpleNamespace(job_id="7_0", state="OUT_OF_MEMORY", paths=paths, submission=lambda: submission)


@pytest.fixture
def results(monkeypatch, tmp_path, job):
    """The results of a job that ends as described, as Hydra's launcher gets them in a sweep."""

    def get(outcome):
        def wait(job):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(Job, "results", wait)
        with continue_after_lost_jobs(partial(record_lost_job, tmp_path)):
            returned = Job.results(job)
        assert Job.results is wait
        return returned

    return get


@pytest.mark.parametrize(
    ("error", "has_log", "message"),
    [
        (
            UncompletedJobError("Job 7_0 has not produced any output"),
            False,
            "its job 7_0 ended as OUT_OF_MEMORY",
        ),
        (
            FailedJobError(TRACE),
            True,
            "its job 7_0 failed: ModuleNotFoundError: No module named 'stn_experiments'; see {}/log.out",
        ),
    ],
)
def test_a_lost_job_is_the_failure_of_its_run(results, job, tmp_path, error, has_log, message):
    if has_log:
        job.paths.stdout.touch()
    (returned,) = results(error)
    assert returned.return_value is None  # the sweep goes on
    record = json.loads((tmp_path / "run-0003.json").read_text())
    failure = {"job": "seed=1 stn=none", "message": message.format(tmp_path), "exit_code": 4}
    assert (record["state"], record["failure"]) == ("failed", failure)


def test_other_results_and_errors_pass(results, tmp_path):
    assert results(["a result"]) == ["a result"]
    with pytest.raises(ZeroDivisionError):
        results(ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []


# Sweeps that do not wait

SUBMIT = ("-m", "hydra/launcher=slurm", "hydra.callbacks.progress.wait=false")
SBATCH = """#!/bin/sh
cp "$1" {0}/submitted
echo Submitted batch job $(cat {0}/next)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM whose jobs never run: a function that says which jobs are queued, and the next job's number."""
    for name, script in {
        "srun": "#!/bin/sh\n",
        "sbatch": SBATCH.format(tmp_path),
        "squeue": f"#!/bin/sh\ncat {tmp_path}/queue\n",
    }.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda self, batch: None)  # it is slow

    def set_queue(*jobs, following):
        (tmp_path / "queue").write_text("\n".join(jobs))
        (tmp_path / "next").write_text(str(following))
        (tmp_path / "submitted").unlink(missing_ok=True)

    return set_queue


@pytest.fixture
def finish(compose, tmp_path):
    """Give the run of a seed a result."""

    def write(seed):
        run = RunFolder.of(compose(f"seed={seed}", f"run.root={tmp_path / 'outputs'}"))
        run.folder.mkdir()
        run.result_file.write_text('{"status": "finished"}')

    return write


@pytest.fixture(autouse=True)
def nothing_stays_replaced():
    """Otherwise a garbage collection would restore it at any time later, in the middle of another sweep."""
    before = Executor.map_array, Job.results
    yield
    assert (Executor.map_array, Job.results) == before


def test_jobs_that_slurm_refuses_are_one_line(monkeypatch):
    def refuse(*_):
        raise FailedJobError(
            "sbatch: error: invalid partition specified: NAME\nsbatch: error: Batch job failed"
        )

    monkeypatch.setattr(Executor, "map_array", refuse)
    with (
        choose_jobs(lambda submit, rows: submit(rows)),
        pytest.raises(UserError, match=r"^SLURM refuses the jobs: sbatch: error: invalid partition [^\n]*$"),
    ):
        Executor.map_array(None, None, [1], [2])


def test_a_sweep_without_slurm_is_one_line(refused, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    line = refused("train.py", "-m", "hydra/launcher=slurm", "seed=0,1")
    assert line.startswith('Could not detect "srun"')


@pytest.mark.slow
def test_a_sweep_that_does_not_wait_submits_what_is_neither_queued_nor_finished(
    slurm, finish, command, tmp_path
):
    root, script = tmp_path / "outputs", tmp_path / "submitted"

    def sweep(*words):
        code, out, err = command("train.py", *words, "seed=0,1,2")
        assert (code, err) == (0, "")
        return out.splitlines()

    watch = "the jobs run without this command; python scripts/report.py outputs --watch"
    slurm(following=7)
    lines = sweep(*SUBMIT)
    assert lines == ["0 of 3 runs done, 3 to come", f"{watch} or the same command shows their progress"]
    assert "--array=0-2%" in script.read_text()

    slurm("7_0", "7_2", "1_1", following=8)
    assert [str(status) for status in active_sweeps(root)] == ["0 of 3 runs done, 3 to come"]
    finish(0)
    lines = sweep(*SUBMIT)
    assert lines[0] == "run 2 is submitted again: its job 7_1 has ended without a result"
    assert lines[1] == "0 of 3 runs done, 3 to come"  # the job of the first run is in the queue until it ends
    assert "--array" not in script.read_text()

    slurm("7_2", "8", following=9)
    assert sweep(*SUBMIT)[0] == "1 of 3 runs done, 2 to come"
    finish(1)
    finish(2)
    slurm(following=9)
    assert active_sweeps(root) == []
    assert sweep(*SUBMIT) == ["3 of 3 runs done"]
    assert sweep("-m", "hydra/launcher=slurm") == ["", "3 of 3 runs done"]
    assert not script.exists()


@pytest.mark.parametrize("words", [(), ("hydra/launcher=submitit_local",)])
def test_only_slurm_trains_without_the_command(refused, words):
    line = refused("train.py", "-m", "seed=0,1", "hydra.callbacks.progress.wait=false", *words)
    assert line == "hydra.callbacks.progress.wait=false needs hydra/launcher=slurm"


def test_without_an_answer_of_slurm_nothing_is_submitted_twice(slurm, command, tmp_path):
    slurm(following=7)
    command("train.py", *SUBMIT, "seed=0,1")
    (tmp_path / "submitted").unlink()
    (tmp_path / "queue").unlink()
    code, _, err = command("train.py", *SUBMIT, "seed=0,1")
    assert code == 2
    assert "error: SLURM cannot be asked for the sweep's jobs: " in err
    assert not (tmp_path / "submitted").exists()


def test_a_second_command_does_not_submit_the_jobs_of_a_waiting_one(slurm, command, tmp_path):
    slurm(following=7)
    command("train.py", *SUBMIT, "seed=0,1")
    (plan,) = tmp_path.glob("outputs/.sweeps/*/plan.json")
    (tmp_path / "submitted").unlink()
    with run_lock(plan.parent):
        code, _, err = command("train.py", *SUBMIT, "seed=0,1")
    assert (code, err.count("\n")) == (5, 1)
    assert "is held by process" in err
    assert not (tmp_path / "submitted").exists()
