"""What a sweep says of a cluster's jobs that end without a result. For all else see ``test_slurm.py``."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from submitit import Job
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError

from stn_experiments.cli.command import Failure
from stn_experiments.sweeps.slurm import SUBMITIT, LostJobs

TRACE = """Job (task=0) failed during processing with trace:
----------------------
Traceback (most recent call last):
  File "submission.py", line 1, in process_job
ModuleNotFoundError: No module named 'stn_experiments'

----------------------
You can check full logs with 'job.stderr(0)' and 'job.stdout(0)'or at paths:
"""


@pytest.fixture
def results(monkeypatch, tmp_path):
    """What a sweep gets of a job that ends as described, through a launcher."""

    def get(launcher, ends):
        def wait_for_results(job):
            if isinstance(ends, Exception):
                raise ends
            return ends

        monkeypatch.setattr(Job, "results", wait_for_results)
        config = {"hydra": {"launcher": {"_target_": f"{launcher}Launcher"}}}
        LostJobs().on_multirun_start(OmegaConf.create(config))
        submission = DelayedSubmission(print, ["seed=1", "stn=none"], "hydra.sweep.dir", 0)
        paths = SimpleNamespace(stdout=tmp_path / "log.out")
        job = SimpleNamespace(job_id="7_0", state="OUT_OF_MEMORY", paths=paths, submission=lambda: submission)
        return Job.results(job)

    return get


def test_a_job_that_was_killed_is_the_failure_of_its_run_alone(results, tmp_path):
    (returned,) = results(SUBMITIT, UncompletedJobError("Job 7_0 has not produced any output"))
    assert returned.return_value == Failure("seed=1 stn=none", "its job 7_0 ended as OUT_OF_MEMORY", 4)
    (tmp_path / "log.out").touch()
    (returned,) = results(SUBMITIT, FailedJobError(TRACE))
    why = (
        f"its job 7_0 failed: ModuleNotFoundError: No module named 'stn_experiments'; see {tmp_path}/log.out"
    )
    assert returned.return_value == Failure("seed=1 stn=none", why, 4)


def test_other_jobs_are_left_alone(results):
    assert results(SUBMITIT, ["a result"]) == ["a result"]
    with pytest.raises(UncompletedJobError):
        results("hydra_plugins.hydra_joblib_launcher.", UncompletedJobError("of somebody else's"))
