"""Runs that differ in their seed alone are one cell, told apart by what is special in its config."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from stn_experiments.report.collect import Record, number

IRRELEVANT = ("seed", "data.root", "trainer.device")  # as for a run's name; and all of ``run`` and ``search``
TRAINED_ON = ("data.online", "data.training", "data.valid_size")  # settings that leave the test set as it is
NAMED_BY_TARGET = ("optimizer", "scheduler")  # these groups have no name


@dataclass(frozen=True)
class Cell:
    """The runs of one model on one data set.

    Args:
        data: name of the data, and the settings of theirs by which they differ from others of that name.
        backbone: its name.
        stn: its name.
        attention: the name of what else attends.
        settings: the settings, as on a command line, by which the runs differ from others of these four.
        finished: the finished runs, one for each seed.
        unfinished: the others, but of a seed that has a finished one.
        older: how many finished runs were left out, because a later one has the same seed.
    """

    data: str
    backbone: str
    stn: str
    attention: str
    settings: str
    finished: tuple[Record, ...]
    unfinished: tuple[Record, ...]
    older: int

    @property
    def base(self) -> str:
        """Backbone and all that attends: ``compact + affine + cbam``, ``compact + none``."""
        attentions = [name for name in (self.stn, self.attention) if name != "none"] or ["none"]
        return " + ".join([self.backbone, *attentions])

    @property
    def attends(self) -> bool:
        """Whether it attends to anything."""
        return (self.stn, self.attention) != ("none", "none")

    @property
    def model(self) -> str:
        """Backbone, what attends, and the settings in which it is special."""
        return f"{self.base} {self.settings}".strip()

    @property
    def runs(self) -> tuple[Record, ...]:
        """All runs, the finished ones first."""
        return self.finished + self.unfinished

    def values(self, name: str) -> list[float]:
        """A number of the results, for each finished run that has it."""
        found = (number(run.result, name) for run in self.finished)
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        """Its mean over the seeds; ``None`` where no run has it."""
        values = self.values(name)
        return mean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Its sample standard deviation over the seeds; ``None`` for fewer than two."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None


def group(records: Sequence[Record]) -> list[Cell]:
    """The cells, by data; within them the lowest test error first, and last what has no finished run."""
    cells: dict[tuple[str, str, str, str, str], list[Record]] = defaultdict(list)
    for data, runs in by_data(records).items():
        models = defaultdict(list)
        for run in runs:
            models[names(run)].append(run)
        for model, alike in models.items():
            settings = [dict(flat(run.config)) for run in alike]
            training = [{key: v for key, v in one.items() if not tells_data(key)} for one in settings]
            for run, words in zip(alike, special(training), strict=True):
                cells[(data, *model, words)].append(run)
    return sorted((cell(*key, runs) for key, runs in cells.items()), key=rank)


def names(run: Record) -> tuple[str, str, str]:
    """Backbone, transformer and attention."""
    return run.config["backbone"]["name"], run.config["stn"]["name"], run.attention


def by_data(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs by their data: one name can stand for several, as with another canvas."""
    names, found = defaultdict(list), defaultdict(list)
    for run in records:
        names[run.config["data"]["name"]].append(run)
    for name, runs in names.items():
        settings = [{key: v for key, v in flat(run.config) if tells_data(key)} for run in runs]
        for run, words in zip(runs, special(settings), strict=True):
            found[f"{name} {words}".strip()].append(run)
    return found


def tells_data(name: str) -> bool:
    """Whether a setting can change the test set."""
    return name.startswith("data.") and not name.startswith(TRAINED_ON)


def cell(data: str, backbone: str, stn: str, attention: str, settings: str, runs: Sequence[Record]) -> Cell:
    """A cell of runs, of each seed the one that was finished last."""
    last: dict[int, Record] = {}
    finished = sorted((run for run in runs if run.result is not None), key=lambda run: run.written)
    for run in finished:
        last[run.seed] = run
    unfinished = [run for run in runs if run.result is None and run.seed not in last]
    one_each = tuple(last[seed] for seed in sorted(last))
    older = len(finished) - len(one_each)
    return Cell(data, backbone, stn, attention, settings, one_each, tuple(unfinished), older)


def rank(cell: Cell) -> tuple[str, bool, float, str]:
    """By what cells are sorted."""
    error = cell.mean("test_error")
    return cell.data, error is None, error or 0, cell.model


def best(cells: Sequence[Cell]) -> set[int]:
    """The places of the cells that are best on their data: whose error is lowest in the two digits shown."""
    errors = [cell.mean("test_error") for cell in cells]
    lowest: dict[str, float] = {}
    for cell, error in zip(cells, errors, strict=True):
        if error is not None:
            lowest[cell.data] = min(lowest.get(cell.data, error), error)
    return {
        place
        for place, (cell, error) in enumerate(zip(cells, errors, strict=True))
        if error is not None and round(error, 2) == round(lowest[cell.data], 2)
    }


def special(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several configs that in which it is unlike the others, in the words of a command line.

    What more than half of them have goes unsaid. A setting that one lacks, as an old run does, tells nothing.
    """
    words: list[list[str]] = [[] for _ in settings]
    for key in dict.fromkeys(key for one in settings for key in one):
        counts = Counter(written(one[key]) for one in settings if key in one)
        usual, count = counts.most_common(1)[0]
        if len(counts) == 1:
            continue
        for one, said in zip(settings, words, strict=True):
            if key in one and (written(one[key]) != usual or 2 * count <= counts.total()):
                said.append(f"{key}={written(one[key])}")
    return [" ".join(said) for said in words]


def flat(config: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a config that can change its result, by their dotted names."""
    for key, value in config.items():
        name = f"{head}{key}"
        if name in ("run", "search") or name in IRRELEVANT or (head and key == "name"):
            continue
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif key != "_target_":
            yield name, value
        elif head[:-1] in NAMED_BY_TARGET:
            yield head[:-1], str(value).rpartition(".")[2]


def written(value: Any) -> str:
    """A value as on a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
