"""Checkpoints and results that are damaged, missing or foreign."""

import shutil
from pathlib import Path

import pytest
import torch

from stn_experiments.storage import checkpoints
from tests.runs.harness import assert_one_line, files, flip_a_bit, interrupt_after, outcome

DAMAGES = {
    "a flipped bit": flip_a_bit,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_if_the_last_checkpoint_is_damaged_the_one_before_it_is_used(train, interrupted, whole, damage):
    DAMAGES[damage](interrupted.last)
    code, out, err = train()
    assert (code, err) == (0, "")
    damaged, resumes = out.splitlines()[:2]
    assert damaged.startswith(f"the checkpoint {interrupted.last} is damaged: ")
    assert damaged.endswith("; using the one before it")
    assert resumes == f"{interrupted.folder} resumes after step 5 (in epoch 2)"
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


def test_without_the_last_checkpoint_the_one_before_it_is_used(train, interrupted, whole):
    interrupted.last.unlink()
    code, out, _ = train()
    assert code == 0
    assert f"{interrupted.folder} resumes after step 5 (in epoch 2)" in out
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


def foreign(run, other):
    shutil.copy(other.last, run.last)


def best_of_the_same(run, other):
    shutil.copy(run.best, run.last)


def edit(run, change):
    state = checkpoints.load(run.last)
    change(state["trainer"])
    checkpoints.save(state, run.last)


def older_network(run, other):
    edit(run, lambda trainer: trainer["model"].pop("backbone.head.bias"))


def other_width(run, other):
    edit(run, lambda trainer: trainer["model"].update({"backbone.head.bias": torch.zeros(9)}))


def other_data(run, other):
    edit(run, lambda trainer: trainer["progress"].update(metrics=torch.zeros(4, 3)))


@pytest.mark.parametrize("replaced", [foreign, best_of_the_same, older_network, other_width, other_data])
def test_a_checkpoint_that_does_not_fit_this_run_is_refused(train, interrupted, monkeypatch, replaced):
    other = train.run_of("seed=1")
    if replaced is foreign:
        with monkeypatch.context() as patched:
            interrupt_after(patched, 4)
            assert train("seed=1")[0] == 130
    replaced(interrupted, other)
    before = files(interrupted.folder)
    code, out, err = train()
    assert (code, out) == (2, "")
    assert_one_line(err, str(interrupted.last.parent), "run.force=true starts this run again")
    assert other.folder.name in err or replaced is not foreign
    after = files(interrupted.folder)
    assert all(after[path] == content for path, content in before.items() if path.suffix == ".pt")


@pytest.mark.parametrize(
    "trouble", ["damaged", "missing", "of another run", "of another epoch", "not a best"]
)
def test_without_the_best_epochs_weights_there_is_no_result(train, finished, whole, trouble):
    """No other file has them, and other weights would give another run's result."""
    finished.result_file.unlink()
    state = checkpoints.load(finished.best)
    if trouble == "damaged":
        flip_a_bit(finished.best)
    elif trouble == "missing":
        finished.best.unlink()
    elif trouble == "of another run":
        checkpoints.save({**state, "run": "other"}, finished.best)
    elif trouble == "of another epoch":
        checkpoints.save({**state, "epoch": 3 - state["epoch"]}, finished.best)
    else:
        shutil.copy(finished.last, finished.best)
    before = files(finished.best.parent)
    code, _, err = train()
    assert code == 2
    assert_one_line(err, str(finished.best), "run.force=true starts this run again")
    assert files(finished.best.parent) == before
    assert finished.result() is None
    if trouble == "damaged":
        assert train("run.force=true")[0] == 0
        assert outcome(finished) == whole


def test_a_damaged_result_is_written_again(train, finished, whole):
    content, weights = finished.result_file.read_bytes(), finished.last.read_bytes()
    for damaged in (b"", content[:-40], b"\xff" + content, b"[]", b"{}", b"null"):
        finished.result_file.write_bytes(damaged)
        code, out, err = train()
        assert (code, err) == (0, "")
        assert "epoch 1/2" not in out
        assert outcome(finished) == whole
    assert finished.last.read_bytes() == weights
    assert "is finished already" in train()[1]
