"""Tables of what runs came to: as Markdown, as CSV, and as rows for the page."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stn_experiments.common.durations import time_text
from stn_experiments.report.cells import Cell, best
from stn_experiments.report.published import SOURCE, published

MISSING = "–"
SCORES = {"iou_mean": "IoU", "ink_inside": "ink inside", "hit_rate": "hit_rate"}
"""What tells whether attention is on the digit, in [0, 1]; see the README."""
NUMBERS = ("parameters", "epochs", "train_seconds", "images_per_second", *SCORES)
"""Numbers of the results that are tabled beside the error, as means over the seeds."""
COLUMNS = (
    *("data", "backbone", "stn", "attention", "settings", "test_error", "test_error_spread", "seeds"),
    *("best", *NUMBERS),
    *("published", "published_model", "sureness", "source", "unfinished", "runs"),
)


class Bold(str):
    """Text of a table in bold."""


@dataclass(frozen=True)
class Table:
    """Rows of text under a head."""

    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table as Markdown, its columns aligned for who reads the file itself."""
        rows = [[in_markdown(text) for text in row] for row in [self.head, *self.rows]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
        return "".join(f"| {line} |\n" for line in lines)


def in_markdown(text: str) -> str:
    """Text of a table as Markdown."""
    escaped = text.replace("|", "\\|")
    return f"**{escaped}**" if isinstance(text, Bold) else escaped


def overview(cells: Sequence[Cell]) -> Table:
    """Data × (backbone + what attends): where there are several cells, that of lowest validation error."""
    data = list(dict.fromkeys(cell.data for cell in cells))
    chosen: dict[tuple[str, str], Cell] = {}
    for cell in sorted(cells, key=lambda cell: (not cell.finished, cell.mean("val_error") or 0)):
        chosen.setdefault((cell.base, cell.data), cell)
    shown = list(chosen.values())
    top = {id(shown[place]) for place in best(shown)}

    def text(cell: Cell | None) -> str:
        if cell is None:
            return MISSING
        figure = published(cell)
        known = f" [{figure.error:.1f} {figure.sureness}]" if figure else ""
        return (Bold if id(cell) in top else str)(error_text(cell) + known)

    bases = sorted({cell.base for cell in cells})
    rows = [[base, *(text(chosen.get((base, name))) for name in data)] for base in bases]
    return Table(["model", *data], rows)


def details(cells: Sequence[Cell]) -> Table:
    """A row for each cell."""
    head = ["data", "model", "test error %", "seeds", *SCORES.values(), "parameters", "epochs"]
    head += ["training time", "images/s", "published %"]
    top = best(cells)
    rows = []
    for place, cell in enumerate(cells):
        error = error_text(cell)
        if cell.finished and cell.unfinished:
            error += f"; {progress(cell)}"
        rows.append(
            [
                cell.data,
                cell.model,
                Bold(error) if place in top else error,
                str(len(cell.finished)) if cell.finished else MISSING,
                *(score(cell, name) for name in SCORES),
                span(cell, "parameters"),
                span(cell, "epochs"),
                training_time(cell),
                speed(cell),
                str(published(cell) or MISSING),
            ]
        )
    return Table(head, rows)


def to_csv(cells: Sequence[Cell]) -> str:
    """The cells for a program: numbers in full, nothing where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    top = best(cells)
    for place, cell in enumerate(cells):
        figure = published(cell)
        writer.writerow(
            [
                *(cell.data, cell.backbone, cell.stn, cell.attention, cell.settings),
                *(cell.mean("test_error"), cell.spread("test_error"), len(cell.finished), int(place in top)),
                *(cell.mean(name) for name in NUMBERS),
                *((figure.error, figure.model, figure.sureness, SOURCE) if figure else (None,) * 4),
                *(progress(cell), " ".join(str(run.folder) for run in cell.runs)),
            ]
        )
    return buffer.getvalue()


def error_text(cell: Cell) -> str:
    """Mean ± spread in %, or how far the runs without a result are."""
    error, spread = cell.mean("test_error"), cell.spread("test_error")
    if error is None:
        return progress(cell)
    return f"{error:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def progress(cell: Cell) -> str:
    """How far the runs without a result are."""
    count = Counter(run.progress for run in cell.unfinished)
    return "; ".join(f"{runs} × {text}" if runs > 1 else text for text, runs in count.items())


def span(cell: Cell, name: str) -> str:
    """A whole number of the results, or the range that it has over the seeds."""
    ends = ends_of(cell.values(name))
    return "–".join(f"{end:,.0f}" for end in ends) if ends else MISSING


def ends_of(values: Iterable[float]) -> list[float]:
    """The least and the largest, one of them if they are the same."""
    ordered = sorted(set(values))
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def score(cell: Cell, name: str) -> str:
    """One of ``SCORES``, the mean over the seeds."""
    value = cell.mean(name)
    return MISSING if value is None else f"{value:.2f}"


def speed(cell: Cell) -> str:
    """Images per second while training, the mean over the seeds."""
    value = cell.mean("images_per_second")
    return MISSING if value is None else f"{value:,.0f}"


def training_time(cell: Cell) -> str:
    """The mean over the seeds."""
    seconds = cell.mean("train_seconds")
    return MISSING if seconds is None else time_text(seconds)
