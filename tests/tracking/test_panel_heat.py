"""Column b shows attention maps as tints and the weights of channels as bars."""

import numpy as np
import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.models.view import Heat, View
from stn_experiments.tracking.drawing import COLOURS, FADED, HEAT_OPACITY, OUTSIDE
from tests.tracking.harness import OFF_CANVAS, draw_cell, has, make_batch, pixels_of


def heat_of(weights):
    """A heat (1, h, w) over the whole input."""
    height, width = weights.shape[1:]
    return Heat(weights, geometry.pixel_centres(height, width).view(1, height, width, 2))


def draw_heat(batch, heat):
    """Column b of a black batch with nothing but this heat, as array; and without it."""
    batch = batch._replace(images=torch.zeros_like(batch.images), pose=batch.pose._replace(box=OFF_CANVAS))
    view = View(batch.images, outline=torch.full((1, 4, 2), 40.0), heat=heat)
    cells = (draw_cell(1, batch, views=[some]) for some in (view, view._replace(heat=None)))
    return [np.asarray(cell).astype(int)[:106] for cell in cells]


@pytest.mark.parametrize("grid", [(2, 3), (14, 14), (30, 30)])
def test_an_even_heat_tints_the_whole_canvas_and_nothing_else(grid):
    """On one that is not square: 84 by 48 pixels from (18, 36)."""
    tinted, plain = draw_heat(make_batch(canvas=(40, 70)), heat_of(torch.full((1, *grid), 0.3)))
    rows, columns = np.nonzero((tinted != plain).any(-1))
    ends = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert ends == pytest.approx([18, 36, 101, 83], abs=1)
    tint = np.multiply(COLOURS[0], HEAT_OPACITY)
    assert tinted[38:82, 20:100] == pytest.approx(np.tile(tint, (44, 80, 1)), abs=1), "without holes"


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (3, 5)])
def test_a_heat_is_drawn_where_it_is(cell):
    """One cell of 4×6, each 14 by 12 pixels of the canvas."""
    weights = torch.zeros(1, 4, 6)
    weights[0][cell] = 0.01
    tinted, plain = draw_heat(make_batch(canvas=(40, 70)), heat_of(weights))
    rows, columns = np.nonzero((tinted != plain).any(-1))
    left, top = 18 + 14 * cell[1], 36 + 12 * cell[0]
    assert [columns.min(), rows.min()] == pytest.approx([left, top], abs=1)
    assert [columns.max(), rows.max()] == pytest.approx([left + 14, top + 12], abs=1)


def test_a_heat_goes_from_nothing_to_its_peak():
    tinted, _ = draw_heat(make_batch(), heat_of(torch.tensor([[[0.0, 0.2, 0.4]]]).expand(1, 3, 3)))
    found = [tinted[60, x, 2] / COLOURS[0][2] for x in (32, 60, 88)]  # a canvas of 84 pixels from 18
    assert found == pytest.approx([0, HEAT_OPACITY / 2, HEAT_OPACITY], abs=0.01)


def test_a_heat_on_a_warped_map_has_no_holes_and_tints_beyond_the_canvas():
    """V is twice as large as the canvas, and lies askew on it."""
    heat = heat_of(torch.ones(1, 5, 5))
    matrix = torch.tensor([[[2.0, 0.3, 0.0], [-0.3, 2.0, 0.0], [0.0, 0.0, 1.0]]])
    places = geometry.transform(matrix, heat.places.flatten(1, 2)).view_as(heat.places)
    tinted, _ = draw_heat(make_batch(), heat._replace(places=places))
    for part, below in ((tinted[20:100, 20:100], np.zeros(3)), (tinted[2:15, 2:118], np.array(OUTSIDE))):
        expected = below + (np.array(COLOURS[0]) - below) * HEAT_OPACITY
        assert part == pytest.approx(np.broadcast_to(expected, part.shape), abs=1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30, 0.0])
@pytest.mark.parametrize("part", ["weights", "places"])
def test_any_heat_can_be_drawn(value, part):
    heat = heat_of(torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)))
    broken = getattr(heat, part).clone()
    broken[0, 1, 2] = value
    tinted, plain = draw_heat(make_batch(), heat._replace(**{part: broken}))
    assert tinted.shape == plain.shape


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (3, 1)])
def test_a_heat_of_one_row_can_be_drawn(grid):
    tinted, plain = draw_heat(make_batch(), heat_of(torch.ones(1, *grid)))
    assert (tinted != plain).any()


@pytest.mark.parametrize("split", [4, 2], ids=["one view", "two views side by side"])
def test_channels_without_a_place_are_bars(split):
    gates = torch.tensor([[1.0, 0.5, 0.0, 0.25]]).split(split, 1)
    views = [View(torch.rand(1, 8, 4, 4), gates=part) for part in gates]
    cell, output = (draw_cell(column, make_batch(), views=views) for column in (1, 2))
    bars = [(pixels_of(cell, COLOURS[0])[:, 0] == x).sum() for x in (22, 47, 73, 98)]
    assert bars == pytest.approx([82, 41, 0, 20], abs=2)
    assert has(cell, FADED)
    assert not has(output, FADED)
