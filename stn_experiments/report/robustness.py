"""Errors on data that a model was not trained on, from the results of ``scripts/evaluate.py``."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from stn_experiments.report.groups import Group
from stn_experiments.report.tables import MISSING, Bold, Table


@dataclass(frozen=True)
class Matrix:
    """Mean test errors in % of each group (rows) on each data set (columns); ``None`` if unknown."""

    groups: list[Group]
    data: list[str]
    errors: list[list[float | None]]

    def table(self) -> Table:
        """The matrix as a table, in bold for the data that a group was trained on."""
        rows = []
        for group, errors in zip(self.groups, self.errors, strict=True):
            texts = [MISSING if error is None else f"{error:.2f}" for error in errors]
            for column, name in enumerate(self.data):
                if name == group.data:
                    texts[column] = Bold(texts[column])
            rows.append([group.data, group.model, *texts])
        return Table(["trained on", "model", *self.data], rows)


def robustness(groups: Sequence[Group]) -> Matrix:
    """The groups with an evaluation; the error on their own data is that of their results."""
    shown = [group for group in groups if any(run.evaluations for run in group.finished)]
    known = [errors_on(group) for group in shown]
    data = sorted({name for errors in known for name in errors})
    return Matrix(shown, data, [[errors.get(name) for name in data] for errors in known])


def errors_on(group: Group) -> dict[str, float]:
    """A group's mean test error on each data set that any of its runs was evaluated on."""
    errors = defaultdict(list)
    for run in group.finished:
        for name, error in {**run.evaluations, run.data: run.result["test_error"]}.items():
            errors[name].append(error)
    return {name: mean(values) for name, values in errors.items()}
