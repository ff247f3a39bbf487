"""Jobs of a cluster that end without a result."""

import re
from typing import Any

from omegaconf import DictConfig

from stn_experiments.cli.command import Failure
from stn_experiments.common.errors import TrainingFailed


def is_submitit(config: DictConfig) -> bool:
    """Whether a sweep's config submits its runs through submitit."""
    return bool(config.hydra.launcher._target_.startswith("hydra_plugins.hydra_submitit_launcher."))


def failure_of(job: Any, message: str) -> Failure:
    """The failure of a ``submitit.Job`` without a result; ``message`` is that of submitit's error."""
    trace = re.search(r"failed during processing with trace:\n-+\n(.*?)\n-{20}", message, re.DOTALL)
    reason = f"failed: {trace[1].strip().splitlines()[-1]}" if trace else f"ended as {job.state}"
    log = f"; see {job.paths.stdout}" if job.paths.stdout.exists() else ""
    overrides = " ".join(job.submission().args[0])
    return Failure(overrides, f"its job {job.job_id} {reason}{log}", TrainingFailed.exit_code)
