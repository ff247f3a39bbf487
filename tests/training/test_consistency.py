"""The consistency loss of localisation networks that are right, constant, or known by hand."""

import math

import numpy as np
import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier, ClassifierOutput, StageOutput
from stn_experiments.models.grids import (
    Affine,
    Projective,
    ScaleTranslation,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import make_trainer as build_trainer
from stn_experiments.training import loop
from stn_experiments.training.consistency import Consistency, consistency_loss, outline_distance

WIDE = (20, 40)
EVERYTHING = Consistency(weight=1, angle=180, scale=1.3, translation=0.2)
NO_ROTATION = Consistency(weight=1, angle=0, scale=1.3, translation=0.2)
TRANSLATION = Consistency(weight=1, angle=0, translation=0.2)
CASES = [
    (Translation(window=0.5), TRANSLATION, WIDE),
    (ScaleTranslation(), NO_ROTATION, WIDE),
    (Similarity(), NO_ROTATION, WIDE),  # rotations of an image that is not square are not in the family
    (Similarity(), EVERYTHING, (28, 28)),
    (Affine(), EVERYTHING, WIDE),
    (Projective(), EVERYTHING, WIDE),
    (ThinPlateSpline(), EVERYTHING, WIDE),
]
"""Families, with further transforms that they can follow, on images of some size."""


class Given(torch.nn.Module):
    """A localisation network that gives one theta after the other."""

    def __init__(self, *thetas):
        super().__init__()
        self.thetas = list(thetas)

    def forward(self, source):
        return self.thetas.pop(0)


def with_localisation(localisation, family, size, channels=1):
    """A classifier with one transformer at the input, whose localisation network is replaced."""
    transformer = SpatialTransformer((channels, *size), (16, 16), family)
    transformer.localisation = localisation
    return Classifier(Compact((channels, 16, 16), 10, width=4, pool=2), {"input": [transformer]})


def loss_of(model, images, matrix):
    views = [transformer(images) for transformer in model.transformers["input"]]
    output = ClassifierOutput(torch.empty(0), {"input": StageOutput(views)})
    return consistency_loss(model, output, images, matrix)


def random_theta(family, count, generator):
    identity = torch.tensor(family.identity).expand(count, -1)
    theta = identity + 0.05 * torch.randn(identity.shape, generator=generator)
    if isinstance(family, Similarity):
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
    images = torch.rand(6, 1, *size, generator=generator)
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


@pytest.mark.parametrize("side", [1.0, 0.5, 0.1])
def test_a_quarter_turn_of_a_centred_square_is_the_same_for_each_size(side):
    """Each corner is a side away from where it was: 4 · side² / side²."""
    theta = torch.tensor([[side, 0, 0, 0, side, 0]])
    matrix = geometry.similarity(torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1, 2))
    model = with_localisation(Given(theta, theta), Affine(), (20, 20))
    assert loss_of(model, torch.ones(1, 1, 20, 20), matrix).item() == pytest.approx(4, rel=1e-5)


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


def test_the_gradient_reaches_the_localisation_network_alone(make_trainer, splits, generator):
    model = make_trainer().model
    torch.nn.init.normal_(model.transformers["input"][0].localisation.theta.weight, std=0.1)
    images = splits.valid.images
    matrix = EVERYTHING.draw(images, generator)
    consistency_loss(model, model(images), images, matrix).backward()
    reached = {name for name, weights in model.named_parameters() if weights.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if ".localisation." in name}
    assert all(weights.grad.abs().max() > 0 for weights in model.localisation_parameters())


def test_the_weight_goes_linearly_to_its_end(make_trainer, fit):
    trainer = make_trainer(consistency=Consistency(weight=0.3, end=0.1))
    update, weights = trainer._update, []

    def record(*tensors):
        weights.append(trainer._consistency_weight.item())
        return update(*tensors)

    trainer._update = record
    fit(trainer)
    assert weights == pytest.approx([0.3 - 0.2 * step / 12 for step in range(12)])


def test_a_localisation_network_learns_to_follow(generator):
    torch.manual_seed(0)
    images = marked_images(64, (24, 24), generator)
    transformer = SpatialTransformer((3, 24, 24), family="similarity")
    model = Classifier(Compact((3, 24, 24), 10, width=4, pool=2), {"input": [transformer]})
    optimizer = torch.optim.Adam(model.localisation_parameters(), 0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, images, Consistency(weight=1).draw(images, generator))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_the_classifier_learns_from_the_cross_entropy_alone(make_trainer, splits):
    """Only the last layer of a localisation network has a gradient at the start."""
    batch = splits.train.draw(torch.arange(10), torch.Generator().manual_seed(0))
    gradients = []
    for settings in ({}, {"consistency": Consistency(weight=10)}):
        trainer = make_trainer(**settings)
        trainer.train_step(batch)
        gradients.append({name: weights.grad for name, weights in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.equal(gradients[1][name]) is (".localisation.theta." not in name), name


def test_if_it_is_off_nothing_is_computed(make_trainer, fit, monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr(loop, "consistency_loss", refuse)
    monkeypatch.setattr(Consistency, "draw", refuse)
    trainer = make_trainer(epochs=1, consistency=Consistency(angle=0))
    calls = []
    trainer.model.transformers["input"][0].localisation.register_forward_hook(lambda *_: calls.append(1))
    trainer.run_epoch()
    assert len(calls) == trainer.step == 4
    assert "train_consistency" not in trainer.epoch_metrics()
    assert trainer.state_dict()["progress"]["metrics"].shape == (4, 4)


def test_a_step_in_half_precision_is_close_to_one_in_single(make_trainer, splits):
    batch = splits.train.draw(torch.arange(40), torch.Generator().manual_seed(0))
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(batch_size=40, precision=precision, consistency=Consistency(weight=1))
        localisation = trainer.model.transformers["input"][0].localisation
        torch.nn.init.normal_(localisation.theta.weight, std=0.05, generator=torch.Generator().manual_seed(0))
        losses.append(trainer.train_step(batch)[4])
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("stn=none", "weight=0.3"), "weight must be 0 without a transformer at the input, got 0.3"),
        (("stn=none", "end=0.3"), "end must be 0 without a transformer at the input, got 0.3"),
        (("stn.at=layer2", "weight=0.3"), "weight must be 0 without a transformer at the input, got 0.3"),
        (("weight=-1",), "weight must be a number from 0 to 1000, got -1"),
        (
            ("weight=1", "angle=0"),
            "angle must be above 0, unless scale is above 1 or translation above 0, got 0",
        ),
        (("scale=0.5",), "scale must be a number from 1 to 4, got 0.5"),
        (("angle=270",), "angle must be a number from 0 to 180, got 270"),
        (("translation=2",), "translation must be a number from 0 to 1, got 2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_work_is_one_line(compose, overrides, line):
    settings = [word if word.startswith("stn") else f"trainer.consistency.{word}" for word in overrides]
    with pytest.raises(UserError) as caught:
        build_experiment(compose(*settings))
    assert str(caught.value) == f"trainer.consistency.{line}"


def test_it_needs_no_pose(compose, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 18, 30, 3), np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    own = ("data=npz", f"data.file={tmp_path / 'own.npz'}", "backbone.width=4", "backbone.pool=2")
    settings = ("trainer.batch_size=16", "trainer.device=cpu", "stn.output_size=12", "stn.padding=reflection")
    experiment = build_experiment(compose(*own, *settings, "trainer.consistency.weight=0.3"))
    trainer = build_trainer(experiment, experiment.data.load(experiment.device).train)
    assert trainer.run_epoch()
    assert 0 < trainer.epoch_metrics()["train_consistency"] < 10
