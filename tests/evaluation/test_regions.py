"""Densest regions against scipy's labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from stn_experiments.evaluation.regions import densest_region


def by_scipy(heat):
    """The box around the component with the peak, as (left, top, right, bottom) in cells."""
    heat = heat.double().numpy()
    labels, _ = ndimage.label(heat >= (heat.max() + heat.mean()) / 2, np.ones((3, 3)))
    rows, columns = np.nonzero(labels == labels.flat[heat.argmax()])
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def in_cells(outline, height, width):
    """An upright outline's left, top, right and bottom in cells."""
    ends = (outline.double() + 1) / 2 * torch.tensor([width, height])
    return [*ends.amin(0).tolist(), *ends.amax(0).tolist()]


@pytest.mark.parametrize(("size", "blur"), [((4, 4), 1), ((9, 14), 3), ((30, 30), 5), ((1, 8), 3)])
def test_the_densest_region_agrees_with_scipy(size, blur, generator):
    heats = torch.rand(50, 1, *size, generator=generator)
    heats = F.avg_pool2d(heats, blur, 1, blur // 2, count_include_pad=False)[:, 0]
    for heat, outline in zip(heats, densest_region(heats), strict=True):
        assert in_cells(outline, *size) == pytest.approx(by_scipy(heat), abs=1e-4)


def test_the_outline_goes_clockwise_from_the_top_left():
    heat = torch.zeros(1, 4, 8)
    heat[0, 1:3, 5:7] = 1.0
    expected = torch.tensor([[[0.25, -0.5], [0.75, -0.5], [0.75, 0.5], [0.25, 0.5]]])
    torch.testing.assert_close(densest_region(heat), expected)


def test_diagonal_neighbours_are_connected_and_others_are_left_out():
    heat = torch.zeros(2, 6, 6)
    heat[:, 0, 0], heat[:, 1, 1], heat[:, 2, 2] = 0.8, 1.0, 0.8
    heat[0, 5, 5] = 0.9  # apart, and less hot
    heat[1, 3, 2] = heat[1, 4, 2] = 0.9  # a tail
    left, top, right, bottom = zip(*(in_cells(one, 6, 6) for one in densest_region(heat)), strict=True)
    assert (left, top) == ((0, 0), (0, 0))
    assert right == pytest.approx((3, 3))
    assert bottom == pytest.approx((3, 5))


@pytest.mark.parametrize("value", [0.0, 1 / 3, torch.nan])
def test_the_region_of_a_constant_heat_is_the_whole_map(value):
    outline = densest_region(torch.full((2, 7, 13), value))
    assert outline.tolist() == [[[-1, -1], [1, -1], [1, 1], [-1, 1]]] * 2
