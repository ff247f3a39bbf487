"""The jobs of a sweep on a cluster: which are in the queue, and which ended without a result."""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from stn_experiments.cli.command import Failure
from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.common.files import read_json
from stn_experiments.config.compose import to_plain
from stn_experiments.storage.run_folder import RunFolder

JOBS = "jobs.json"
"""The file in a sweep's folder that has the newest job of each run, by the run's number."""
Submit = Callable[[Sequence[tuple[Any, ...]]], list[Any]]
"""Submits jobs with these arguments of Hydra's launcher, and returns each ``submitit.Job``."""


def is_submitit(config: DictConfig) -> bool:
    """Whether a sweep's config submits its runs through submitit."""
    return bool(config.hydra.launcher._target_.startswith("hydra_plugins.hydra_submitit_launcher."))


def is_slurm(config: DictConfig) -> bool:
    """Whether a sweep's config submits its runs to SLURM."""
    return is_submitit(config) and str(config.hydra.launcher._target_).endswith(".SlurmLauncher")


def failure_of(job: Any, message: str) -> Failure:
    """The failure of a ``submitit.Job`` without a result; ``message`` is that of submitit's error."""
    trace = re.search(r"failed during processing with trace:\n-+\n(.*?)\n-{20}", message, re.DOTALL)
    reason = f"failed: {trace[1].strip().splitlines()[-1]}" if trace else f"ended as {job.state}"
    log = f"; see {job.paths.stdout}" if job.paths.stdout.exists() else ""
    overrides = " ".join(job.submission().args[0])
    return Failure(overrides, f"its job {job.job_id} {reason}{log}", TrainingFailed.exit_code)


def queued_jobs(folder: Path) -> set[str]:
    """The jobs of the sweep in this folder that wait or run.

    Raises:
        UserError: SLURM does not answer.
    """
    jobs = set(read_json(folder / JOBS).values())
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        return jobs and jobs & set(subprocess.check_output(command, text=True).split())
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"SLURM cannot be asked for the sweep's jobs: {error}") from error


def job_of(config: DictConfig, job: str) -> Any:
    """The ``submitit.SlurmJob`` that an earlier command of the sweep has submitted."""
    from submitit import SlurmJob

    return SlurmJob(folder=config.hydra.launcher.submitit_folder, job_id=job, tasks=[0])


def is_finished(config: DictConfig, overrides: Sequence[str]) -> bool:
    """Whether a run of a sweep has a result and need not be trained again."""
    run = GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))
    try:
        settings = to_plain(
            OmegaConf.masked_copy(run, [str(key) for key in run if key != "hydra"]), overrides
        )
        return not settings["run"]["force"] and RunFolder.of(settings).result() is not None
    except UserError:  # its job will say so
        return False
