"""Jobs of a cluster that end without a result. ``test_real_slurm.py`` tests the rest with a real SLURM."""

import json
from functools import partial
from types import SimpleNamespace

import pytest

pytest.importorskip("submitit")

from submitit import Job
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from stn_experiments.cli.workarounds import continue_after_lost_jobs
from stn_experiments.sweeps.progress import record_lost_job

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
