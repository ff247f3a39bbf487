"""How networks learn, as frames of an animation: panels at half size, beside them the error until then."""

from collections.abc import Mapping, Sequence
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
    epochs = sorted(set().union(*(run.panels for run in runs)))
    return [_frame(runs, epoch) for epoch in epochs if all(min(run.panels) <= epoch for run in runs)]


def _frame(runs: Sequence[Learning], epoch: int) -> Image.Image:
    panels = [_half(run.panels[max(number for number in run.panels if number <= epoch)]) for run in runs]
    height = max(panel.height for panel in panels)
    pictures = [*panels, error_chart(runs, epoch, height)]
    frame = Image.new("RGB", (sum(picture.width for picture in pictures), height), PAPER)
    left = 0
    for picture in pictures:
        frame.paste(picture, (left, 0))
        left += picture.width
    return frame


def _half(file: Path) -> Image.Image:
    with Image.open(file) as panel:
        return panel.convert("RGB").reduce(2)


def error_chart(runs: Sequence[Learning], until: int, height: int) -> Image.Image:
    """The validation errors until an epoch, on axes that fit all epochs, ``height`` pixels high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here: training starts without it
    from matplotlib.figure import Figure

    figure = Figure((CHART_WIDTH / DPI, height / DPI), DPI, layout="constrained")
    axes = figure.subplots()
    for run in runs:
        shown = {epoch: error for epoch, error in sorted(run.errors.items()) if epoch <= until}
        axes.plot(
            list(shown),
            [max(error, MIN_ERROR) for error in shown.values()],
            ".-",
            label=run.name[:LONGEST_NAME],
        )
    errors = [error for run in runs for error in run.errors.values()] or [100]
    axes.set(xlim=(0, max(max(run.errors, default=1) for run in runs) + 0.5), xlabel="epoch", yscale="log")
    axes.set_ylim(max(min(errors), MIN_ERROR) / 1.2, max(*errors, 2 * MIN_ERROR) * 1.2)
    axes.set_title("validation error %", fontsize=10)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    if len(runs) > 1:
        axes.legend(loc="upper right", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
