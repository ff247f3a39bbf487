"""Runs that are killed, and processes that start together, have the results of one undisturbed run."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.runs.soak import TOO_LONG, flat, npz_settings, outcome, start_script, wait_until

KILLS = 30

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
    return npz_settings(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory, run_script):
    """The folders of two runs, with seeds 0 and 1, that were made one after the other by one process."""
    root = tmp_path_factory.mktemp("alone")
    done = run_script("train.py", "-m", *settings, "seed=0,1", f"run.root={root}", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return [folder_in(root, seed) for seed in (0, 1)]


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


def folder_in(root, seed):
    (folder,) = root.glob(f"npz-compact-affine-seed{seed}-*")
    return folder


def holders(root):
    """The processes that the lock files of the runs name."""
    found = [re.search(r"(?m)^pid=(\d+)$", path.read_text()) for path in root.glob("*/lock")]
    return [int(one[1]) for one in found if one]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tests/runs/soak.py is for Linux")
@pytest.mark.slow
def test_runs_that_are_killed_have_the_same_result():
    command = [sys.executable, str(ROOT / "tests" / "runs" / "soak.py"), "--kills", str(KILLS)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * TOO_LONG, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, _ = done.stdout.splitlines()
    assert sum(line.startswith("SIGKILL ") for line in lines) == KILLS
    assert any(line.startswith("SIGTERM ") for line in lines)
    assert any(line.startswith("SIGINT ") for line in lines)


def test_the_soak_notices_a_single_bit():
    def state(value, name="loss"):
        return flat({"step": 3, "history": [{name: value, "seconds": 1.0}]}, "last.pt")

    assert state(0.1) == state(0.1) | {"last.pt: step": (int, 3)}
    assert len({tuple(state(value).items()) for value in (0.1, 0.1 + 2**-56, 0.0, -0.0, 0, None)}) == 6
    assert state(torch.zeros(2)) == state(torch.zeros(2)) != state(-torch.zeros(2))
    assert state(0.1) != state(0.1, "error")
    assert state(0.1, "seconds") == state(0.2, "seconds")


@pytest.mark.slow
def test_of_eight_processes_with_one_command_one_trains(start, alone, tmp_path):
    processes = [start(f"run.root={tmp_path}") for _ in range(8)]
    wait_until(lambda: holders(tmp_path) or any(process.poll() is not None for process in processes))
    (holder,) = holders(tmp_path)
    os.kill(holder, signal.SIGSTOP)  # or it could be done before the slowest of the others has begun
    try:
        (worker,) = (process for process in processes if process.pid == holder)
        processes.remove(worker)
        folder = folder_in(tmp_path, 0)
        output = [process.communicate(timeout=TOO_LONG) for process in processes]
    finally:
        os.kill(holder, signal.SIGCONT)
    assert [process.returncode for process in processes] == [5] * 7
    for out, error in output:
        assert out == ""
        words = rf"error: {folder} is held by process {holder} on \S+: wait for it or stop it\n"
        assert re.fullmatch(words, error)
    _, error = worker.communicate(timeout=TOO_LONG)
    assert worker.returncode == 0, error
    assert list(tmp_path.rglob("result.json")) == [folder / "result.json"]
    assert outcome(folder) == outcome(alone[0])


@pytest.mark.slow
def test_eight_seeds_at_the_same_time_have_the_results_of_single_runs(start, alone, tmp_path):
    processes = [start(f"run.root={tmp_path}", f"seed={seed}") for seed in range(8)]
    errors = [process.communicate(timeout=TOO_LONG)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, errors
    folders = [folder_in(tmp_path, seed) for seed in range(8)]
    for folder, same in zip(folders, alone, strict=False):
        assert folder.name == same.name
        assert outcome(folder) == outcome(same)
    assert len({(folder / "panels" / "panel-0001.png").read_bytes() for folder in folders}) == 8


@pytest.mark.slow
def test_of_eight_processes_one_fetches_mnist(tmp_path):
    env = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "STN_DATA_DIR": "",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", FETCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG, cwd=ROOT, env=env)
    assert done.stdout == f"{[0] * 8}\n", done.stderr
    assert (tmp_path / "calls").read_text() == "called "
