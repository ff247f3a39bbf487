"""A sweep that is killed and restarted several times gives the same results as one that is not."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.sweeps.progress import active_sweeps
from tests.conftest import ROOT
from tests.runs.harness import TOO_LONG, npz_settings, outcome, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux"),
]

GRID = ("stn=none,affine", "seed=0,1,2")
RUNS = 6
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
CHANCE = random.Random(5)


@pytest.fixture
def start():
    """Start ``scripts/train.py -m`` in its own session, all of which ends with the test."""
    started = []

    def run(*words):
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=TOO_LONG)


def finished(root):
    """The inodes and times of each finished run's files, which change if the run is trained again."""
    found = {}
    for result in root.glob("*/result.json"):
        files = [path.stat() for path in (result, result.parent / "checkpoints" / "best.pt")]
        found[result.parent.name] = [(file.st_ino, file.st_mtime_ns) for file in files]
    return found


def interrupted(root):
    """The names of the runs that have a checkpoint and no result."""
    # Between two writes only the previous checkpoint exists.
    begun = {file.parent.parent.name for kind in ("last", "previous") for file in root.glob(f"*/*/{kind}.pt")}
    return begun - finished(root).keys()


def resumed(output):
    """The names of the runs that a sweep found finished, and of those that it resumed."""
    done = re.findall(r"(?m)^.*/(\S+) is finished already", output)
    went_on = re.findall(r"(?m)^.*/(\S+) resumes after step [1-9]", output)
    return set(done), set(went_on)


def table(command, root):
    """The rows of the report's ``table.csv``, without times and the folder of the runs."""
    code, _, err = command("report.py", root)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader((root / "report" / "table.csv").open(newline="")))
    untimed = {"train_seconds": None, "images_per_second": None}
    return [{**row, **untimed, "runs": row["runs"].replace(str(root), "")} for row in rows]


@pytest.mark.parametrize(
    ("launcher", "kills"), [((), 3), (JOBLIB, 1)], ids=["one after the other", "parallel"]
)
def test_a_sweep_that_is_killed_gives_the_same_results(start, command, tmp_path, launcher, kills):
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    settings = [*npz_settings(tmp_path), "trainer.epochs=2", *GRID, *launcher]
    whole, root = tmp_path / "whole", tmp_path / "killed"
    out, err = start(*settings, f"run.root={whole}").communicate(timeout=TOO_LONG)
    assert (err, out.splitlines()[-1]) == ("", f"{RUNS} of {RUNS} runs done")

    seen, stopped = {}, set()
    for least in sorted(CHANCE.sample(range(1, RUNS - 1), kills)):
        process = start(*settings, f"run.root={root}")
        wait_until(lambda: (len(finished(root)) >= least and interrupted(root)) or process.poll() is not None)  # noqa: B023
        time.sleep(CHANCE.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=TOO_LONG)
        assert process.returncode == -signal.SIGKILL, out + err
        done, went_on = resumed(out)
        assert done <= seen.keys()
        assert went_on <= stopped
        now = finished(root)
        assert {name: now[name] for name in seen} == seen
        seen, stopped = now, interrupted(root)
    assert 0 < len(seen) < RUNS

    process = start(*settings, f"run.root={root}")
    out, err = process.communicate(timeout=TOO_LONG)
    assert (process.returncode, err) == (0, "")
    assert resumed(out) == (seen.keys(), stopped)
    assert out.splitlines()[-1] == f"{RUNS} of {RUNS} runs done"
    assert active_sweeps(root) == []
    now = finished(root)
    assert {name: now[name] for name in seen} == seen
    assert len(now) == RUNS
    for name in now:
        assert outcome(RunFolder(root / name)) == outcome(RunFolder(whole / name))
    assert table(command, root) == table(command, whole)
