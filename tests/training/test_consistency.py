"""Training with the consistency loss."""

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.models.consistency import Consistency, consistency_loss
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import make_trainer as build_trainer
from stn_experiments.training import losses

TURNED = Consistency(weight=1, angle=90)


def test_the_gradient_reaches_the_localisation_network_alone(make_trainer, splits, generator):
    model = make_trainer().model
    torch.nn.init.normal_(model.transformers["input"][0].localisation.theta.weight, std=0.1)
    images = splits.valid.images
    matrix = TURNED.draw(images, generator)
    transformers = list(model.transformers["input"])
    views = [transformer(images) for transformer in transformers]
    consistency_loss(transformers, views, images, matrix).backward()
    reached = {name for name, weights in model.named_parameters() if weights.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if ".localisation." in name}
    assert all(weights.grad.abs().max() > 0 for weights in model.localisation_parameters())


@pytest.mark.parametrize(
    ("choices", "kind"),
    [
        ((), "polar"),
        (("data=rts",), "keypoints"),
        (("data=cluttered",), "keypoints"),
        (("data=rotated12k",), "polar"),
        (("backbone=fcn",), "fully_connected"),
        (("stn.localisation=keypoints",), "keypoints"),
    ],
)
def test_where_the_data_turns_about_its_centre_the_localisation_network_is_polar(compose, choices, kind):
    (transformer,) = build_experiment(compose("stn=similarity", *choices)).model.transformers["input"]
    modules = [type(module).__name__ for module in transformer.localisation.modules()]
    found = "polar" if "PolarSampling" in modules else "keypoints" if "PositionsAndMeans" in modules else ""
    assert found == (kind if kind != "fully_connected" else "")


@pytest.mark.parametrize(
    ("data", "angle"), [("rotated", 90), ("rts", 45), ("sim2mnist", 180), ("cluttered", 0)]
)
def test_images_are_turned_as_far_as_the_data_turns_them(compose, data, angle):
    consistency = build_experiment(compose(f"data={data}")).model.consistency
    assert consistency.angle == angle
    assert consistency.is_on is (angle > 0)


def test_the_weight_goes_linearly_to_its_end(make_trainer, fit):
    trainer = make_trainer(consistency=Consistency(weight=0.3, end=0.1, angle=90))
    update, weights = trainer._update, []

    def record(*tensors):
        weights.append(trainer._consistency_weight.item())
        return update(*tensors)

    trainer._update = record
    fit(trainer)
    assert weights == pytest.approx([0.3 - 0.2 * step / 12 for step in range(12)])


def test_the_classifier_learns_from_the_cross_entropy_alone(make_trainer, splits):
    """Only the last layer of a localisation network has a gradient at the start."""
    batch = splits.train.draw(torch.arange(10), torch.Generator().manual_seed(0))
    gradients = []
    for settings in ({}, {"consistency": Consistency(weight=10, angle=90)}):
        trainer = make_trainer(**settings)
        trainer.train_step(batch)
        gradients.append({name: weights.grad for name, weights in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.equal(gradients[1][name]) is (".localisation.theta." not in name), name


def test_if_it_is_off_nothing_is_computed(make_trainer, fit, monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr(losses, "consistency_loss", refuse)
    monkeypatch.setattr(Consistency, "draw", refuse)
    trainer = make_trainer(epochs=1, consistency=Consistency(weight=1))
    calls = []
    trainer.model.transformers["input"][0].localisation.register_forward_hook(lambda *_: calls.append(1))
    trainer.run_epoch()
    assert len(calls) == trainer.step == 4
    assert "train_consistency" not in trainer.epoch_metrics()
    assert trainer.state_dict()["progress"]["metrics"].shape == (4, 4)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("weight=-1",), "weight must be a number from 0 to 1000, got -1"),
        (("scale=0.5",), "scale must be a number from 1 to 4, got 0.5"),
        (("angle=270",), "angle must be a number from 0 to 180, got 270"),
        (("translation=2",), "translation must be a number from 0 to 1, got 2"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_work_is_one_line(compose, overrides, line):
    settings = [f"stn.consistency.{word}" for word in overrides]
    with pytest.raises(UserError) as caught:
        build_experiment(compose(*settings))
    assert str(caught.value) == f"stn.consistency.{line}"


def test_it_needs_no_pose(compose, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 18, 30, 3), np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    own = ("data=npz", f"data.file={tmp_path / 'own.npz'}", "backbone.width=4", "backbone.pool=2")
    settings = ("trainer.batch_size=16", "trainer.device=cpu", "stn.output_size=12", "stn.padding=reflection")
    experiment = build_experiment(compose(*own, *settings, "stn.consistency.angle=90"))
    trainer = build_trainer(experiment, experiment.data.load(experiment.device).train)
    assert trainer.run_epoch()
    assert 0 < trainer.epoch_metrics()["train_consistency"] < 10
