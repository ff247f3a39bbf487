"""Disks that are full, broken, read-only or occupied: one clear line, and nothing is half-written."""

import errno
import os
import shutil
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import pytest

from stn_experiments.runs import run_log
from stn_experiments.runs.evaluate import evaluate_run
from stn_experiments.storage import checkpoints, run_folder
from stn_experiments.storage.lock import lock_file
from tests.conftest import variation
from tests.data.damage import files
from tests.runs.harness import (
    FULL,
    assert_complete,
    assert_one_line,
    inject,
    outcome,
    small_files,
)


@pytest.mark.parametrize(
    ("name", "count", "code"),
    [
        ("config.yaml", 1, 2),
        variation("environment.json", 1, 2),
        variation("panel-0002.png", 1, 4),
        ("history.jsonl", 2, 4),
        ("model.pt", 1, 4),
        variation("best.pt", 1, 4),
        variation("last.pt", 1, 4),
        ("last.pt", 2, 4),
        variation("training.gif", 1, 4),
        ("result.json", 1, 4),
    ],
)
def test_a_full_disk_is_one_line_and_with_room_the_same_command_resumes(
    train, whole, monkeypatch, name, count, code
):
    with monkeypatch.context() as patched:
        # The environment's few bytes would fit into the limit of the other files.
        inject(patched, name, partial(small_files, 5 if name == "environment.json" else 100), count)
        got, _, err = train()
    assert got == code
    assert_one_line(err, str(train.run.folder if code == 4 else "run.root"), FULL)
    assert_complete(train.run)
    assert train.run.result() is None
    assert train()[::2] == (0, "")
    assert outcome(train.run) == whole


@pytest.mark.parametrize(
    ("name", "number"), [("last.pt", errno.ENOSPC), variation("history.jsonl", errno.EIO)]
)
def test_a_disk_that_fails_only_at_fsync_is_no_different(train, whole, monkeypatch, name, number):
    """Network file systems accept all writes and fail at fsync."""

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        inject(patched, name, partial(patch.object, os, "fsync", fail), 2)
        code, _, err = train()
    assert code == 4
    assert_one_line(err, os.strerror(number), "the same command resumes from it")
    assert_complete(train.run)
    assert train()[0] == 0
    assert outcome(train.run) == whole


@pytest.mark.parametrize("name", ["", "panels", "checkpoints", "config.yaml", "checkpoints/last.pt", ".lock"])
def test_a_file_or_folder_in_the_way_is_one_line_and_is_left_there(train, name):
    path = lock_file(train.run.folder) if name == ".lock" else train.run.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.mkdir()
        (path / "mine").write_text("mine")
    else:
        path.write_text("mine")
    before = files(train.run.folder.parent)
    code, out, err = train()
    assert (code, out) == (2, "")
    assert_one_line(err, str(path))
    after = files(train.run.folder.parent)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after if path.name.endswith(".tmp")]


def test_a_closed_pipe_ends_a_run_quietly_and_it_can_be_resumed(train, whole, monkeypatch):
    """As in ``train.py | head -n 1``."""

    def closed(metrics, epochs):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(run_log, "epoch_line", closed)
        code, _, err = train()
    assert (code, err) == (141, "")
    assert not train.run.failure_file.exists()
    assert train()[0] == 0
    assert outcome(train.run) == whole


def test_a_forced_run_that_is_stopped_while_it_clears_is_not_finished(train, finished, whole, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_folder.shutil, "rmtree", stop)
        assert train("run.force=true")[0] == 130
    assert finished.result() is None
    assert train("run.force=true")[0] == 0
    assert outcome(finished) == whole


@pytest.mark.parametrize("trouble", ["full", "in the way", "not a model", "of another network"])
def test_an_evaluation_that_fails_is_one_line_and_leaves_nothing_half_written(train, finished, trouble):
    state = checkpoints.load(finished.model)
    if trouble == "in the way":
        (finished.folder / "evaluations").write_text("mine")
    elif trouble == "not a model":
        shutil.copy(finished.last, finished.model)
    elif trouble == "of another network":
        state["model"].pop("backbone.head.bias")
        checkpoints.save(state, finished.model)
    before = files(finished.folder)

    def evaluate(config):
        with small_files() if trouble == "full" else nullcontext():
            return evaluate_run(finished, device_name="cpu")

    code, out, err = train(does=evaluate)
    assert (code, out) == (2, "")
    on_disk = trouble in ("full", "in the way")
    assert_one_line(err, str(finished.folder / "evaluations" if on_disk else finished.model))
    assert files(finished.folder) == before
