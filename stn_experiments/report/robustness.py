"""Errors on data that a model was not trained on, from the results of ``scripts/evaluate.py``."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from stn_experiments.report.collect import number
from stn_experiments.report.groups import Group
from stn_experiments.report.tables import MISSING, Bold, Table


@dataclass(frozen=True)
class Matrix:
    """Mean test errors in % of each group (rows) on each data set (columns); ``None`` if unknown."""

    groups: list[Group]
    data: list[str]
    errors: list[list[float | None]]

    def table(self) -> Table:
        """The matrix as a table."""
        rows = [
            [
                group.data,
                group.model,
                *(self.text(group, *pair) for pair in zip(self.data, errors, strict=True)),
            ]
            for group, errors in zip(self.groups, self.errors, strict=True)
        ]
        return Table(["trained on", "model", *self.data], rows)

    def text(self, group: Group, data: str, error: float | None) -> str:
        """An error, in bold for the data that the group was trained on."""
        if error is None:
            return MISSING
        return Bold(f"{error:.2f}") if data == group.data else f"{error:.2f}"


def robustness(groups: Sequence[Group]) -> Matrix:
    """The groups with an evaluation; the error on their own data is that of their results."""
    shown = [group for group in groups if any(run.evaluations for run in group.finished)]
    known = [errors_on(group) for group in shown]
    data = sorted({name for errors in known for name in errors})
    return Matrix(shown, data, [[errors.get(name) for name in data] for errors in known])


def errors_on(group: Group) -> dict[str, float]:
    """A group's mean test error on each data set that any of its runs was evaluated on."""
    found: dict[str, list[float]] = {}
    for run in group.finished:
        own = number(run.result, "test_error")
        errors = {**run.evaluations, **({} if own is None else {run.config["data"]["name"]: own})}
        for name, error in errors.items():
            found.setdefault(name, []).append(error)
    return {name: mean(errors) for name, errors in found.items()}
