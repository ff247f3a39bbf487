"""Each setting of an augmentation does what it says, and nothing else is changed."""

import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data.augmentation import Augmentation

SETTINGS = {
    "angle": 20,
    "scale": (0.8, 1.2),
    "shear": 0.2,
    "shift": 3,
    "corners": 2,
    "bend": 1,
    "flip": True,
    "brightness": 0.3,
    "contrast": 0.3,
    "noise": 0.1,
}


def pictures(count=1, size=(12, 20), channels=3):
    """Smooth pictures in [0, 1] without any symmetry."""
    coarse = torch.rand(1, channels, 3, 4, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return images.repeat(count, 1, 1, 1)


def augmented(images, seed=0, **settings):
    return Augmentation(**settings).apply(images.clone(), torch.Generator().manual_seed(seed))


def test_without_settings_images_stay_as_they_are():
    images = pictures()
    assert Augmentation().apply(images, torch.Generator()) is images


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_changes_each_image_in_its_own_way(name):
    images = pictures(8)
    settings = {name: SETTINGS[name]}
    first, again, other = (augmented(images, seed, **settings) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert len({tuple(image.flatten().tolist()) for image in first}) == (2 if name == "flip" else 8)
    assert (first - images).abs().mean() < 0.3  # still the same pictures


def test_a_flip_mirrors_half_of_the_images():
    images = pictures(200)
    flipped = augmented(images, flip=True)
    is_same, is_mirrored = ((flipped - one).abs().amax((1, 2, 3)) < 1e-5 for one in (images, images.flip(3)))
    assert (is_same | is_mirrored).all()
    assert 70 < is_mirrored.sum() < 130


def test_a_quarter_turn_is_counter_clockwise_and_keeps_pixels_square():
    """Nothing of the middle square of an image that is not square is distorted."""
    images = pictures(400, size=(12, 20))
    turned = augmented(images, angle=180)
    middle, expected = turned[..., 4:16], images[0, :, :, 4:16].rot90(1, (1, 2))
    assert (middle - expected).abs().amax((1, 2, 3)).min() < 0.05


def test_shifts_and_scales_are_within_their_limits():
    ramp = torch.arange(20).div(20).expand(300, 1, 12, 20)
    centre = augmented(ramp, shift=3)[:, 0, 6, 10].sub(0.5).mul(20)
    assert centre.abs().max() == pytest.approx(3, abs=0.1)
    step = augmented(ramp, scale=(0.5, 2))[:, 0, 6, 9:11].diff().mul(20)
    assert 1 / step.max() == pytest.approx(0.5, abs=0.05)
    assert 1 / step.min() == pytest.approx(2, abs=0.1)


def test_beyond_its_edge_an_image_goes_on():
    images = torch.full((50, 3, 10, 10), 0.6)
    torch.testing.assert_close(augmented(images, angle=180, shift=5, corners=2, bend=1), images)


def test_contrast_keeps_the_mean_and_brightness_changes_it_by_a_factor():
    images = pictures(300) * 0.5 + 0.2
    mean = images.mean((1, 2, 3))
    changed = augmented(images, contrast=0.3)
    torch.testing.assert_close(changed.mean((1, 2, 3)), mean)
    factor = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert (factor.min(), factor.max()) == (pytest.approx(0.7, abs=0.02), pytest.approx(1.3, abs=0.02))
    factor = augmented(images, brightness=0.2).mean((1, 2, 3)) / mean
    assert (factor.min(), factor.max()) == (pytest.approx(0.8, abs=0.02), pytest.approx(1.2, abs=0.02))


def test_a_scale_has_its_smaller_factor_first():
    with pytest.raises(UserError, match=r"^scale must be given as smallest, largest, got \[1.2, 0.8\]"):
        Augmentation(scale=(1.2, 0.8))
