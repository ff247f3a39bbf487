"""The progress of a sweep: printed as its runs begin and end, and kept in files for a second terminal.

The folder ``run.root/.sweeps/DIGEST`` holds ``plan.json``, one ``run-0000.json`` per run and, on SLURM,
``jobs.json``. Every process and host of the sweep writes there; at the end the command reads there which runs
failed.
"""

import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from stn_experiments.cli.command import OUTPUT_CLOSED, Failure, exit_with_failures
from stn_experiments.cli.signals import Stopped
from stn_experiments.cli.workarounds import choose_jobs, continue_after_lost_jobs
from stn_experiments.common.durations import time_text
from stn_experiments.common.errors import RunLocked, TrainingFailed, UserError
from stn_experiments.common.files import digest, read_json, to_json, write_atomically
from stn_experiments.config.compose import as_written
from stn_experiments.storage.lock import is_locked, run_lock
from stn_experiments.sweeps.gpus import use_one_gpu
from stn_experiments.sweeps.slurm import (
    JOBS,
    Submit,
    failure_of,
    is_finished,
    is_slurm,
    is_submitit,
    job_of,
    queued_jobs,
)

FOLDER = ".sweeps"
"""The folder of all sweeps, in the folder of the runs; the report skips it."""
FAST = 5.0  # seconds; a shorter run was finished before and does not count in the estimate of the time left


class SweepStatus(NamedTuple):
    """How many runs of a sweep are in which state, and about how many seconds are left (or ``None``)."""

    name: str
    total: int
    done: int
    running: int
    failed: int
    seconds_left: float | None

    def __str__(self) -> str:
        waiting = self.total - self.done - self.running - self.failed
        counts = {"running": self.running, "to come": waiting, "failed": self.failed}
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        if self.seconds_left is not None:
            parts.append(f"about {time_text(self.seconds_left)} left")
        return ", ".join([f"{self.done} of {self.total} runs done", *parts])


class SweepProgress(Callback):
    """A Hydra callback that records the runs of a sweep, prints its progress and reports its failures.

    Hydra copies it into the process of each run.

    Args:
        wait: wait for the jobs of a sweep on SLURM; otherwise only submit the missing ones.
    """

    current: ClassVar["SweepProgress | None"] = None
    """The sweep that this process has begun."""

    def __init__(self, wait: bool = True) -> None:
        self._wait = wait
        self._folder: Path | None = None  # None: no sweep
        self._runs = 0
        self._swept: list[str] = []
        self._prints = True
        self.ended = False
        self._stack = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stack": None}  # the lock stays with the process that started the sweep

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Lock the sweep's folder and write its plan."""
        SweepProgress.current = self
        words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        words += as_written(config.hydra.overrides.task)
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        final = {override.get_key_element(): override for override in parser.parse_overrides(words)}
        sweeps = {key: override for key, override in final.items() if override.is_sweep_override()}
        try:
            self._runs = math.prod(len(list(override.sweep_iterator())) for override in sweeps.values())
        except HydraException:  # the sweeper refuses it with a better message
            return
        self._swept = list(sweeps)
        folder = Path(config.hydra.sweep.dir) / digest({"sweep": words})
        plan = {"sweep": " ".join(words), "runs": self._runs, "began": time.time()}
        on_slurm = is_slurm(config)
        try:
            if not self._wait and not on_slurm:
                raise UserError("hydra.callbacks.progress.wait=false needs hydra/launcher=slurm")
            queued = queued_jobs(folder) if on_slurm else set()
            folder = self._lock(folder, is_shared=not on_slurm)
            write_atomically(folder / "plan.json", to_json(plan))
        except (OSError, UserError) as error:
            exit_with_failures([Failure("", str(error), getattr(error, "exit_code", UserError.exit_code))])
        self._folder = folder
        if is_submitit(config):
            self._stack.enter_context(continue_after_lost_jobs(partial(record_lost_job, folder)))
        if on_slurm:
            self._stack.enter_context(choose_jobs(partial(self._submit, config, queued)))
        else:
            for old in folder.glob("run-*.json"):
                old.unlink()

    def _lock(self, folder: Path, is_shared: bool) -> Path:
        """Lock the folder; return a temporary one if another terminal runs and may share the same sweep."""
        try:
            self._stack.enter_context(run_lock(folder))
        except RunLocked:
            if not is_shared:
                raise
            self._prints = False
            return Path(self._stack.enter_context(TemporaryDirectory(dir=folder)))
        return folder

    def _submit(
        self, config: DictConfig, queued: set[str], submit: Submit, rows: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Submit the runs that are neither finished nor in SLURM's queue; return the jobs to wait for."""
        assert self._folder
        jobs = read_json(self._folder / JOBS)
        waiting, missing = [], []
        for row in rows:
            overrides, number = row[0], row[2]
            job, file = jobs.get(str(number)), run_file(self._folder, number)
            run = read_json(file)
            if job in queued:
                waiting.append(job_of(config, job))
            elif is_finished(config, overrides):
                # Of a sweep that nobody has continued until now, the times say nothing of the time left.
                write_atomically(file, to_json({**(run if queued else {}), "state": "done"}))
            else:
                missing.append(row)
                file.unlink(missing_ok=True)
                if job:
                    why = run.get("failure", {}).get("message", f"its job {job} has ended without a result")
                    print(f"run {number + 1} is submitted again: {why}")
        new = submit(missing)
        jobs |= {str(row[2]): job.job_id for row, job in zip(missing, new, strict=True)}
        write_atomically(self._folder / JOBS, to_json(jobs))
        return waiting + new if self._wait else []

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Give the run one of several GPUs, and print which run begins."""
        use_one_gpu()
        if not self._folder:
            return
        number = config.hydra.job.num
        record(self._folder, number, state="running", began=time.time())
        if self._prints:
            words = as_written(config.hydra.overrides.task)
            swept = " ".join(word for word in words if word.partition("=")[0] in self._swept)
            print(f"\nrun {number + 1}: {swept}\n  {sweep_status(self._folder)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Record the result of a run."""
        sys.stdout.flush()  # a worker would print it long after the sweep's last line
        is_done = job_return.status == JobStatus.COMPLETED
        failure = job_return.return_value if is_done else None  # of any other job it would raise
        values: dict[str, Any] = {"state": "done" if is_done else "failed", "ended": time.time()}
        if isinstance(failure, Failure):
            values |= {"state": "failed", "failure": failure._asdict()}
        if self._folder:
            record(self._folder, config.hydra.job.num, **values)
        elif isinstance(failure, Failure):  # nobody would report it later
            exit_with_failures([failure])

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the last status, then exit with the failures of the runs, if there are any."""
        self.ended = True
        if not self._folder:
            return
        if not self._wait:
            self._stack.close()
            print(status := sweep_status(self._folder))
            if status.done < status.total:
                root = shlex.quote(str(self._folder.parent.parent))
                watch = f"python scripts/report.py {root} --watch"
                print(f"the jobs run without this command; {watch} or the same command shows their progress")
            return
        failures = {}
        for number in range(self._runs):
            run = read_json(run_file(self._folder, number))
            if run.get("state") != "done":
                lost = Failure(f"run {number + 1}", "ended without a result", TrainingFailed.exit_code)
                failures[number] = Failure(**run["failure"]) if "failure" in run else lost
        with suppress(OSError):  # Hydra would ignore it, and with it the failures
            for number in failures:
                record(self._folder, number, state="failed")
            if self._prints:
                print(f"\n{sweep_status(self._folder)}", flush=True)
        self._stack.close()
        exit_with_failures(failures.values())


@contextmanager
def end_sweep() -> Iterator[None]:
    """Release what a sweep within the ``with`` holds, also if its launcher fails.

    If a signal stops the sweep, print in one line how to continue it.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        is_closed = isinstance(stopped, Stopped) and stopped.exit_code == OUTPUT_CLOSED
        if SweepProgress.current and not SweepProgress.current.ended and not is_closed:
            print("the sweep is not complete; the same command continues it and repeats no finished run")
        raise
    finally:
        if SweepProgress.current:
            SweepProgress.current._stack.close()
            SweepProgress.current = None


def record(folder: Path, number: int, **values: Any) -> None:
    """Change some values in the file of a sweep's run."""
    file = run_file(folder, number)
    write_atomically(file, to_json({**read_json(file), **values}))


def record_lost_job(folder: Path, job: Any, message: str) -> None:
    """Record the failure of a ``submitit.Job`` without a result."""
    number = job.submission().args[2]  # Hydra's launcher submits the overrides, a key and the run's number
    record(folder, number, state="failed", ended=time.time(), failure=failure_of(job, message)._asdict())


def run_file(folder: Path, number: int) -> Path:
    """The file that holds the state of a sweep's run."""
    return folder / f"run-{number:04d}.json"


def active_sweeps(root: Path) -> list[SweepStatus]:
    """The sweeps that a process is running or that have jobs on SLURM, of those whose runs go to ``root``."""
    plans = sorted((root / FOLDER).glob("*/plan.json"))
    return [sweep_status(plan.parent) for plan in plans if is_active(plan.parent)]


def is_active(folder: Path) -> bool:
    """Whether a process runs the sweep in this folder, or SLURM, as far as this host can ask it."""
    with suppress(UserError):
        return is_locked(folder) or bool(queued_jobs(folder))
    return False


def sweep_status(folder: Path) -> SweepStatus:
    """The status of a sweep, read from the files in its folder."""
    plan = read_json(folder / "plan.json")
    total = plan.get("runs", 0)
    runs = [read_json(run_file(folder, number)) for number in range(total)]
    count = Counter(run.get("state") for run in runs)
    trained = [run for run in runs if run.keys() >= {"began", "ended"} and run["ended"] - run["began"] > FAST]
    done, running, failed = (count[state] for state in ("done", "running", "failed"))
    left = None
    if trained and (remaining := total - done - failed):
        spent = max(run["ended"] for run in trained) - min(run["began"] for run in trained)
        left = spent / len(trained) * remaining
    return SweepStatus(plan.get("sweep", folder.name), total, done, running, failed, left)
