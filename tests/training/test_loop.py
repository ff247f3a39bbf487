import itertools

import pytest
import torch

from stn_experiments.common.errors import TrainingFailed
from stn_experiments.data.splits import TrainingSet
from stn_experiments.evaluation.evaluate import evaluate, predict
from stn_experiments.models.consistency import Consistency
from stn_experiments.storage import checkpoints
from stn_experiments.training import loop
from stn_experiments.training.config import has_bfloat16
from stn_experiments.training.loop import StepMetrics, derive_seed

TURNED = Consistency(weight=0.3, angle=90)


def same_state(one, other):
    """Whether two trainers have the same weights, optimizer state and step."""
    states = [trainer.state_dict() for trainer in (one, other)]
    for state in states:
        state["progress"].pop("seconds")
    return checkpoints.digest(states[0]) == checkpoints.digest(states[1])


def test_training_learns_and_reports(make_trainer, fit, splits):
    trainer = make_trainer(epochs=12)
    history = fit(trainer)
    assert [metrics["epoch"] for metrics in history] == list(range(1, 13))
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[-1]["images"] == 40
    assert history[-1]["lr"] == pytest.approx(0, abs=1e-9)
    assert history[5]["localisation_gradient"] > 0
    assert history[5]["val_theta_spread"] > 0
    assert history[-1]["val_error"] == evaluate(trainer.model, splits.valid)["error"]


@pytest.mark.parametrize(
    ("step", "settings"),
    [*((step, {}) for step in (1, 3, 4, 5, 12)), (6, {"consistency": TURNED})],
)
def test_training_resumes_from_a_checkpoint_as_if_never_stopped(make_trainer, fit, tmp_path, step, settings):
    """Steps within an epoch, at the end of one, and at the end of training."""
    whole, stopped, resumed = (make_trainer(**settings) for _ in range(3))
    history = fit(whole)
    while stopped.run_epoch(until_step=step) and stopped.step < step:
        stopped.next_epoch()
    checkpoints.save(stopped.state_dict(), tmp_path / "last.pt")
    resumed.load_state_dict(checkpoints.load(tmp_path / "last.pt"))
    assert resumed.step == step
    rest = fit(resumed)
    assert [{**line, "seconds": 0} for line in rest] == [
        {**line, "seconds": 0} for line in history[-len(rest) :]
    ]
    assert same_state(whole, resumed)


@pytest.mark.parametrize("batches_together", [1, 3, 8])
def test_each_batch_depends_on_the_seed_and_its_step_alone(make_trainer, monkeypatch, batches_together):
    monkeypatch.setattr(loop, "IMAGES_PER_CHUNK", 10 * batches_together)
    seen = {}
    for skipped in (0, 1, 2, 3):
        trainer = make_trainer()
        trainer.next_epoch()
        trainer.steps_done = skipped
        seen[skipped] = list(trainer.batches())
        assert [batch.images.shape for batch in seen[skipped]] == [(10, 1, 28, 28)] * (4 - skipped)
        for one, other in zip(seen[0][skipped:], seen[skipped], strict=True):
            assert one.images.equal(other.images)
            assert one.labels.equal(other.labels)
    assert not seen[0][0].images.equal(seen[0][1].images)


def test_batches_with_poses_are_the_same_images(make_trainer):
    for one, other in zip(make_trainer().batches(), make_trainer().batches(with_pose=True), strict=True):
        assert one.images.equal(other.images)
        assert (one.pose.box.shape[1], other.pose.box.shape[1]) == (0, 1)


def test_no_two_seeds_are_the_same():
    kinds = ("epoch", "chunk", "step")
    seeds = {derive_seed(*key) for key in itertools.product((0, 1), kinds, range(9))}
    assert len(seeds) == 54
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_epoch_shows_each_digit_once_and_each_chunk_has_random_numbers_of_its_own(
    make_trainer, splits, monkeypatch
):
    """Of 39 digits only whole batches are drawn, so the last chunk is smaller."""
    monkeypatch.setattr(loop, "IMAGES_PER_CHUNK", 20)
    drawn, numbers = [], []

    def draw(index, generator):
        drawn.append(index)
        numbers.append(torch.rand(3, generator=generator))
        return splits.train.draw(index, generator)

    trainer = make_trainer(train_set=TrainingSet(39, draw))
    for _ in range(2):
        trainer.run_epoch()
        trainer.next_epoch()
    assert [len(index) for index in drawn] == [20, 10, 20, 10]
    assert len(torch.cat(drawn[:2]).unique()) == 30
    assert len(torch.stack(numbers).unique()) == 12


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"localisation_lr": 0.0}, torch.optim.AdamW),
        # AdamW undoes any scale of the gradient; plain descent shows the clipping.
        ({"localisation_clip": 1e-6}, torch.optim.SGD),
    ],
)
def test_the_localisation_network_has_its_own_settings(make_trainer, fit, settings, optimizer):
    trainer = make_trainer(epochs=1, lr=0.1, optimizer=optimizer, **settings)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    (metrics,) = fit(trainer)
    moved = {name: (value - before[name]).abs().max() for name, value in trainer.model.named_parameters()}
    assert moved["backbone.head.weight"] > 1e-3
    assert moved["transformers.input.0.localisation.theta.bias"] < 1e-6
    if "localisation_clip" in settings:
        assert metrics["localisation_gradient"] > 1e-4  # the norm before clipping


def test_without_a_transformer_there_are_no_metrics_of_one(make_trainer, fit):
    (metrics,) = fit(make_trainer(stn=False, epochs=1))
    assert not [name for name in metrics if "localisation" in name or "theta" in name or "outside" in name]


class Saturated(torch.nn.Module):
    """A known failure: the right identity, behind a function whose gradient there is exactly zero."""

    def __init__(self, theta):
        super().__init__()
        self.theta = theta

    def forward(self, features):
        identity = torch.tensor([1.0, 0, 0, 0, 1, 0])
        sign = 2 * identity - 1
        saturated = torch.tanh(self.theta(features) - identity + 100 * sign)
        return 0.5 * saturated + identity - 0.5 * sign


@pytest.mark.parametrize("saturated", [True, False])
def test_a_localisation_network_without_gradient_is_reported_at_step_1(
    make_trainer, fit, splits, caplog, saturated
):
    trainer = make_trainer()
    if saturated:
        localisation = trainer.model.transformers["input"][0].localisation
        localisation.theta = Saturated(localisation.theta)
        view = predict(trainer.model, splits.valid).views[0]
        torch.testing.assert_close(view.output, splits.valid.images, atol=1e-5, rtol=0)
    history = fit(trainer)
    warnings = [record.message for record in caplog.records if "step 1: the localisation" in record.message]
    assert len(warnings) == saturated
    assert (history[-1]["val_theta_spread"] == 0) is saturated
    assert (history[-1]["localisation_gradient"] == 0) is saturated


@pytest.mark.parametrize(
    ("metric", "what"), [("loss", "loss"), ("localisation_gradient", "gradient"), ("gradient", "gradient")]
)
def test_the_step_named_is_the_first_bad_one_of_the_whole_run(make_trainer, metric, what):
    trainer = make_trainer()
    trainer.epoch, trainer.steps_done = 3, 3  # of 4 steps each
    getattr(trainer.step_metrics, metric)[1:] = float("nan")
    with pytest.raises(TrainingFailed, match=f"the {what} of step 10 is not finite"):
        trainer.check_finite()
    trainer.steps_done = 1
    trainer.check_finite()


def test_a_step_in_half_precision_is_close_to_one_in_single(make_trainer, splits):
    """Weights, gradients and updates stay single, and so does the consistency loss, here of the identity."""
    batch = splits.train.draw(torch.arange(40), torch.Generator().manual_seed(0))
    metrics = []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(batch_size=40, precision=precision, consistency=TURNED)
        before = {name: value.clone() for name, value in trainer.model.named_parameters()}
        metrics.append(StepMetrics(*trainer.train_step(batch)))
        after = dict(trainer.model.named_parameters())
        assert all(value.dtype == value.grad.dtype == torch.float32 for value in after.values())
        assert any(not value.equal(before[name]) for name, value in after.items())
    single, half = metrics
    assert 0 < (single.loss - half.loss).abs() < 0.05
    torch.testing.assert_close(half.gradient, single.gradient, rtol=0.2, atol=0)
    torch.testing.assert_close(half.consistency, single.consistency, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("instructions", "precision", "expected"),
    [
        ({"avx2": True, "avx512_bf16": True}, "auto", True),
        ({"avx2": True, "amx_bf16": True}, "auto", True),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "auto", False),
        ({"avx2": True}, "bfloat16", True),
        ({"avx512_bf16": True}, "float32", False),
    ],
)
def test_precision_auto_is_bfloat16_where_the_cpu_has_instructions(
    make_trainer, monkeypatch, instructions, precision, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    has_bfloat16.cache_clear()
    config = make_trainer(batch_size=40, precision=precision).config
    with config.autocast(torch.device("cpu")):
        half = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    has_bfloat16.cache_clear()
    assert half == (config.resolved_precision(torch.device("cpu")) == "bfloat16") == expected
