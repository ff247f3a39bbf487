"""Checkpoints and results that are damaged, missing or foreign."""

import shutil
from pathlib import Path

import pytest
import torch

from stn_experiments.storage import checkpoints
from tests.conftest import variation
from tests.data.damage import files
from tests.runs.harness import assert_one_line, flip_a_bit, interrupt_after, outcome

DAMAGES = {
    "a flipped bit": flip_a_bit,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_sound_last_checkpoint_the_one_before_it_is_used(train, interrupted, whole, damage):
    DAMAGES[damage](interrupted.last)
    code, out, err = train()
    assert (code, err) == (0, "")
    *damaged, resumes = out.partition(" (in epoch 2)\n")[0].splitlines()
    assert resumes == f"{interrupted.folder} resumes after step 5"
    if damage != "missing":
        assert damaged[0].startswith(f"the checkpoint {interrupted.last} is damaged: ")
        assert damaged[0].endswith("; using the one before it")
    assert outcome(interrupted) == whole


def test_a_damaged_checkpoint_never_replaces_the_sound_one(train, interrupted, whole, monkeypatch):
    """A run that is killed between the two renames of its next save still has a checkpoint to resume from."""
    flip_a_bit(interrupted.last)
    replace = Path.replace

    def killed(path, target):
        if path.name.startswith(".last.pt."):
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        assert train()[0] == 130
    code, out, _ = train()
    assert code == 0
    assert "resumes after step 5" in out
    assert outcome(interrupted) == whole


def test_two_damaged_checkpoints_are_one_line_and_nothing_is_deleted(train, interrupted, whole):
    for path in (interrupted.last, interrupted.previous):
        flip_a_bit(path)
    before = files(interrupted.folder)
    code, out, err = train("run.checkpoint_steps=1")
    assert (code, out) == (2, "")
    assert_one_line(err, f"{interrupted.last} is damaged", f"{interrupted.previous} is damaged")
    assert "run.force=true starts this run again" in err
    assert files(interrupted.folder) == before
    assert train("run.force=true")[0] == 0
    assert outcome(interrupted) == whole


def edit(run, change):
    state = checkpoints.load(run.last)
    change(state["trainer"])
    checkpoints.save(state, run.last)


REPLACED = {
    "of another run": lambda run, other: shutil.copy(other.last, run.last),
    "of the best epoch": lambda run, _: shutil.copy(run.best, run.last),
    "of an older network": lambda run, _: edit(run, lambda state: state["model"].pop("backbone.head.bias")),
    "of another width": lambda run, _: edit(
        run, lambda state: state["model"].update({"backbone.head.bias": torch.zeros(9)})
    ),
    "of other data": lambda run, _: edit(
        run, lambda state: state["progress"].update(metrics=torch.zeros(4, 3))
    ),
}


@pytest.mark.parametrize("replaced", REPLACED)
def test_a_checkpoint_that_does_not_fit_this_run_is_refused(train, interrupted, monkeypatch, replaced):
    other = train.run_of("seed=1")
    if replaced == "of another run":
        with monkeypatch.context() as patched:
            interrupt_after(patched, 4)
            assert train("seed=1")[0] == 130
    REPLACED[replaced](interrupted, other)
    before = files(interrupted.folder)
    code, out, err = train()
    assert (code, out) == (2, "")
    assert_one_line(err, str(interrupted.last.parent), "run.force=true starts this run again")
    assert other.folder.name in err or replaced != "of another run"
    after = files(interrupted.folder)
    assert all(after[path] == content for path, content in before.items() if path.suffix == ".pt")


@pytest.mark.parametrize("name", ["model", variation("best")])
@pytest.mark.parametrize("trouble", ["damaged", "missing", "of another run", "of another epoch", "no model"])
def test_without_the_weights_to_test_there_is_no_result(train, finished, whole, trouble, name):
    """No other file has them, and other weights would give another run's result."""
    file = getattr(finished, name)
    finished.result_file.unlink()
    state = checkpoints.load(file)
    if trouble == "damaged":
        flip_a_bit(file)
    elif trouble == "missing":
        file.unlink()
    elif trouble == "of another run":
        checkpoints.save({**state, "run": "other"}, file)
    elif trouble == "of another epoch":
        checkpoints.save({**state, "epoch": 3 - state["epoch"]}, file)
    else:
        shutil.copy(finished.last, file)
    before = files(finished.last.parent)
    code, _, err = train()
    assert code == 2
    assert_one_line(err, str(file), "run.force=true starts this run again")
    assert files(finished.last.parent) == before
    assert finished.result() is None
    if trouble == "damaged":
        assert train("run.force=true")[0] == 0
        assert outcome(finished) == whole


def test_a_damaged_result_is_written_again(train, finished, whole):
    content, weights = finished.result_file.read_bytes(), finished.last.read_bytes()
    for damaged in (content[:-40], b"[]"):
        finished.result_file.write_bytes(damaged)
        code, out, err = train()
        assert (code, err) == (0, "")
        assert "epoch 1/2" not in out
        assert outcome(finished) == whole
    assert finished.last.read_bytes() == weights
    assert "is finished already" in train()[1]


def test_a_damaged_panel_costs_the_animation_alone(train, finished, whole, caplog):
    finished.result_file.unlink()
    panel = finished.panel(1)
    panel.write_bytes(panel.read_bytes()[:100])
    assert train()[0] == 0
    (line,) = caplog.messages
    assert line.startswith("warning: there is no animation, for a panel cannot be read: ")
    assert outcome(finished)["result"] == whole["result"]


def test_a_checkpoint_that_cannot_be_read_now_is_not_replaced(train, interrupted, monkeypatch):
    load = torch.load

    def failing(path, **settings):
        if path == interrupted.last:
            raise OSError(5, "Input/output error")
        return load(path, **settings)

    before = files(interrupted.last.parent)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", failing)
        code, _, err = train()
    assert code == 2
    assert_one_line(err, f"{interrupted.last} cannot be read: [Errno 5] Input/output error")
    assert files(interrupted.last.parent) == before
