"""Frames of an animation of learning: half panels side by side, and the error until each epoch."""

import numpy as np
import pytest
from PIL import Image

from stn_experiments.tracking.learning import CHART_WIDTH, Learning, error_charts, learning_frames

SHADES = {"one": 40, "two": 90}


@pytest.fixture
def learning(tmp_path):
    """A run whose panel of epoch n is grey: ten per epoch brighter than the run's own shade."""

    def make(name, epochs, errors):
        panels = {epoch: tmp_path / f"{name}-{epoch}.png" for epoch in epochs}
        for epoch, file in panels.items():
            Image.new("RGB", (100, 300), (SHADES[name] + 10 * epoch,) * 3).save(file)
        return Learning(name, panels, errors)

    return make


def test_panels_are_at_half_size_beside_the_chart(learning):
    frames = learning_frames([learning("one", [0, 1, 2], {1: 5.0, 2: 2.0})])

    assert [frame.size for frame in frames] == [(50 + CHART_WIDTH, 150)] * 3
    assert [frame.getpixel((25, 75)) for frame in frames] == [(40,) * 3, (50,) * 3, (60,) * 3]


def test_runs_are_side_by_side_in_step_and_wait_for_their_next_panel(learning):
    runs = [learning("one", [0, 2, 4], {}), learning("two", [1, 2], {})]
    frames = learning_frames(runs)

    shown = [(frame.getpixel((25, 75))[0], frame.getpixel((75, 75))[0]) for frame in frames]
    assert shown == [(40, 100), (60, 110), (80, 110)], "epochs 1, 2, 4: before 1 the second has none"


def test_the_curve_grows_and_its_axes_stay(learning):
    run = learning("one", [0], {1: 8.0, 2: 4.0, 3: 2.0})
    charts = [np.asarray(chart).astype(int) for chart in error_charts([run], range(4), 300)]
    ink = [np.abs(chart - charts[0]).sum((0, 2)).nonzero()[0] for chart in charts]

    assert len(ink[0]) == 0
    backwards = error_charts([run], range(3, -1, -1), 300)
    assert np.array_equal(charts[1], backwards[2]), "nothing is left of the frame before"
    ends = [columns.max() for columns in ink[1:]]
    assert ends[0] < ends[1] < ends[2]
    assert ends[2] - ends[1] == pytest.approx(ends[1] - ends[0], abs=2), "an epoch is as wide as another"
    heights = [np.abs(chart - charts[0]).sum((1, 2)).nonzero()[0].max() for chart in charts[1:]]
    assert heights[2] - heights[1] == pytest.approx(heights[1] - heights[0], abs=2), "logarithmic"


@pytest.mark.filterwarnings("error")
def test_an_error_of_zero_is_drawn(learning):
    (chart,) = error_charts([learning("one", [0], {1: 0.0, 2: 0.0})], [2], 300)
    assert chart.size == (CHART_WIDTH, 300)
