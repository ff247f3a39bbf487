import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import TransformerConfig
from stn_experiments.models.gates import CBAMConfig
from stn_experiments.models.glimpses import GlimpseConfig
from stn_experiments.models.grids import Similarity
from stn_experiments.models.rotation_backbones import (
    GCNN,
    HalvingMaxPool,
    LogPolarSampling,
    P4Convolution,
    Polar,
    RotatedCopies,
    TIPooling,
)

INVARIANT = [(GCNN, {}), (TIPooling, {"copies": 4}), (TIPooling, {"copies": 8}), (Polar, {})]


def blobs(count, shape, generator):
    """Smooth images (``count``, *``shape``) with shape (C, H, W), black outside of a disc."""
    channels, height, width = shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    at_x, at_y = torch.rand(2, count, channels, 4, 1, 1, generator=generator) - 0.5
    return (-((x - at_x) ** 2 + (y - at_y) ** 2) / 0.04).exp().sum(2)


def small(kind, shape=(1, 28, 28), **settings):
    """A backbone whose batch normalisations have seen images of these sizes."""
    torch.manual_seed(0)
    model = kind(shape, 10, width=6, **settings)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1
            nn.init.normal_(layer.bias)
    model(blobs(64, shape, torch.Generator().manual_seed(1)))
    return model.eval()


def turned(images, quarters=1):
    return images.rot90(quarters, (-2, -1))


def turned_maps(maps, quarters=1):
    """What a map over p4 (B, 4, C, H, W) is when the image is rotated: its rotations move on, too."""
    return turned(maps, quarters).roll(quarters, 1)


@pytest.mark.parametrize("rotations", [1, 4])
@pytest.mark.parametrize(("side", "padding"), [(5, 2), (3, 1), (4, 0)])
def test_a_group_convolution_follows_its_input(rotations, side, padding, generator):
    convolution = P4Convolution(3, 5, side, padding, rotations)
    maps = torch.rand(2, rotations, 3, 12, 12, generator=generator)
    output = convolution(maps)
    assert output.shape[:3] == (2, 4, 5)
    for quarters in (1, 2, 3):
        followed = convolution(turned_maps(maps, quarters))
        torch.testing.assert_close(followed, turned_maps(output, quarters), atol=1e-5, rtol=1e-5)
    mirrored = convolution(maps.flip(-1))
    assert not torch.allclose(mirrored, output.flip(-1), atol=1e-2)


def test_the_first_rotation_of_a_group_convolution_of_an_image_is_a_convolution(generator):
    convolution = P4Convolution(3, 5, 5, 2, rotations=1)
    images = torch.rand(2, 3, 9, 12, generator=generator)
    plain = F.conv2d(images, convolution.weight, padding=2)
    torch.testing.assert_close(convolution(images[:, None])[:, 0], plain)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", [28, 42, 21])
def test_every_map_of_a_group_network_follows_a_rotation_of_the_image(side, training, generator):
    model = small(GCNN, (2, side, side)).train(training)
    features = blobs(8, (2, side, side), generator)
    followed = turned(features)
    for name, stage in model.stages.named_children():
        features, followed = stage(features), stage(followed)
        expected = features if name == "layer3" else turned_maps(features)
        torch.testing.assert_close(followed, expected, atol=1e-5, rtol=1e-5)
    assert features.std(0).max() > 0.1


@pytest.mark.parametrize(("kind", "settings"), INVARIANT)
def test_scores_do_not_change_when_the_image_is_rotated_by_90_degrees(kind, settings, generator):
    for side in (28, 21):
        images = blobs(6, (1, side, side), generator)
        model = small(kind, (1, side, side), **settings)
        scores = model(images)
        for quarters in (1, 2, 3):
            torch.testing.assert_close(model(turned(images, quarters)), scores, atol=1e-5, rtol=0)
        assert (model(images.flip(3)) - scores).abs().max() > 0.05


def test_more_copies_make_scores_invariant_under_smaller_rotations(generator):
    images = blobs(16, (1, 28, 28), generator)
    rotated = RotatedCopies(8, (28, 28))(images)[:, 1]  # by 45°

    def change(model):
        scores = model(images)
        return ((model(rotated) - scores).abs().mean() / scores.std(0).mean()).item()

    assert change(small(TIPooling, copies=8)) < 0.3
    assert change(small(TIPooling, copies=4)) > 0.6
    assert change(small(Compact)) > 0.6


def test_with_one_copy_the_network_is_the_compact_one(generator):
    pooling, compact = small(TIPooling, copies=1), small(Compact)
    images = torch.rand(3, 1, 28, 28, generator=generator)
    for (_, one), (_, other) in zip(
        pooling.stages.named_parameters(), compact.stages.named_parameters(), strict=True
    ):
        assert one.equal(other)
    features = pooling.stages(images)
    torch.testing.assert_close(features, compact.stages(images).flatten(1), atol=1e-4, rtol=1e-4)


def test_pooling_is_by_2_with_sides_rounded_up(generator):
    maps = torch.rand(2, 3, 7, 10, generator=generator)
    assert HalvingMaxPool()(maps).shape[2:] == (4, 5)
    torch.testing.assert_close(HalvingMaxPool()(maps[:, :, :6]), F.max_pool2d(maps[:, :, :6], 2))


@pytest.mark.parametrize(("kind", "first"), [(GCNN, "stem"), (TIPooling, "stem"), (Polar, "polar")])
def test_attention_inside_and_behind_them_is_refused(kind, first):
    backbone = small(kind)
    with pytest.raises(
        UserError, match=r"^name must not be cbam for a backbone without a stage whose output"
    ):
        CBAMConfig().build(backbone)
    with pytest.raises(UserError, match=f"^at must name places among input, {first}, got layer2"):
        TransformerConfig(Similarity(), at="layer2").build_inside(backbone)
    with pytest.raises(UserError, match=r"^name must not be ram after a backbone whose output is not a map"):
        GlimpseConfig().build(backbone.output_shape, 10, 0)


def drawn(places, scale=1.0, side=40):
    """Smooth blobs (B, 1, side, side) at places (B, K, 2) in pixels from the middle, all scaled about it."""
    pixels = torch.arange(side) + 0.5 - side / 2
    x, y = (scale * places).unbind(2)
    squared = (pixels - x[..., None, None]) ** 2 + (pixels[:, None] - y[..., None, None]) ** 2
    return (-squared / (2 * (4 * scale) ** 2)).exp().sum(1, keepdim=True)


def rotated(places, degrees):
    """Places (B, K, 2), rotated clockwise on the screen about the middle."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return places @ torch.tensor([[cosine, sine], [-sine, cosine]])


def test_a_rotation_about_the_centre_shifts_log_polar_samples_along_the_angle(generator):
    sampling = LogPolarSampling((1, 40, 40)).eval()  # 80 rays, so 4.5° between two of them
    places = 16 * torch.rand(4, 5, 2, generator=generator) - 8
    samples = sampling(drawn(places))
    assert samples.shape == (4, 1, 40, 80)
    for rays in (1, 7, 20, -30):
        turned_samples = sampling(drawn(rotated(places, 4.5 * rays)))
        error = (turned_samples - samples.roll(rays, 3)).abs().max()
        assert error < 0.05
        assert (turned_samples - samples).abs().max() > 2 * error


def test_a_scale_about_the_centre_shifts_log_polar_samples_along_the_radius(generator):
    sampling = LogPolarSampling((1, 40, 40)).eval()
    places = 10 * torch.rand(4, 5, 2, generator=generator) - 5
    samples = sampling(drawn(places))
    for circles in (2, 6):
        scaled = sampling(drawn(places, 20 ** (circles / 40)))
        error = (scaled[:, :, circles:] - samples[:, :, :-circles]).abs().max()
        assert error < 0.05
        assert (scaled - samples).abs().max() > 2 * error


def test_the_centre_of_log_polar_samples_follows_the_heat(generator):
    sampling = LogPolarSampling((1, 40, 60))
    images = drawn(torch.zeros(3, 1, 2), scale=0.6, side=60)[:, :, 10:50]
    middle = sampling(images)
    sampling.heat, sampling.cells = Heat(), geometry.pixel_centres(40, 60)
    moved = torch.cat([image.roll(shift, (1, 2)) for image, shift in zip(images, MOVES, strict=True)])[
        :, None
    ]
    torch.testing.assert_close(sampling(moved), middle, atol=1e-3, rtol=0)


MOVES = [(5, -9), (-8, 3), (0, 12)]


class Heat(nn.Module):
    """Is hottest where the image is bright."""

    def forward(self, images):
        return 100 * images
