from functools import partial

import pytest
import torch

from stn_experiments.data.datasets import Splits, TrainingSet
from stn_experiments.data.distortions import Distortion
from stn_experiments.errors import TrainingFailed, UserError
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.training import checkpoints
from stn_experiments.training.evaluation import CHUNK, evaluate, predict
from stn_experiments.training.loop import Trainer, Training, fit, stop_unless_finite
from stn_experiments.training.schedules import onecycle

TRAINER = Trainer(epochs=3, batch_size=10)


@pytest.fixture
def splits(digits):
    distortion = Distortion(angle=30)
    generator = torch.Generator().manual_seed(5)
    fixed = distortion.draw(digits, torch.arange(40), generator)
    return Splits(TrainingSet(40, partial(distortion.draw, digits)), fixed, fixed)


def start(trainer=TRAINER, stn=True, lr=1e-2, steps=12):
    torch.manual_seed(0)
    transformer = SpatialTransformer((1, 28, 28))
    model = Classifier(Compact((1, 28, 28), 10, width=4, pool=2), {"input": [transformer] if stn else []})
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=lr)
    for group in optimizer.param_groups[1:]:
        group["lr"] *= trainer.localisation_lr
    schedule = onecycle()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / steps))
    return Training(model, optimizer, scheduler, torch.Generator().manual_seed(1))


def same_weights(one, other):
    return all(
        a.equal(b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_training_learns_and_reports(splits):
    trainer = Trainer(epochs=12, batch_size=10)
    training = start(trainer, steps=48)
    history = list(fit(training, splits, trainer))
    assert [metrics["epoch"] for metrics in history] == list(range(1, 13))
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[-1]["images"] == 40
    assert history[-1]["lr"] == pytest.approx(0, abs=1e-9)
    assert history[5]["localisation_gradient"] > 0
    assert history[5]["val_theta_spread"] > 0
    assert history[-1]["val_error"] == evaluate(training.model, splits.valid)["error"]


def test_the_same_seed_is_the_same_training(splits):
    (one, first), (other, second) = ((start(), []) for _ in range(2))
    for training, history in ((one, first), (other, second)):
        history += [{**metrics, "seconds": 0} for metrics in fit(training, splits, TRAINER)]
    assert first == second
    assert same_weights(one.model, other.model)


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(splits, tmp_path):
    whole = start()
    list(fit(whole, splits, TRAINER))
    stopped = start()
    epochs = fit(stopped, splits, TRAINER)
    next(epochs)
    checkpoints.save(stopped.state(), tmp_path / "last.pt")
    resumed = start()
    resumed.load(checkpoints.load(tmp_path / "last.pt"))
    list(fit(resumed, splits, TRAINER, first_epoch=2))
    assert same_weights(whole.model, resumed.model)


@pytest.mark.parametrize("change", [{"localisation_lr": 0.0}, {"localisation_clip": 1e-6}])
def test_the_localisation_network_has_settings_of_its_own(splits, change):
    trainer = Trainer(epochs=1, batch_size=10, **change)
    training = start(trainer)
    if "localisation_clip" in change:
        # AdamW undoes any scale of the gradient; plain descent shows what clipping does.
        optimizer = torch.optim.SGD(training.model.parameter_groups(), lr=0.1)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        training = training._replace(optimizer=optimizer, scheduler=constant)
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    (metrics,) = fit(training, splits, trainer)
    moved = {name: (value - before[name]).abs().max() for name, value in training.model.named_parameters()}
    assert moved["backbone.head.weight"] > 1e-3
    assert moved["transformers.input.0.localisation.theta.bias"] < 1e-6
    if "localisation_clip" in change:
        assert metrics["localisation_gradient"] > 1e-4  # the norm before clipping


def test_without_a_transformer_nothing_is_said_of_one(splits):
    (metrics,) = fit(start(stn=False), splits, Trainer(epochs=1, batch_size=10))
    assert not [name for name in metrics if "localisation" in name or "theta" in name or "outside" in name]


class Saturated(torch.nn.Module):
    """The known failure: a right identity, behind a function whose gradient there is exactly zero."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, features):
        identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
        return (
            torch.tanh(self.theta(features) - identity + 100 * (2 * identity - 1)) * 0.5
            + identity
            - 0.5 * (2 * identity - 1)
        )


@pytest.mark.parametrize("saturated", [True, False])
def test_a_localisation_network_without_gradient_is_told_at_step_1(splits, caplog, saturated):
    training = start()
    if saturated:
        localisation = training.model.transformers["input"][0].localisation
        localisation.theta = Saturated(localisation.theta)
        view = predict(training.model, splits.valid).views[0]
        torch.testing.assert_close(view.output, splits.valid.images, atol=1e-5, rtol=0)
    history = list(fit(training, splits, TRAINER))
    warnings = [record.message for record in caplog.records if "no gradient at step 1" in record.message]
    assert len(warnings) == saturated
    assert (history[-1]["val_theta_spread"] == 0) is saturated
    assert (history[-1]["localisation_gradient"] == 0) is saturated


def test_a_loss_that_is_not_finite_stops_and_names_the_step(splits):
    training = start(lr=1e30)
    with pytest.raises(TrainingFailed, match=r"the loss of step \d+ is (nan|inf)"):
        list(fit(training, splits, TRAINER))


def test_the_step_named_is_the_first_bad_one_of_the_whole_run():
    losses = torch.tensor([1.0, 2.0, float("inf"), float("nan")])
    with pytest.raises(TrainingFailed, match="the loss of step 103 is inf"):
        stop_unless_finite(losses, first_step=101)
    stop_unless_finite(losses[:2], first_step=101)


def test_steps_per_epoch():
    assert Trainer(epochs=1, batch_size=128).steps_per_epoch(55_000) == 429
    assert Trainer(epochs=1, batch_size=128, images_per_epoch=1280).steps_per_epoch(55_000) == 10
    with pytest.raises(
        UserError, match="batch_size must be at most the 100 training images of an epoch, got 128"
    ):
        Trainer(epochs=1, batch_size=128, images_per_epoch=100).steps_per_epoch(55_000)


def test_evaluation_is_the_same_in_parts_as_in_one(splits, monkeypatch):
    model = start().model
    whole = evaluate(model, splits.test)
    monkeypatch.setattr("stn_experiments.training.evaluation.CHUNK", 7)
    assert evaluate(model, splits.test) == pytest.approx(whole, abs=1e-5)
    assert CHUNK > 40
    logits = predict(model, splits.test).logits
    assert whole["error"] == (logits.argmax(1) != splits.test.labels).sum().item() * 100 / 40
    assert whole["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, splits.test.labels).item()
    )


def test_attention_is_scored_against_the_truth(splits):
    """A transformer that is the identity sees what went in; one that is the truth sees it undone."""
    truth = splits.valid.pose.matrix[:, 0, :2].flatten(1)

    class Known(torch.nn.Module):
        def forward(self, images):
            return truth[:: 40 // len(images)] if len(images) < 40 else truth

    model = start().model
    seen = evaluate(model, splits.valid)
    assert seen["residual_rotation_deg"] == pytest.approx(seen["input_rotation_deg"], rel=1e-4)
    assert seen["residual_translation_px"] == pytest.approx(seen["input_translation_px"], abs=1e-3)
    assert 0.3 < seen["iou_mean"] < 0.9
    model.transformers["input"][0].localisation = Known()
    found = evaluate(model, splits.valid)
    assert found["residual_rotation_deg"] == pytest.approx(0, abs=1e-2)
    assert found["residual_scale"] == pytest.approx(0, abs=1e-3)
    assert found["iou_mean"] == pytest.approx((20 / 28) ** 2, abs=0.02)  # the ink's box in the digit's frame
    assert found["iou_above_half"] > 0.9
    assert found["ink_inside"] > 0.98
    assert found["elsewhere"] == pytest.approx(1 - (20 / 28) ** 2, abs=0.02)


def test_without_a_known_digit_or_a_transformer_there_is_no_score(splits):
    assert set(evaluate(start(stn=False).model, splits.valid)) == {"loss", "error"}
    empty = type(splits.valid.pose)(
        torch.empty(40, 0, 3, 3), torch.empty(40, 0, 4, 2), torch.empty(40, 0, 1, 1)
    )
    scores = evaluate(start().model, splits.valid._replace(pose=empty))
    assert set(scores) == {"loss", "error", "theta_spread", "outside_share"}


def test_evaluation_leaves_the_model_as_it_was(splits):
    model = start().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, splits.valid)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoints.save({"epoch": 1}, path)

    def full_disk(*args):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save({"epoch": 2}, path)
    assert checkpoints.load(path)["epoch"] == 1


def test_a_checkpoint_that_cannot_be_right_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoints.load(path)
    checkpoints.save({"epoch": 1}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.load(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged: EOFError"):
        checkpoints.load(path)
    torch.save({"format": 99}, path)
    with pytest.raises(UserError, match="is not of format 1"):
        checkpoints.load(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    from pathlib import Path

    torch.save(Hostile(), tmp_path / "last.pt")
    with pytest.raises(UserError, match="is damaged"):
        checkpoints.load(tmp_path / "last.pt")
    assert not (tmp_path / "touched").exists()
