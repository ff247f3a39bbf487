"""How each model does on data that it was not trained on, from what ``scripts/evaluate.py`` left."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from stn_experiments.report.cells import Cell
from stn_experiments.report.collect import number
from stn_experiments.report.tables import MISSING, Bold, Table


@dataclass(frozen=True)
class Matrix:
    """Mean test errors in %: of each cell (rows) on each data (columns), ``None`` where nothing is known."""

    cells: list[Cell]
    data: list[str]
    errors: list[list[float | None]]

    def table(self) -> Table:
        """The same as a table."""
        rows = [
            [cell.data, cell.model, *(self.text(cell, *pair) for pair in zip(self.data, errors, strict=True))]
            for cell, errors in zip(self.cells, self.errors, strict=True)
        ]
        return Table(["trained on", "model", *self.data], rows)

    def text(self, cell: Cell, data: str, error: float | None) -> str:
        """An error, in bold if these are the data that the cell was trained on."""
        if error is None:
            return MISSING
        return Bold(f"{error:.2f}") if data == cell.data else f"{error:.2f}"


def robustness(cells: Sequence[Cell]) -> Matrix:
    """The models that were evaluated at all; the error on their own data is that of their training."""
    shown = [cell for cell in cells if any(run.evaluations for run in cell.finished)]
    known = [errors_on(cell) for cell in shown]
    data = sorted({name for errors in known for name in errors})
    return Matrix(shown, data, [[errors.get(name) for name in data] for errors in known])


def errors_on(cell: Cell) -> dict[str, float]:
    """A cell's mean test error on each data that any of its runs was evaluated on."""
    found: dict[str, list[float]] = {}
    for run in cell.finished:
        own = number(run.result, "test_error")
        errors = {**run.evaluations, **({} if own is None else {run.config["data"]["name"]: own})}
        for name, error in errors.items():
            found.setdefault(name, []).append(error)
    return {name: mean(errors) for name, errors in found.items()}
