"""What a run is: its name, its folder and what lies in it."""

import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import digest, read_json, to_json, write_atomically
from stn_experiments.common.ranges import Count, Range

LOCK = "lock"
VERSIONS_OF = ("torch", "torchvision", "hydra-core", "tensorboard", "numpy", "pillow")


@dataclass(frozen=True)
class RunConfig:
    """Where runs go, and what happens to one that is there.

    Args:
        root: the folder that holds the runs' folders.
        force: throw an old run of the same config away and start again.
        checkpoint_seconds: longest time between two checkpoints; null: only after each epoch.
        checkpoint_steps: most steps between two checkpoints; null: no matter how many.
        replay: show what happened in that step of the run, and train nothing.
    """

    root: str = "outputs"
    force: bool = False
    checkpoint_seconds: Annotated[float, Range(0)] | None = 60.0
    checkpoint_steps: Count | None = None
    replay: Count | None = None


class RunFolder:
    """The folder of one run, and the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.environment_file = folder / "environment.json"
        self.history_file = folder / "history.jsonl"
        self.result_file = folder / "result.json"
        self.failure_file = folder / "failure.json"
        self.animation = folder / "panels" / "training.gif"
        self.last = folder / "checkpoints" / "last.pt"
        self.previous = folder / "checkpoints" / "previous.pt"
        self.best = folder / "checkpoints" / "best.pt"

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folders, and write down the config and the environment.

        Raises:
            UserError: the folder cannot be written to.
        """
        try:
            self.animation.parent.mkdir(parents=True, exist_ok=True)
            self.last.parent.mkdir(exist_ok=True)
            for stray in self.animation.parent.glob(".*"):  # of a process that was killed while it drew
                stray.unlink()
            self.failure_file.unlink(missing_ok=True)
            write_atomically(self.config_file, yaml.safe_dump(dict(config), sort_keys=False))
            write_atomically(self.environment_file, to_json(environment(config["seed"])))
        except OSError as error:
            raise UserError(f"run.root must be a folder that can be written to: {error}") from error

    def panel(self, step: int) -> Path:
        """The panel after epoch ``step``: 0 is the start, one past the last epoch the best one again."""
        return self.animation.with_name(f"panel-{step:04d}.png")

    def clear(self) -> None:
        """Throw away all that lies in the folder, but the lock of who holds it."""
        # The result first: should this be cut short, a folder without its rest must not pass for finished.
        for path in sorted(self.folder.iterdir(), key=lambda path: path != self.result_file):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; ``None`` of any other, and where it cannot be read."""
        result = read_json(self.result_file)
        return result if result.get("status") == "finished" else None

    def fail(self, why: str, status: str = "failed") -> None:
        """Note that the run ended without a result, until it is started again."""
        if self.folder.is_dir():
            with suppress(OSError):  # the disk may be what it failed for
                write_atomically(self.failure_file, to_json({"status": status, "why": why}))

    def config(self) -> dict[str, Any]:
        """The resolved config that the run was made from.

        Raises:
            UserError: the folder holds no run.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{self.folder} is no run: {self.config_file.name} cannot be read") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.folder} is no run: {self.config_file.name} holds no config")
        return config


def run_name(config: Mapping[str, Any]) -> str:
    """What the run is, readably, and a hash of all in its config that can change its result."""
    decisive = {key: value for key, value in config.items() if key not in ("run", "search")}
    decisive["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    decisive["trainer"] = {key: value for key, value in config["trainer"].items() if key != "device"}
    parts = [config[group]["name"] for group in ("data", "backbone", "stn")]
    parts += [name for name in [config["attention"]["name"]] if name != "none"]
    return "-".join([*parts, f"seed{config['seed']}", digest(decisive)])


def environment(seed: int) -> dict[str, Any]:
    """What else a result depends on: versions, machine, commit, seed."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in VERSIONS_OF},
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "seed": seed,
    }


def commit() -> str:
    """The commit of this code, marked where files differ from it; ``unknown`` outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
