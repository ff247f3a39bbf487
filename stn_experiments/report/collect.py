"""The runs in some folders, read from their files. Damaged files are skipped, with a line for each."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import digest, read_json
from stn_experiments.storage.lock import is_locked
from stn_experiments.storage.run_folder import RunFolder

NAMES = ("data.name", "backbone.name", "stn.name")


State = Literal["finished", "running", "failed", "stopped"]


class Damaged(Exception):
    """A file of a run is damaged; the message says which, and how."""


@dataclass(frozen=True)
class Record:
    """The content of a run's files.

    Args:
        folder: the run's folder.
        config: the resolved config.
        history: a metrics dict for each epoch, with ``epoch`` and ``val_error`` in each.
        result: the result of a finished run, with ``test_error``, or ``None``.
        evaluations: test errors in % on other data, by name.
        failure: the reason of a failure.
        locked: whether a process holds the folder, or did so until recently.
        written: the time of the result or, without one, of the config.
    """

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    result: dict[str, Any] | None
    evaluations: dict[str, float]
    failure: str | None
    locked: bool
    written: float

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config["seed"]

    @property
    def attention(self) -> str:
        """The name of the attention besides the transformer; ``none`` in runs of earlier versions."""
        name = value_at(self.config, "attention.name")
        return name if isinstance(name, str) else "none"

    @property
    def epochs(self) -> int:
        """The number of epochs of a finished run."""
        return self.config["trainer"]["epochs"]

    @property
    def state(self) -> State:
        """The state of the run; a stopped run has neither a result nor a failure."""
        if self.result is not None:
            return "finished"
        if self.locked:
            return "running"
        return "stopped" if self.failure is None else "failed"

    @property
    def progress(self) -> str:
        """The number of epochs done, and the state."""
        return f"{len(self.history)} of {self.epochs} epochs, {self.state}"

    def __str__(self) -> str:
        why = f": {self.failure}" if self.state == "failed" else ""
        return f"{self.folder.name}: {self.progress}{why}"


def collect(folders: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """All runs at any depth of the folders, each once, and a line for each skipped file.

    Raises:
        UserError: a folder is missing, or there is no run that can be read.
    """
    records: list[Record] = []
    skipped: list[str] = []
    for folder in find(folders):
        try:
            records.append(read(folder, skipped))
        except (Damaged, OSError) as error:  # a run may be cleared while it is read
            skipped.append(f"{folder}: skipped, {error}")
    if not records:
        where = ", ".join(map(str, folders))
        raise UserError(
            f"there is no run in {where}" + (f" that can be read: {skipped[0]}" if skipped else "")
        )
    return records, skipped


def find(folders: Sequence[Path]) -> list[Path]:
    """The folders with a ``config.yaml``, each once, in order; hidden folders are skipped.

    Raises:
        UserError: one of ``folders`` does not exist.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
        for path, inner, files in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            if "config.yaml" in files:
                inner.clear()
                found.setdefault(Path(path).resolve(), Path(path))
    return list(found.values())


def read(folder: Path, skipped: list[str]) -> Record:
    """Read a run; damaged parts that are not needed are skipped, with a line in ``skipped``.

    Raises:
        Damaged: its config or its result cannot be read.
    """
    run = RunFolder(folder)
    config = read_config(run)
    result = read_result(run)
    source = run.config_file if result is None else run.result_file
    return Record(
        folder,
        config,
        list(read_history(run, skipped)),
        result,
        read_evaluations(run, config, skipped),
        read_json(run.failure_file).get("why"),
        is_locked(folder),
        source.stat().st_mtime,
    )


def read_config(run: RunFolder) -> dict[str, Any]:
    """A run's config, with everything that a report needs."""
    try:
        config = run.config()
    except (UserError, ValueError, RecursionError) as error:
        raise Damaged("config.yaml cannot be read") from error
    for name in NAMES:
        if not isinstance(value_at(config, name), str):
            raise Damaged(f"config.yaml has no {name}")
    for name in ("seed", "trainer.epochs"):
        if type(value_at(config, name)) is not int:
            raise Damaged(f"config.yaml has no {name}")
    return config


def read_result(run: RunFolder) -> dict[str, Any] | None:
    """The result of a finished run, or ``None``; a damaged file is an error here."""
    if not run.result_file.exists():
        return None
    result = load(run.result_file)
    if number(result, "test_error") is None:
        raise Damaged("result.json has no test_error")
    return result


def read_history(run: RunFolder, skipped: list[str]) -> Iterator[dict[str, Any]]:
    """The readable epochs of ``history.jsonl``."""
    try:
        lines = run.history_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError:
        skipped.append(f"{run.history_file}: skipped, it cannot be read")
        return
    for place, line in enumerate(lines, 1):
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            metrics = None
        if number(metrics, "epoch") is None or number(metrics, "val_error") is None:
            skipped.append(f"{run.history_file}: line {place} skipped, it is no epoch")
        else:
            yield metrics


def read_evaluations(run: RunFolder, config: Mapping[str, Any], skipped: list[str]) -> dict[str, float]:
    """The test errors of ``scripts/evaluate.py``, by name of the data.

    Of several with one name, the one on the run's own data has it, and the others the name of their folder.
    """
    found: dict[str, float] = {}
    own = f"{config['data']['name']}-{digest(config['data'])}"
    files = (run.folder / "evaluations").glob("*/result.json")
    for file in sorted(files, key=lambda file: (file.parent.name != own, file.parent.name)):
        try:
            result = load(file)
            error, name = number(result, "test_error"), result.get("data")
            if error is None or not isinstance(name, str):
                raise Damaged("result.json has no test_error or no data")
        except Damaged as damage:
            skipped.append(f"{file.parent}: skipped, {damage}")
            continue
        if found.setdefault(name, error) != error:
            found[file.parent.name] = error
    return found


def load(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        Damaged: there is none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{file.name} cannot be read") from error
    if not isinstance(value, dict):
        raise Damaged(f"{file.name} holds no object")
    return value


def value_at(config: Any, name: str) -> Any:
    """The value of a setting by its dotted name, or ``None``."""
    for key in name.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def number(values: Any, name: str) -> float | None:
    """A finite number in a dict, or ``None``."""
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None
