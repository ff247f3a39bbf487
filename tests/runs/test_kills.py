"""Killed runs resume to the same result."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from stn_experiments.runs.train import TrainingRun, train
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.loop import Trainer
from tests.runs.harness import TOO_LONG, npz_settings, outcome

STEPS = 2  # between two checkpoints
ANY_TIME = 8  # kills that do not wait for an event
WRITES = {
    "half last.pt",
    "before previous.pt",
    "after previous.pt",  # between the two renames, when there is no last.pt
    "after last.pt",  # before its folder is synced
    "half model.pt",
    "half best.pt",
    "half history.jsonl",
    "half result.json",
    "half panel-#.png",
}
"""Events that a run must have: otherwise this test would no longer kill where it should."""


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
        history = restore(run)
        report(f"from {run.trainer.step}")
        return history

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
def test_a_run_that_is_killed_at_any_moment_has_the_same_result(compose, tmp_path):
    """At each kind of event and at random times. Killed again and again, a run loses few steps."""
    chance, log = random.Random(0), tmp_path / "events"
    config = compose(*npz_settings(tmp_path), "trainer.epochs=3", f"run.root={tmp_path / 'outputs'}")
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
