"""A replayed step is the step that was, and replaying it changes nothing in the run."""

import json

import pytest
import torch
from PIL import Image

from stn_experiments.runs import replay as replay_module
from stn_experiments.runs import train as train_module
from stn_experiments.runs.replay import SHOWN, replay
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.loop import StepMetrics, Trainer
from tests.data.damage import files
from tests.data.signs import write_signs
from tests.runs.harness import (
    FULL,
    STEPS,
    assert_one_line,
    flip_a_bit,
    interrupt_after,
    npz_settings,
    small_files,
)

DIVERGING = ("optimizer=sgd", "optimizer.lr=1e30", "scheduler=constant")


@pytest.fixture
def steps(monkeypatch):
    """The metrics of all training steps so far."""
    train_step, seen = Trainer.train_step, []

    def record(trainer, batch):
        seen.append(train_step(trainer, batch))
        return seen[-1]

    monkeypatch.setattr(Trainer, "train_step", record)
    return seen


@pytest.fixture
def show(train):
    """What a replay prints of a step, by the heads of its lines."""

    def run(step, *settings):
        code, out, err = train(*settings, does=replay_of(step))
        assert (code, err) == (0, "")
        lines = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
        return {head: text.strip() for head, text in lines.items()}

    return run


def replay_of(step):
    """Replays a step of the run of a config."""
    return lambda config: replay(RunFolder.of(config), step)


def without_replays(folder):
    return {path: content for path, content in files(folder).items() if path.parent.name != "replays"}


def assert_shows(show, step, metrics, *settings):
    metrics = StepMetrics(*metrics.tolist())
    lines = show(step, *settings)
    epoch, before = divmod(step - 1, STEPS)
    assert lines[f"step {step}"] == f"epoch {epoch + 1}, batch {before + 1} of {STEPS}"
    assert lines["loss"] == f"{metrics.loss:.6g}"
    assert lines["error"] == f"{100 * metrics.error:.2f} %"
    network = f"network {metrics.gradient:.4g}"
    both = f"{network}, localisation {metrics.localisation_gradient:.4g}"
    assert lines["gradient"] == (network if "stn=none" in settings else both)
    return lines


def test_a_replay_shows_each_step_as_it_was_in_the_run(train, steps, show):
    """The first and the last of an epoch among them, of which the checkpoints lie before and after."""
    assert train()[0] == 0
    run, before = train.run, without_replays(train.run.folder)
    history = [json.loads(line) for line in run.history_file.open()]
    for epoch, line in enumerate(history):
        mean = torch.stack(steps[epoch * STEPS :][:STEPS]).mean(0).tolist()
        names = ("train_loss", "train_error", "localisation_gradient", "gradient", "train_consistency")
        wanted = [line[name] for name in names]
        assert [mean[0], 100 * mean[1], *mean[2:]] == pytest.approx(wanted)
    of_the_run = steps[: 2 * STEPS]
    for step in (1, 3, 4, 5, 8):
        lines = assert_shows(show, step, of_the_run[step - 1])
        assert "% of the grid outside the image" in lines["theta 1"]
        assert lines["images"].startswith("from 0 to ")
        assert len([head for head in lines if head.startswith("gradient of")]) == SHOWN
        panel = run.folder / "replays" / f"step-{step:06d}.png"
        assert lines["panel"] == str(panel)
        assert Image.open(panel).height > 1000
    assert without_replays(run.folder) == before


@pytest.mark.slow
def test_a_replay_begins_at_the_last_checkpoint_before_the_step(train, steps, show, monkeypatch):
    """Of an interrupted run with one of step 6 and one of step 5; it may also show what is still to come."""
    assert train(root="whole")[0] == 0
    of_the_run = steps[:]
    with monkeypatch.context() as patched:
        interrupt_after(patched, 6)
        assert train("run.checkpoint_steps=1")[0] == 130
    before = without_replays(train.run.folder)

    def assert_repeats(step, trained):
        steps.clear()
        assert_shows(show, step, of_the_run[step - 1])
        assert len(steps) == trained + 1  # the step itself

    for step, trained in ((3, 2), (5, 4), (6, 0), (7, 0), (8, 1)):
        assert_repeats(step, trained)
    assert without_replays(train.run.folder) == before
    for damaged, trained, told in (
        (train.run.last, 0, "using the one before it"),
        (train.run.previous, 5, "training starts from the beginning"),
    ):
        flip_a_bit(damaged)
        before = without_replays(train.run.folder)
        assert_repeats(6, trained)
        _, out, _ = train(does=replay_of(6))
        assert f"the checkpoint {damaged} is damaged: its digest does not match; {told}\n" in out
        assert without_replays(train.run.folder) == before


def test_without_a_transformer_nothing_is_said_of_one(train, steps, show):
    assert train("stn=none")[0] == 0
    lines = assert_shows(show, 2, steps[1], "stn=none")
    assert not [head for head in lines if "theta" in head]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_was_not_finite_is_shown_as_it_was(train, show, monkeypatch, kind):
    settings, make_trainer = DIVERGING, train_module.make_trainer
    if kind == "gradient":
        settings = ()

        def make(*arguments):
            trainer = make_trainer(*arguments)
            factor = torch.tensor([1.0, float("inf")])
            head = trainer.model.get_parameter("backbone.head.bias")
            head.register_hook(lambda gradient: gradient * factor[int(trainer.step == 5)])
            return trainer

        for module in (train_module, replay_module):
            monkeypatch.setattr(module, "make_trainer", make)
    code, _, err = train(*settings, "run.checkpoint_steps=1")
    assert code == 4
    step = int(err.split(f"the {kind} of step ")[1].split()[0])
    run = train.run_of(*settings)
    before = without_replays(run.folder)
    lines = show(step, *settings)
    assert (lines["loss"] in ("nan", "inf")) is (kind == "loss")
    first_gradient = next(head for head in lines if head.startswith("gradient of"))
    assert lines[first_gradient] in ("nan", "inf")
    assert kind == "loss" or first_gradient == "gradient of backbone.head.bias"
    assert lines["images"].startswith("from 0 to ")
    assert "nan" not in show(step - 1, *settings)["gradient"]
    assert without_replays(run.folder) == before


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (9, "--step must be a step of the run, from 1 to 8, got 9"),
        (0, "--step must be a step of the run, from 1 to 8, got 0"),
    ],
)
def test_a_step_that_the_run_has_not_is_one_line(train, monkeypatch, step, words):
    with monkeypatch.context() as patched:
        interrupt_after(patched, 4)
        assert train()[0] == 130
    before = files(train.run.folder)
    code, out, err = train(does=replay_of(step))
    assert (code, out) == (2, "")
    assert_one_line(err, words)
    assert files(train.run.folder) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["x" * 300, "--step", "1"], "xx is not a run: there is no such folder"),
        (["outputs"], "the following arguments are required: --step"),
        (["outputs", "--step", "one"], "argument --step: invalid int value: 'one'"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, line, words):
    assert words in refused("replay.py", *line)


def test_the_folder_of_a_run_is_enough(train, command, refused, tmp_path, monkeypatch):
    """The run's data file has a relative path, and the command starts in another folder."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    npz_settings(tmp_path / "there")
    settings = ("data=npz", "data.file=digits.npz")
    assert train(*settings)[0] == 0
    run = train.run_of(*settings).folder
    code, out, err = command("replay.py", run.relative_to(tmp_path), "--step", 2)
    assert (code, err) == (0, "")
    assert out.startswith("step 2 ")
    assert f"panel       {run / 'replays' / 'step-000002.png'}\n" in out
    npz_settings(tmp_path / "there", count=121)
    line = f"{tmp_path}/there/digits.npz has changed since {run} was trained on it"
    assert line in refused("replay.py", run, "--step", 2)


def test_a_folder_of_images_that_has_changed_is_one_line(command, refused, tmp_path):
    folder = write_signs(tmp_path / "signs", {"train": 6, "test": 1}, classes=2)
    words = (f"data.folder={folder}", "data.size=28", "trainer.batch_size=2", "trainer.device=cpu")
    assert command("train.py", "data=folder", *words, "trainer.epochs=1", "backbone.width=4")[0] == 0
    (run,) = (tmp_path / "outputs").glob("signs-*")
    assert command("replay.py", run, "--step", 1)[0] == 0
    next((folder / "train").rglob("*.png")).unlink()
    assert f"{folder} has changed since {run} was trained on it" in refused("replay.py", run, "--step", 1)


@pytest.mark.parametrize("trouble", ["disk", "memory"])
def test_a_replay_that_fails_is_one_line_and_leaves_nothing(train, finished, monkeypatch, trouble):
    before = files(finished.folder)

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patched:
        if trouble == "disk":
            patched.setattr(replay_module, "save_picture", small_files()(replay_module.save_picture))
        else:
            patched.setattr(Trainer, "train_step", too_large)
        code, out, err = train(does=replay_of(3))
    assert (code, out) == (4, "")
    assert_one_line(err, FULL if trouble == "disk" else "too little memory for trainer.batch_size=30")
    assert without_replays(train.run.folder) == before
    assert not list(train.run.folder.rglob(".*"))


def test_a_file_in_the_way_of_a_replay_is_a_mistake(train, finished):
    place = finished.folder / "replays"
    place.write_text("mine")
    code, out, err = train(does=replay_of(3))
    assert (code, out) == (2, "")
    assert_one_line(err, f"{place} cannot be written to")
    place.unlink()


def test_a_replay_neither_waits_for_the_lock_nor_throws_the_run_away(train, steps, show):
    assert train()[0] == 0
    before = without_replays(train.run.folder)
    with run_lock(train.run.folder):
        assert_shows(show, 5, steps[4], "run.force=true")
    assert without_replays(train.run.folder) == before
