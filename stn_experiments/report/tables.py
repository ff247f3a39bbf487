"""Tables of results: as Markdown, as CSV, and as rows for the page."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stn_experiments.common.durations import time_text
from stn_experiments.report.groups import Group, best
from stn_experiments.report.published import SOURCE, published

MISSING = "–"
SCORES = {"iou_mean": "IoU", "ink_inside": "ink inside", "hit_rate": "hit rate"}
"""Scores of attention in [0, 1], see docs/metrics.md, and their column heads."""
NUMBERS = ("parameters", "epochs", "train_seconds", "images_per_second", *SCORES)
"""Numbers in the CSV beside the error, as means over the seeds."""
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
        """The table in Markdown, with aligned columns."""
        rows = [[in_markdown(text) for text in row] for row in [self.head, *self.rows]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        lines = (" | ".join(map(str.ljust, row, widths)) for row in rows)
        return "".join(f"| {line} |\n" for line in lines)


def in_markdown(text: str) -> str:
    """A text of a table in Markdown."""
    escaped = text.replace("|", "\\|")
    return f"**{escaped}**" if isinstance(text, Bold) else escaped


def overview(groups: Sequence[Group]) -> Table:
    """Models × data. Of several groups with the same names, the one with the lowest validation error."""
    data = list(dict.fromkeys(group.data for group in groups))
    chosen: dict[tuple[str, str], Group] = {}
    for group in sorted(groups, key=lambda group: (not group.finished, group.mean("val_error") or 0)):
        chosen.setdefault((group.base, group.data), group)
    shown = list(chosen.values())
    top = {id(shown[place]) for place in best(shown)}

    def text(group: Group | None) -> str:
        if group is None:
            return MISSING
        figure = published(group)
        known = f" [{figure.error:.1f} {figure.sureness}]" if figure else ""
        return (Bold if id(group) in top else str)(error_text(group) + known)

    bases = sorted({group.base for group in groups})
    rows = [[base, *(text(chosen.get((base, name))) for name in data)] for base in bases]
    return Table(["model", *data], rows)


def details(groups: Sequence[Group]) -> Table:
    """A row for each group."""
    head = ["data", "model", "test error %", "seeds", *SCORES.values(), "parameters", "epochs"]
    head += ["training time", "images/s", "published %"]
    top = best(groups)
    rows = []
    for place, group in enumerate(groups):
        error = error_text(group)
        if group.finished and group.unfinished:
            error += f"; {progress(group)}"
        rows.append(
            [
                group.data,
                group.model,
                Bold(error) if place in top else error,
                str(len(group.finished)) if group.finished else MISSING,
                *(score(group, name) for name in SCORES),
                span(group, "parameters"),
                span(group, "epochs"),
                training_time(group),
                speed(group),
                str(published(group) or MISSING),
            ]
        )
    return Table(head, rows)


def to_csv(groups: Sequence[Group]) -> str:
    """The groups as CSV, with full numbers and empty fields."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    top = best(groups)
    for place, group in enumerate(groups):
        figure = published(group)
        writer.writerow(
            [
                *(group.data, *group.names, group.settings),
                *(
                    group.mean("test_error"),
                    group.spread("test_error"),
                    len(group.finished),
                    int(place in top),
                ),
                *(group.mean(name) for name in NUMBERS),
                *((figure.error, figure.model, figure.sureness, SOURCE) if figure else (None,) * 4),
                *(progress(group), " ".join(str(run.folder) for run in group.runs)),
            ]
        )
    return buffer.getvalue()


def error_text(group: Group) -> str:
    """Mean ± standard deviation in %, or the progress of runs without a result."""
    error, spread = group.mean("test_error"), group.spread("test_error")
    if error is None:
        return progress(group)
    return f"{error:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")


def progress(group: Group) -> str:
    """The progress of runs without a result."""
    count = Counter(run.progress for run in group.unfinished)
    return "; ".join(f"{runs} × {text}" if runs > 1 else text for text, runs in count.items())


def span(group: Group, name: str) -> str:
    """A whole number of the results, or its range over the seeds."""
    ends = ends_of(group.values(name))
    return "–".join(f"{end:,.0f}" for end in ends) if ends else MISSING


def ends_of(values: Iterable[float]) -> list[float]:
    """The smallest and the largest value, or one value if they are equal."""
    ordered = sorted(set(values))
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def score(group: Group, name: str) -> str:
    """One of ``SCORES``, the mean over the seeds."""
    value = group.mean(name)
    return MISSING if value is None else f"{value:.2f}"


def speed(group: Group) -> str:
    """Images per second while training, the mean over the seeds."""
    value = group.mean("images_per_second")
    return MISSING if value is None else f"{value:,.0f}"


def training_time(group: Group) -> str:
    """The mean over the seeds."""
    seconds = group.mean("train_seconds")
    return MISSING if seconds is None else time_text(seconds)
