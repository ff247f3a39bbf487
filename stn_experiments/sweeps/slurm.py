"""What a sweep makes of a cluster's job that ends without a result."""

import re
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from stn_experiments.cli.command import Failure
from stn_experiments.common.errors import TrainingFailed

SUBMITIT = "hydra_plugins.hydra_submitit_launcher."


class LostJobs(Callback):
    """A job that was cancelled or killed is the failure of its run; submitit alone would end the sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Teach submitit, if it is what the sweep goes through."""
        if not config.hydra.launcher._target_.startswith(SUBMITIT):
            return
        from submitit import Job  # here, as other commands need none of it
        from submitit.core.utils import UncompletedJobError

        wait_for_results = Job.results

        def results(job: Any) -> list[Any]:
            try:
                return wait_for_results(job)
            except UncompletedJobError as error:
                return [JobReturn(status=JobStatus.COMPLETED, _return_value=lost(job, str(error)))]

        setattr(Job, "results", results)  # noqa: B010 -- for mypy it is no attribute


def lost(job: Any, message: str) -> Failure:
    """The failure of a submitit job that gave no result; ``message`` is what submitit says of it."""
    trace = re.search(r"failed during processing with trace:\n-+\n(.*?)\n-{20}", message, re.DOTALL)
    why = f"failed: {trace[1].strip().splitlines()[-1]}" if trace else f"ended as {job.state}"
    where = f"; see {job.paths.stdout}" if job.paths.stdout.exists() else ""
    overrides = " ".join(job.submission().args[0])
    return Failure(overrides, f"its job {job.job_id} {why}{where}", TrainingFailed.exit_code)
