"""A step shown again is the step that was, wherever it lies, and showing it changes nothing of the run."""

import json

import pytest
import torch
from PIL import Image

from stn_experiments.runs import replay
from stn_experiments.runs.replay import replay_step
from stn_experiments.storage.lock import run_lock
from stn_experiments.training import loop
from tests.runs.test_faults import (
    FULL,
    STEPS,
    Room,
    Train,
    end,
    flip,
    interrupt,
    quicken,
    see_one_line,
    tree,
)

DIVERGING = ("optimizer=sgd", "optimizer.lr=1e30", "scheduler=constant")


@pytest.fixture
def train(few_digits, compose, monkeypatch, tmp_path, capfd):
    quicken(monkeypatch)
    return Train(few_digits, compose, tmp_path, capfd)


@pytest.fixture
def columns(monkeypatch):
    """What the steps of training were like, in their order."""
    step, seen = loop.train_step, []

    def seeing(*arguments):
        seen.append(step(*arguments))
        return seen[-1]

    monkeypatch.setattr(loop, "train_step", seeing)
    return seen


@pytest.fixture
def shown(train):
    """What a replay shows of a step, by the heads of its lines."""

    def show(step, *settings):
        code, out, err = train(f"run.replay={step}", *settings, does=replay_step)
        assert (code, err) == (0, "")
        return dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)

    return lambda *arguments: {head: text.strip() for head, text in show(*arguments).items()}


def without_replays(folder):
    return {path: content for path, content in tree(folder).items() if path.parent.name != "replays"}


def see_the_step(shown, step, column, *settings):
    loss, wrong, localisation, network = column.tolist()
    lines = shown(step, *settings)
    epoch, before = divmod(step - 1, STEPS)
    assert lines[f"step {step}"] == f"epoch {epoch + 1}, batch {before + 1} of {STEPS}"
    assert lines["loss"] == f"{loss:.6g}"
    assert lines["error"] == f"{100 * wrong:.2f} %"
    both = f"network {network:.4g}, localisation {localisation:.4g}"
    assert lines["gradient"] == (f"network {network:.4g}" if "stn=none" in settings else both)
    return lines


def test_a_replay_shows_each_step_as_it_was_in_the_run(train, columns, shown):
    """The first and the last of an epoch among them, of which the checkpoints lie before and after."""
    assert train()[0] == 0
    run, before = train.run, without_replays(train.run.folder)
    history = [json.loads(line) for line in run.history_file.open()]
    for epoch, line in enumerate(history):
        mean = torch.stack(columns[epoch * STEPS :][:STEPS]).mean(0).tolist()
        wanted = [line[name] for name in ("train_loss", "train_error", "localisation_gradient", "gradient")]
        assert [mean[0], 100 * mean[1], *mean[2:]] == pytest.approx(wanted)
    of_the_run = columns[: 2 * STEPS]
    for step in (1, 3, 4, 5, 8):
        lines = see_the_step(shown, step, of_the_run[step - 1])
        assert "% of the grid outside the image" in lines["theta 1"]
        assert lines["images"].startswith("from 0 to ")
        assert len([head for head in lines if head.startswith("gradient of")]) == replay.SHOWN
        panel = run.folder / "replays" / f"step-{step:06d}.png"
        assert lines["panel"] == str(panel)
        assert Image.open(panel).height > 1000
    assert without_replays(run.folder) == before


def test_a_replay_begins_at_the_last_checkpoint_before_the_step(train, columns, shown, monkeypatch):
    """Of an interrupted run with one of step 6 and one of step 5; it may also show what is still to come."""
    assert train(root="whole")[0] == 0
    of_the_run = columns[:]
    with monkeypatch.context() as patched:
        interrupt(patched, 6)
        assert train("run.checkpoint_steps=1")[0] == 130
    before = without_replays(train.run.folder)
    for step, trained in ((3, 2), (5, 4), (6, 0), (7, 0), (8, 1)):
        columns.clear()
        see_the_step(shown, step, of_the_run[step - 1])
        assert len(columns) == trained
    assert without_replays(train.run.folder) == before
    assert train()[0] == 0
    assert end(train.run) == end(train.run_of(root="whole"))


def test_without_a_transformer_nothing_is_said_of_one(train, columns, shown):
    assert train("stn=none")[0] == 0
    lines = see_the_step(shown, 2, columns[1], "stn=none")
    assert not [head for head in lines if "theta" in head]


def test_damaged_checkpoints_only_make_it_longer(train, columns, shown, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt(patched, 6)
        assert train("run.checkpoint_steps=1")[0] == 130
    of_the_run = columns[:]
    for damaged, trained, told in (
        (train.run.last, 0, "the one before it is taken"),
        (train.run.previous, 5, "the step is reached from the start"),
    ):
        flip(damaged)
        before = without_replays(train.run.folder)
        columns.clear()
        see_the_step(shown, 6, of_the_run[5])
        assert len(columns) == trained
        _, out, _ = train("run.replay=6", does=replay_step)
        assert f"the checkpoint {damaged} is damaged: it is not what was written; {told}\n" in out
        assert without_replays(train.run.folder) == before


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_was_not_finite_is_shown_as_it_was(train, shown, monkeypatch, kind):
    settings, hook = DIVERGING, replay.prepare
    if kind == "gradient":
        settings = ()

        def prepare(*arguments):
            training = hook(*arguments)
            bad = torch.tensor([1.0, float("inf")])
            head = training.model.get_parameter("backbone.head.bias")
            head.register_hook(lambda gradient: gradient * bad[int(training.progress.step == 5)])
            return training

        for owner in ("train_run", "replay"):
            monkeypatch.setattr(f"stn_experiments.{owner}.prepare", prepare)
    code, _, err = train(*settings, "run.checkpoint_steps=1")
    assert code == 4
    step = int(err.split(f"the {kind} of step ")[1].split()[0])
    run = train.run_of(*settings)
    before = without_replays(run.folder)
    lines = shown(step, *settings)
    assert (lines["loss"] in ("nan", "inf")) is (kind == "loss")
    first_gradient = next(head for head in lines if head.startswith("gradient of"))
    assert lines[first_gradient] in ("nan", "inf")
    assert kind == "loss" or first_gradient == "gradient of backbone.head.bias"
    assert lines["images"].startswith("from 0 to ")
    assert "nan" not in shown(step - 1, *settings)["gradient"]
    assert without_replays(run.folder) == before


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (9, "run.replay must be a step of the run, from 1 to 8, got 9"),
        (0, "run.replay must be an integer at least 1 or null, got 0"),
        ("first", "run.replay must be an integer at least 1 or null, got 'first'"),
    ],
)
def test_a_step_that_the_run_has_not_is_one_line(train, monkeypatch, step, words):
    with monkeypatch.context() as patched:
        interrupt(patched, 4)
        assert train()[0] == 130
    before = tree(train.run.folder)
    code, out, err = train(f"run.replay={step}", does=replay_step)
    assert (code, out) == (2, "")
    see_one_line(err, words)
    assert tree(train.run.folder) == before


def test_a_run_that_is_not_there_is_one_line(train):
    code, out, err = train("run.replay=3", does=replay_step)
    assert (code, out) == (2, "")
    see_one_line(err, f"there is no {train.run.folder}")
    assert not train.run.folder.parent.exists()


@pytest.mark.parametrize("trouble", ["disk", "memory"])
def test_a_replay_that_fails_is_one_line_and_leaves_nothing(train, monkeypatch, trouble):
    assert train()[0] == 0
    save, step = replay.save_picture, replay.train_step
    before = tree(train.run.folder)
    with monkeypatch.context() as patched:
        if trouble == "disk":

            def full(*arguments):
                with Room():
                    save(*arguments)

            patched.setattr(replay, "save_picture", full)
        else:

            def too_large(*_):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

            patched.setattr(replay, "train_step", too_large)
        code, out, err = train("run.replay=3", does=replay_step)
    assert (code, out) == (4, "")
    see_one_line(err, FULL if trouble == "disk" else "too little memory for trainer.batch_size=30")
    assert step is replay.train_step
    assert {path: tree(train.run.folder).get(path) for path in before} == before
    assert without_replays(train.run.folder) == before
    assert not list(train.run.folder.rglob(".*"))


def test_a_replay_neither_waits_for_the_lock_nor_throws_the_run_away(train, columns, shown):
    assert train()[0] == 0
    before = without_replays(train.run.folder)
    with run_lock(train.run.folder):
        see_the_step(shown, 5, columns[4], "run.force=true")
    assert without_replays(train.run.folder) == before
