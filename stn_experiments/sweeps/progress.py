"""How far a sweep is: what each of its runs came to, told as they end, and kept for a second terminal."""

import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from stn_experiments.common.durations import time_text
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import digest, read_json, to_json, write_atomically
from stn_experiments.storage.lock import is_locked, run_lock

FOLDER = ".sweeps"
"""In the folder that runs go to: a folder for each sweep, which the report does not look into."""
FAST = 5.0  # seconds: a run that takes no longer was finished before, and tells nothing of the others


class Status(NamedTuple):
    """How many runs of a sweep are in which state, and about how many seconds it will take; None: unknown."""

    name: str
    total: int
    done: int
    running: int
    failed: int
    seconds_left: float | None

    def __str__(self) -> str:
        waiting = self.total - self.done - self.running - self.failed
        parts = [f"{self.done} of {self.total} runs done"]
        parts += [f"{self.running} running"] * bool(self.running) + [f"{waiting} to come"] * bool(waiting)
        parts += [f"{self.failed} failed"] * bool(self.failed)
        if self.seconds_left is not None:
            parts.append(f"about {time_text(self.seconds_left)} left")
        return ", ".join(parts)


class Progress(Callback):
    """What Hydra tells when a sweep or one of its runs begins or ends, in whatever process that is."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._swept: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        # The lock stays with the process that began the sweep.
        return {"_folder": self._folder, "_swept": self._swept}

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Note how many runs there will be."""
        words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
        words += list(config.hydra.overrides.task)
        overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(words)
        self._swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
        try:
            batches = BasicSweeper.split_arguments(overrides, None)
        except HydraException:  # the sweeper will say so itself
            return
        folder = Path(config.hydra.sweep.dir) / digest({"sweep": words})
        self._lock: AbstractContextManager[None] = run_lock(folder)
        try:
            self._lock.__enter__()
        except UserError:  # the same sweep runs in another terminal, or the runs will say what is wrong
            return
        for old in folder.glob("run-*.json"):
            old.unlink()
        plan = {"sweep": " ".join(words), "runs": len(batches[0]), "began": time.time()}
        write_atomically(folder / "plan.json", to_json(plan))
        self._folder = folder

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Say which run of how many this is."""
        if self._folder and config.hydra.mode == RunMode.MULTIRUN:
            self._note(config, "running", began=time.time())
            words = [word for word in config.hydra.overrides.task if word.partition("=")[0] in self._swept]
            print(
                f"\nrun {config.hydra.job.num + 1}: {' '.join(words)}\n  {status(self._folder)}", flush=True
            )

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Note what it came to."""
        sys.stdout.flush()  # of a worker, which would keep it until long after the sweep's last line
        if self._folder and config.hydra.mode == RunMode.MULTIRUN:
            failed = job_return._return_value is not None
            self._note(config, "failed" if failed else "done", ended=time.time())

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Say what all came to."""
        if self._folder:
            for file in self._folder.glob("run-*.json"):
                if read_json(file).get("state") == "running":  # it was killed, as a cluster's job can be
                    write_atomically(file, to_json({**read_json(file), "state": "failed"}))
            print(f"\n{status(self._folder)}", flush=True)
            self._lock.__exit__(None, None, None)

    def _note(self, config: DictConfig, state: str, **times: float) -> None:
        assert self._folder
        file = self._folder / f"run-{config.hydra.job.num:04d}.json"
        write_atomically(file, to_json({**read_json(file), "state": state, **times}))


def alive(root: Path) -> list[Status]:
    """The sweeps whose runs go to ``root`` and that a process is busy with."""
    plans = sorted((root / FOLDER).glob("*/plan.json"))
    return [status(plan.parent) for plan in plans if is_locked(plan.parent)]


def status(folder: Path) -> Status:
    """How far a sweep is, by the files in its folder."""
    plan = read_json(folder / "plan.json")
    runs = [read_json(file) for file in folder.glob("run-*.json")]
    count = Counter(run.get("state") for run in runs)
    ended = [run for run in runs if "ended" in run]
    trained = [run for run in ended if run["ended"] - run["began"] > FAST]
    total = plan.get("runs", 0)
    left = None
    if trained and total > len(ended):
        spent = max(run["ended"] for run in trained) - min(run["began"] for run in trained)
        left = spent / len(trained) * (total - len(ended))
    name = plan.get("sweep", folder.name)
    return Status(name, total, count["done"], count["running"], count["failed"], left)
