"""What is done to canvases: noise, clutter and blur; and where the ink is."""

import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data.canvas import Clutter, add_clutter, blur, ink_boxes
from stn_experiments.data.distortions import Distortion
from tests.data.harness import ALL, bounds, grey, seeded


def test_the_ink_box_is_tight():
    image = torch.zeros(1, 28, 28)
    image[0, 4:20, 9:12] = 1
    left, right, top, bottom = 9 / 14 - 1, 12 / 14 - 1, 4 / 14 - 1, 20 / 14 - 1
    expected = torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])
    torch.testing.assert_close(ink_boxes(image), expected)


def test_noise_has_its_deviation_after_the_contrast_and_is_clipped(generator):
    def draw(**settings):
        return Distortion(**settings).draw(grey(200, 255), torch.arange(200), generator).images

    faded = draw(contrast=0.5, noise=0.1)
    assert abs(faded.mean() - 0.5) < 1e-3
    assert abs(faded.std() - 0.1) < 1e-3
    assert draw(noise=5).aminmax() == (0, 1)


def test_clutter_is_crops_of_other_digits(generator):
    """Each digit of the pool has its own grey level, which shows where its crops are."""
    greys = torch.arange(1, 31, dtype=torch.uint8) * 8
    pool = greys[:, None, None].expand(30, 28, 28).contiguous()
    images = torch.zeros(30, 1, 300, 400)
    add_clutter(images, pool, torch.arange(30), Clutter(4, 5), generator)
    levels = (images * 255).round().int()
    assert len(levels.unique()) > 15
    assert len(levels[0].unique()) > 2  # of several digits
    for image, own in zip(levels, greys, strict=True):
        assert own not in image
        assert 2 * 5 * 5 < (image > 0).sum() <= 4 * 5 * 5


def test_clutter_needs_a_second_digit(generator):
    with pytest.raises(UserError, match="train_digits and valid_size must be at least 2"):
        add_clutter(torch.zeros(1, 1, 40, 40), grey(1, 255).images, torch.arange(1), Clutter(1, 6), generator)


def test_clutter_lands_everywhere_and_is_clipped(generator):
    images = torch.zeros(10, 1, 40, 60)
    add_clutter(images, grey(10, 255).images, torch.arange(10), Clutter(200, 6), generator)
    assert images.max() == 1
    assert bounds(images.amax((0, 1))).tolist() == [0, 0, 60, 40]


def test_blur_is_a_line_of_its_length_and_angle(digits):
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 10] = 1
    across = blur(image, 5, 0)[0, 0]
    torch.testing.assert_close(across[10, 8:13], torch.full((5,), 0.2))
    assert across.sum() == pytest.approx(1)
    torch.testing.assert_close(blur(image, 5, 90)[0, 0], across.T, atol=1e-6, rtol=0)
    slanted = blur(image, 9, 45)[0, 0]
    assert slanted[8, 12] > 0.05  # counter-clockwise: up on the right
    assert slanted[12, 12] == slanted[6, 14] == 0
    plain, blurred = (Distortion(**settings).draw(digits, ALL, seeded()) for settings in ({}, {"blur": 5}))
    assert blurred.images.equal(blur(plain.images, 5, 15))
