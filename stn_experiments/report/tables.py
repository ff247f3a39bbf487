"""Tables of results: as Markdown, as CSV, and as rows for the page."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stn_experiments.common.durations import time_text
from stn_experiments.report.groups import Group, best, trained_otherwise
from stn_experiments.report.published import SOURCE, published

MISSING = "–"
SCORES = {"iou_mean": "IoU", "ink_inside": "ink inside", "hit_rate": "hit rate"}
"""Scores of attention in [0, 1], see docs/metrics.md, and their column heads."""
NUMBERS = ("parameters", "epochs", "train_seconds", "images_per_second", *SCORES)
"""Numbers in the CSV besides the error, as means over the seeds."""


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
    """Models × data. Of several groups with the same names, the one with the lowest validation error.

    ``*`` marks those that :func:`trained_otherwise`.
    """
    data = list(dict.fromkeys(group.data for group in groups))
    chosen: dict[tuple[str, str], Group] = {}
    for group in sorted(groups, key=lambda group: (not group.finished, group.mean("val_error") or 0)):
        chosen.setdefault((group.base, group.data), group)
    cells = {}
    top, otherwise = best(list(chosen.values())), trained_otherwise(list(chosen.values()))
    for index, (place, group) in enumerate(chosen.items()):
        figure = published(group)
        text = error_text(group) + (f" [{figure.error:.1f} {figure.sureness}]" if figure else "")
        text += " *" if index in otherwise else ""
        cells[place] = Bold(text) if index in top else text
    bases = sorted({group.base for group in groups})
    return Table(
        ["model", *data], [[base, *(cells.get((base, name), MISSING) for name in data)] for base in bases]
    )


def details(groups: Sequence[Group]) -> Table:
    """A row for each group; ``*`` marks the epochs of those that :func:`trained_otherwise`."""
    top, otherwise = best(groups), trained_otherwise(groups)
    rows = []
    for index, group in enumerate(groups):
        error = error_text(group)
        if group.finished and group.unfinished:
            error += f"; {progress(group)}"
        rows.append(
            {
                "data": group.data,
                "model": group.model,
                "test error %": Bold(error) if index in top else error,
                "seeds": str(len(group.finished) or MISSING),
                **{head: mean_text(group, name, "{:.2f}".format) for name, head in SCORES.items()},
                "parameters": range_text(group, "parameters"),
                "epochs": range_text(group, "epochs") + (" *" if index in otherwise else ""),
                "training time": mean_text(group, "train_seconds", time_text),
                "images/s": mean_text(group, "images_per_second", "{:,.0f}".format),
                "published %": str(published(group) or MISSING),
            }
        )
    return Table(list(rows[0]), [list(row.values()) for row in rows])


def to_csv(groups: Sequence[Group]) -> str:
    """The groups as CSV, with full numbers and empty fields."""
    top = best(groups)
    rows = []
    for index, group in enumerate(groups):
        figure = published(group)
        rows.append(
            {
                "data": group.data,
                **group.names._asdict(),
                "settings": group.settings,
                "test_error": group.mean("test_error"),
                "test_error_spread": group.spread("test_error"),
                "seeds": len(group.finished),
                "best": int(index in top),
                **{name: group.mean(name) for name in NUMBERS},
                "published": figure and figure.error,
                "published_model": figure and figure.model,
                "sureness": figure and figure.sureness,
                "source": figure and SOURCE,
                "unfinished": progress(group),
                "runs": " ".join(str(run.folder) for run in group.runs),
            }
        )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
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


def mean_text(group: Group, name: str, text: Callable[[float], str]) -> str:
    """The mean of a number over the seeds."""
    value = group.mean(name)
    return MISSING if value is None else text(value)


def range_text(group: Group, name: str) -> str:
    """A whole number of the results, or its range over the seeds."""
    values = group.values(name)
    ends = sorted({min(values), max(values)}) if values else []
    return "–".join(f"{end:,.0f}" for end in ends) or MISSING
