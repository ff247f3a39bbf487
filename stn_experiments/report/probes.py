"""Tables and plots of probes: what a model answers, by what is done to the digits."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from stn_experiments.common.files import read_json
from stn_experiments.evaluation.probe import Probe, ProbeName
from stn_experiments.report.groups import Group
from stn_experiments.report.plots import STYLE, WIDTH, error_axis, plain_ticks, series_style
from stn_experiments.report.tables import Table
from stn_experiments.runs.evaluate import probe_file
from stn_experiments.tracking.learning import MIN_ERROR

DARK = "#59616b"
LINE: Any = {"marker": "", "linewidth": 1.6}
ROWS = 13
"""At most so many rows has the table of a line."""
STEPS = {
    "rotation": "rotation, °",
    "scale": "scale",
    "position": "offset, px",
    "noise": "noise, standard deviation",
    "clutter": "clutter, crops",
}
ANSWERS = {
    "rotation": "rotation that is undone, °",
    "scale": "scale that is undone",
    "position": "offset that is undone, px",
}
NUMBERS = {"error": "error, %", "confidence": "confidence", "iou": "IoU"}
TICKS = {"rotation": range(-180, 181, 90), "scale": (0.25, 0.35, 0.5, 0.7, 1, 1.4, 2)}


def read_probes(groups: Sequence[Group], name: ProbeName, skipped: list[str]) -> dict[str, Probe]:
    """The probes of one distortion, of the first seed of each group that has one, by the group's text.

    ``skipped`` gets a line for each that cannot be read.
    """
    found: dict[str, Probe] = {}
    for group in groups:
        for file in (probe_file(run.folder, name) for run in group.finished):
            text = f"{group.data}: {group.model}"
            if text in found or not file.exists():
                continue
            try:
                found[text] = Probe(**read_json(file))
            except TypeError:
                skipped.append(f"{file}: skipped, it cannot be read")
    return found


def probe_table(probe: Probe) -> Table:
    """Some steps of a probe; of positions, those on the axes."""
    names = [name for name in (*NUMBERS, "answer", "spread") if getattr(probe, name) is not None]
    stride = -(-len(probe.steps) // ROWS)
    rows = [
        [text(probe.steps[index]), *(text(getattr(probe, name)[index], ".3f") for name in names)]
        for index in range(len(probe.steps))
        if (0 in probe.steps[index] if probe.name == "position" else index % stride == 0)
    ]
    return Table([STEPS[probe.name], *(NUMBERS.get(name, name) for name in names)], rows)


def text(value: Any, form: str = "g") -> str:
    """A number, or the two of an offset, with at most three digits after the point."""
    numbers = value if isinstance(value, Sequence) else [value]
    return ", ".join(f"{round(number, 3) + 0:{form}}" for number in numbers)  # + 0, so that there is no -0


def probe_plot(probes: Mapping[str, Probe], form: str = "svg") -> bytes:
    """A picture of probes of one distortion, each with its text in the legend, as ``svg`` or ``png``."""
    panels = [name for name in (*NUMBERS, "answer") if any(getattr(probe, name) for probe in probes.values())]
    with matplotlib.rc_context(STYLE):
        positions = any(probe.name == "position" for probe in probes.values())
        figure = draw_maps(probes, panels) if positions else draw_lines(probes, panels)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def draw_lines(probes: Mapping[str, Probe], panels: Sequence[str]) -> Figure:
    """A plot of each number, with a line for each probe; a band is ± the spread."""
    figure = Figure(figsize=(WIDTH, 3.4 + 0.25 * len(probes)), layout="constrained")
    for plot, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, (label, probe) in enumerate(probes.items()):
            if getattr(probe, panel) is not None:
                draw_line(plot, panel, probe, series_style(index, label=label, **LINE))
        finish(plot, panel, next(iter(probes.values())))
    lines = {str(line.get_label()): line for plot in figure.axes for line in plot.lines}
    figure.legend(lines.values(), lines, loc="outside lower left", fontsize=8.5, handlelength=3.2, ncols=2)
    return figure


def draw_line(plot: Axes, panel: str, probe: Probe, style: Mapping[str, Any]) -> None:
    """The line of one probe in a plot of one number."""
    values = np.array(getattr(probe, panel))
    spread = np.array(probe.spread) if panel == "answer" else 0
    lines = np.array([values, values - spread, values + spread])
    if panel == "error":
        lines = lines.clip(MIN_ERROR)
    if panel == "answer" and probe.name == "scale":
        lines = np.exp(lines)
    plot.plot(probe.steps, lines[0], **style)
    plot.fill_between(probe.steps, *lines[1:], color=style["color"], alpha=0.15, linewidth=0)


def finish(plot: Axes, panel: str, probe: Probe) -> None:
    """The axes of a plot of lines, and, among the answers, the line of slope 1."""
    name = probe.name
    axes = [plot.xaxis, plot.yaxis] if panel == "answer" else [plot.xaxis]
    plot.set_xlabel(STEPS[name])
    if panel == "answer":
        plot.set_ylabel(ANSWERS[name])
        ends = np.min(probe.steps), np.max(probe.steps)
        plot.plot(ends, ends, color=DARK, linestyle=":", linewidth=1.4, label="slope 1")
    elif panel == "error":
        error_axis(plot, NUMBERS[panel])
    else:
        plot.set(ylabel=NUMBERS[panel], ylim=(0, 1.02))
    if name == "scale":
        plot.set_xscale("log")
        if panel == "answer":
            plot.set_yscale("log")
    for axis in axes:
        whole = MaxNLocator(integer=name != "noise")
        axis.set_major_locator(FixedLocator(TICKS[name]) if name in TICKS else whole)
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def draw_maps(probes: Mapping[str, Probe], panels: Sequence[str]) -> Figure:
    """A row for each probe of positions: its numbers over the canvas, and its answers along the axes."""
    figure = Figure(figsize=(WIDTH, 0.3 + 3.0 * len(probes)), layout="constrained")
    grid = figure.subplots(len(probes), len(panels), squeeze=False)
    errors = np.concatenate([probe.error for probe in probes.values()]).clip(MIN_ERROR)
    of_errors = LogNorm(errors.min(), max(errors.max(), 2 * errors.min()))
    norms = {**dict.fromkeys(NUMBERS, Normalize(0, 1)), "error": of_errors}
    for plots, (label, probe) in zip(grid, probes.items(), strict=True):
        for plot, panel in zip(plots, panels, strict=True):
            if getattr(probe, panel) is None:
                plot.set_axis_off()
            elif panel == "answer":
                draw_answers(plot, probe)
            else:
                draw_map(plot, panel, probe, norms[panel])
        plots[0].set_ylabel("\n".join([*textwrap.wrap(label, 34), "offset down, px"]))
    return figure


def draw_map(plot: Axes, panel: str, probe: Probe, norm: Normalize) -> None:
    """A number by the offset of the digit from the centre of the canvas."""
    x, y = (np.unique(offsets) for offsets in np.transpose(probe.steps))
    values = np.array(getattr(probe, panel)).reshape(len(y), len(x)).clip(MIN_ERROR)
    colours = "cividis_r" if panel == "error" else "cividis"  # what is bad is dark
    mesh = plot.pcolormesh(x, y, values, cmap=colours, norm=norm)
    plot.invert_yaxis()
    plot.set_aspect("equal")
    plot.grid(visible=False)
    plot.set_title(NUMBERS[panel], fontsize=10)
    plot.set_xlabel("offset to the right, px")
    for axis in (plot.xaxis, plot.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    bar = plot.figure.colorbar(mesh, ax=plot, location="bottom")
    if panel == "error":
        plain_ticks(bar.ax.xaxis)


def draw_answers(plot: Axes, probe: Probe) -> None:
    """The mean answers along each axis of the canvas by the offset along it."""
    for axis, name in enumerate(("to the right", "down")):
        true, answers = np.array(probe.steps)[:, axis], np.array(probe.answer)[:, axis]
        offsets = np.unique(true)
        means = [answers[true == offset].mean() for offset in offsets]
        plot.plot(offsets, means, **series_style(axis, label=name, **LINE))
    finish(plot, "answer", probe)
    plot.legend(fontsize=8.5)
