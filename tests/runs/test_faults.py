"""Trouble while training: it ends in one clear line or is overcome, and nothing is lost or half written."""

import errno
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import record_writer

from stn_experiments.cli.command import run_command
from stn_experiments.data import datasets, idx, mnist
from stn_experiments.data.distortions import index_batch
from stn_experiments.runs import saving
from stn_experiments.runs import train as module
from stn_experiments.runs.evaluate import evaluate_run
from stn_experiments.runs.train import summary, train_run
from stn_experiments.storage import checkpoints
from stn_experiments.storage import run_folder as runs
from stn_experiments.storage.run_folder import RunFolder, run_name
from stn_experiments.tracking import tensorboard
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.training import loop
from tests.conftest import ROOT

SMALL = (
    "trainer=quick",
    "trainer.device=cpu",
    "trainer.batch_size=30",
    "backbone.width=4",
    "backbone.pool=2",
)
STEPS = 4  # in each of two epochs
TIMES = ("seconds", "train_seconds", "images_per_second")
ROOM = 100  # bytes that a file may have on a full disk, which are too few for all that a run writes
FULL = "[Errno 27] File too large"  # what that limit is called
CONFIGS, WHOLE = {}, {}


class Train:
    """What scripts/train.py does with settings beside the small ones: its exit code, stdout and stderr."""

    def __init__(self, few_digits, compose, folder, capfd):
        self.small = (*few_digits, *SMALL)
        self.compose, self.folder, self.capfd = compose, folder, capfd
        self.run = self.run_of()

    def __call__(self, *settings, does=lambda config: summary(config, train_run(config)), **where):
        config, code = self.config(*settings, **where), 0
        self.capfd.readouterr()
        try:
            run_command(lambda: print(does(config)))
        except SystemExit as left:
            code = left.code
        return code, *self.capfd.readouterr()

    def config(self, *settings, root="outputs", small=None):
        key = (small or self.small) + settings
        if key not in CONFIGS:
            CONFIGS[key] = self.compose(*key)
        return {**CONFIGS[key], "run": {**CONFIGS[key]["run"], "root": str(self.folder / root)}}

    def run_of(self, *settings, **where):
        config = self.config(*settings, **where)
        return RunFolder(Path(config["run"]["root"]) / run_name(config))

    def whole(self):
        """What a run comes to that nothing happens to."""
        if not WHOLE:
            assert self(root="whole")[0] == 0
            WHOLE.update(end(self.run_of(root="whole")))
        return WHOLE


def quicken(monkeypatch):
    """Small panels of three digits, and no question to git."""
    monkeypatch.setattr(module, "draw_panel", partial(draw_panel, cell=30))
    monkeypatch.setattr(module, "one_of_each_class", lambda batch: index_batch(batch, slice(0, 3)))
    for owner in (module, runs):
        monkeypatch.setattr(owner, "commit", lambda: "unknown")


@pytest.fixture
def train(few_digits, compose, monkeypatch, tmp_path, capfd):
    quicken(monkeypatch)
    return Train(few_digits, compose, tmp_path, capfd)


@pytest.fixture
def whole(train):
    return train.whole()


def end(run):
    """All that a finished run has come to, but how long it took."""
    history = [timeless(json.loads(line)) for line in run.history_file.read_text().splitlines()]
    last, best = (checkpoints.load(path) for path in (run.last, run.best))
    weights = (last["training"]["model"], last["training"]["optimizer"], best["model"])
    panels = {path.name: md5(path.read_bytes()).hexdigest() for path in run.animation.parent.iterdir()}
    return {
        "result": timeless(run.result()),
        "history": history,
        "weights": checkpoints.digest(weights),
        "panels": panels,
    }


def same_but_for_panels(one, other):
    """Those that a process has drawn are large."""
    return {**end(one), "panels": None} == {**end(other), "panels": None}


def of_a_file(path):
    """Settings of a run on digits that a process can read, from a file that is made here."""
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), np.uint8)
    counts = {"train": 120, "valid": 20, "test": 20}
    arrays = {f"x_{split}": np.resize(images, (count, 28, 28)) for split, count in counts.items()}
    arrays |= {f"y_{split}": np.arange(count) % 10 for split, count in counts.items()}
    np.savez(path, **arrays)
    return ("data=npz", f"data.file={path}", *SMALL)


def timeless(line):
    return {key: value for key, value in line.items() if key not in TIMES}


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def see_that_all_is_whole(run):
    """Each file of a run's folder is as it was once written, and none is on its way."""
    for path in run.folder.rglob("*"):
        if path.suffix in (".png", ".gif"):
            Image.open(path).load()
        elif path.suffix == ".pt":
            checkpoints.load(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert [json.loads(line)["epoch"] for line in path.open()] in ([1], [1, 2])
        elif path.is_file():
            assert path == run.config_file or "tfevents" in path.name, f"{path} is left"
    if run.config_file.exists():
        assert run.config()["seed"] == 0


def see_one_line(err, *words):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


class Room:
    """Within, files may not grow beyond ``most`` bytes: the system itself refuses, amid a write."""

    def __init__(self, most=ROOM):
        self.most = most

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def at(monkeypatch, place, trouble, count=1):
    """Have the ``count``-th writing of a file, and all later ones, done within ``trouble``."""
    owner, name = {
        ".pt": (checkpoints, "save"),
        ".jsonl": (module, "write_atomically"),
        ".png": (module, "save_picture"),
        ".gif": (module, "save_animation"),
    }.get(Path(place).suffix, (module if place == "result.json" else runs, "write_atomically"))
    write, seen = getattr(owner, name), []

    def troubled(*arguments, **named):
        if not any(isinstance(argument, Path) and argument.name == place for argument in arguments):
            return write(*arguments, **named)
        seen.append(place)
        if len(seen) < count:
            return write(*arguments, **named)
        with trouble:
            return write(*arguments, **named)

    monkeypatch.setattr(owner, name, troubled)


def interrupt(monkeypatch, step):
    """Have Ctrl-C pressed twice, so that nothing more is done, once a checkpoint of ``step`` is written."""
    save = module.save

    def saving_last(training, history, run):
        save(training, history, run)
        if training.progress.step >= step:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save", saving_last)


@pytest.fixture
def interrupted(train, monkeypatch):
    """Of a run that is interrupted after step 6, with last.pt of that step and previous.pt of step 5."""
    with monkeypatch.context() as patched:
        interrupt(patched, 6)
        assert train("run.checkpoint_steps=1")[0] == 130
    steps = [checkpoints.load(path)["training"]["progress"] for path in (train.run.last, train.run.previous)]
    assert [(step["epoch"], step["done"]) for step in steps] == [(2, 2), (2, 1)]
    return train.run


@pytest.mark.parametrize(
    ("place", "count", "code"),
    [
        ("config.yaml", 1, 2),
        ("environment.json", 1, 2),
        ("panel-0002.png", 1, 4),
        ("history.jsonl", 2, 4),
        ("best.pt", 1, 4),
        ("last.pt", 1, 4),
        ("last.pt", 2, 4),
        ("training.gif", 1, 4),
        ("result.json", 1, 4),
    ],
)
def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    train, whole, monkeypatch, place, count, code
):
    with monkeypatch.context() as patched:
        at(patched, place, Room(), count)
        got, _, err = train()
    assert got == code
    see_one_line(err, str(train.run.folder if code == 4 else "run.root"), FULL)
    see_that_all_is_whole(train.run)
    assert train.run.result() is None
    code, _, err = train()
    assert (code, err) == (0, "")
    assert end(train.run) == whole


@pytest.mark.parametrize(("place", "number"), [("last.pt", errno.ENOSPC), ("history.jsonl", errno.EIO)])
def test_a_disk_that_refuses_only_in_the_end_is_no_different(train, whole, monkeypatch, place, number):
    """Network file systems, and those that allocate late, take all writes and fail at fsync."""

    class Refusing:
        def __enter__(self):
            self.fsync = os.fsync
            os.fsync = self.refuse

        def __exit__(self, *_):
            os.fsync = self.fsync

        def refuse(self, opened):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        at(patched, place, Refusing(), 2)
        code, _, err = train()
    assert code == 4
    see_one_line(err, os.strerror(number), "the same command goes on from it")
    see_that_all_is_whole(train.run)
    assert train()[0] == 0
    assert end(train.run) == whole


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_process_on_a_full_disk_says_two_lines_and_prints_no_traceback(train, tmp_path):
    """TensorBoard's file is the first that is too long, the last checkpoint the second."""
    settings = of_a_file(tmp_path / "digits.npz")
    script = [sys.executable, "-c", LIMITED, "130000", str(ROOT / "scripts" / "train.py")]
    command = [*script, *settings, f"run.root={tmp_path / 'outputs'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 4
    warning, error = done.stderr.splitlines()
    assert warning == f"warning: TensorBoard cannot be written ({FULL}); the run goes on without it"
    assert error.startswith("error: training stopped: ")
    assert FULL in error
    assert done.stdout.startswith("epoch 1/2")
    (folder,) = (tmp_path / "outputs").iterdir()
    see_that_all_is_whole(RunFolder(folder))
    for root in ("outputs", "whole"):
        assert train(root=root, small=settings)[0] == 0
    assert same_but_for_panels(RunFolder(folder), RunFolder(tmp_path / "whole" / folder.name))


@pytest.mark.parametrize("place", ["", "panels", "checkpoints", "config.yaml", "checkpoints/last.pt", "lock"])
def test_what_is_in_the_way_is_one_line_and_is_left_there(train, place):
    path = train.run.folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.mkdir()
        (path / "mine").write_text("mine")
    else:
        path.write_text("mine") if place != "lock" else path.mkdir()
    before = tree(train.run.folder.parent)
    code, out, err = train()
    assert (code, out) == (2, "")
    see_one_line(err, str(path))
    after = tree(train.run.folder.parent)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after if path.name.endswith(".tmp")]


def test_a_file_system_that_is_read_only_is_one_line(train, monkeypatch, tmp_path):
    """Tests may run as root, whom no mode stops."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, out, err = train()
    assert (code, out) == (2, "")
    see_one_line(err, "run.root must be a folder that can be written to", "Read-only file system")
    assert not (tmp_path / "outputs").exists()


def test_a_reader_of_its_output_that_goes_away_ends_it_as_what_it_is(train, whole, monkeypatch):
    """As in ``train.py | head -n 1``."""

    def gone(metrics, epochs):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patched:
        patched.setattr(module, "epoch_line", gone)
        code, _, err = train()
    assert code == 4
    see_one_line(err, "its output cannot be written to ([Errno 32] Broken pipe)")
    assert train()[0] == 0
    assert end(train.run) == whole


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_it_is_taken(train, interrupted, whole, damage):
    DAMAGES[damage](interrupted.last)
    code, out, err = train()
    assert (code, err) == (0, "")
    damaged, goes_on = out.splitlines()[:2]
    assert damaged.startswith(f"the checkpoint {interrupted.last} is damaged: ")
    assert damaged.endswith("; the one before it is taken")
    assert goes_on == f"{interrupted.folder} goes on after step 5 (in epoch 2)"
    assert end(interrupted) == whole


def test_a_damaged_checkpoint_never_takes_the_place_of_the_sound_one(train, interrupted, whole, monkeypatch):
    """Killed between the two renames of the first save after it, a run still has what it goes on from."""
    flip(interrupted.last)
    replace = Path.replace

    def killed(path, target):
        if path.name == "last.pt.tmp":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        assert train()[0] == 130
    code, out, _ = train()
    assert code == 0
    assert "goes on after step 5" in out
    assert end(interrupted) == whole


def test_without_the_last_checkpoint_the_one_before_it_is_taken(train, interrupted, whole):
    interrupted.last.unlink()
    code, out, _ = train()
    assert code == 0
    assert f"{interrupted.folder} goes on after step 5 (in epoch 2)" in out
    assert end(interrupted) == whole


def test_two_damaged_checkpoints_are_one_line_and_nothing_is_deleted(train, interrupted, whole):
    for path in (interrupted.last, interrupted.previous):
        flip(path)
    before = tree(interrupted.folder)
    code, out, err = train("run.checkpoint_steps=1")
    assert (code, out) == (2, "")
    see_one_line(err, f"{interrupted.last} is damaged", f"{interrupted.previous} is damaged")
    assert "run.force=true starts this run again" in err
    assert tree(interrupted.folder) == before
    assert train("run.force=true")[0] == 0
    assert end(interrupted) == whole


def foreign(run, other):
    shutil.copy(other.last, run.last)


def best_of_the_same(run, other):
    shutil.copy(run.best, run.last)


def change(run, edit):
    state = checkpoints.load(run.last)
    edit(state["training"])
    checkpoints.save(state, run.last)


def older_network(run, other):
    change(run, lambda training: training["model"].pop("backbone.head.bias"))


def other_width(run, other):
    change(run, lambda training: training["model"].update({"backbone.head.bias": torch.zeros(9)}))


def other_data(run, other):
    """As where the file of ``data=npz`` has changed, which the run's name does not tell."""
    change(run, lambda training: training["progress"].update(steps=torch.zeros(4, 3)))


@pytest.mark.parametrize("replaced", [foreign, best_of_the_same, older_network, other_width, other_data])
def test_a_checkpoint_that_is_not_of_this_training_is_refused(train, interrupted, monkeypatch, replaced):
    other = train.run_of("seed=1")
    if replaced is foreign:
        with monkeypatch.context() as patched:
            interrupt(patched, 4)
            assert train("seed=1")[0] == 130
    replaced(interrupted, other)
    before = tree(interrupted.folder)
    code, out, err = train()
    assert (code, out) == (2, "")
    see_one_line(err, str(interrupted.last.parent), "run.force=true starts this run again")
    assert other.folder.name in err or replaced is not foreign
    after = tree(interrupted.folder)
    assert {path: after.get(path) for path in before if path.suffix == ".pt"} == {
        path: content for path, content in before.items() if path.suffix == ".pt"
    }


@pytest.fixture
def finished(train, whole):
    assert train()[0] == 0
    return train.run


@pytest.mark.parametrize(
    "trouble", ["damaged", "missing", "of another run", "of another epoch", "not a best"]
)
def test_without_the_best_epochs_weights_there_is_no_result(train, finished, whole, trouble):
    """They are nowhere else, and a test of any others would not be this run's."""
    finished.result_file.unlink()
    state = checkpoints.load(finished.best)
    if trouble == "damaged":
        flip(finished.best)
    elif trouble == "missing":
        finished.best.unlink()
    elif trouble == "of another run":
        checkpoints.save({**state, "run": "other"}, finished.best)
    elif trouble == "of another epoch":
        checkpoints.save({**state, "epoch": 3 - state["epoch"]}, finished.best)
    else:
        shutil.copy(finished.last, finished.best)
    before = tree(finished.best.parent)
    code, _, err = train()
    assert code == 2
    see_one_line(err, str(finished.best), "run.force=true starts this run again")
    assert tree(finished.best.parent) == before
    assert finished.result() is None
    if trouble == "damaged":
        assert train("run.force=true")[0] == 0
        assert end(finished) == whole


def test_a_damaged_result_is_made_again(train, finished, whole):
    content = finished.result_file.read_bytes()
    weights = finished.last.read_bytes()
    for damaged in (b"", content[:-40], bytes(len(content)), b"\xff" + content, b"[]", b"{}", b"null", b"3"):
        finished.result_file.write_bytes(damaged)
        code, out, err = train()
        assert (code, err) == (0, "")
        assert "epoch 1/2" not in out
        assert end(finished) == whole
    assert finished.last.read_bytes() == weights
    assert "is finished already" in train()[1]


def refuse(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("method", ["__init__", "add_scalar", "close", "the thread"])
def test_trouble_with_tensorboard_is_one_warning(train, whole, monkeypatch, caplog, method):
    with monkeypatch.context() as patched:
        if method == "the thread":
            write, count = record_writer.RecordWriter.write, []

            def troubled(writer, data):
                count.append(data)
                return refuse() if len(count) > 5 else write(writer, data)

            patched.setattr(record_writer.RecordWriter, "write", troubled)
        else:
            patched.setattr(tensorboard.SummaryWriter, method, refuse)
        code, _, err = train()
    assert (code, err) == (0, "")
    (record,) = caplog.records
    assert record.message == (
        "warning: TensorBoard cannot be written ([Errno 28] No space left on device); "
        "the run goes on without it"
    )
    assert end(train.run) == whole


def test_a_forced_run_that_is_stopped_while_it_clears_does_not_pass_for_finished(
    train, finished, whole, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", stop)
        patched.setattr(Path, "iterdir", lambda folder: iter(sorted(folder.glob("*"))))
        assert train("run.force=true")[0] == 130
    assert finished.result() is None
    assert train("run.force=true")[0] == 0
    assert end(finished) == whole


@pytest.mark.parametrize("trouble", ["full", "in the way", "not a best", "of another network"])
def test_an_evaluation_that_fails_is_one_line_and_leaves_nothing_half_written(train, finished, trouble):
    state = checkpoints.load(finished.best)
    if trouble == "in the way":
        (finished.folder / "evaluations").write_text("mine")
    elif trouble == "not a best":
        shutil.copy(finished.last, finished.best)
    elif trouble == "of another network":
        state["model"].pop("backbone.head.bias")
        checkpoints.save(state, finished.best)
    before = tree(finished.folder)

    def evaluated(config):
        with Room() if trouble == "full" else nullcontext():
            return evaluate_run(finished, device_name="cpu")

    code, out, err = train(does=evaluated)
    assert (code, out) == (2, "")
    see_one_line(
        err, str(finished.folder / "evaluations" if trouble in ("full", "in the way") else finished.best)
    )
    assert tree(finished.folder) == before


def read_events(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


@pytest.fixture
def later(monkeypatch):
    """Event files are read in the order of their names, which begin with the second they were made in."""
    now = time.time

    def pass_by(seconds):
        monkeypatch.setattr(time, "time", lambda: now() + seconds)

    return pass_by


@pytest.mark.parametrize("cut", [1, 3000])
def test_an_event_file_cut_short_shows_each_step_once_and_all_of_what_comes_after(
    train, interrupted, whole, later, cut
):
    (events,) = interrupted.folder.glob("events.*")
    events.write_bytes(events.read_bytes()[:-cut])
    later(10)
    assert train()[0] == 0
    seen = read_events(interrupted.folder)
    for tag in ("loss/train", "error/val", "transformer/theta_spread"):
        steps = [event.step for event in seen.Scalars(tag)]
        assert steps in ([1, 2], [2])
    panels = [event.step for event in seen.Images("panel")]
    assert panels == sorted(set(panels))
    assert panels[-2:] == [2, 3]
    assert len(seen.Scalars("final/test_error")) == 1


def test_tensorboard_shows_no_step_twice_however_often_a_run_begins_or_ends(train, whole, monkeypatch, later):
    for seconds in (0, 10):
        later(seconds)
        with monkeypatch.context() as patched:
            at(patched, "last.pt", Room())  # so that nothing is there to go on from
            assert train()[0] == 4
    later(20)
    assert train()[0] == 0
    train.run.result_file.unlink()
    later(30)
    assert train()[0] == 0
    seen = read_events(train.run.folder)
    assert [event.step for event in seen.Images("panel")] == [0, 1, 2, 3]
    assert [event.step for event in seen.Scalars("error/val")] == [1, 2]
    (final,) = seen.Scalars("final/test_error")
    assert final.value == pytest.approx(whole["result"]["test_error"])


def test_a_clock_that_jumps_changes_nothing(train, whole, monkeypatch):
    now, jumps, saved = time.time, random.Random(0), []
    monkeypatch.setattr(time, "time", lambda: now() + jumps.uniform(-36_000, 36_000))
    save = module.save
    monkeypatch.setattr(
        module, "save", lambda training, *rest: saved.append(training.progress.step) or save(training, *rest)
    )
    code, _, err = train("run.checkpoint_seconds=1e-9")
    assert (code, err) == (0, "")
    assert sorted(set(saved)) == list(range(1, 2 * STEPS + 1))
    result = train.run.result()
    assert 0 < result["train_seconds"] < 60
    assert end(train.run) == whole


def test_the_cache_may_go_while_a_run_trains(train, whole, digits, monkeypatch, tmp_path):
    """The digits are those of ``few_digits``, here as four files with sums of their own."""
    times = (4, 4, 1, 1)
    arrays = [
        np.tile(part.numpy(), (n,) + (1,) * (part.dim() - 1))
        for part, n in zip(digits * 2, times, strict=True)
    ]
    contents = [idx.encode(array.astype(np.uint8)) for array in arrays]
    table = [
        idx.IdxFile(file.name, md5(content).hexdigest(), array.shape)
        for file, content, array in zip(idx.FILES, contents, arrays, strict=True)
    ]
    cache = tmp_path / "xdg" / "stn-experiments" / "mnist"
    cache.mkdir(parents=True)
    for file, content in zip(table, contents, strict=True):
        (cache / file.name).write_bytes(content)
    monkeypatch.setattr(mnist, "FILES", tuple(table))
    monkeypatch.setattr(mnist, "SOURCES", {})
    monkeypatch.setattr(datasets, "load_mnist", mnist.load_mnist)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    evaluate = module.evaluate

    def deleting(model, batch):
        shutil.rmtree(tmp_path / "xdg", ignore_errors=True)
        return evaluate(model, batch)

    monkeypatch.setattr(module, "evaluate", deleting)
    code, _, err = train()
    assert (code, err) == (0, "")
    assert not cache.exists()
    assert end(train.run) == whole


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
        ),
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total capacity of"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),  # oneDNN, found by training resnet18 under a limit
        MemoryError(),
    ],
    ids=["cpu", "cuda", "cublas", "onednn", "python"],
)
def test_too_little_memory_is_one_line_that_names_the_batch_size(train, whole, monkeypatch, error):
    step = loop.train_step
    with monkeypatch.context() as patched:

        def too_large(training, batch, trainer):
            if training.progress.step == 5:
                raise error
            return step(training, batch, trainer)

        patched.setattr(loop, "train_step", too_large)
        code, _, err = train()
    assert code == 4
    see_one_line(err, "too little memory for trainer.batch_size=30;")
    see_that_all_is_whole(train.run)
    if isinstance(error, MemoryError):
        assert "goes on after step 4 (in epoch 2)" in train()[1]
        assert end(train.run) == whole


def test_a_step_that_cannot_be_recorded_is_one_line(train, monkeypatch):
    def waiting(*_):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for it")

    monkeypatch.setattr(loop, "train_step", waiting)
    code, _, err = train()
    assert code == 2
    see_one_line(err, "trainer.cuda_graph must be false for this network, which waits for the device")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits and tells the size of a process")
def test_a_system_without_memory_is_one_line(train, monkeypatch):
    """120 images of 256×256 pixels, for which this process may no longer grow."""
    epoch, before = module.train_epoch, resource.getrlimit(resource.RLIMIT_AS)

    def limited(*arguments):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**24
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            return epoch(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    monkeypatch.setattr(module, "train_epoch", limited)
    code, _, err = train("data.distortion.canvas=256", "trainer.batch_size=120")
    assert code == 4
    see_one_line(err, "too little memory for trainer.batch_size=120;")


def spoil(monkeypatch, kind, step):
    """Have a step's images, or the gradient that it finds, not be finite."""
    if kind == "loss":
        take_step = loop.train_step

        def spoiled(training, batch, trainer):
            if training.progress.step == step - 1:
                batch.images[3, 0, 14, 14] = float("nan")
            return take_step(training, batch, trainer)

        monkeypatch.setattr(loop, "train_step", spoiled)
        return
    prepare = module.prepare

    def hooked(experiment, train_size):
        training = prepare(experiment, train_size)

        def spoil_gradient(gradient):
            return gradient * float("inf") if training.progress.step == step - 1 else gradient

        next(training.model.parameters()).register_hook(spoil_gradient)
        return training

    monkeypatch.setattr(module, "prepare", hooked)


@pytest.mark.parametrize(
    ("kind", "step", "every", "kept"),
    [
        ("loss", 6, 1, 5),
        ("gradient", 6, 1, 5),
        ("gradient", 6, "null", 4),
        ("loss", 1, 1, None),
        ("gradient", 8, 3, 6),
    ],
)
def test_a_step_that_is_not_finite_is_named_and_never_saved(
    train, whole, monkeypatch, kind, step, every, kept
):
    with monkeypatch.context() as patched:
        spoil(patched, kind, step)
        code, _, err = train(f"run.checkpoint_steps={every}")
    assert code == 4
    see_one_line(
        err,
        f"the {kind} of step {step} is not finite",
        f"run.replay={step} shows its batch",
    )
    see_that_all_is_whole(train.run)
    for path in (train.run.last, train.run.previous):
        assert path.exists() or kept in (None, 4)
        if path.exists():
            state = checkpoints.load(path)["training"]
            assert all(value.isfinite().all() for value in state["model"].values())
    if kept is None:
        assert not train.run.last.exists()
    else:
        progress = checkpoints.load(train.run.last)["training"]["progress"]
        assert (progress["epoch"] - 1) * STEPS + progress["done"] == kept
    if kind == "gradient":
        assert train()[0] == 0
        assert end(train.run) == whole


def test_weights_that_the_last_step_made_infinite_are_no_result(train, monkeypatch):
    """Of the last step itself the loss and the gradient are finite."""
    step = loop.train_step

    def overflowing(training, batch, trainer):
        column = step(training, batch, trainer)
        if training.progress.step == 2 * STEPS - 1:
            with torch.no_grad():
                next(training.model.parameters()).fill_(float("inf"))
        return column

    monkeypatch.setattr(loop, "train_step", overflowing)
    code, _, err = train()
    assert code == 4
    see_one_line(err, "the validation loss after epoch 2 is not finite")
    see_that_all_is_whole(train.run)
    assert train.run.result() is None


def outside(monkeypatch):
    """Have the transformer start beside most of the image."""
    prepare = module.prepare

    def shifted(experiment, train_size):
        training = prepare(experiment, train_size)
        with torch.no_grad():
            training.model.transformers["input"][0].localisation.theta.bias[2] = 1.3
        return training

    monkeypatch.setattr(module, "prepare", shifted)


@pytest.mark.parametrize(
    ("diagnosis", "settings", "every", "told", "remedy"),
    [
        ("outside", [], 1, "epoch 1: most of the sampling grid is outside", "trainer.localisation_clip=1"),
        ("outside", [], "null", "epoch 1: most of the sampling grid is outside", "a new start"),
        ("still", ["trainer.localisation_lr=0"], 1, "epoch 1: theta is the same", "stn.localisation"),
        ("no gradient", ["stn.interpolation=nearest"], 1, "step 1: the localisation network has no", "stn."),
    ],
)
def test_a_collapse_is_one_warning_in_the_whole_run_and_in_its_result(
    train, monkeypatch, caplog, diagnosis, settings, every, told, remedy
):
    if diagnosis == "outside":
        outside(monkeypatch)
    settings = (*settings, "trainer.epochs=3", f"run.checkpoint_steps={every}")
    for step in (1, 9) if every == 1 else (4,):
        with monkeypatch.context() as patched:
            interrupt(patched, step)
            assert train(*settings)[0] == 130
    code, out, _ = train(*settings)
    assert code == 0
    assert "goes on after step" in out
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.message.startswith(f"warning: {told}")
    assert remedy in record.message
    assert train.run_of(*settings).result()["collapsed"] == diagnosis


def test_a_sound_transformer_has_not_collapsed_and_none_has_no_diagnosis(train, whole, caplog):
    assert whole["result"]["collapsed"] is None
    assert train("stn=none")[0] == 0
    assert "collapsed" not in train.run_of("stn=none").result()
    assert caplog.records == []


def test_an_epoch_may_be_of_one_step(train, monkeypatch):
    settings = ("trainer.images_per_epoch=30", "trainer.epochs=3", "run.checkpoint_steps=1")
    with monkeypatch.context() as patched:
        interrupt(patched, 2)
        assert train(*settings)[0] == 130
    for root in ("outputs", "whole"):
        code, _, err = train(*settings, root=root)
        assert (code, err) == (0, "")
    assert end(train.run_of(*settings)) == end(train.run_of(*settings, root="whole"))


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ((), [4, 7, 8]),
        (("run.checkpoint_seconds=null",), [4, 8]),
        (("run.checkpoint_seconds=null", "run.checkpoint_steps=100"), [4, 8]),
        (("run.checkpoint_seconds=null", "run.checkpoint_steps=3"), [3, 4, 6, 8]),
        (("run.checkpoint_seconds=20",), [3, 4, 6, 8]),
        (("run.checkpoint_seconds=30", "run.checkpoint_steps=2"), [2, 4, 4, 6, 8, 8]),
    ],
)
def test_checkpoints_come_as_often_as_they_are_asked_for(train, whole, monkeypatch, settings, steps):
    """Each step takes 9 s, by a clock of its own."""
    clock = SimpleNamespace(monotonic=lambda: 9 * len(done))
    done, saved = [], []
    step, save = loop.train_step, module.save
    monkeypatch.setattr(saving, "time", clock)
    monkeypatch.setattr(loop, "train_step", lambda *arguments: done.append(0) or step(*arguments))
    monkeypatch.setattr(
        module, "save", lambda training, *rest: saved.append(training.progress.step) or save(training, *rest)
    )
    assert train(*settings)[0] == 0
    assert saved == steps
    assert end(train.run) == whole
    assert [path.name for path in train.run.folder.parent.iterdir()] == [train.run.folder.name]


def test_how_a_run_is_saved_does_not_change_its_folder(train):
    settings = ("run.checkpoint_seconds=1", "run.checkpoint_steps=2", "run.force=true", "run.replay=3")
    assert train.run_of(*settings).folder == train.run.folder
    assert train.run_of("trainer.batch_size=10").folder != train.run.folder


def test_deterministic_is_the_same_on_a_cpu_and_ends_with_its_run(train, whole):
    code, _, err = train("trainer.deterministic=true")
    assert (code, err) == (0, "")
    assert torch.are_deterministic_algorithms_enabled()
    assert end(train.run_of("trainer.deterministic=true")) == whole
    assert train()[0] == 0
    assert not torch.are_deterministic_algorithms_enabled()
    assert end(train.run) == whole
