"""The consistency loss of localisation networks that are right, constant, or known by hand."""

import math

import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier, TransformerConfig
from stn_experiments.models.consistency import (
    Consistency,
    consistency_loss,
    outline_distance,
    rotation_sine,
    tilt_loss,
)
from stn_experiments.models.grids import (
    Affine,
    Projective,
    ScaleTranslation,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import View
from tests.models.harness import Given

WIDE = (20, 40)
EVERYTHING = Consistency(weight=1, angle=180, scale=1.3, translation=0.2)
NO_ROTATION = Consistency(weight=1, angle=0, scale=1.3, translation=0.2)
TRANSLATION = Consistency(weight=1, angle=0, translation=0.2)
CASES = [
    (Translation(window=0.5), TRANSLATION, WIDE),
    (ScaleTranslation(), NO_ROTATION, WIDE),
    (Similarity(), EVERYTHING, WIDE),
    (Similarity(), EVERYTHING, (28, 28)),
    (Similarity(scale=False, translation=False), Consistency(weight=1, angle=180), WIDE),
    (Affine(), EVERYTHING, WIDE),
    (Projective(), EVERYTHING, WIDE),
    (ThinPlateSpline(), EVERYTHING, WIDE),
]
"""Families, with further transforms that they can follow, on images of some size."""


def with_localisation(localisation, family, size, channels=1):
    """A classifier with one transformer at the input, whose localisation network is replaced."""
    transformer = SpatialTransformer((channels, *size), (16, 16), family)
    transformer.localisation = localisation
    return Classifier(Compact((channels, 16, 16), 10, width=4, pool=2), {"input": [transformer]})


def loss_of(model, images, matrix):
    transformers = list(model.transformers["input"])
    views = [transformer(images) for transformer in transformers]
    return consistency_loss(transformers, views, images, matrix)


def random_theta(family, count, generator):
    identity = torch.tensor(family.identity).expand(count, -1)
    theta = identity + 0.05 * torch.randn(identity.shape, generator=generator)
    if isinstance(family, Similarity) and not isinstance(family, ScaleTranslation):
        theta[:, 1] += 0.3
    return theta


def followed(family, theta, matrix):
    """Theta of g⁻¹ ∘ T."""
    back = torch.linalg.inv(matrix)
    if isinstance(family, ThinPlateSpline):
        return geometry.affine(back, theta.unflatten(1, (-1, 2))).flatten(1)
    return family.theta(back @ family.matrix(theta))


@pytest.mark.parametrize(("family", "config", "size"), CASES, ids=lambda value: type(value).__name__)
def test_the_loss_is_zero_if_theta_follows_and_positive_if_it_is_constant(family, config, size, generator):
    images, family = torch.rand(6, 1, *size, generator=generator), family.on(size)
    matrix, theta = config.draw(images, generator), random_theta(family, 6, generator)
    follows = Given(theta, followed(family, theta, matrix))
    assert loss_of(with_localisation(follows, family, size), images, matrix) < 1e-8
    assert loss_of(with_localisation(Given(theta, theta), family, size), images, matrix) > 0.01


class Marks(torch.nn.Module):
    """The affine transform to the marks in three channels, from the corners (-1, -1), (1, -1) and (-1, 1)."""

    def forward(self, source):
        centres = geometry.pixel_centres(*source.shape[2:])
        weights = source.flatten(2)
        first, second, third = (weights @ centres / weights.sum(2, keepdim=True)).unbind(1)
        columns = [(second - first) / 2, (third - first) / 2, (second + third) / 2]
        return torch.stack(columns, 2).flatten(1)


def marked_images(count, size, generator):
    """Images (N, 3, H, W) with a soft mark in each channel, on a triangle about the centre."""
    centres = geometry.pixel_centres(*size)
    marks = torch.tensor([[-0.2, -0.2], [0.2, -0.2], [-0.2, 0.2]])
    marks = marks + 0.05 * torch.randn(count, 3, 2, generator=generator)
    squared = (centres - marks[:, :, None]).square().sum(3)
    return (-squared / 0.01).exp().unflatten(2, size)


def test_a_network_that_sees_the_pose_has_no_loss_of_the_images_that_are_really_transformed(generator):
    size = (40, 60)
    images = marked_images(16, size, generator)
    matrix = Consistency(weight=1, angle=180, scale=1.2, translation=0.1).draw(images, generator)
    model = with_localisation(Marks(), Affine(), size, channels=3)
    assert loss_of(model, images, matrix) < 1e-3
    constant = Given(*[Marks()(images)] * 2)
    assert loss_of(with_localisation(constant, Affine(), size, channels=3), images, matrix) > 1


@pytest.mark.parametrize(("size", "expected"), [((20, 20), 0.25), (WIDE, 0.5), ((40, 20), 0.125)])
def test_a_shift_of_the_whole_image_by_a_quarter_of_its_width(size, expected):
    """4 |p - q|² / √(area · area') in pixels: 4 · 5² / 20², 4 · 10² / (20 · 40) and 4 · 5² / (40 · 20)."""
    identity = torch.tensor([Affine.identity])
    matrix = torch.tensor([[[1, 0, 0.5], [0, 1, 0], [0, 0, 1]]])
    loss = loss_of(
        with_localisation(Given(identity, identity), Affine(), size), torch.ones(1, 1, *size), matrix
    )
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_distance_does_not_depend_on_the_size_of_the_boxes_and_has_the_right_gradient(generator):
    one, other = geometry.boundary_points(2) + 0.2 * torch.randn(2, 5, 8, 2, generator=generator)
    torch.testing.assert_close(outline_distance(one / 7, other / 7), outline_distance(one, other))
    torch.testing.assert_close(outline_distance(one.flip(1), other.flip(1)), outline_distance(one, other))
    pair = [points.double().requires_grad_() for points in (one, other)]
    assert torch.autograd.gradcheck(outline_distance, pair)


def test_an_outline_without_an_area_has_a_finite_loss_and_gradient():
    flat = torch.zeros(1, 4, 2, requires_grad=True)
    loss = outline_distance(flat, geometry.boundary_points(1)[None])
    loss.backward()
    assert loss.isfinite()
    assert flat.grad.isfinite().all()


def test_transforms_are_drawn_within_their_ranges(generator):
    images = torch.zeros(2000, 1, *WIDE)
    matrix = Consistency(weight=1, angle=45, scale=1.3, translation=0.2).draw(images, generator)
    height, width = WIDE
    # In pixels a similarity has equal diagonal entries.
    pixels = geometry.constant((width, height, 1), matrix)[:, None] * matrix
    pixels = pixels / geometry.constant((width, height, 1), matrix)
    angle = torch.atan2(pixels[:, 0, 1], pixels[:, 0, 0]).rad2deg()
    scale = pixels[:, :2, :2].det().sqrt().log()
    shift = matrix[:, :2, 2] / 2
    torch.testing.assert_close(pixels[:, 0, 0], pixels[:, 1, 1])
    for values, largest in ((angle, 45), (scale, math.log(1.3)), (shift[:, 0], 0.2), (shift[:, 1], 0.2)):
        assert 0.98 * largest < values.max() <= 1.0001 * largest
        assert -1.0001 * largest <= values.min() < -0.98 * largest
        assert abs(values.mean()) < 0.05 * largest


@pytest.mark.parametrize("steps", [1, 2])
def test_parallel_transformers_have_the_mean_of_their_losses_and_others_inside_have_none(generator, steps):
    torch.manual_seed(0)
    both = [SpatialTransformer((1, 28, 28), family="similarity", steps=steps) for _ in range(2)]
    inside = SpatialTransformer((4, 28, 28))
    for transformer in both:
        torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.1)
    images = torch.rand(4, 1, 28, 28, generator=generator)
    matrix = EVERYTHING.draw(images, generator)
    models = [
        Classifier(
            Compact((len(some), 28, 28), 10, width=4, pool=2), {"input": some, "layer2": [inside]}
        ).eval()
        for some in (both, both[:1], both[1:])
    ]
    mean, first, second = (loss_of(model, images, matrix) for model in models)
    assert first != second
    torch.testing.assert_close(mean, (first + second) / 2)


def test_the_sine_of_the_rotation_of_a_box_is_that_of_its_matrix():
    angle = torch.tensor([0.0, 30, -75, 90]).deg2rad()
    matrix = geometry.similarity(angle, torch.full((4,), 0.6), torch.tensor([0.3, -0.1]).expand(4, 2))
    for points in (1, 4):
        outline = geometry.affine(matrix, geometry.boundary_points(points))
        torch.testing.assert_close(rotation_sine(outline), -angle.sin(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(28, 28), (28, 84)])
def test_boxes_that_are_upright_on_average_do_not_tilt(size, generator):
    def loss(offset):
        angle = (2 * torch.rand(4000, generator=generator) - 1) * math.pi / 2 + math.radians(offset)
        matrix = geometry.similarity(angle, torch.ones(4000), torch.zeros(4000, 2))
        square = geometry.boundary_points(1) * geometry.constant((10 / size[1], 10 / size[0]), matrix)
        outline = geometry.affine(geometry.normalised(matrix, size, size), square)
        return tilt_loss([View(torch.empty(0), outline=outline)], torch.zeros(1, 1, *size)).item()

    assert abs(loss(0)) < 0.01
    # The mean of sin(a + 20°) over a uniform in ±90° is 2 / pi sin 20°.
    assert loss(20) == pytest.approx(4 * (2 / math.pi * math.sin(math.radians(20))) ** 2, rel=0.2)


@pytest.mark.parametrize("width", [28, 40])
@pytest.mark.parametrize("translation", [False, True])
def test_on_the_full_circle_a_transformer_without_scale_turns_with_its_input_before_training(
    translation, width
):
    images = torch.zeros(1, 1, 28, 28)
    images[..., 6:20, 10:13] = images[..., 17:20, 10:20] = 1
    images = torch.nn.functional.pad(images, [(width - 28) // 2] * 2).repeat(64, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    losses = {}
    for angle in (179, 180):
        torch.manual_seed(0)
        consistency = Consistency(weight=1, angle=angle)
        config = TransformerConfig(Similarity(scale=False, translation=translation), consistency=consistency)
        (transformer,) = config.build_at_input((1, 28, width), "polar")
        matrix = consistency.draw(images, generator)
        losses[angle] = consistency_loss([transformer], [transformer(images)], images, matrix).item()
    assert losses[180] < 0.5
    assert losses[179] > 3  # that of the identity
