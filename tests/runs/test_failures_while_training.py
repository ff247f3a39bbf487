"""Trouble while a run trains: it ends in one clear line or is overcome, and the run resumes."""

import logging
import random
import resource
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_experiments.runs import train as train_module
from stn_experiments.runs.train import TrainingRun
from stn_experiments.storage import checkpoints
from stn_experiments.training.average import WeightAverage
from stn_experiments.training.loop import Trainer
from tests.conftest import variation
from tests.runs.harness import (
    STEPS,
    assert_complete,
    assert_one_line,
    interrupt_after,
    outcome,
)

# TensorBoard


def test_tensorboard_shows_no_step_of_an_interrupted_run_twice(train, interrupted, monkeypatch):
    """Event files are read in the order of their names, which begin with the second of their creation."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10)
    assert train()[0] == 0
    seen = EventAccumulator(str(interrupted.folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert [event.step for event in seen.Images("panel/validation")] == [0, 1, 2]
    assert [event.step for event in seen.Images("panel/test")] == [2]
    assert [event.step for event in seen.Scalars("error/val")] == [1, 2]
    (final,) = seen.Scalars("final/test_error")
    assert final.value == pytest.approx(interrupted.result()["test_error"])


# The machine


def record_saves(monkeypatch):
    """The steps at which checkpoints are saved."""
    save, saved = TrainingRun._save, []
    monkeypatch.setattr(TrainingRun, "_save", lambda run: saved.append(run.trainer.step) or save(run))
    return saved


def test_a_clock_that_jumps_changes_nothing(train, whole, monkeypatch):
    now, jumps, saved = time.time, random.Random(0), record_saves(monkeypatch)
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-36_000, 36_000))
    code, _, err = train("run.checkpoint_seconds=1e-9")
    assert (code, err) == (0, "")
    assert sorted(set(saved)) == list(range(1, 2 * STEPS + 1))
    assert 0 < train.run.result()["train_seconds"] < 60
    assert outcome(train.run) == whole


def before_each_step(monkeypatch, act):
    """Call ``act(trainer, batch)`` before each training step."""
    train_step = Trainer.train_step

    def step(trainer, batch):
        act(trainer, batch)
        return train_step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", step)


def test_too_little_memory_is_one_line_and_the_run_resumes(train, whole, monkeypatch):
    def fail(trainer, batch):
        if trainer.step == 5:
            raise MemoryError

    with monkeypatch.context() as patched:
        before_each_step(patched, fail)
        code, _, err = train()
    assert code == 4
    assert_one_line(err, "too little memory for trainer.batch_size=30;")
    assert_complete(train.run)
    assert "resumes after step 4 (in epoch 2)" in train()[1]
    assert outcome(train.run) == whole


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits and reports the size of a process")
def test_a_system_without_memory_is_one_line(train, monkeypatch):
    """120 images of 256×256 pixels, for which this process may not grow."""
    run_epoch, before = Trainer.run_epoch, resource.getrlimit(resource.RLIMIT_AS)

    def limited(*arguments, **named):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**24
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            return run_epoch(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    monkeypatch.setattr(Trainer, "run_epoch", limited)
    code, _, err = train("data.distortion.canvas=256", "trainer.batch_size=120")
    assert code == 4
    assert_one_line(err, "too little memory for trainer.batch_size=120;")


# Steps that are not finite


def change_trainer(monkeypatch, change):
    """Change each new trainer before it is used."""
    make_trainer = train_module.make_trainer

    def make(*arguments):
        trainer = make_trainer(*arguments)
        change(trainer)
        return trainer

    monkeypatch.setattr(train_module, "make_trainer", make)


def spoil(monkeypatch, kind, step):
    """Make the images or the gradient of a step not finite."""
    if kind == "loss":

        def spoil_image(trainer, batch):
            if trainer.step == step - 1:
                batch.images[3, 0, 14, 14] = float("nan")

        before_each_step(monkeypatch, spoil_image)
    else:

        def spoil_gradient(trainer):
            def spoiled(gradient):
                return gradient * float("inf") if trainer.step == step - 1 else gradient

            next(trainer.model.parameters()).register_hook(spoiled)

        change_trainer(monkeypatch, spoil_gradient)


@pytest.mark.parametrize(
    ("kind", "step", "every", "saved"),
    [
        ("loss", 6, 1, 5),
        ("gradient", 6, "null", 4),
        variation("loss", 1, 1, None),
        variation("gradient", 8, 3, 6),
    ],
)
def test_a_step_that_is_not_finite_is_named_and_never_saved(
    train, whole, monkeypatch, kind, step, every, saved
):
    with monkeypatch.context() as patched:
        spoil(patched, kind, step)
        code, _, err = train(f"run.checkpoint_steps={every}")
    assert code == 4
    seen = f"python scripts/replay.py {train.run.folder} --step {step} shows that step"
    assert_one_line(err, f"the {kind} of step {step} is not finite", seen)
    assert_complete(train.run)
    for path in (train.run.last, train.run.previous):
        assert path.exists() or saved in (None, 4)
        if path.exists():
            weights = checkpoints.load(path)["trainer"]["model"].values()
            assert all(value.isfinite().all() for value in weights)
    if saved is None:
        assert not train.run.last.exists()
    else:
        assert checkpoints.load(train.run.last)["trainer"]["step"] == saved
    if kind == "gradient":
        assert train()[0] == 0
        assert outcome(train.run) == whole


def test_weights_that_the_last_update_made_infinite_give_no_result(train, monkeypatch):
    """The loss and the gradient of the last step itself are finite."""
    update, steps = WeightAverage.update, iter(range(1, 2 * STEPS + 1))

    def overflow(average):
        if next(steps) == 2 * STEPS:
            with torch.no_grad():
                average.parameters[0].fill_(float("inf"))
        update(average)

    monkeypatch.setattr(WeightAverage, "update", overflow)
    code, _, err = train()
    assert code == 4
    assert_one_line(err, "the validation loss after epoch 2 is not finite")
    assert_complete(train.run)
    assert train.run.result() is None


# Transformers that collapse


def shift_out(trainer):
    with torch.no_grad():
        trainer.model.transformers["input"][0].localisation.theta.bias[2] = 1.3


@pytest.mark.parametrize(
    ("diagnosis", "settings", "warning", "remedy"),
    [
        ("outside", [], "epoch 1: most of the sampling grid is outside", "trainer.localisation_clip=1"),
        ("still", ["trainer.localisation_lr=0"], "epoch 1: theta is the same", "stn.localisation"),
        (
            "no gradient",
            ["stn.interpolation=nearest", "stn.consistency.weight=0"],
            "step 1: the localisation network has no",
            "stn.",
        ),
    ],
)
def test_a_collapse_is_one_warning_in_the_whole_run_and_in_its_result(
    train, monkeypatch, caplog, diagnosis, settings, warning, remedy
):
    if diagnosis == "outside":
        change_trainer(monkeypatch, shift_out)
    settings = (*settings, "trainer.epochs=3", "run.checkpoint_steps=1")
    for step in (1, 9):
        with monkeypatch.context() as patched:
            interrupt_after(patched, step)
            assert train(*settings)[0] == 130
    code, out, _ = train(*settings)
    assert code == 0
    assert "resumes after step" in out
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message.startswith(f"warning: {warning}")
    assert remedy in record.message
    assert train.run_of(*settings).result()["collapsed"] == diagnosis


def test_a_sound_transformer_has_not_collapsed_and_no_transformer_has_no_diagnosis(train, whole, caplog):
    assert whole["result"]["collapsed"] is None
    assert train("stn=none")[0] == 0
    assert "collapsed" not in train.run_of("stn=none").result()
    assert caplog.records == []


# Settings of runs


def test_an_epoch_may_be_one_step(train, monkeypatch):
    settings = ("trainer.images_per_epoch=30", "trainer.epochs=3", "run.checkpoint_steps=1")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert train(*settings)[0] == 130
    for root in ("outputs", "whole"):
        assert train(*settings, root=root)[::2] == (0, "")
    assert outcome(train.run_of(*settings)) == outcome(train.run_of(*settings, root="whole"))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (("run.checkpoint_seconds=null",), [4, 8]),
        variation(("run.checkpoint_seconds=null", "run.checkpoint_steps=100"), [4, 8]),
        (("run.checkpoint_seconds=null", "run.checkpoint_steps=3"), [3, 4, 6, 8]),
    ],
)
def test_a_checkpoint_is_saved_when_it_is_due_and_after_each_epoch(
    train, whole, monkeypatch, settings, steps
):
    saved = record_saves(monkeypatch)
    assert train(*settings)[0] == 0
    assert saved == steps
    assert outcome(train.run) == whole
    assert [path.name for path in train.run.folder.parent.iterdir()] == [train.run.folder.name]


def test_deterministic_is_the_same_on_a_cpu_and_ends_with_its_run(train, whole):
    assert train("trainer.deterministic=true")[::2] == (0, "")
    assert torch.are_deterministic_algorithms_enabled()
    assert outcome(train.run_of("trainer.deterministic=true")) == whole
    assert train()[0] == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert outcome(train.run) == whole
