"""How networks learn, as frames of an animation: panels at half size, beside them the error until then."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stn_experiments.tracking.drawing import PAPER

CHART_WIDTH, DPI = 260, 100  # in pixels, and of matplotlib
MIN_ERROR = 0.01  # percent: a logarithmic axis has no 0
LONGEST_NAME = 28  # characters of a run's name in the legend


class Learning(NamedTuple):
    """A run: its ``name``, and by epoch the files of its panels and its validation errors in percent."""

    name: str
    panels: Mapping[int, Path]
    errors: Mapping[int, float]


def learning_frames(runs: Sequence[Learning]) -> list[Image.Image]:
    """A frame for each epoch of which a run has a panel; the panels of several runs are side by side.

    A run without a panel of an epoch shows the one before.
    """
    every = sorted(set().union(*(run.panels for run in runs)))
    epochs = [epoch for epoch in every if all(min(run.panels) <= epoch for run in runs)]
    latest = [[max(one for one in run.panels if one <= epoch) for run in runs] for epoch in epochs]
    panels = [[_half(run.panels[one]) for run, one in zip(runs, row, strict=True)] for row in latest]
    charts = error_charts(runs, epochs, max(panel.height for panel in panels[0]))
    return [_side_by_side([*row, chart]) for row, chart in zip(panels, charts, strict=True)]


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    size = sum(picture.width for picture in pictures), max(picture.height for picture in pictures)
    frame = Image.new("RGB", size, PAPER)
    left = 0
    for picture in pictures:
        frame.paste(picture, (left, 0))
        left += picture.width
    return frame


def _half(file: Path) -> Image.Image:
    with Image.open(file) as panel:
        return panel.convert("RGB").reduce(2)


def error_charts(runs: Sequence[Learning], epochs: Iterable[int], height: int) -> list[Image.Image]:
    """The validation errors until each of ``epochs``, on axes that fit all, ``height`` pixels high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here: training starts without it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure((CHART_WIDTH / DPI, height / DPI), DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    lines = [axes.plot([], [], ".-", label=run.name[:LONGEST_NAME])[0] for run in runs]
    errors = [error for run in runs for error in run.errors.values()] or [100]
    axes.set(xlim=(0, max(max(run.errors, default=1) for run in runs) + 0.5), xlabel="epoch", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(max(min(errors), MIN_ERROR) / 1.2, max(*errors, 2 * MIN_ERROR) * 1.2)
    axes.set_title("validation error %", fontsize=10)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    if len(runs) > 1:
        axes.legend(loc="upper right", fontsize=8)
    canvas.draw()
    empty, charts = canvas.copy_from_bbox(figure.bbox), []
    for until in epochs:
        canvas.restore_region(empty)
        for run, line in zip(runs, lines, strict=True):
            shown = {epoch: error for epoch, error in sorted(run.errors.items()) if epoch <= until}
            line.set_data(list(shown), [max(error, MIN_ERROR) for error in shown.values()])
            axes.draw_artist(line)
        charts.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return charts
