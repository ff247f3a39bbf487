"""A sweep on a real SLURM that preempts one job and cancels another."""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from stn_experiments.runs.train import train
from stn_experiments.storage.lock import lock_file
from stn_experiments.storage.run_folder import RunFolder
from tests.conftest import ROOT
from tests.runs.harness import TOO_LONG, npz_settings, outcome, wait_until
from tests.sweeps.slurm_cluster import NoCluster, ask, cluster

pytestmark = pytest.mark.slow

STEPS = 800  # of each run; they take at least two seconds, so that a job can be stopped during training
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which commands reach the SLURM of this module."""
    with ExitStack() as stack:
        try:
            env = stack.enter_context(cluster(tmp_path_factory.mktemp("slurm")))
        except NoCluster as error:
            pytest.skip(str(error))
        yield env


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Overrides of small runs on digits from a file."""
    folder = tmp_path_factory.mktemp("images")
    more = ("trainer.epochs=2", "trainer.batch_size=20", "run.checkpoint_steps=50", "stn=none")
    return (*npz_settings(folder, count=8000), *more)


@pytest.fixture
def start(slurm, settings):
    """Start a sweep of ``scripts/train.py`` in a process, which ends with the test."""
    started = []

    def sweep(*more):
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *settings, *LAUNCHER, *more]
        env = {**slurm, "OMP_NUM_THREADS": "2"}  # the jobs must not inherit it
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes))
        return started[-1]

    yield sweep
    for process in started:
        process.kill()
        with process:  # closes its pipes
            pass


def same_run(root, folder):
    """The run of the same config in another folder of runs, where its name may have other words."""
    (found,) = root.glob(f"*-{RunFolder(folder).digest}")
    return RunFolder(found)


def pause_training(root, seed):
    """Pause the process of a run that has saved a checkpoint; return the run's folder and the process id."""
    pattern = f"*-seed{seed}-*/checkpoints/last.pt"
    wait_until(lambda: list(root.glob(pattern)))
    (checkpoint,) = root.glob(pattern)
    folder = checkpoint.parent.parent
    (pid,) = map(int, re.findall(r"\bpid\W+(\d+)", lock_file(folder).read_text()))
    os.kill(pid, signal.SIGSTOP)
    return folder, pid


@contextmanager
def one_thread():
    """Let torch use one thread, as in the jobs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def is_pending(pid, number):
    """Whether a signal waits for a paused process."""
    (mask,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (number - 1) & 1)


def show(slurm, when):
    """Print SLURM's queue; return the state of each job."""
    rows = ask(slurm, "squeue", "--array", "--states=all", "--sort=i", "--format=%8i %10T %6M %R")
    print(f"\n{when}\n{rows}", end="")
    return dict(row.split()[:2] for row in rows.splitlines()[1:])


def log(root, job):
    """The output of a job, including its restarts."""
    return (root / ".submitit" / job / f"{job}_0_log.out").read_text()


def results(root):
    """The time at which each run was finished, by folder."""
    return {path.parent: path.stat().st_mtime_ns for path in root.glob("*/result.json")}


def steps(words, text):
    """The step numbers in a log after some words."""
    return [int(number.replace(",", "")) for number in re.findall(rf"{words} after step ([\d,]+)", text)]


def test_a_preempted_run_resumes_and_a_cancelled_one_is_trained_by_the_next_sweep(
    slurm, start, settings, compose, tmp_path
):
    root, whole = tmp_path / "runs", tmp_path / "whole"
    grid = ("scheduler=constant,onecycle", "seed=0,1", f"run.root={root}")
    sweep = start(*grid)
    (cancelled, first), (preempted, second) = (pause_training(root, seed) for seed in (0, 1))
    queue = show(slurm, "two jobs run but are paused, and two wait")
    assert list(queue.values()) == ["RUNNING", "RUNNING", "PENDING", "PENDING"]
    jobs = list(queue)

    # SLURM sends these to a job that it preempts; the second one makes submitit requeue the job.
    for name in ("SIGTERM", "SIGUSR2"):
        # Sent to the job's step: SLURM 22.05 cannot signal a job of an array of which other jobs wait.
        ask(slurm, "scancel", f"--signal={name[3:]}", f"{jobs[1]}.0")
        wait_until(lambda number=signal.Signals[name]: is_pending(second, number))
    os.kill(second, signal.SIGCONT)
    # A cancelled job gets SIGTERM, which it ignores, and a little later SIGKILL.
    ask(slurm, "scancel", jobs[0])
    wait_until(lambda: "training continues" in log(root, jobs[0]) or not Path(f"/proc/{first}").exists())
    os.kill(first, signal.SIGSTOP)  # or it could finish before it is killed
    show(slurm, "the first job is cancelled, the second preempted")

    with one_thread():
        for seed in (0, 1):
            train(compose(*settings, "scheduler=constant", f"seed={seed}", f"run.root={whole}"))
    _, errors = sweep.communicate(timeout=TOO_LONG)
    show(slurm, "the sweep has ended")
    print(errors, end="")
    message = f"its job {jobs[0]} ended as CANCELLED; see {root}/.submitit/{jobs[0]}/{jobs[0]}_0_log.out"
    assert re.fullmatch(rf"error: .* scheduler=constant seed=0 .*: {re.escape(message)}\n", errors)
    assert sweep.returncode == 4
    done = results(root)
    assert len(done) == 3
    assert cancelled not in done
    (saved,) = set(steps("stopped", log(root, jobs[1])))
    assert 0 < saved < STEPS
    assert steps("resumes", log(root, jobs[1])) == [saved]
    assert outcome(RunFolder(preempted)) == outcome(same_run(whole, preempted))

    again = start(*grid)
    _, errors = again.communicate(timeout=TOO_LONG)
    assert (again.returncode, errors) == (0, "")
    jobs += sorted(show(slurm, "the second sweep has ended").keys() - set(jobs))
    assert {path: when for path, when in results(root).items() if path != cancelled} == done
    logs = [log(root, job) for job in jobs[4:]]
    assert len(logs) == 1  # finished runs are not submitted again
    assert steps("resumes", logs[0])[0] >= steps("stopped", log(root, jobs[0]))[-1] > 0
    assert outcome(RunFolder(cancelled)) == outcome(same_run(whole, cancelled))


def test_a_sweep_on_a_shared_gpu_that_did_not_wait_is_collected_by_the_same_command(slurm, start, tmp_path):
    words = ("seed=0,1", "trainer.epochs=1", f"run.root={tmp_path}", "hydra/launcher=slurm_shared_gpu")
    before = show(slurm, "nothing of this sweep is submitted").keys()
    out, errors = start(*words, "hydra.callbacks.progress.wait=false").communicate(timeout=TOO_LONG)
    jobs = show(slurm, "the command has ended").keys() - before
    assert errors == ""
    assert "the jobs run without this command" in out
    assert len(jobs) == 2
    shares = ask(slurm, "squeue", "--array", "--states=all", f"--jobs={min(jobs)[:-2]}", "--format=%i %b")
    assert shares.count("shard:1") == 2
    sweep = start(*words)
    out, errors = sweep.communicate(timeout=TOO_LONG)
    assert (sweep.returncode, errors) == (0, "")
    assert out.splitlines()[-1] == "2 of 2 runs done"
    assert show(slurm, "the second command has collected them").keys() - before == jobs
    assert len(results(tmp_path)) == 2
