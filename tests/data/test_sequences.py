"""Sequences are labelled as a person reads them, and rendered as their poses say."""

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data.mnist import Digits
from stn_experiments.data.sequences import Sequences

SIZE = (60, 100)


@pytest.fixture
def ten(digits):
    """One digit of each class."""
    return Digits(digits.images[:10], digits.labels[:10])


def corners(pose, size):
    """The top left pixels (B, D, 2) of the digits, as (x, y)."""
    canvas = torch.tensor([size[1], size[0]])
    return ((pose.matrix[..., :2, 2] * canvas + canvas - 28) / 2).round().long()


def test_images_are_the_labelled_digits_from_left_to_right(ten, generator):
    task = Sequences(SIZE, clutter=0)
    index = torch.arange(200) % 10
    batch = task.draw(ten, index, generator)
    assert batch.labels.shape == (200, 3)
    assert batch.labels[:, 0].equal(index)
    assert set(batch.labels[:, 1:].flatten().tolist()) == {*range(10)}
    places = corners(batch.pose, SIZE)
    for image, labels, digits in zip(batch.images[:, 0].numpy(), batch.labels, places.tolist(), strict=True):
        expected = np.zeros(SIZE)
        for label, (x, y) in zip(labels.tolist(), digits, strict=True):
            expected[y : y + 28, x : x + 28] += ten.images[label].numpy() / 255
        np.testing.assert_allclose(image, expected, atol=1e-6)


def test_neighbours_touch_on_a_line_that_stays_on_the_canvas(ten, generator):
    places = corners(Sequences(SIZE, slope=9).draw(ten, torch.zeros(500).long(), generator).pose, SIZE)
    x, y = places.unbind(2)
    assert (x.diff() == 28).all()
    assert x[:, 0].unique().tolist() == [*range(17)]
    assert (y.min(), y.max()) == (0, 60 - 28)
    inside = ((y > 0) & (y < 60 - 28)).all(1)
    first, second = y[inside].diff().unbind(1)
    assert first.equal(second)
    assert (first.min(), first.max()) == (-9, 9)


def test_the_generator_decides_everything_and_poses_change_nothing(ten):
    one, two, other = (
        Sequences().draw(ten, torch.arange(10), torch.Generator().manual_seed(seed), posed)
        for seed, posed in ((3, True), (3, False), (4, True))
    )
    assert one.images.equal(two.images)
    assert one.labels.equal(two.labels)
    assert not one.images.equal(other.images)
    plain = Sequences(clutter=0).draw(ten, torch.arange(10), torch.Generator().manual_seed(3))
    assert plain.labels.equal(one.labels)
    assert (one.images.sum((1, 2, 3)) > plain.images.sum((1, 2, 3))).all()


@pytest.mark.parametrize("canvas", [83, (27, 100)])
def test_a_canvas_that_is_too_small_is_refused(canvas):
    with pytest.raises(UserError, match=r"^canvas must have room for 3 digits of 28 pixels side by side"):
        Sequences(canvas)
