"""Where a library is patched, because it offers no hook. Each patch ends with its ``with``."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from stn_experiments.cli.command import ArgumentParser
from stn_experiments.common.errors import UserError


@contextmanager
def raise_usage_errors() -> Iterator[None]:
    """Make every argument parser raise ``UserError`` for a bad command line.

    ``hydra.main`` creates its parser itself, and argparse prints several lines of usage before it exits.
    """
    with _replaced(argparse.ArgumentParser, "error", ArgumentParser.error):
        yield


@contextmanager
def continue_after_lost_jobs(report: Callable[[Any, str], None]) -> Iterator[None]:
    """Let a submitit job that was cancelled or killed end without a result, instead of ending the sweep.

    Hydra's launcher waits for one job after the other and stops at the first error, while the other jobs
    still run. Hydra accepts another launcher only from a package called ``hydra_plugins``.

    Args:
        report: called with the ``submitit.Job`` and submitit's message.
    """
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    wait_for_results = Job.results

    def results(job: Any) -> list[Any]:
        try:
            return wait_for_results(job)
        except UncompletedJobError as error:
            report(job, str(error))
            return [JobReturn(status=JobStatus.COMPLETED)]

    with _replaced(Job, "results", results):
        yield


@contextmanager
def choose_jobs(choose: Callable[..., list[Any]]) -> Iterator[None]:
    """Let a function decide which jobs Hydra's launcher submits to submitit, and for which it waits.

    Args:
        choose: called with a function that submits a list of jobs, and with the list of all jobs, each as the
            arguments of the launcher; returns each ``submitit.Job`` to wait for.

    Raises:
        UserError: SLURM refuses the jobs.
    """
    from submitit import Executor
    from submitit.core.utils import FailedJobError

    map_array = Executor.map_array

    def chosen(executor: Any, launcher: Any, *arguments: Any) -> list[Any]:
        def submit(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
            try:
                return map_array(executor, launcher, *zip(*rows, strict=True)) if rows else []
            except FailedJobError as error:
                raise UserError(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from error

        return choose(submit, list(zip(*arguments, strict=True)))

    with _replaced(Executor, "map_array", chosen):
        yield


@contextmanager
def _replaced(owner: type, name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, original)
