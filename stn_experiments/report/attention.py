"""The table of attention: where models look, beside the yardsticks of each data set."""

from collections.abc import Sequence

from stn_experiments.evaluation.yardsticks import CENTRE_BOX, named
from stn_experiments.report.groups import Group, first_mean
from stn_experiments.report.tables import LOCATION, POSE, Faint, Table, mean_text, number_text

YARDSTICKS = {"canvas": "whole canvas", CENTRE_BOX: "best box that never moves", "exact_frame": "exact frame"}
"""The yardsticks that are rows, and their names. That of random views depends on the model."""
OF_INPUT = {
    "residual_rotation_deg": "input_rotation_deg",
    "residual_rotation_within_class_deg": "input_rotation_within_class_deg",
    "pair_rotation_deg": "input_pair_rotation_deg",
}
"""The rotations of the digits in the canvas, which are those in an upright box as well."""


def attention(groups: Sequence[Group]) -> Table:
    """A row for each group whose attention has a location, and rows for the yardsticks of its data.

    In brackets: what as many random views of the same size get.
    """
    rows: dict[str, list[list[str]]] = {}
    for group in groups:
        if any(group.mean(name) is not None for name in LOCATION):
            scores = [score_text(group, name) for name in LOCATION]
            poses = [mean_text(group, name, form) for name, (_, form) in POSE.items()]
            rows.setdefault(group.data, []).append([group.data, group.model, *scores, *poses])
    for data, of_data in rows.items():
        of_data += yardstick_rows(groups, data)
    head = ["data", "model", *LOCATION.values(), *(head for head, _ in POSE.values())]
    return Table(head, [row for of_data in rows.values() for row in of_data])


def score_text(group: Group, name: str) -> str:
    """The mean of a score over the seeds, and in brackets that of random views."""
    random = group.mean(named(name, "random_views"))
    return mean_text(group, name) + ("" if random is None else f" ({random:.2f})")


def yardstick_rows(groups: Sequence[Group], data: str) -> list[list[str]]:
    """The rows of ``YARDSTICKS`` for a data set, as far as the runs on it have them."""
    rows = []
    for yardstick, title in YARDSTICKS.items():
        scores = [first_mean(groups, named(name, yardstick), data) for name in LOCATION]
        poses = [
            number_text(pose_of(groups, data, name, yardstick), form) for name, (_, form) in POSE.items()
        ]
        if any(score is not None for score in scores):
            rows.append([data, Faint(title), *map(number_text, scores), *poses])
    return rows


def pose_of(groups: Sequence[Group], data: str, name: str, yardstick: str) -> float | None:
    """A score of the poses: that of the input, 0 in the exact frame, ``None`` if no model has it."""
    if first_mean(groups, name, data) is None:
        return None
    if yardstick == "exact_frame" or name not in OF_INPUT:
        return 0.0
    return first_mean(groups, OF_INPUT[name], data)
