"""Killed runs resume to the same result, and processes that start together do not disturb one another."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from stn_experiments.config.compose import compose
from stn_experiments.runs.train import TrainingRun, train
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.loop import Trainer
from tests.conftest import ROOT
from tests.runs.harness import TOO_LONG, npz_settings, outcome, start_script, wait_until

STEPS = 2  # between two checkpoints
ANY_TIME = 8  # kills that do not wait for an event
WRITES = {
    "half last.pt",
    "before previous.pt",
    "after previous.pt",  # between the two renames, when there is no last.pt
    "after last.pt",  # before its folder is synced
    "half best.pt",
    "half history.jsonl",
    "half result.json",
    "half panel-#.png",
}
"""Events that a run must have: otherwise this test would no longer kill where it should."""

# Eight processes look for MNIST in the same empty cache. The one that fetches it waits for the others.
FETCH = """
import hashlib, os, sys, time
from pathlib import Path
from stn_experiments.data import idx, mnist
from tests.data.test_mnist import CONTENTS, NAMES, SHAPES, VALUES

def slow(_):
    with (work / "calls").open("a") as calls:
        calls.write("called ")
    while len(list(work.glob("begun-*"))) < 8:
        time.sleep(0.005)
    time.sleep(0.5)  # without a lock the others come here meanwhile
    return CONTENTS

def load(number):
    (work / f"begun-{number}").touch()
    digits = mnist.load_mnist()
    assert digits.train.labels.tolist() == VALUES[1]
    assert digits.test.images.flatten().tolist() == VALUES[2]

work = Path(sys.argv[1])
sums = [hashlib.md5(content).hexdigest() for content in CONTENTS]
mnist.FILES = tuple(map(idx.IdxFile, NAMES, sums, SHAPES))
mnist.SOURCES = {"slow": slow}
for number in range(8):
    if not os.fork():
        load(number)
        sys.exit()
print([os.wait()[1] for _ in range(8)])
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return (*npz_settings(tmp_path_factory.mktemp("images")), "trainer.epochs=3")


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory, run_script):
    """Two runs, with seeds 0 and 1, that were made one after the other by one process."""
    root = tmp_path_factory.mktemp("alone")
    done = run_script("train.py", "-m", *settings, "seed=0,1", f"run.root={root}")
    assert done.returncode == 0, done.stderr
    return [run_in(root, seed) for seed in (0, 1)]


@pytest.fixture
def start(settings):
    """Start ``scripts/train.py`` in a process of its own, which ends with the test."""
    started = []

    def run(*more):
        started.append(start_script(*settings, *more))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        with process:  # closes its pipes
            pass


def run_in(root, seed):
    (folder,) = root.glob(f"npz-compact-affine-seed{seed}-*")
    return RunFolder(folder)


def holders(root):
    """The processes that the lock files of the runs name."""
    found = [re.search(r"(?m)^pid=(\d+)$", path.read_text()) for path in root.glob("*/lock")]
    return [int(one[1]) for one in found if one]


def kind_of(event):
    return re.sub(r"\d+", "#", event)


def train_and_die(config, log, kind, count, seconds):
    """Train and log all events; die at the ``count``-th event of a kind, or after so many seconds."""
    counts = Counter()

    def report(event, unfinished=None):
        with log.open("a") as file:
            file.write(f"{event}\n")
        counts[kind_of(event)] += 1
        if kind_of(event) == kind and counts[kind] == count:
            if unfinished:  # as after a power cut before the sync
                os.truncate(unfinished, unfinished.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, replace = os.fsync, Path.replace
    restore, train_step = TrainingRun._restore, Trainer.train_step

    def restore_and_report(run):
        restore(run)
        report(f"from {run.trainer.step}")

    def step_and_report(trainer, batch):
        metrics = train_step(trainer, batch)
        report(f"step {trainer.step + 1}")
        return metrics

    def report_and_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.suffix == ".tmp" and threading.current_thread() is threading.main_thread():
            report("half " + re.sub(r"^\.|\.\d+\.tmp$", "", path.name), path)
        fsync(descriptor)

    def report_and_replace(path, target):
        report(f"before {target.name}")
        moved = replace(path, target)
        report(f"after {target.name}")
        return moved

    TrainingRun._restore, Trainer.train_step = restore_and_report, step_and_report
    os.fsync, Path.replace = report_and_sync, report_and_replace
    signal.setitimer(signal.ITIMER_REAL, seconds)  # 0 is never
    train(config)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_has_the_same_result(settings, tmp_path):
    """At each kind of event and at random times. Killed again and again, a run loses few steps."""
    chance, log = random.Random(0), tmp_path / "events"
    config = compose(ROOT / "configs", [*settings, f"run.root={tmp_path / 'outputs'}"])
    run, processes = RunFolder.of(config), multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])

    def exit_code(kind="", count=0, seconds=0.0):
        process = processes.Process(target=train_and_die, args=(config, log, kind, count, seconds))
        process.start()
        process.join(TOO_LONG)
        process.kill()
        return process.exitcode

    def finish():
        """Check a run that was killed several times, and delete it."""
        reached = 0
        for name, _, number in (event.partition(" ") for event in log.read_text().splitlines()):
            if name == "from":
                assert reached - STEPS <= int(number) <= reached
            reached = max(reached, int(number)) if name == "step" else reached
        assert outcome(run) == whole
        shutil.rmtree(run.folder)
        log.unlink()

    assert exit_code() == 0
    whole = outcome(run)
    events = Counter(kind_of(event) for event in log.read_text().splitlines())
    assert WRITES | {"step #", "from #"} <= events.keys()
    finish()
    began = time.monotonic()
    assert exit_code() == 0
    took = time.monotonic() - began
    finish()

    kills = [(kind, chance.randint(1, last)) for kind, last in events.items()] + [("", 0)] * ANY_TIME
    chance.shuffle(kills)
    for kind, count in kills:
        # A run that ends before the event is checked, and another one is started.
        while (code := exit_code(kind, count, 0 if kind else chance.uniform(0, took))) == 0:
            finish()
        assert code == (-signal.SIGKILL if kind else -signal.SIGALRM)
    assert exit_code() == 0
    finish()


@pytest.mark.slow
def test_a_command_that_is_killed_resumes(start, alone, tmp_path):
    process = start(f"run.root={tmp_path}")
    wait_until(lambda: list(tmp_path.glob("*/checkpoints/last.pt")) or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process = start(f"run.root={tmp_path}")
    out, error = process.communicate(timeout=TOO_LONG)
    assert process.returncode == 0, error
    assert re.search(r"resumes after step [1-9]", out)
    assert outcome(run_in(tmp_path, 0)) == outcome(alone[0])


@pytest.mark.slow
def test_of_eight_processes_with_one_command_one_trains(start, alone, tmp_path):
    processes = [start(f"run.root={tmp_path}") for _ in range(8)]
    wait_until(lambda: holders(tmp_path) or any(process.poll() is not None for process in processes))
    (holder,) = holders(tmp_path)
    os.kill(holder, signal.SIGSTOP)  # or it could be done before the slowest of the others has begun
    try:
        (worker,) = (process for process in processes if process.pid == holder)
        processes.remove(worker)
        run = run_in(tmp_path, 0)
        output = [process.communicate(timeout=TOO_LONG) for process in processes]
    finally:
        os.kill(holder, signal.SIGCONT)
    assert [process.returncode for process in processes] == [5] * 7
    for out, error in output:
        assert out == ""
        words = rf"error: {run.folder} is held by process {holder} on \S+: wait for it or stop it\n"
        assert re.fullmatch(words, error)
    _, error = worker.communicate(timeout=TOO_LONG)
    assert worker.returncode == 0, error
    assert list(tmp_path.rglob("result.json")) == [run.result_file]
    assert outcome(run) == outcome(alone[0])


@pytest.mark.slow
def test_eight_seeds_at_the_same_time_have_the_results_of_single_runs(start, alone, tmp_path):
    processes = [start(f"run.root={tmp_path}", f"seed={seed}") for seed in range(8)]
    errors = [process.communicate(timeout=TOO_LONG)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, errors
    runs = [run_in(tmp_path, seed) for seed in range(8)]
    for run, same in zip(runs, alone, strict=False):
        assert run.folder.name == same.folder.name
        assert outcome(run) == outcome(same)
    assert len({run.panel(1).read_bytes() for run in runs}) == 8


@pytest.mark.slow
def test_of_eight_processes_one_fetches_mnist(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "STN_DATA_DIR": ""}
    command = [sys.executable, "-c", FETCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG, cwd=ROOT, env=env)
    assert done.stdout == f"{[0] * 8}\n", done.stderr
    assert (tmp_path / "calls").read_text() == "called "
