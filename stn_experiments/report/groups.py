"""Groups of runs that differ only in their seed. Groups of one data set differ in their settings."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, TypeVar

from stn_experiments.config.tree import decisive, flatten
from stn_experiments.report.collect import Names, Record, number

TRAINING_ONLY = ("data.online", "data.training", "data.valid_size")
"""Settings of data that do not change the test set."""
NAMED_BY_TARGET = ("optimizer", "scheduler")
"""Groups of settings without a name."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """The runs of one model on one data set.

    Args:
        data: the name of the data, and settings that differ from other data of that name.
        names: of the model.
        settings: settings that differ from other models of these names, as on a command line.
        finished: the finished runs, one for each seed.
        unfinished: the other runs, except those of a seed with a finished run.
        older: how many finished runs are omitted because a later one has the same seed.
    """

    data: str
    names: Names
    settings: str
    finished: tuple[Record, ...]
    unfinished: tuple[Record, ...]
    older: int

    @property
    def base(self) -> str:
        """Backbone and attention: ``compact + affine + cbam``, ``compact + none``."""
        attentions = [name for name in self.names[1:] if name != "none"] or ["none"]
        return " + ".join([self.names.backbone, *attentions])

    @property
    def attends(self) -> bool:
        """Whether it has a transformer or another attention."""
        return self.names[1:] != ("none", "none")

    @property
    def model(self) -> str:
        """Backbone, attention and the settings that differ."""
        return f"{self.base} {self.settings}".strip()

    @property
    def runs(self) -> tuple[Record, ...]:
        """All runs, finished ones first."""
        return self.finished + self.unfinished

    def values(self, name: str) -> list[float]:
        """A number in ``result.json`` of each finished run that has it."""
        found = (number(run.result, name) for run in self.finished)
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        """Its mean over the seeds; ``None`` if no run has it."""
        values = self.values(name)
        return mean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Its sample standard deviation over the seeds; ``None`` for fewer than two."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None


def group_runs(records: Sequence[Record]) -> list[Group]:
    """The groups by data; those of one data set by test error, and those without a finished run last."""
    groups = []
    for (name, text), of_data in split(records, lambda run: run.data, changes_data).items():
        models = split(of_data, lambda run: run.names, lambda setting: not changes_data(setting))
        groups += [make_group(f"{name} {text}".strip(), *model, runs) for model, runs in models.items()]
    return sorted(groups, key=rank)


def split(
    runs: Sequence[Record], name: Callable[[Record], Name], counts: Callable[[str], bool]
) -> dict[tuple[Name, str], list[Record]]:
    """Split runs by name, and those of one name by the settings that differ, of those that count."""
    by_name, found = defaultdict(list), defaultdict(list)
    for run in runs:
        by_name[name(run)].append(run)
    for key, namesakes in by_name.items():
        settings = [{k: v for k, v in effective_settings(run).items() if counts(k)} for run in namesakes]
        differing = differing_settings(settings)
        for run, text in zip(namesakes, differing, strict=True):
            found[key, text].append(run)
    return found


def make_group(data: str, names: Names, settings: str, runs: Sequence[Record]) -> Group:
    """A group of runs, with the last finished run of each seed."""
    finished = sorted((run for run in runs if run.result), key=lambda run: run.written)
    last = {run.seed: run for run in finished}
    unfinished = tuple(run for run in runs if not run.result and run.seed not in last)
    one_each = tuple(last[seed] for seed in sorted(last))
    return Group(data, names, settings, one_each, unfinished, len(finished) - len(one_each))


def rank(group: Group) -> tuple[str, bool, float, str]:
    """The key by which groups are sorted."""
    error = group.mean("test_error")
    return group.data, error is None, error or 0, group.model


def best(groups: Sequence[Group]) -> set[int]:
    """The indices of the groups with the lowest test error on their data, rounded to the two digits shown.

    Groups that :func:`trained_otherwise` are not compared.
    """
    otherwise = trained_otherwise(groups)
    means = {index: group.mean("test_error") for index, group in enumerate(groups) if index not in otherwise}
    errors = {index: round(error, 2) for index, error in means.items() if error is not None}
    lowest: dict[str, float] = {}
    for index, error in errors.items():
        data = groups[index].data
        lowest[data] = min(lowest.get(data, error), error)
    return {index for index, error in errors.items() if error == lowest[groups[index].data]}


def trained_otherwise(groups: Sequence[Group]) -> set[int]:
    """The indices of finished groups that saw another number of images than most groups on their data.

    If no two groups of several on the same data saw equally many, these are all of them.
    """
    seen: dict[str, dict[int, float | None]] = defaultdict(dict)
    for index, group in enumerate(groups):
        if group.finished:
            seen[group.data][index] = group.mean("images_seen")
    otherwise: set[int] = set()
    for images in seen.values():
        usual, count = max(Counter(images.values()).items(), key=lambda item: (item[1], item[0] or 0))
        alone = count == 1 < len(images)
        otherwise |= {index for index, number_seen in images.items() if alone or number_seen != usual}
    return otherwise


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several configs the settings that differ from the others, as on a command line.

    A value that more than half of the configs have is omitted. Configs that lack a setting do not count.
    """
    differing: list[list[str]] = [[] for _ in settings]
    for key in dict.fromkeys(key for one in settings for key in one):
        counts = Counter(as_text(one[key]) for one in settings if key in one)
        usual, count = counts.most_common(1)[0]
        if len(counts) == 1:
            continue
        for one, texts in zip(settings, differing, strict=True):
            if key in one and (as_text(one[key]) != usual or 2 * count <= counts.total()):
                texts.append(f"{key}={as_text(one[key])}")
    return [" ".join(texts) for texts in differing]


def changes_data(name: str) -> bool:
    """Whether a setting can change the test set."""
    return name.startswith("data.") and not name.startswith(TRAINING_ONLY)


def effective_settings(run: Record) -> dict[str, Any]:
    """The settings that can change a run's result, except the seed and the names of groups."""
    config = run.config
    named = [group for group, node in config.items() if isinstance(node, Mapping) and "name" in node]
    settings = {k: v for k, v in flatten(decisive(config)).items() if k not in ("seed", *named)}
    for group in NAMED_BY_TARGET:
        if target := config.get(group, {}).get("_target_"):
            settings[group] = str(target).rpartition(".")[2]
    return settings


def as_text(value: Any) -> str:
    """A value as on a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
