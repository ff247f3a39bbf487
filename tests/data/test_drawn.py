"""Drawings become digits as MNIST's are."""

import numpy as np
import pytest

from stn_experiments.data.drawn import as_digit


def canvas(*strokes, side=280):
    ink = np.zeros((side, side), np.uint8)
    for top, left, height, width in strokes:
        ink[top : top + height, left : left + width] = 255
    return ink


def test_nothing_drawn_is_no_digit():
    assert as_digit(canvas()) is None


@pytest.mark.parametrize("place", [(0, 0), (130, 20), (240, 0)])
def test_the_longer_side_of_the_ink_is_20_pixels_wherever_it_is_drawn(place):
    digit = as_digit(canvas((*place, 40, 10)))
    rows, columns = digit.nonzero().T
    assert (rows.min(), rows.max() + 1) == (4, 24)
    assert columns.max() + 1 - columns.min() == 5
    assert digit.max() == 255


def test_the_centre_of_mass_is_in_the_centre():
    digit = as_digit(canvas((40, 40, 200, 20), (220, 40, 20, 120))).double()  # an L
    for dim in (0, 1):
        mass = digit.sum(1 - dim)
        centre = sum((place + 0.5) * value for place, value in enumerate(mass)) / mass.sum()
        assert centre == pytest.approx(14, abs=0.51)


def test_ink_far_from_its_centre_of_mass_stays_inside():
    digit = as_digit(canvas((0, 0, 200, 200), (0, 0, 10, 280)))
    assert (digit > 0).any(0).sum() == 20


def test_a_dot_is_enlarged():
    assert as_digit(canvas((5, 5, 1, 1))).count_nonzero() == 400
