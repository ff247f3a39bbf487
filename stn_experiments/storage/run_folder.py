"""The folder of a run: its name and its files."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import (
    digest,
    digest_of_content,
    read_json,
    to_json,
    write_atomically,
    writing_to,
)
from stn_experiments.config.tree import OWN_DATA, decisive, with_absolute_paths
from stn_experiments.storage.environment import environment


class RunFolder:
    """The folder of one run, and the paths of the files in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "config.yaml"
        self.environment_file = folder / "environment.json"
        self.history_file = folder / "history.jsonl"
        self.result_file = folder / "result.json"
        self.failure_file = folder / "failure.json"
        self.animation = folder / "panels" / "training.gif"
        self.test_panel = folder / "panels" / "panel-test.png"
        self.mistakes = folder / "panels" / "panel-mistakes.png"
        self.figure = folder / "panels" / "figure.png"
        self.last = folder / "checkpoints" / "last.pt"
        self.previous = folder / "checkpoints" / "previous.pt"
        self.model = folder / "checkpoints" / "model.pt"
        self.best = folder / "checkpoints" / "best.pt"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "RunFolder":
        """The folder of the run that a config describes: the one that ends in its digest, or a new one.

        Raises:
            UserError: ``run.root`` is not a string.
        """
        run = config.get("run")
        settings = run if isinstance(run, Mapping) else {}
        root, name = settings.get("root"), settings.get("name") or "run"
        if not isinstance(root, str):
            raise UserError(f"run.root must be a string, got {root!r}")
        own = cls(Path(root) / f"{name}-{run_digest(config)}")
        return own if os.path.isdir(own.folder) else next(iter(own.same_run()), own)  # noqa: PTH112 (Path.is_dir may raise)

    @property
    def digest(self) -> str:
        """The digest at the end of the folder's name, see :func:`run_digest`."""
        return digest_in(self.folder.name)

    def same_run(self) -> list["RunFolder"]:
        """The other folders of the same run, which a command line with other words has made."""
        root = self.folder.parent
        found = sorted(root.glob(f"*-{self.digest}")) if os.path.isdir(root) else []  # noqa: PTH112 (see of)
        return [RunFolder(path) for path in found if path.is_dir() and path != self.folder]

    def create(self, config: Mapping[str, Any]) -> None:
        """Create the folders, and write the config, with absolute paths, and the environment.

        Raises:
            UserError: the folder cannot be written to.
        """
        with writing_to("run.root"):
            self.animation.parent.mkdir(parents=True, exist_ok=True)
            self.last.parent.mkdir(exist_ok=True)
            for folder in (self.folder, self.animation.parent, self.last.parent):
                for temporary in folder.glob(".*.tmp"):  # of a process that was killed
                    temporary.unlink()
            self.failure_file.unlink(missing_ok=True)
            write_atomically(self.config_file, yaml.safe_dump(with_absolute_paths(config), sort_keys=False))
            write_atomically(self.environment_file, to_json(environment(config["seed"])))

    def panel(self, step: int) -> Path:
        """The panel after epoch ``step``; 0 is before training."""
        return self.animation.with_name(f"panel-{step:04d}.png")

    def panels(self) -> dict[int, Path]:
        """The panels that were drawn before and during training, by epoch."""
        files = sorted(self.animation.parent.glob("panel-[0-9]*.png"))
        return {int(file.stem.removeprefix("panel-")): file for file in files}

    def clear(self) -> None:
        """Delete everything in the folder."""
        # The result goes first: if this is interrupted, the rest must not look like a finished run.
        for path in sorted(self.folder.iterdir(), key=lambda path: path != self.result_file):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; ``None`` if the run is not finished or its result cannot be read."""
        result = read_json(self.result_file)
        return result if result.get("status") == "finished" else None

    def mark_failed(self, reason: str, status: str = "failed") -> None:
        """Record that the run ended without a result, until it is started again."""
        if self.folder.is_dir():
            with suppress(OSError):  # the disk may be the reason
                write_atomically(self.failure_file, to_json({"status": status, "why": reason}))

    def config(self) -> dict[str, Any]:
        """The resolved config of the run.

        Raises:
            UserError: the folder holds no run.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except OSError as error:
            raise UserError(f"{self.folder} is not a run: {self._why_no_config()}") from error
        except (ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self.folder} is not a run: {self.config_file.name} cannot be read") from error
        if not isinstance(config, dict):
            raise UserError(f"{self.folder} is not a run: {self.config_file.name} holds no config")
        return config

    def _why_no_config(self) -> str:
        """Why the config's file cannot be opened."""
        if not os.path.isdir(self.folder):  # noqa: PTH112 (Path.is_dir may raise)
            return "there is no such folder"
        if self.config_file.is_file():
            return f"{self.config_file.name} cannot be read"
        runs = sorted(self.folder.glob("*/config.yaml"))
        if not runs:
            return f"it has no {self.config_file.name}, which the folder of each run has"
        return f"it contains {len(runs)}: name one of them, such as {runs[0].parent}"


def run_digest(config: Mapping[str, Any]) -> str:
    """A digest of everything that can change a run's result, which is the identity of the run.

    These are all settings but those without effect. The content of the user's ``data.file``
    or ``data.folder`` stands for its path.
    """
    identity, data = decisive(config), config.get("data")
    for key in OWN_DATA:
        if isinstance(data, Mapping) and isinstance(data.get(key), str):
            path = Path(data[key]).expanduser()
            # A file in place of a folder, or the reverse, is refused later, and would take long to read here.
            identity["data"][key] = digest_of_content(path) if path.is_dir() == (key == "folder") else ""
    return digest(identity)


def data_digest(data: Mapping[str, Any]) -> str:
    """The same of a data config alone."""
    return run_digest({"data": data})


def digest_in(name: str) -> str:
    """The digest at the end of a run's name."""
    return name.rpartition("-")[2]
