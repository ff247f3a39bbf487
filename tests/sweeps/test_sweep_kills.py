"""A sweep that is killed again and again and typed again each time comes to what one comes to that is not."""

import csv
import io
import json
import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from hydra.plugins.sweeper import Sweeper
from PIL import Image

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

from stn_experiments.runs import train as train_run
from stn_experiments.sweeps.progress import alive
from tests.conftest import ROOT
from tests.runs import soak
from tests.runs.soak import TOO_LONG, flat, npz_settings, outcome, require_same, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tests/soak.py is for Linux")

SWEEP = ["data=rotated,rts", "stn=none,affine", "seed=0,1,2"]
SMALL = [*soak.SMALL, "data.valid_size=40", "trainer.epochs=2"]
CHANCE = random.Random(5)


def type_command(words, log):
    """What a child does: as if a user typed ``python scripts/train.py -m`` and these words."""
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    soak.torch.set_num_threads(1)
    soak.use_few_digits()
    train_run.draw_panel = lambda *_: Image.new("RGB", (8, 8))  # a real one takes longer than all the rest
    Sweeper.validate_batch_is_legal = lambda *_: None  # and this comes next
    script = str(ROOT / "scripts" / "train.py")
    sys.argv = [script, "-m", *words]
    runpy.run_path(script, run_name="__main__")


@pytest.fixture(scope="module")
def fork():
    """Make processes that have torch loaded, so that each starts within a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "hydra.main", "stn_experiments.runs.replay"])
    return context.Process


@pytest.fixture
def start(fork, tmp_path):
    """Start a sweep in a session of its own, which ends with the test: its process and what it prints."""
    started = []

    def run(*words):
        log = tmp_path / f"{len(started)}.log"
        process = fork(target=type_command, args=(list(map(str, words)), log))
        process.start()
        started.append(process)
        return process, log

    yield run
    for process in started:
        kill(process.pid)
        process.join(TOO_LONG)


@pytest.fixture
def start_script():
    """Start ``scripts/train.py -m`` itself, in a session of its own, which ends with the test."""
    started = []

    def run(*words):
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        kill(process.pid)
        process.communicate(timeout=TOO_LONG)


def kill(session):
    """Kill all processes of a session, if there are any left."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def finished(root):
    """What tells the files of each finished run from files that were written again."""
    found = {}
    for result in root.glob("*/result.json"):
        files = [path.stat() for path in (result, result.parent / "checkpoints" / "best.pt")]
        found[result.parent.name] = [(file.st_ino, file.st_mtime_ns) for file in files]
    return found


def cut_off(root):
    """The names of the runs that have a checkpoint and no result."""
    # Between two writes there is a moment with the previous one alone.
    begun = {file.parent.parent.name for kind in ("last", "previous") for file in root.glob(f"*/*/{kind}.pt")}
    return begun - finished(root).keys()


def results(root):
    """All that the results of all runs say, but for times."""
    return {
        file.parent.name: flat(json.loads(file.read_text()), "result") for file in root.glob("*/result.json")
    }


def table(command, root):
    """The rows of the report's ``table.csv``, but for the times and the place of the runs."""
    code, _, err = command("report.py", root)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO((root / "report" / "table.csv").read_text())))
    untimed = {"train_seconds": None, "images_per_second": None}
    return [{**row, **untimed, "runs": row["runs"].replace(str(root), "")} for row in rows]


def wait_for(process, root, least, besides=None):
    """Wait until so many runs are finished, and until another than ``besides`` is amid its steps."""

    def reached():
        return len(finished(root)) >= least and (besides is None or cut_off(root) - besides)

    wait_until(lambda: reached() or process.exitcode is not None)


def taken_up(output):
    """The names of the runs that a sweep found finished, and of those that it went on with."""
    done = re.findall(r"(?m)^.*/(\S+) is finished already; ", output)
    went_on = re.findall(r"(?m)^.*/(\S+) goes on after step [1-9]", output)
    return set(done), set(went_on)


def test_a_sweep_killed_three_times_comes_to_what_one_left_alone_does(start, command, tmp_path):
    whole, root = tmp_path / "whole", tmp_path / "killed"
    alone, log = start(*SMALL, *SWEEP, f"run.root={whole}")
    alone.join(TOO_LONG)
    assert alone.exitcode == 0, log.read_text()
    assert log.read_text().endswith("\n12 of 12 runs done\n")

    words = [*SMALL, *SWEEP, f"run.root={root}"]
    seen, interrupted = {}, set()
    # Each kill comes at a random moment after so many of the runs are finished, the second one amid a run.
    for kills, least in enumerate(sorted(CHANCE.sample(range(1, 11), 3))):
        process, log = start(*words)
        wait_for(process, root, least)
        time.sleep(CHANCE.uniform(0, 0.4))
        wait_for(process, root, least, interrupted if kills == 1 else None)
        kill(process.pid)
        process.join(TOO_LONG)
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        done, went_on = taken_up(log.read_text())
        assert done <= seen.keys()
        assert went_on <= interrupted
        now = finished(root)
        assert {name: now[name] for name in seen} == seen
        seen, interrupted = now, cut_off(root)
        assert kills != 1 or (seen and interrupted)
    assert 0 < len(seen) < 12

    process, log = start(*words)
    process.join(TOO_LONG)
    assert process.exitcode == 0, log.read_text()
    assert taken_up(log.read_text()) == (seen.keys(), interrupted)
    assert log.read_text().endswith("\n12 of 12 runs done\n")
    assert alive(root) == []
    now = finished(root)
    assert {name: now[name] for name in seen} == seen
    assert len(now) == 12
    for name in now:
        require_same(outcome(root / name), outcome(whole / name))
    assert table(command, root) == table(command, whole)


def test_runs_side_by_side_that_are_killed_together_come_to_the_same(start, start_script, tmp_path):
    sweep = [*npz_settings(tmp_path), "trainer.epochs=1", "seed=0,1,2"]
    whole, root = tmp_path / "whole", tmp_path / "killed"
    alone, log = start(*sweep, f"run.root={whole}")
    words = [*sweep, f"run.root={root}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start_script(*words)
    wait_until(lambda: (finished(root) and cut_off(root)) or process.poll() is not None)
    kill(process.pid)
    out, err = process.communicate(timeout=TOO_LONG)
    assert process.returncode == -signal.SIGKILL, out + err
    seen, interrupted = finished(root), cut_off(root)
    assert seen
    assert interrupted

    process = start_script(*words)
    out, err = process.communicate(timeout=TOO_LONG)
    assert process.returncode == 0, err
    assert taken_up(out) == (seen.keys(), interrupted)
    assert out.splitlines()[-1] == "3 of 3 runs done"
    now = finished(root)
    assert {name: now[name] for name in seen} == seen
    alone.join(TOO_LONG)
    assert alone.exitcode == 0, log.read_text()
    assert results(root) == results(whole)
    assert len(now) == 3
