"""What the tests of runs share: a small run by its command, its outcome, and faults to inject."""

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from stn_experiments.cli.command import run_command
from stn_experiments.data.batch import index_batch
from stn_experiments.runs import run_log
from stn_experiments.runs import train as train_module
from stn_experiments.runs.train import TrainingRun, summary, train
from stn_experiments.storage import checkpoints, run_folder
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from tests.conftest import ROOT

SMALL = (
    "trainer=quick",
    "trainer.device=cpu",
    "trainer.batch_size=30",
    "backbone.width=4",
    "backbone.pool=2",
)
STEPS = 4  # in each of two epochs
VARYING = ("seconds", "train_seconds", "images_per_second", "commit", "run")
TOO_LONG = 300  # seconds, for runs that take a few
FULL = "[Errno 27] File too large"  # what the system says beyond the limit of small_files
WHOLE = {}


class Command:
    """Does what scripts/train.py does, with small settings: exit code, stdout and stderr."""

    def __init__(self, few_digits, compose, folder, capfd):
        self.small = (*few_digits, *SMALL)
        self.compose, self.folder, self.capfd = compose, folder, capfd
        self.run = self.run_of()

    def __call__(self, *settings, does=lambda config: summary(RunFolder.of(config), train(config)), **where):
        config, code = self.config(*settings, **where), 0
        self.capfd.readouterr()
        try:
            run_command(lambda: print(does(config)))
        except SystemExit as left:
            code = left.code
        return code, *self.capfd.readouterr()

    def config(self, *settings, root="outputs", small=None):
        config = self.compose(*(small or self.small), *settings)
        config["run"]["root"] = str(self.folder / root)
        return config

    def run_of(self, *settings, **where):
        return RunFolder.of(self.config(*settings, **where))

    def whole(self):
        """The outcome of a run that nothing happens to."""
        if not WHOLE:
            assert self(root="whole")[0] == 0
            WHOLE.update(outcome(self.run_of(root="whole")))
        return WHOLE


def small_panels(monkeypatch):
    """Draw small panels of three digits."""
    monkeypatch.setattr(run_log, "draw_panel", partial(draw_panel, cell=30))
    monkeypatch.setattr(run_log, "one_of_each_class", lambda batch: index_batch(batch, slice(0, 3)))


def make_quick(monkeypatch):
    """Draw small panels, and do not ask git for the commit."""
    small_panels(monkeypatch)
    monkeypatch.setattr(train_module, "commit", lambda: "unknown")
    monkeypatch.setattr(run_folder, "environment", lambda seed: {"seed": seed})


def outcome(run):
    """Everything in the folder of a finished run except its config and what differs from time to time."""
    history = [without_times(json.loads(line)) for line in run.history_file.read_text().splitlines()]
    states = {path.name: without_times(checkpoints.load(path)) for path in (run.last, run.model, run.best)}
    return {
        "result": without_times(run.result()),
        "history": history,
        "checkpoints": {name: checkpoints.digest(state) for name, state in states.items()},
        "panels": {path.name: path.read_bytes() for path in run.animation.parent.iterdir()},
    }


def without_times(value):
    """A nested value without times, the commit and the run's name."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in VARYING}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def npz_settings(folder, count=120):
    """The settings of a run on ``count`` digits of a new file, with a checkpoint every two steps."""
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28), np.uint8)
    counts = {"train": count, "valid": 20, "test": 20}
    arrays = {f"x_{split}": np.resize(images, (count, 28, 28)) for split, count in counts.items()}
    arrays |= {f"y_{split}": np.arange(count) % 10 for split, count in counts.items()}
    np.savez(folder / "digits.npz", **arrays)
    saved = ("run.checkpoint_seconds=null", "run.checkpoint_steps=2")
    return ("data=npz", f"data.file={folder / 'digits.npz'}", *SMALL, *saved)


def start_script(*settings):
    """Start ``scripts/train.py`` in another process."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, settings)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + TOO_LONG
    while not condition():
        assert time.monotonic() < end, "a condition that was waited for does not hold"
        time.sleep(0.005)


def assert_complete(run):
    """Each file of a run's folder is complete, and no temporary one is left."""
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


def assert_one_line(err, *words):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@contextmanager
def small_files(size=100):
    """A context in which the system lets no file grow beyond ``size`` bytes, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def inject(monkeypatch, name, fault, count=1):
    """Write a file of this name within the context ``fault()``, from the ``count``-th time on."""
    owner, function = {
        ".pt": (checkpoints, "save"),
        ".png": (run_log, "save_picture"),
        ".gif": (run_log, "save_animation"),
        ".jsonl": (run_log, "write_atomically"),
    }.get(Path(name).suffix, (train_module if name == "result.json" else run_folder, "write_atomically"))
    write, seen = getattr(owner, function), []

    def write_with_fault(*arguments, **named):
        if any(isinstance(argument, Path) and argument.name == name for argument in arguments):
            seen.append(name)
            if len(seen) >= count:
                with fault():
                    return write(*arguments, **named)
        return write(*arguments, **named)

    monkeypatch.setattr(owner, function, write_with_fault)


def interrupt_after(monkeypatch, step):
    """Press Ctrl-C twice, so that nothing more is done, when a checkpoint of ``step`` is written."""
    save = TrainingRun._save

    def save_last(run):
        save(run)
        if run.trainer.step >= step:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "_save", save_last)
