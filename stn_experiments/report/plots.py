"""Plots as SVG, in colours that people with colour blindness can tell apart."""

import io
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from stn_experiments.report.groups import Group, best, first_mean
from stn_experiments.tracking.learning import MIN_ERROR

# Okabe and Ito (2008), without the yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
LINES: Any = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
GREY = "#c4c8ce"
MODELS_PER_PLOT = 8  # each has its own colour, marker and line
WIDTH = 12.5  # inches
PLOT_WIDTH = 0.62  # as a fraction of WIDTH; the legend has the rest
LEGEND_COLUMNS = 58  # letters in a line of a legend
NUMBER_SIZE = 10  # points
OFFSETS = [
    radius * np.array([np.cos(angle), np.sin(angle)])
    for radius in (11, 21, 31)
    for angle in np.pi / 4 * np.array([1, 7, 3, 5, 0, 4, 2, 6])
]
"""Where the number of a point may be, in points; the first are preferred."""
STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "report",  # the same runs make the same file
}


def series_style(index: int, **changes: Any) -> dict[str, Any]:
    """The colour, marker and line of the series with an index, and other settings of ``Axes.plot``."""
    lists = {"color": COLOURS, "marker": MARKERS, "linestyle": LINES}
    return {name: values[index % len(values)] for name, values in lists.items()} | changes


def error_curves(groups: Sequence[Group]) -> str | None:
    """Validation error by epoch of all models of one data set: mean, and a band of ± standard deviation.

    ``None`` if no run has an epoch. Many models are drawn in several plots, each with the others in grey.
    """
    drawn = [group for group in groups if any(run.history for run in group.runs)]
    if not drawn:
        return None
    chunks = [drawn[start : start + MODELS_PER_PLOT] for start in range(0, len(drawn), MODELS_PER_PLOT)]
    heights = [max(3.2, legend_height([label(group) for group in chunk])) for chunk in chunks]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(sum(heights))
        axes = figure.subplots(
            len(chunks), sharex=True, sharey=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for plot, chunk in zip(axes, chunks, strict=True):
            for group in drawn:
                if group not in chunk:
                    epochs, means, _ = over_seeds(group)
                    plot.plot(epochs, means, color=GREY, linewidth=0.6, zorder=1)
            for index, group in enumerate(chunk):
                draw_curve(plot, group, index)
            error_axis(plot, "validation error, %")
            plot.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            plot.tick_params(labelbottom=True)
            plot.set_xlabel("epoch")
            add_legend(plot)
        return to_svg(figure)


def draw_curve(plot: Axes, group: Group, index: int) -> None:
    """The curve of the model with an index."""
    epochs, means, spreads = over_seeds(group)
    every = (index % 3, len(epochs) // 8) if len(epochs) > 8 else 1
    style = series_style(index, markersize=5, markevery=every, linewidth=1.6, zorder=3)
    plot.plot(epochs, means, label=label(group), **style)
    if spreads.any():
        low, high = np.maximum(means - spreads, MIN_ERROR), means + spreads
        plot.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0, zorder=2)


def over_seeds(group: Group) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The epochs of a group's runs, and the mean and standard deviation of their validation errors."""
    errors = defaultdict(list)
    for metrics in chain.from_iterable(run.history for run in group.runs):
        errors[int(metrics["epoch"])].append(max(metrics["val_error"], MIN_ERROR))
    epochs = sorted(errors)
    means = [mean(errors[epoch]) for epoch in epochs]
    spreads = [stdev(errors[epoch]) if len(errors[epoch]) > 1 else 0.0 for epoch in epochs]
    return epochs, np.array(means), np.array(spreads)


def label(group: Group, prefix: str = "") -> str:
    """The text of a group in a legend."""
    seeds = f", {len(group.runs)} seeds" if len(group.runs) > 1 else ""
    state = "" if group.finished else " (unfinished)"
    return textwrap.fill(f"{prefix}{group.model}{seeds}{state}", LEGEND_COLUMNS, subsequent_indent="  ")


def error_scatter(
    groups: Sequence[Group],
    name: str,
    axis: str,
    limits: tuple[float, float] | None = None,
    yardstick: str | None = None,
) -> str | None:
    """Test error by another number of the results; ``None`` if no run has it.

    The legend says which model the number at a point is. Each data set has a colour and a marker. Networks
    without attention are hollow. Those in bold in the tables are larger. Without ``limits`` the axis is
    logarithmic. A dotted line is at the number named ``yardstick`` of each data set.
    """
    drawn = [group for group in groups if group.mean(name) is not None]
    if not drawn:
        return None
    data = list(dict.fromkeys(group.data for group in groups))
    texts = [label(group, f"{n} {group.data}: ") for n, group in enumerate(drawn, 1)]
    means = {name: first_mean(drawn, yardstick, name) for name in data if yardstick}
    lines = {name: value for name, value in means.items() if value is not None}
    places = [(group.mean(name) or 0, max(group.mean("test_error") or 0, MIN_ERROR)) for group in drawn]
    top = best(groups)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(max(4.0, legend_height([*texts, *lines])))
        plot = figure.subplots()
        for group, place, text in zip(drawn, places, texts, strict=True):
            style = series_style(data.index(group.data), linestyle="none", markeredgewidth=1.4)
            size, face = 10 if group in top else 6, style["color"] if group.attends else "white"
            plot.plot(*place, markersize=size, markerfacecolor=face, label=text, **style)
        for data_name, value in lines.items():
            colour = series_style(data.index(data_name))["color"]
            note = f"{data_name}: the best box that never moves"
            plot.axvline(value, color=colour, linestyle=":", linewidth=1.4, zorder=1, label=note)
        if limits:
            plot.set_xlim(*limits)
        else:
            plot.set_xscale("log")
            plain_ticks(plot.xaxis)
        plot.set_xlabel(axis)
        error_axis(plot, "test error, %")
        add_legend(plot)
        number_points(figure, plot, places)
        return to_svg(figure)


def number_points(figure: Figure, plot: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Number points from 1. A number is at the first place that is free, or else at the freest."""
    figure.draw_without_rendering()  # which sets the scales
    taken = points = plot.transData.transform(places) * 72 / figure.dpi
    style: Any = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
    for number, (place, point) in enumerate(zip(places, points, strict=True), 1):
        clearances = [np.linalg.norm(taken - (point + offset), axis=1).min() for offset in OFFSETS]
        offset = OFFSETS[int(np.argmax(np.minimum(clearances, NUMBER_SIZE)))]
        taken = np.vstack([taken, point + offset])
        plot.annotate(str(number), place, tuple(offset), **style).set_in_layout(False)


def new_figure(height: float) -> Figure:
    """A figure with a height in inches, and room for legends at the right."""
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(rect=(0, 0, PLOT_WIDTH, 1)))


def legend_height(texts: Sequence[str]) -> float:
    """The height in inches of a plot that is at least as high as its legend."""
    return 0.16 * sum(text.count("\n") + 1.4 for text in texts) + 0.5


def add_legend(plot: Axes) -> None:
    """Add a legend to the right of a plot."""
    legend = plot.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8.5, handlelength=3.2)
    legend.set_in_layout(False)


def error_axis(plot: Axes, name: str) -> None:
    """A logarithmic axis of errors."""
    plot.set_yscale("log")
    plot.set_ylabel(name)
    plain_ticks(plot.yaxis)


def plain_ticks(axis: Any) -> None:
    """Ticks at 1, 2, 5, 10 … instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def to_svg(figure: Figure) -> str:
    """A figure as SVG with letters as shapes, so it needs no font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
