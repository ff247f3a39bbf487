from contextlib import suppress
from functools import partial

import pytest
import torch

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.data.datasets import Splits, TrainingSet
from stn_experiments.data.distortions import Distortion
from stn_experiments.evaluation.evaluate import CHUNK, evaluate, predict
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.gates import CBAMConfig, MaskConfig, SEConfig
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.storage import checkpoints
from stn_experiments.training import loop
from stn_experiments.training.cuda_graphs import Recorder
from stn_experiments.training.health import diagnose, epoch_warning
from stn_experiments.training.loop import (
    Progress,
    TrainerConfig,
    Training,
    derive_seed,
    stop_unless_finite,
    train_epoch,
    train_step,
)
from stn_experiments.training.schedules import onecycle

TRAINER = TrainerConfig(epochs=3, batch_size=10)


@pytest.fixture
def splits(digits):
    distortion = Distortion(angle=30)
    generator = torch.Generator().manual_seed(5)
    fixed = distortion.draw(digits, torch.arange(40), generator)
    return Splits(TrainingSet(40, partial(distortion.draw, digits)), fixed, fixed)


def start(trainer=TRAINER, stn=True, lr=1e-2, steps=12, gates=None):
    torch.manual_seed(0)
    transformer = SpatialTransformer((1, 28, 28))
    backbone = Compact((1, 28, 28), 10, width=4, pool=2)
    placed = {"input": [transformer] if stn else []}
    model = Classifier(backbone, placed, gates.build(backbone) if gates else {})
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=lr)
    for group in optimizer.param_groups[1:]:
        group["lr"] *= trainer.localisation_lr
    schedule = onecycle()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / steps))
    progress = Progress(torch.zeros(4, trainer.steps_per_epoch(40)))
    generator = torch.Generator()
    return Training(model, optimizer, scheduler, progress, generator, Recorder(generator), seed=1)


def fit(training, splits, trainer):
    """Train to the end; after each epoch give what its history has of it."""
    while training.progress.epoch <= trainer.epochs:
        metrics = train_epoch(training, splits.train, trainer)
        valid = {f"val_{name}": value for name, value in evaluate(training.model, splits.valid).items()}
        yield {"epoch": training.progress.epoch, **metrics, **valid}
        training.progress.next_epoch()


def same_weights(one, other):
    return all(
        a.equal(b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_training_learns_and_reports(splits):
    trainer = TrainerConfig(epochs=12, batch_size=10)
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


@pytest.mark.parametrize(("step", "gates"), [(1, None), (3, None), (4, None), (5, CBAMConfig()), (12, None)])
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(splits, tmp_path, step, gates):
    """Within an epoch, at the end of one, and at the end of all."""
    whole = start(gates=gates)
    history = list(fit(whole, splits, TRAINER))
    stopped = start(gates=gates)

    def stop():
        if stopped.progress.step == step:
            checkpoints.save(stopped.state(), tmp_path / "last.pt")
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        while True:
            train_epoch(stopped, splits.train, TRAINER, stop)
            stopped.progress.next_epoch()
    resumed = start(gates=gates)
    resumed.load(checkpoints.load(tmp_path / "last.pt"))
    assert resumed.progress.step == step
    ends = list(fit(resumed, splits, TRAINER))
    timeless = [[{**line, "seconds": 0} for line in lines] for lines in (ends, history[-len(ends) :])]
    assert timeless[0] == timeless[1]
    assert same_weights(whole.model, resumed.model)
    assert checkpoints.digest(whole.optimizer.state_dict()) == checkpoints.digest(
        resumed.optimizer.state_dict()
    )


@pytest.mark.parametrize("many", [1, 3, 8])
def test_a_step_can_be_done_again_alone(splits, monkeypatch, many):
    """Its batch depends on the seed and its number, not on what was drawn before."""
    monkeypatch.setattr(loop, "DRAWN_AT_ONCE", 10 * many)
    size, seen = TRAINER.batch_size, {}
    for skipped in (0, 1, 2, 3):
        training = start()
        training.progress.next_epoch()
        training.progress.done = skipped
        seen[skipped] = []
        for batch in loop.epoch_batches(training, splits.train, size):
            seen[skipped].append(batch)
            training.progress.done += 1
        assert [batch.images.shape for batch in seen[skipped]] == [(size, 1, 28, 28)] * (4 - skipped)
        for one, other in zip(seen[0][skipped:], seen[skipped], strict=True):
            assert one.images.equal(other.images)
            assert one.labels.equal(other.labels)
    assert not seen[0][0].images.equal(seen[0][1].images)


def test_no_two_streams_are_the_same():
    kinds = ("epoch", "lot", "step")
    assert len({derive_seed(seed, kind, n) for seed in (0, 1) for kind in kinds for n in range(9)}) == 54


def test_an_epoch_shows_each_digit_once_and_each_draw_is_of_its_own(splits, monkeypatch):
    """Whole batches only, so that the last lot is smaller; no two lots are drawn from the same numbers."""
    monkeypatch.setattr(loop, "DRAWN_AT_ONCE", 20)
    drawn, numbers = [], []

    def draw(index, generator):
        drawn.append(index)
        numbers.append(torch.rand(3, generator=generator))
        return splits.train.draw(index, generator)

    training = start()._replace(progress=Progress(torch.zeros(4, 3)))
    train_epoch(training, TrainingSet(39, draw), TRAINER)
    training.progress.next_epoch()
    train_epoch(training, TrainingSet(39, draw), TRAINER)
    assert [len(index) for index in drawn] == [20, 10, 20, 10]
    assert len(torch.cat(drawn[:2]).unique()) == 30
    assert len(torch.stack(numbers).unique()) == 12


@pytest.mark.parametrize("change", [{"localisation_lr": 0.0}, {"localisation_clip": 1e-6}])
def test_the_localisation_network_has_settings_of_its_own(splits, change):
    trainer = TrainerConfig(epochs=1, batch_size=10, **change)
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
    (metrics,) = fit(start(stn=False), splits, TrainerConfig(epochs=1, batch_size=10))
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
    warnings = [record.message for record in caplog.records if "step 1: the localisation" in record.message]
    assert len(warnings) == saturated
    assert (history[-1]["val_theta_spread"] == 0) is saturated
    assert (history[-1]["localisation_gradient"] == 0) is saturated


def test_a_loss_that_is_not_finite_stops_and_names_the_step(splits):
    training = start(lr=1e30)
    with pytest.raises(TrainingFailed, match=r"the (loss|gradient) of step \d+ is not finite"):
        list(fit(training, splits, TRAINER))


@pytest.mark.parametrize(("row", "what"), [(0, "loss"), (2, "gradient"), (3, "gradient")])
def test_the_step_named_is_the_first_bad_one_of_the_whole_run(row, what):
    training = start()
    training.progress.epoch, training.progress.done = 3, 3  # of 4 steps each
    training.progress.steps[row, 1:] = float("nan")
    with pytest.raises(TrainingFailed, match=f"the {what} of step 10 is not finite; run.replay=10 shows"):
        stop_unless_finite(training)
    training.progress.done = 1
    stop_unless_finite(training)


@pytest.mark.parametrize(
    ("metrics", "what"),
    [
        ({"localisation_gradient": 1.0, "val_outside_share": 0.2, "val_theta_spread": 0.1}, None),
        ({"localisation_gradient": 1.0, "val_outside_share": 0.6, "val_theta_spread": 0.1}, "outside"),
        ({"localisation_gradient": 1.0, "val_outside_share": 0.2, "val_theta_spread": 0.0}, "still"),
        ({"localisation_gradient": 0.0, "val_outside_share": 0.2, "val_theta_spread": 0.0}, "no gradient"),
        ({"train_loss": 1.0}, None),
    ],
)
def test_what_is_wrong_with_a_transformer(metrics, what):
    assert diagnose(metrics) == what


def test_a_collapse_is_told_once_with_its_remedy():
    sound = {"epoch": 1, "localisation_gradient": 1.0, "val_outside_share": 0.2, "val_theta_spread": 0.1}
    left = {**sound, "val_outside_share": 0.9}
    assert epoch_warning([sound]) is None
    assert "epoch 2: most of the sampling grid is outside" in epoch_warning([sound, {**left, "epoch": 2}])
    assert "localisation_lr" in epoch_warning([left])
    assert epoch_warning([left, sound, left]) is None
    assert epoch_warning([{**sound, "localisation_gradient": 0}]) is None  # step 1 has told it


def test_a_collapse_while_training_is_found(splits):
    """A transformer that a step too far throws out of the image, where no gradient leads it back."""
    training = start()
    with torch.no_grad():
        training.model.transformers["input"][0].localisation.theta.bias[2] = 5
    (metrics, *_) = fit(training, splits, TRAINER)
    assert metrics["val_outside_share"] == 1
    assert diagnose(metrics) in ("outside", "no gradient")


def test_steps_per_epoch():
    assert TrainerConfig(epochs=1, batch_size=128).steps_per_epoch(55_000) == 429
    assert TrainerConfig(epochs=1, batch_size=128, images_per_epoch=1280).steps_per_epoch(55_000) == 10
    with pytest.raises(
        UserError, match="batch_size must be at most the 100 training images of an epoch, got 128"
    ):
        TrainerConfig(epochs=1, batch_size=128, images_per_epoch=100).steps_per_epoch(55_000)


def test_evaluation_is_the_same_in_parts_as_in_one(splits, monkeypatch):
    model = start().model
    whole = evaluate(model, splits.test)
    monkeypatch.setattr("stn_experiments.evaluation.evaluate.CHUNK", 7)
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
    assert found["off_target"] == pytest.approx(1 - (20 / 28) ** 2, abs=0.02)


def test_without_a_known_digit_or_a_transformer_there_is_no_score(splits):
    assert set(evaluate(start(stn=False).model, splits.valid)) == {"loss", "error"}
    empty = type(splits.valid.pose)(
        torch.empty(40, 0, 3, 3), torch.empty(40, 0, 4, 2), torch.empty(40, 0, 1, 1)
    )
    scores = evaluate(start().model, splits.valid._replace(pose=empty))
    assert set(scores) == {"loss", "error", "theta_spread", "outside_share"}


PLACED = {"iou_mean", "iou_above_half", "ink_inside", "off_target", "hit_rate"}
TRANSFORMED = {"theta_spread", "outside_share"} | {
    f"{which}_{what}"
    for which in ("residual", "input")
    for what in ("rotation_deg", "scale", "translation_px")
}


@pytest.mark.parametrize(
    ("kind", "stn", "scores"),
    [
        (None, False, set()),
        (SEConfig(), False, set()),
        (CBAMConfig(), False, PLACED),
        (MaskConfig(), False, PLACED),
        (None, True, PLACED | TRANSFORMED),
        (SEConfig(), True, PLACED | TRANSFORMED),
        (CBAMConfig(), True, PLACED | TRANSFORMED),
    ],
)
def test_each_attention_has_the_scores_that_it_can_have(splits, kind, stn, scores):
    """What weighs channels alone has no place, and what does not turn the digit has no pose."""
    model = start(stn=stn, gates=kind).model
    found = evaluate(model, splits.valid)
    assert set(found) == {"loss", "error"} | scores
    assert all(0 <= found[name] <= 1 for name in PLACED & scores)


def test_a_mask_on_the_digit_scores_well_and_one_beside_it_does_not(splits):
    """Masks that are about the digit's box, and the top left corner, where there is no ink."""
    model = start(stn=False, gates=MaskConfig(at="stem")).model

    class Square(torch.nn.Module):
        def __init__(self, first, last):
            super().__init__()
            self.register_buffer("logits", torch.full((1, 1, 14, 14), -9.0))
            self.logits[..., first:last, first:last] = 9.0

        def forward(self, features):
            return self.logits.expand(len(features), -1, -1, -1)

    found = []
    for first, last in ((1, 13), (0, 2)):
        model.gates["stem"].spatial = Square(first, last)
        found.append(evaluate(model, splits.valid))
    on, beside = found
    assert (on["iou_mean"] > 0.5, on["ink_inside"] > 0.9, on["hit_rate"]) == (True, True, 1)
    assert (beside["iou_mean"] < 0.02, beside["ink_inside"] < 0.02) == (True, True)
    assert beside["hit_rate"] < 0.5


@pytest.mark.parametrize("kind", [None, SEConfig(), CBAMConfig(), MaskConfig()])
def test_a_step_in_half_precision_is_about_that_in_single(splits, kind):
    """Its loss and its gradients are near, but not the same; weights and their updates stay single."""
    batch = splits.train.draw(torch.arange(40), torch.Generator().manual_seed(0))
    ends = []
    for precision in ("float32", "bfloat16"):
        training = start(gates=kind)
        before = {name: value.clone() for name, value in training.model.named_parameters()}
        column = train_step(training, batch, TrainerConfig(1, 40, precision=precision))
        after = dict(training.model.named_parameters())
        assert all(value.dtype == value.grad.dtype == torch.float32 for value in after.values())
        assert any(not value.equal(before[name]) for name, value in after.items() if "gates" not in name)
        assert all(
            not value.equal(before[name]) for name, value in after.items() if name.endswith("places.weight")
        )
        ends.append(column)
    whole, half = ends
    assert 0 < (whole[0] - half[0]).abs() < 0.05
    torch.testing.assert_close(half[2:], whole[2:], rtol=0.2, atol=0)


@pytest.mark.parametrize("kind", [SEConfig(), CBAMConfig(), MaskConfig()])
def test_a_gated_network_trains_in_half_precision(splits, kind):
    trainer = TrainerConfig(epochs=12, batch_size=10, precision="bfloat16")
    history = list(fit(start(trainer, steps=48, gates=kind), splits, trainer))
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


def test_evaluation_leaves_the_model_as_it_was(splits):
    model = start().model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, splits.valid)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
