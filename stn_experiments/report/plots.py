"""Plots as SVG, for the screen, for paper, and for eyes that do not tell red from green."""

import io
import textwrap
from collections.abc import Sequence
from itertools import chain
from statistics import mean, stdev
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.report.cells import Cell, best
from stn_experiments.report.robustness import Matrix

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise UserError(f"a report draws with matplotlib: pip install matplotlib ({error})") from error

# Okabe and Ito (2008), less the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
GREY = "#c4c8ce"
IN_A_PLOT = 8  # models, of which each still has a colour, a marker and a line of its own
WIDTH = 12.5  # inches
PLOT = 0.62  # of the width; a legend has the rest
LETTERS = 58  # in a line of a legend
LEAST = 0.01  # %: an axis in logarithms has no 0
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


def error_curves(cells: Sequence[Cell]) -> str:
    """Validation error over epochs of all models of one data set: mean, and a band of ± spread over seeds.

    More models than eyes can tell apart are drawn below one another, the others in grey behind.
    """
    drawn = [cell for cell in cells if any(run.history for run in cell.runs)]
    groups = [drawn[start : start + IN_A_PLOT] for start in range(0, len(drawn), IN_A_PLOT)] or [[]]
    # A legend that is longer than its plot makes room for itself.
    lines = [sum(label(cell).count("\n") + 1.4 for cell in group) for group in groups]
    heights = [max(3.2, 0.16 * count + 0.5) for count in lines]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout=beside_legends())
        axes = figure.subplots(
            len(groups), sharex=True, sharey=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for plot, group in zip(axes, groups, strict=True):
            for cell in drawn:
                if not any(cell is one for one in group):
                    epochs, means, _ = over_seeds(cell)
                    plot.plot(epochs, means, color=GREY, linewidth=0.6, zorder=1)
            for place, cell in enumerate(group):
                draw_curve(plot, cell, place)
            error_axis(plot, "validation error, %")
            plot.xaxis.set_major_locator(MaxNLocator(integer=True))
            plot.tick_params(labelbottom=True)
            plot.set_xlabel("epoch")
            if group:
                add_legend(plot)
        return to_svg(figure)


def draw_curve(plot: Axes, cell: Cell, place: int) -> None:
    """One model's curve in the style of its place."""
    epochs, means, spreads = over_seeds(cell)
    colour = COLOURS[place % len(COLOURS)]
    plot.plot(
        epochs,
        means,
        color=colour,
        linestyle=LINES[place % len(LINES)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=5,
        markevery=(place % 3, max(len(epochs) // 8, 1)) if len(epochs) > 8 else 1,
        linewidth=1.6,
        label=label(cell),
        zorder=3,
    )
    if any(spreads):
        low = [max(value - spread, LEAST) for value, spread in zip(means, spreads, strict=True)]
        high = [value + spread for value, spread in zip(means, spreads, strict=True)]
        plot.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)


def over_seeds(cell: Cell) -> tuple[list[int], list[float], list[float]]:
    """The epochs of a cell's runs, and the mean and the spread of their validation errors in each."""
    errors: dict[int, list[float]] = {}
    for metrics in chain.from_iterable(run.history for run in cell.runs):
        errors.setdefault(int(metrics["epoch"]), []).append(max(metrics["val_error"], LEAST))
    epochs = sorted(errors)
    means = [mean(errors[epoch]) for epoch in epochs]
    return epochs, means, [stdev(errors[epoch]) if len(errors[epoch]) > 1 else 0.0 for epoch in epochs]


def label(cell: Cell) -> str:
    """A cell in a legend."""
    seeds = f", {len(cell.runs)} seeds" if len(cell.runs) > 1 else ""
    state = "" if cell.finished else " (unfinished)"
    return "\n".join(textwrap.wrap(f"{cell.model}{seeds}{state}", LETTERS, subsequent_indent="  "))


def error_scatter(cells: Sequence[Cell], name: str, axis: str, logarithmic: bool) -> str | None:
    """Test error against another number of the results, ``None`` if no run has it.

    Data sets have a colour and a marker each; hollow is a network that attends to nothing. The best of each
    data set is larger, and named.
    """
    drawn = [cell for cell in cells if cell.mean("test_error") is not None and cell.mean(name) is not None]
    if not drawn:
        return None
    data = list(dict.fromkeys(cell.data for cell in cells))
    top = best(drawn)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.8), layout=beside_legends())
        plot = figure.subplots()
        for place, cell in enumerate(drawn):
            index = data.index(cell.data)
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            plot.plot(
                cell.mean(name) or 0,
                max(cell.mean("test_error") or 0, LEAST),
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=10 if place in top else 6,
                markerfacecolor="white" if not cell.attends else colour,
                markeredgewidth=1.4,
            )
            if place in top:
                text = "\n".join(textwrap.wrap(f"{cell.data}, best: {cell.base}", LETTERS))
                plot.plot([], [], color=colour, marker=marker, linestyle="none", markersize=7, label=text)
        if logarithmic:
            plot.set_xscale("log")
            plain_ticks(plot.xaxis)
        plot.set_xlabel(axis)
        error_axis(plot, "test error, %")
        add_legend(plot)
        return to_svg(figure)


def heat_map(matrix: Matrix) -> str | None:
    """The matrix as colours with the errors in them, ``None`` if it is empty."""
    errors = [[float("nan") if error is None else error for error in row] for row in matrix.errors]
    known = [max(error, LEAST) for row in matrix.errors for error in row if error is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    norm = LogNorm(low, high if high > low else 2 * low)
    names = ["\n".join(textwrap.wrap(f"{cell.data}: {cell.model}", 48)) for cell in matrix.cells]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        height = 1.3 + sum(0.25 + 0.2 * (1 + name.count("\n")) for name in names)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        plot = figure.subplots()
        plot.imshow(
            [[max(error, LEAST) for error in row] for row in errors], "cividis_r", norm, aspect="auto"
        )
        for y, row in enumerate(matrix.errors):
            for x, error in enumerate(row):
                # The colours get darker with the error.
                dark = error is not None and norm(max(error, LEAST)) > 0.55
                text = "–" if error is None else f"{error:.2f}"
                weight = "bold" if matrix.data[x] == matrix.cells[y].data else "normal"
                colour = "white" if dark else "black"
                plot.text(x, y, text, ha="center", va="center", color=colour, weight=weight)
        plot.set_xticks(range(len(matrix.data)), matrix.data)
        plot.set_yticks(range(len(names)), names, fontsize=8.5)
        plot.set_xlabel("evaluated on")
        plot.set_ylabel("trained on: model")
        plot.tick_params(length=0)
        plot.spines[:].set_visible(False)
        return to_svg(figure)


def beside_legends() -> ConstrainedLayoutEngine:
    """A layout that leaves the right of a figure to legends."""
    return ConstrainedLayoutEngine(rect=(0, 0, PLOT, 1))


def add_legend(plot: Axes) -> None:
    """A legend to the right of a plot, where it covers nothing and may be as long as it needs."""
    legend = plot.legend(loc="upper left", bbox_to_anchor=(1.01, 1.03), fontsize=8.5, handlelength=3.2)
    legend.set_in_layout(False)


def error_axis(plot: Axes, name: str) -> None:
    """Errors upwards, in logarithms but in plain numbers."""
    plot.set_yscale("log")
    plot.set_ylabel(name)
    plain_ticks(plot.yaxis)


def plain_ticks(axis: Any) -> None:
    """1, 2, 5, 10 … instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def to_svg(figure: Figure) -> str:
    """A figure as SVG, its letters as shapes, so that it needs no font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
