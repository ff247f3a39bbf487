"""Reads the runs in some folders. Damaged files are skipped, with a line for each."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import read_json
from stn_experiments.storage.lock import is_locked
from stn_experiments.storage.run_folder import RunFolder, data_digest

NEEDED = {"data.name": str, "backbone.name": str, "stn.name": str, "seed": int, "trainer.epochs": int}
"""Settings that a report needs, and their types."""

State = Literal["finished", "running", "failed", "stopped"]


class Names(NamedTuple):
    """The names of a model."""

    backbone: str
    stn: str
    attention: str


@dataclass(frozen=True)
class Record:
    """The content of a run's files.

    Args:
        folder: the run's folder.
        config: the resolved config.
        history: a metrics dict for each epoch, with ``epoch`` and ``val_error`` in each.
        result: the result of a finished run, with ``test_error``; empty for others.
        evaluations: test errors in % on other data, by name.
        failure: the reason of a failure.
        locked: whether a process holds the folder, or did so until recently.
        written: the modification time of the result or, without one, of the config.
    """

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    result: dict[str, Any]
    evaluations: dict[str, float]
    failure: str | None
    locked: bool
    written: float

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def data(self) -> str:
        return self.config["data"]["name"]

    @property
    def names(self) -> Names:
        """The names of the model."""
        return Names(*(self.config.get(part, {}).get("name", "none") for part in Names._fields))

    @property
    def epochs(self) -> int:
        """The number of epochs of a finished run."""
        return self.config["trainer"]["epochs"]

    @property
    def state(self) -> State:
        """The state of the run; a stopped run has neither a result nor a failure."""
        if self.result:
            return "finished"
        if self.locked:
            return "running"
        return "stopped" if self.failure is None else "failed"

    @property
    def progress(self) -> str:
        """The number of epochs done, and the state."""
        return f"{len(self.history)} of {self.epochs} epochs, {self.state}"

    def __str__(self) -> str:
        reason = f": {self.failure}" if self.state == "failed" else ""
        return f"{self.folder.name}: {self.progress}{reason}"


def collect(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """All runs at any depth of the folders, each once, and a line for each skipped file.

    Raises:
        UserError: a folder is missing, or there is no run that can be read.
    """
    records: list[Record] = []
    skipped: list[str] = []
    for folder in find_runs(folders):
        try:
            records.append(read_run(folder, skipped))
        except (UserError, OSError) as error:  # a run may be deleted while it is read
            skipped.append(f"{folder}: skipped, {error}")
    if not records:
        reason = f" that can be read: {skipped[0]}" if skipped else ""
        raise UserError(f"there is no run in {', '.join(map(str, folders))}{reason}")
    return records, skipped


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The folders with a ``config.yaml``, each once, in order; hidden folders are skipped.

    Raises:
        UserError: one of ``folders`` does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        for path, subfolders, files in os.walk(folder):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            if "config.yaml" in files:
                subfolders.clear()
                found.setdefault(Path(path).resolve(), Path(path))
    return list(found.values())


def read_run(folder: Path, skipped: list[str]) -> Record:
    """Read a run; ``skipped`` gets a line for each damaged file that a report can do without.

    Raises:
        UserError: the config or the result cannot be read.
    """
    run = RunFolder(folder)
    config = read_config(run)
    finished, result = run.result_file.exists(), read_json(run.result_file)
    if finished and number(result, "test_error") is None:
        raise UserError("result.json has no test_error")
    return Record(
        folder,
        config,
        list(read_history(run, skipped)),
        result,
        read_evaluations(run, config["data"], skipped),
        read_json(run.failure_file).get("why"),
        is_locked(folder),
        (run.result_file if finished else run.config_file).stat().st_mtime,
    )


def read_config(run: RunFolder) -> dict[str, Any]:
    """A run's config, with everything that a report needs.

    Raises:
        UserError: it cannot be read, or a setting is missing.
    """
    try:
        config = run.config()
    except UserError as error:
        raise UserError("config.yaml cannot be read") from error
    for name, kind in NEEDED.items():
        node: Any = config
        for key in name.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        if type(node) is not kind:
            raise UserError(f"config.yaml has no {name}")
    return config


def read_history(run: RunFolder, skipped: list[str]) -> Iterator[dict[str, Any]]:
    """The readable epochs of ``history.jsonl``."""
    file = run.history_file
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for line_number, line in enumerate(lines, 1):
        metrics: Any = None
        with suppress(ValueError):
            metrics = json.loads(line)
        if number(metrics, "epoch") is None or number(metrics, "val_error") is None:
            skipped.append(f"{file}: line {line_number} skipped, it is not an epoch")
        else:
            yield metrics


def read_evaluations(run: RunFolder, data: Mapping[str, Any], skipped: list[str]) -> dict[str, float]:
    """The test errors of ``scripts/evaluate.py``, by name of the data.

    The name of the run's own ``data`` is for that alone; others of the same name get their folder's name.
    """
    errors: dict[str, float] = {}
    own = f"{data['name']}-{data_digest(data)}"
    files = (run.folder / "evaluations").glob("*/result.json")
    for file in sorted(files, key=lambda file: (file.parent.name != own, file.parent.name)):
        result = read_json(file)
        error, name = number(result, "test_error"), result.get("data")
        if error is None or not isinstance(name, str):
            skipped.append(f"{file.parent}: skipped, result.json has no test_error or no data")
        elif (name == data["name"] and file.parent.name != own) or errors.setdefault(name, error) != error:
            errors[file.parent.name] = error
    return errors


def number(values: Any, name: str) -> float | None:
    """A finite number in a dict, or ``None``."""
    value: Any = values.get(name) if isinstance(values, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
