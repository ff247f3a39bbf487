"""Column b shows where the boxes are, and never fails."""

import numpy as np
import pytest
import torch
from PIL import ImageChops

from stn_experiments.models.grids import GridGenerator, ThinPlateSpline
from stn_experiments.models.view import View
from stn_experiments.tracking.drawing import COLOURS
from stn_experiments.tracking.panels import draw_panel
from tests.tracking.harness import (
    IDENTITY,
    OFF_CANVAS,
    cell_of,
    draw_cell,
    has,
    make_batch,
    make_digits,
    make_prediction,
    make_view,
    pixels_of,
)


def test_the_identity_box_is_the_canvas():
    box = draw_cell(1, make_batch())
    # The canvas is the middle 84 pixels, from 18 to 102, and the line two whole pixels wide about its edge.
    for near in (17, 18, 101, 102):
        assert box.getpixel((near, 60)) == box.getpixel((60, near)) == COLOURS[0]
    for off in (14, 22, 97, 106):
        assert box.getpixel((off, 60)) != COLOURS[0]


def test_a_box_on_a_canvas_that_is_not_square():
    found = pixels_of(draw_cell(1, make_batch((40, 70)), [0.5, 0, 0.2, 0, 0.5, -0.1]), COLOURS[0])
    # 84 by 48 pixels from (18, 36); the box is from -0.3 to 0.7 and from -0.6 to 0.4, the dot 4 pixels more.
    left, right = 18 + 84 * 0.35, 18 + 84 * 0.85
    top, bottom = 36 + 48 * 0.2, 36 + 48 * 0.7
    assert found.min(0) == pytest.approx([left - 4, top - 4], abs=1.5)
    assert found.max(0) == pytest.approx([right, bottom], abs=1.5)


def test_the_dot_is_where_the_top_left_of_v_reads():
    found = pixels_of(draw_cell(1, make_batch(), [0, 0.5, 0, -0.5, 0, 0]), COLOURS[0])
    corners = {(x, y): (abs(found - (x, y)).max(-1) <= 5).sum() for x in (39, 81) for y in (39, 81)}
    assert max(corners, key=corners.get) == (39, 81), (
        "turned counter-clockwise, V's top left is at bottom left"
    )


def test_the_perfect_theta_frames_the_digit_and_gives_it_back():
    batch = make_batch(canvas=42, place="anywhere")
    theta = batch.pose.matrix[:, 0, :2].reshape(-1, 6)
    found = pixels_of(draw_cell(1, batch, theta), COLOURS[0])
    assert np.ptp(found, 0) == pytest.approx(28 * 2 + 4, abs=2), "2 pixels for 1, and the dot"
    # V's 28 pixels are 4 each; the frame hides a part of the outermost.
    shown = np.asarray(draw_cell(2, batch, theta).convert("L").crop((4, 4, 116, 116)).reduce(4)).astype(int)
    wanted = make_digits().images[0].numpy().astype(int)
    assert abs(shown - wanted)[2:-2, 2:-2].max() <= 2


@pytest.mark.parametrize("options", [{}, {"canvas": (40, 70), "place": "anywhere"}, {"angle": 90.0}])
def test_the_true_box_lies_on_the_ink(options):
    batch = make_batch(**options)
    hidden = batch._replace(pose=batch.pose._replace(box=OFF_CANVAS))
    cells = (draw_cell(1, each, [9, 0, 0, 0, 9, 0]) for each in (batch, hidden))
    drawn = ImageChops.difference(*cells).convert("L")
    # The extent of the ink itself, found in the image; interpolation smears a turned digit by up to a pixel.
    height, width = batch.images.shape[-2:]
    scale = 84 / max(height, width)
    rows, columns = np.nonzero(batch.images[0, 0].numpy() > 0.15)
    left, top = 60 - width * scale / 2, 60 - height * scale / 2
    wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    wanted = np.add(np.multiply(wanted, scale), [left, top, left, top])
    assert drawn.getbbox() == pytest.approx(wanted, abs=4 if "angle" in options else 1.5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e3, -1e3, 1e30])
@pytest.mark.parametrize("parameter", range(6))
def test_any_theta_can_be_drawn(value, parameter):
    batch, theta = make_batch(), torch.tensor(IDENTITY, dtype=torch.float)
    theta[parameter] = value
    panels = [draw_panel(batch, make_prediction(batch, some)) for some in (theta, IDENTITY)]
    assert panels[0].size == panels[1].size


@pytest.mark.parametrize("theta", [[9, 0, 0, 0, 9, 0], [1, 0, 9, 0, 1, 0], [torch.nan] * 6])
def test_a_box_that_cannot_be_seen_is_owned_up_to(theta):
    found = pixels_of(draw_cell(1, make_batch(), theta), COLOURS[0])
    assert len(found)
    assert found[:, 1].min() > 102, "a note below the canvas"


def test_a_box_without_extent_is_a_dot_and_an_endless_one_is_drawn_where_it_is_in_view():
    dot, endless = (draw_cell(1, make_batch(), theta) for theta in ([0] * 6, [1e30, 0, 0, 0, 0.5, 0]))
    assert pixels_of(dot, COLOURS[0]).mean(0) == pytest.approx([60, 60], abs=1)
    assert [endless.getpixel((60, y)) == COLOURS[0] for y in (39, 60, 81)] == [True, False, True]


def test_the_control_points_of_a_spline_are_marked():
    batch, family = make_batch(), ThinPlateSpline(4)
    theta = torch.tensor(family.identity)[None]
    view = View(batch.images, GridGenerator(family, (28, 28)).outline(theta), family.marks(theta))
    box, plain = (
        draw_cell(1, batch, views=[view._replace(marks=marks)]) for marks in (view.marks, view.marks[:, :0])
    )
    for x in (1 / 3, -1 / 3):  # the four inner control points
        at = (round(60 + x * 42), round(60 + x * 42))
        assert box.getpixel(at) == COLOURS[0]
        assert plain.getpixel(at) != COLOURS[0]


def test_several_views_are_told_apart():
    batch = make_batch(count=2)
    views = [make_view(batch.images, [0.5, 0, shift, 0, 0.5, 0]) for shift in (-0.5, 0.5)]
    panel = draw_panel(batch, make_prediction(batch, views=views))
    for row, column in [(0, 1), (0, 2), (1, 1), (1, 2)]:
        cell = cell_of(panel, column, row, rows=2)
        first, second = (pixels_of(cell, colour) for colour in COLOURS[:2])
        assert first[:, 0].max() < second[:, 0].max()
        assert not has(cell, COLOURS[2])


def test_more_views_than_colours_are_numbered_and_keep_their_order():
    batch = make_batch()
    views = [make_view(batch.images, [0.3, 0, number / 4 - 0.875, 0, 0.3, 0]) for number in range(8)]
    cell = draw_cell(1, batch, views=views)
    edges = [pixels_of(cell, colour)[:, 0].max() for colour in (COLOURS[0], COLOURS[3])]
    assert edges[0] < 60 < edges[1]

    same = [view._replace(output=torch.zeros_like(view.output)) for view in views]
    seen = draw_cell(2, batch, views=same)
    numbers = {(np.asarray(seen.crop((x + 4, 4, x + 16, 18))).max(-1) > 100).tobytes() for x in (0, 40, 80)}
    assert len(numbers) == 3
