"""Groups of runs that differ only in their seed. Groups of one data set differ in their settings."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any, TypeVar

import numpy as np

from stn_experiments.common.bits import unpack_bits
from stn_experiments.config.tree import NEUTRAL, OPTIONAL_DISTORTION, OPTIONAL_LOSS, decisive, flatten
from stn_experiments.evaluation.intervals import Interval, difference_interval
from stn_experiments.report.collect import Names, Record, number

Run = TypeVar("Run")
Label = TypeVar("Label")

TRAINING_ONLY = ("data.online", "data.training", "data.train_digits", "data.valid_size")
"""Settings of data that do not change the test set."""
CRITERIA = (
    ("*", "images_seen", 1.0, "another number of images seen in training"),
    ("†", "parameters", 1.3, "more than 30 % more or fewer parameters"),
)
"""What groups on the same data must share to be compared, checked in this order.

Each is the mark of those that differ, a number in ``result.json``, the largest ratio between compared
groups, and the meaning of the mark. By default, a transformer adds at most 25 % of parameters.
"""


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
        marks: of the criteria by which it cannot be compared with most models on the same data.
    """

    data: str
    names: Names
    settings: str
    finished: tuple[Record, ...]
    unfinished: tuple[Record, ...]
    older: int
    marks: str = ""

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of its first run. The others differ in the seed, and in what cannot change a result."""
        return self.runs[0].config

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
        return [value for run in self.finished if (value := number(run.result, name)) is not None]

    def mean(self, name: str) -> float | None:
        """Its mean over the seeds; ``None`` if no run has it."""
        values = self.values(name)
        return mean(values) if values else None

    def spread(self, name: str) -> float | None:
        """Its sample standard deviation over the seeds; ``None`` for fewer than two."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None

    def wrong(self) -> np.ndarray | None:
        """What share of each test digit's images each finished run got wrong (S, N).

        A digit may have several images. A sequence of digits counts as one. ``None`` if the runs had
        different images.
        """
        results = [run.result for run in self.finished]
        if len({result.get("test_digest") for result in results}) != 1:
            return None
        try:
            wrong = np.stack([unpack_bits(result["test_wrong"], result["test_images"]) for result in results])
            return wrong.reshape(len(results), *test_shape(self.config["data"])).mean((1, 3))
        except (KeyError, TypeError, ValueError):
            return None

    def difference(self, other: "Group") -> Interval | None:
        """By how much its error exceeds another group's; ``None`` unless the test images are the same."""
        digests = {run.result.get("test_digest") for run in self.finished + other.finished}
        wrong, others = self.wrong(), other.wrong()
        if len(digests) != 1 or None in digests or wrong is None or others is None:
            return None
        return difference_interval(wrong, others)


def test_shape(data: Mapping[str, Any]) -> tuple[int, int, int]:
    """The draws of each test digit, -1 for the digits, and the labels of an image, in a test set's order."""
    distortion = data.get("distortion") or {}
    is_sequence = distortion.get("_target_", "").endswith(".Sequences")
    return data.get("test_draws", 1), -1, distortion["digits"] if is_sequence else 1


def group_runs(records: Sequence[Record]) -> list[Group]:
    """The groups by data; those of one data set by test error, and those without a finished run last."""
    groups = [
        make_group(data, *model, runs)
        for data, of_data in split_by_data(records).items()
        for model, runs in split_by_model(of_data).items()
    ]
    marked = [replace(group, marks=mark) for group, mark in zip(groups, find_marks(groups), strict=True)]
    marked.sort(key=lambda one: (one.data, not one.finished, one.mean("test_error") or 0, one.model))
    return marked


def split(runs: Sequence[Run], labels: Sequence[Label]) -> dict[Label, list[Run]]:
    """The runs of each of their labels, one for each run."""
    found = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        found[label].append(run)
    return found


def split_by_data(runs: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs by the name of their data and the settings that differ between test sets of that name."""
    found: dict[str, list[Record]] = {}
    for name, namesakes in split(runs, [run.data for run in runs]).items():
        texts = differing_settings([settings_of(run, "data") for run in namesakes])
        for text, alike in split(namesakes, texts).items():
            found |= split_by_test_set(f"{name} {text}".strip(), alike)
    return found


def split_by_test_set(name: str, runs: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs on data of one name by the images that they were tested on; unfinished runs are with the most.

    The images differ where the code that draws them, or a file of the user, has changed.
    """
    digests = [run.result.get("test_digest") for run in runs]
    usual = Counter(digest for digest in digests if digest).most_common(1)
    labels = [
        name if not run.result or not usual or digest == usual[0][0] else f"{name} test_digest={digest}"
        for run, digest in zip(runs, digests, strict=True)
    ]
    return split(runs, labels)


def split_by_model(runs: Sequence[Record]) -> dict[tuple[Names, str], list[Record]]:
    """Runs on one data set by the names of their model and the settings that differ.

    Settings of a transformer are compared among runs with that transformer; backbones and attentions alike.
    All other settings are compared among all runs.
    """
    texts: list[list[str]] = [[] for _ in runs]
    for part in (*Names._fields, None):
        names = [part and getattr(run.names, part) for run in runs]
        for indices in split(range(len(runs)), names).values():
            settings = [settings_of(runs[index], part) for index in indices]
            for index, text in zip(indices, differing_settings(settings), strict=True):
                texts[index] += [text] if text else []
    return split(runs, [(run.names, " ".join(words)) for run, words in zip(runs, texts, strict=True)])


def make_group(data: str, names: Names, settings: str, runs: Sequence[Record]) -> Group:
    """A group of runs, with the last finished run of each seed."""
    finished = sorted((run for run in runs if run.result), key=lambda run: run.written)
    last = {run.seed: run for run in finished}
    unfinished = tuple(run for run in runs if not run.result and run.seed not in last)
    one_each = tuple(last[seed] for seed in sorted(last))
    return Group(data, names, settings, one_each, unfinished, len(finished) - len(one_each))


def best(groups: Sequence[Group]) -> list[Group]:
    """The groups with the lowest test error on their data, rounded to the two digits shown.

    Groups with marks are not compared, and a single group on its data is not the best of several.
    """
    compared = defaultdict(list)
    for group in groups:
        if group.finished and not group.marks:
            compared[group.data].append((round(group.mean("test_error") or 0, 2), group))
    return [
        group
        for of_data in compared.values()
        if len(of_data) > 1
        for error, group in of_data
        if error == min(error for error, _ in of_data)
    ]


def first_mean(groups: Sequence[Group], name: str, data: str) -> float | None:
    """A number of a test set: the mean of the first of the groups on that data which has it."""
    values = (group.mean(name) for group in groups if group.data == data)
    return next((value for value in values if value is not None), None)


def find_marks(groups: Sequence[Group]) -> list[str]:
    """The marks of each group: of the criteria by which it cannot be compared with most models on its data.

    Groups with a mark do not count for the criteria that follow. Groups without the number get no mark.
    """
    marks = [""] * len(groups)
    for data in {group.data for group in groups}:
        indices = [index for index, group in enumerate(groups) if group.data == data]
        for mark, name, ratio, _ in CRITERIA:
            means = {index: value for index in indices if (value := groups[index].mean(name)) is not None}
            low, high = fullest_range([value for index, value in means.items() if not marks[index]], ratio)
            for index, value in means.items():
                if not low <= value <= high:
                    marks[index] += mark
    return marks


def fullest_range(values: Sequence[float], ratio: float) -> tuple[float, float]:
    """The range from any value to ``ratio`` times that value which has the most values.

    If several ranges hold equally many values, it is the highest. If no two values share a range, it is
    empty. Without values, it holds every number.
    """
    if not values:
        return -math.inf, math.inf
    counts = {low: sum(low <= value <= ratio * low for value in values) for low in values}
    low = max(counts, key=lambda low: (counts[low], low))
    return (low, ratio * low) if counts[low] > 1 or len(values) == 1 else (math.inf, -math.inf)


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several configs the settings that differ from the others, as on a command line.

    A value that more than half of the configs have is omitted. Configs that lack a setting do not count,
    unless the whole group is null there.
    """
    differing: list[list[str]] = [[] for _ in settings]
    for key in dict.fromkeys(key for one in settings for key in one):
        given = [_given(one, key) for one in settings]
        counts = Counter(text for text in given if text)
        usual, count = counts.most_common(1)[0]
        if len(counts) == 1:
            continue
        for text, texts in zip(given, differing, strict=True):
            if text and text not in texts and (text != usual or 2 * count <= counts.total()):
                texts.append(text)
    return [" ".join(texts) for texts in differing]


def _given(settings: Mapping[str, Any], key: str) -> str:
    """A setting as on a command line, or the null group that it would be in; empty if there is neither."""
    if key in settings:
        return f"{key}={as_text(settings[key])}"
    groups = [key[:end] for end, character in enumerate(key) if character == "."]
    return next((f"{group}=null" for group in groups if settings.get(group, "") is None), "")


def settings_of(run: Record, part: str | None) -> dict[str, Any]:
    """The settings of a :func:`part_of` a run that can change its result, except the names of groups.

    What is off, or what the code of an old run did not have, has its neutral value; a loss the weight 0.
    """
    config = run.config
    named = [group for group, node in config.items() if isinstance(node, Mapping) and "name" in node]
    training = {k: v for k, v in flatten(config).items() if k.startswith(f"{OPTIONAL_DISTORTION}.")}
    flat = {**NEUTRAL, **training, **flatten(decisive(config))}
    settings = {key: value for key, value in flat.items() if key not in ("seed", *named)}
    for weight in ("weight", "end"):
        settings.setdefault(f"{OPTIONAL_LOSS}.{weight}", 0.0)
    for group in ("optimizer", "scheduler"):  # they have no name
        if target := config.get(group, {}).get("_target_"):
            settings[group] = str(target).rpartition(".")[2]
    return {name: value for name, value in settings.items() if part_of(name) == part}


def part_of(name: str) -> str | None:
    """What a setting belongs to: a part of the model, ``data`` if it changes the test set, or ``None``."""
    group = name.partition(".")[0]
    return group if group in ("data", *Names._fields) and not name.startswith(TRAINING_ONLY) else None


def as_text(value: Any) -> str:
    """A value as on a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
