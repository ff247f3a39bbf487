"""Tables of results: as Markdown, as CSV, and as rows for the page."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stn_experiments.common.durations import time_text
from stn_experiments.evaluation.intervals import error_interval
from stn_experiments.evaluation.yardsticks import YARDSTICKS, named
from stn_experiments.report.groups import CRITERIA, Group, best
from stn_experiments.report.published import SURENESS, published

MISSING = "–"
PUBLISHED = "published"
"""The head of the columns with published figures."""
LOCATION = {
    "found": "found",
    "iou_mean": "IoU",
    "ink_inside": "ink inside",
    "off_target": "off target",
    "hit_rate": "hit rate",
}
"""Scores of attention in [0, 1], see docs/metrics.md, and their column heads."""
POSE: dict[str, tuple[str, Callable[[float], str]]] = {
    "residual_rotation_deg": ("rotation left", "{:.1f}°".format),
    "residual_rotation_within_class_deg": ("… in a class", "{:.1f}°".format),
    "pair_rotation_deg": ("… in a pair", "{:.1f}°".format),
    "mirrored_share": ("mirrored", "{:.2f}".format),
}
"""Scores of the digits' poses in V, their column heads and their form."""
NUMBERS = (
    *("parameters", "epochs", "images_seen", "test_images", "glimpses_seen"),
    *("train_seconds", "images_per_second"),
    *LOCATION,
    *POSE,
    *(named(name, yardstick) for name in LOCATION for yardstick in YARDSTICKS),
)
"""Numbers in the CSV besides the error, as means over the seeds."""


class Bold(str):
    """Text of a table in bold."""


class Faint(str):
    """Text of a table that is grey on the page and in italics in Markdown."""


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
    marks = "**" if isinstance(text, Bold) else "*" if isinstance(text, Faint) else ""
    return marks + escaped + marks


def overview(groups: Sequence[Group]) -> Table:
    """Models × data, with published figures in columns of their own.

    If several groups have the same names, the one with the lowest validation error is shown.
    """
    chosen: dict[tuple[str, str], Group] = {}
    for group in sorted(groups, key=lambda group: (not group.finished, group.mean("val_error") or 0)):
        chosen.setdefault((group.base, group.data), group)
    shown = list(chosen.values())
    top = best(shown)
    columns: list[tuple[str, dict[str, str]]] = []
    for name in dict.fromkeys(group.data for group in groups):
        of_data = [group for group in shown if group.data == name]
        columns.append((name, {group.model: bold_error(group, top) for group in of_data}))
        if figures := {group.model: str(figure) for group in of_data if (figure := published(group))}:
            columns.append((PUBLISHED, figures))
    rows = []
    for model in sorted({group.model for group in shown}):
        size = range_text([group for group in shown if group.model == model], "parameters")
        rows.append([model, size, *(cells.get(model, MISSING) for _, cells in columns)])
    return Table(["model", "parameters", *(head for head, _ in columns)], rows)


def details(groups: Sequence[Group]) -> Table:
    """A row for each group. Numbers of glimpses are shown if there are any."""
    top = best(groups)
    glimpses = any(group.values("glimpses_seen") for group in groups)
    rows = []
    for group in groups:
        figure = published(group)
        rows.append(
            {
                "data": group.data,
                "model": group.model,
                "test error %": bold_error(group, top, with_progress=True),
                "95 % interval": interval_text(group),
                "more than bold": difference_text(group, top),
                "seeds": str(len(group.finished) or MISSING),
                "parameters": range_text([group], "parameters"),
                "epochs": range_text([group], "epochs"),
                "images seen": range_text([group], "images_seen"),
                **({"glimpses seen": range_text([group], "glimpses_seen")} if glimpses else {}),
                "training time": mean_text(group, "train_seconds", time_text),
                "images/s": mean_text(group, "images_per_second", "{:,.0f}".format),
                f"{PUBLISHED} %": str(figure or MISSING),
                f"{PUBLISHED} model": figure.model if figure else MISSING,
            }
        )
    return Table(list(rows[0]), [list(row.values()) for row in rows])


def footnotes(groups: Sequence[Group]) -> list[str]:
    """A sentence for each mark in the tables, and for what else the compared models differ in."""
    notes = [
        f"{mark} {meaning} than most models on the same data: not compared, never bold."
        for mark, _, _, meaning in CRITERIA
        if any(mark in group.marks for group in groups)
    ]
    if (share := size_difference(groups)) >= 0.005:
        notes.append(
            f"The compared models differ in their number of parameters, by up to {100 * share:.0f} %."
        )
    if any(group.data != group.runs[0].data for group in groups):
        notes.append(
            "Settings after the name of data mean another test set: models are compared within each."
        )
    figures = [figure for group in groups if (figure := published(group))]
    if figures:
        sources = "; ".join(dict.fromkeys(figure.source for figure in figures))
        found = {figure.sureness for figure in figures}
        marks = ", ".join(f"{mark} {sureness}" for sureness, mark in SURENESS.items() if sureness in found)
        notes.append(f"{PUBLISHED.capitalize()}: {sources}; {marks}.")
    return notes + list(dict.fromkeys(note for figure in figures for note in figure.notes))


def size_difference(groups: Sequence[Group]) -> float:
    """By how much the largest of the compared groups on one data set exceeds the smallest, as a share."""
    sizes: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        if not group.marks:
            sizes[group.data] += group.values("parameters")
    return max((max(values) / min(values) - 1 for values in sizes.values() if values), default=0.0)


def to_csv(groups: Sequence[Group]) -> str:
    """The groups as CSV, with full numbers and empty fields."""
    top = best(groups)
    rows = []
    for group in groups:
        figure = published(group)
        rows.append(
            {
                "data": group.data,
                **group.names._asdict(),
                "settings": group.settings,
                "test_error": group.mean("test_error"),
                "test_error_spread": group.spread("test_error"),
                "seeds": len(group.finished),
                "best": int(group in top),
                "marks": group.marks,
                **{name: group.mean(name) for name in NUMBERS},
                "published": figure and figure.error,
                "published_model": figure and figure.model,
                "sureness": figure and figure.sureness,
                "source": figure and figure.source,
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
    """Mean ± standard deviation in %, and marks; or the progress of runs without a result."""
    error, spread = group.mean("test_error"), group.spread("test_error")
    if error is None:
        return progress(group)
    return f"{error:.2f}" + ("" if spread is None else f" ± {spread:.2f}") + f" {group.marks}".rstrip()


def bold_error(group: Group, top: Sequence[Group], with_progress: bool = False) -> str:
    """The error of a group, in bold if it is among the ``top``, perhaps with the progress of other runs."""
    more = f"; {progress(group)}" if with_progress and group.finished and group.unfinished else ""
    return (Bold if group in top else str)(error_text(group) + more)


def interval_text(group: Group) -> str:
    """The 95 % interval of the error in %."""
    wrong = group.wrong()
    if wrong is None:
        return MISSING
    _, low, high = error_interval(wrong)
    return f"{low:.2f} to {high:.2f}"


def difference_text(group: Group, top: Sequence[Group]) -> str:
    """By how much the error in % exceeds that of the first of the ``top`` groups on the same data."""
    lowest = next((other for other in top if other.data == group.data), None)
    interval = None if lowest is None or group is lowest else group.difference(lowest)
    if interval is None:
        return MISSING
    mean, low, high = interval
    return f"{mean:.2f} ({low:.2f} to {high:.2f})" + (", may be chance" if interval.holds_zero else "")


def progress(group: Group) -> str:
    """The progress of runs without a result."""
    count = Counter(run.progress for run in group.unfinished)
    return "; ".join(f"{runs} × {text}" if runs > 1 else text for text, runs in count.items())


def mean_text(group: Group, name: str, text: Callable[[float], str] = "{:.2f}".format) -> str:
    """The mean of a number over the seeds."""
    return number_text(group.mean(name), text)


def number_text(value: float | None, text: Callable[[float], str] = "{:.2f}".format) -> str:
    """A number of a table, which may be missing."""
    return MISSING if value is None else text(value)


def range_text(groups: Sequence[Group], name: str) -> str:
    """A whole number of the results, or its range over groups and seeds."""
    values = [value for group in groups for value in group.values(name)]
    ends = sorted({min(values), max(values)}) if values else []
    return "–".join(f"{end:,.0f}" for end in ends) or MISSING
