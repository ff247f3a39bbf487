"""Kept results: one JSON file for the runs of one command, small enough to be part of the repository."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import read_json, write_atomically
from stn_experiments.config.compose import compose
from stn_experiments.config.tree import decisive, flatten, with_values
from stn_experiments.report.collect import Record, number, read_run
from stn_experiments.report.groups import Group, group_runs
from stn_experiments.runs.evaluate import evaluation_folder
from stn_experiments.runs.other_data import other_data
from stn_experiments.storage.run_folder import RunFolder, run_digest

HISTORY = ("train_loss", "train_error", "val_loss", "val_error", "seconds")
"""The metrics of each epoch that are kept."""
COMMAND = "python scripts/train.py "
REDRAWN = (1, 2)
"""Seeds of the data for test sets that are drawn anew."""


@dataclass(frozen=True)
class Kept:
    """The content of a file.

    Args:
        command: what trained the runs, and evaluated them if that was on other data.
        environment: the machine and the versions, which all runs share.
        groups: the runs, grouped by what they differ in besides the seed.
    """

    command: str
    environment: Mapping[str, Any]
    groups: list[Group]

    @property
    def group(self) -> Group:
        """The only group."""
        if len(self.groups) != 1:
            raise UserError(f"the runs of {self.command} differ in more than the seed")
        return self.groups[0]


def keep(command: str, root: Path, configs: Path, file: Path, evaluated: str = "") -> int:
    """Write the runs of a command, which are in the folder ``root``, to a file; returns their number.

    Where ``evaluated`` names other data, as for ``scripts/evaluate.py``, the scores are those on that data.
    All runs must be finished, evaluated on that data, of one machine, and of a clean commit.
    """
    if not command.startswith(COMMAND):
        raise UserError(f"--command must start with {COMMAND!r}, got {command!r}")
    records = [find(root, compose(configs, words)) for words in runs_of(command.removeprefix(COMMAND))]
    if evaluated:
        records = [evaluated_on(record, evaluated.split(), configs) for record in records]
        command += f"\npython scripts/evaluate.py outputs/RUN {evaluated}  # for each run"
    environment, *others = (read_environment(record.folder) for record in records)
    if any(other != environment for other in others):
        raise UserError(f"the runs of {command} have different environments")
    configs_of = [decisive(record.config) for record in records]
    flat = [flatten(config) for config in configs_of]
    if any(settings.keys() != flat[0].keys() for settings in flat):
        raise UserError(f"the runs of {command} have different models: keep each model in a file of its own")
    differing = [name for name in flat[0] if any(other[name] != flat[0][name] for other in flat)]
    head = {"command": command, "environment": environment, "config": configs_of[0]}
    parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    runs = ",\n".join(
        json.dumps(shortened({name: settings[name] for name in differing}, record))
        for settings, record in zip(flat, records, strict=True)
    )
    write_atomically(file, "{" + ",\n".join(parts) + f',\n"runs": [\n{runs}\n]}}\n')
    return len(records)


def runs_of(words: str) -> list[list[str]]:
    """The overrides of each run of a command line; ``a=1,2`` is a choice with ``-m`` alone."""
    try:
        parts = shlex.split(words)
    except ValueError as error:
        raise UserError(f"--command cannot be read ({error}): {words}") from error
    choices = []
    for word in parts:
        key, _, values = word.partition("=")
        if word != "-m" and not values:
            raise UserError(f"--command must have NAME=VALUE after {COMMAND.strip()}, got {word}")
        if values:
            alone = [values] if "[" in values else values.split(",")
            choices.append([f"{key}={value}" for value in alone])
    return [list(chosen) for chosen in product(*choices)]


def find(root: Path, config: Mapping[str, Any]) -> Record:
    """The finished run of a config in a folder, whose code was not changed after its commit."""
    name = f"*-{run_digest(config)}"
    found = [path for path in sorted(root.glob(name)) if RunFolder(path).result()]
    if not found:
        raise UserError(f"{root} has no finished run {name}")
    record = read_run(found[0], [])
    commit = str(record.result.get("commit"))
    if commit.endswith(("-dirty", "unknown")):
        raise UserError(f"{found[0]} was trained by code of commit {commit}: commit first")
    return record


def evaluated_on(record: Record, overrides: Sequence[str], configs: Path) -> Record:
    """A run with other data in its config, whose scores on the test set are those on that data."""
    data = other_data(record.config["data"], overrides, configs)
    file = evaluation_folder(RunFolder(record.folder), data) / "result.json"
    if not file.exists():
        raise UserError(f"{record.folder} was not evaluated on {' '.join(overrides)}: there is no {file}")
    return replace(
        record, config={**record.config, "data": data}, result={**record.result, **read_json(file)}
    )


def read_environment(folder: Path) -> dict[str, Any]:
    """The machine and the versions of a run."""
    environment = read_json(RunFolder(folder).environment_file)
    return {name: value for name, value in environment.items() if name not in ("seed", "commit")}


def shortened(settings: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """A run in a file: its own settings, its result and its history, with six digits of each number.

    Other scores of the validation set are omitted.
    """
    history = {name: [six_digits(line.get(name)) for line in record.history] for name in HISTORY}
    result = {
        name: six_digits(value)
        for name, value in {**record.result, **redrawn(record)}.items()
        if name in ("val_error", "val_loss") or not name.startswith("val_")
    }
    return {"folder": record.folder.name, "settings": settings, "result": result, "history": history}


def redrawn(record: Record) -> dict[str, float]:
    """The mean error on test sets of the run's data that the seeds ``REDRAWN`` drew, and how many there are.

    ``scripts/evaluate.py RUN data.seed=1`` evaluates a run on one of them.
    """
    run, data = RunFolder(record.folder), record.config["data"]
    files = [evaluation_folder(run, {**data, "seed": seed}) / "result.json" for seed in REDRAWN]
    errors = []
    for file in filter(Path.exists, files):
        if (error := number(read_json(file), "test_error")) is None:
            raise UserError(f"{file} has no test_error: evaluate the run again")
        errors.append(error)
    return {"redrawn_error": mean(errors), "redrawn_sets": len(errors)} if errors else {}


def six_digits(value: Any) -> Any:
    """A number with six significant digits; other values as they are."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def load(file: Path) -> Kept:
    """Read a file that :func:`keep` wrote."""
    content = read_json(file)
    try:
        records = [record_of(content["config"], run) for run in content["runs"]]
        return Kept(content["command"], content["environment"], group_runs(records))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} holds no kept results: {error}") from error


def record_of(config: Mapping[str, Any], run: Mapping[str, Any]) -> Record:
    """A run of a file as the report reads runs."""
    named = {name: f"{name}.name" for name, node in config.items() if isinstance(node, Mapping)}
    settings = {named.get(name, name): value for name, value in run["settings"].items()}
    history = [
        {"epoch": number, **dict(zip(run["history"], values, strict=True))}
        for number, values in enumerate(zip(*run["history"].values(), strict=True), 1)
    ]
    folder, result = Path(run["folder"]), run["result"]
    return Record(folder, with_values(config, settings), history, result, {}, None, False, 0.0)


def load_all(folder: Path) -> dict[str, Kept]:
    """All files of a folder by name, without the suffix."""
    return {file.stem: load(file) for file in sorted(folder.glob("*.json"))}
