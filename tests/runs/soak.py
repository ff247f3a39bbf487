"""Kill short runs at random moments and in the middle of each write, and check their results.

    python tests/runs/soak.py --kills 40 --seed 0

A run is a child process, forked after torch is loaded, so it takes about a second. It reports its events
through a pipe. A fault is a signal at one of these events or at a random moment; then another child resumes
in the same folder. The final files must be equal, bit by bit, to those of a run without faults. Linux only.
"""

import argparse
import json
import math
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch.nn.functional import interpolate, pad

from stn_experiments.cli.signals import Stopped
from stn_experiments.config.compose import compose
from stn_experiments.data import datasets
from stn_experiments.data.mnist import Digits, Mnist
from stn_experiments.runs import train as train_module
from stn_experiments.storage import checkpoints, environment
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.loop import Trainer

ROOT = Path(__file__).parents[2]
IGNORED = ("seconds", "train_seconds", "images_per_second", "commit")
TOO_LONG = 300  # seconds, for runs that take a few
STEPS = 2  # between two checkpoints
SMALL = (
    "trainer=quick",
    "trainer.epochs=3",
    "trainer.batch_size=20",
    "trainer.device=cpu",
    "optimizer.lr=0.01",
    "backbone.width=4",
    "backbone.pool=2",
    "run.checkpoint_seconds=null",
    f"run.checkpoint_steps={STEPS}",
)
MUST = (
    "half last.pt",
    "before previous.pt",
    "after previous.pt",  # between the two renames, when there is no last.pt
    "after last.pt",  # before its folder is synced
    "half best.pt",
    "before best.pt",
    "half history.jsonl",
    "half result.json",
    "half panel-#.png",
    "step #",
)
"""The events at which every soak kills; a longer one kills at the others, too."""


class Fault(NamedTuple):
    """A signal at the ``count``-th event of a kind or, without a kind, ``delay`` seconds after any first."""

    signal: signal.Signals
    kind: str = ""
    count: int = 0
    delay: float = 0.0


class ChildRun(NamedTuple):
    """The events of a child, and its exit code, or minus the number of the signal that killed it."""

    events: list[str]
    status: int
    seconds: float

    def last(self, name):
        """The number in the last event of that name, if there is one."""
        return next((int(event.split()[1]) for event in self.events[::-1] if event.startswith(name)), None)


class SoakFailure(Exception):
    """A run cannot resume, loses more steps than it may, or has another result."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="how often runs are killed (40)")
    parser.add_argument("--seed", type=int, default=0, help="decides when and where (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the child of a process that has computed with several may hang
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        soak(options.kills, random.Random(options.seed), root)
    except SoakFailure as failure:
        sys.exit(f"error: {failure}; see {root}")
    shutil.rmtree(root)


def soak(kills, chance, root):
    """Inject this number of kills, and some stops, into runs, and report each of them."""
    began = time.monotonic()
    kill_a_script(root)
    # With this seed the second of the three epochs is the best, so that best.pt is written twice.
    config = make_config(f"run.root={root / 'outputs'}", "data.valid_size=40", "seed=6")
    whole = run_child(config, root / "log")
    require(whole.status == 0, f"the run without faults ends with {whole.status}")
    folder = folder_of(config)
    wanted = outcome(folder)
    faults = plan(whole.events, kills - 1, chance)
    done, finished = [], 1
    while faults:
        shutil.rmtree(folder)
        done += inject_faults(config, faults, whole, chance, root / "log")
        require_same(outcome(folder), wanted)
        finished += 1
    signals = Counter(fault.signal.name for fault in done) + Counter(SIGKILL=1)
    kinds = {fault.kind for fault in done if fault.kind}
    print(
        f"{', '.join(f'{count} {name}' for name, count in signals.items())}: 1 of a script, "
        f"{sum(not fault.kind for fault in done)} at random moments, the others at {len(kinds)} kinds of "
        f"event. Each of the {finished} runs resumed every time, and has the result of the run without "
        f"faults, bit by bit. {time.monotonic() - began:.0f} s"
    )


def plan(events, kills, chance):
    """The faults to inject, without their moments, given the events of a whole run."""
    kinds = [kind for kind in dict.fromkeys(map(kind_of, events)) if not kind.startswith("from")]
    missing = [kind for kind in MUST if kind not in kinds]
    require(not missing, f"no run has these events any more: {', '.join(missing)}")
    others = [kind for kind in kinds if kind not in MUST]
    chance.shuffle(others)
    anywhere = kills // 4
    chosen = [*[""] * anywhere, *islice(cycle([*MUST, *others]), kills - anywhere)]
    stops = cycle(zip([signal.SIGTERM, signal.SIGINT] * 2, ["step #", "evaluate", "", ""], strict=True))
    faults = [Fault(signal.SIGKILL, kind) for kind in chosen]
    faults += [Fault(*stop) for stop in islice(stops, max(2, kills // 8))]
    chance.shuffle(faults)
    return faults


def inject_faults(config, faults, whole, chance, log):
    """Run to the end with as many of the faults as fit in; these are removed from the list and returned."""
    done = []
    start = reached = floor = 0  # steps: where it resumed, how far it came, where it has to resume at least
    while True:
        fault = next_fault(faults, whole, start, chance)
        child = run_child(config, log, fault)
        resumed = child.last("from")
        if done:
            ended = "is finished" if child.status == 0 else "ends again before it resumes"
            print(ended if resumed is None else f"resumes from step {resumed}", flush=True)
        if resumed is not None:
            require(floor <= resumed <= reached, f"it should resume from a step from {floor} to {reached}")
            start, reached, floor = resumed, child.last("step") or resumed, math.inf
        if child.status == 0:
            return done
        require(fault and child.status in ends(fault), f"{fault} makes a child end with {child.status}")
        floor = min(floor, reached - (STEPS if fault.signal == signal.SIGKILL else 0))
        faults.remove(fault._replace(count=0, delay=0.0))
        done.append(fault)
        where = f"at {fault.kind}, number {fault.count}"
        if not fault.kind:
            where = f"after {fault.delay:.2f} s and {child.events[-1]}"
        print(f"{fault.signal.name:7} {where:40} step {reached:2}, ", end="", flush=True)


def next_fault(faults, whole, start, chance):
    """The next fault that a run which resumes from a step can have, with a moment for it."""
    begin = whole.events.index("from 0") + 1
    skipped = whole.events.index(f"step {start}") + 1 if start else begin
    ahead = whole.events[:begin] + whole.events[skipped:]
    kinds = Counter(map(kind_of, ahead))
    fault = next((fault for fault in faults if not fault.kind or fault.kind in kinds), None)
    if fault is None:
        return None
    if fault.kind:
        last = kinds[fault.kind]
        first = last if "best.pt" in fault.kind else 1  # a later write would hide the damage
        by = 1 if fault.signal == signal.SIGKILL else STEPS  # a stop has to come between two checkpoints
        return fault._replace(count=chance.randrange(first, last + 1, by))
    return fault._replace(delay=chance.uniform(0.1, 1) * whole.seconds * len(ahead) / len(whole.events))


def ends(fault):
    """The exit codes that a fault may cause; a stop without anything to save may end the process at once."""
    if fault.signal == signal.SIGKILL:
        return {-fault.signal}
    return {128 + fault.signal} if fault.kind == "step #" else {128 + fault.signal, -fault.signal}


def run_child(config, log, fault=None):
    """Train in a child process, with a fault or without, until it ends."""
    read, write = os.pipe()
    began = time.monotonic()
    if not (pid := os.fork()):
        os.close(read)
        os._exit(train(config, log, fault, write))
    os.close(write)
    try:
        reported = listen(read, pid, fault)
    finally:
        os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ChildRun(reported.splitlines(), status, time.monotonic() - began)


def listen(read, pid, fault):
    """The events that a child reports until it ends; a fault at a random moment is injected meanwhile."""
    reported = b""
    end, due = time.monotonic() + TOO_LONG, math.inf
    while True:
        patience = min(due, end) - time.monotonic()
        if patience > 0:
            if select.select([read], [], [], patience)[0]:
                if not (chunk := os.read(read, 65536)):
                    return reported.decode()
                if fault and not fault.kind and not reported:
                    due = time.monotonic() + fault.delay
                reported += chunk
        elif due < end:
            os.kill(pid, fault.signal)
            due = math.inf
        else:
            os.kill(pid, signal.SIGKILL)
            raise SoakFailure(f"a child hangs, of which was last heard {reported.decode().splitlines()[-1:]}")


def train(config, log, fault, pipe):
    """Train in a child; returns its exit code."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    try:
        use_few_digits()
        report_events(pipe, fault)
        train_module.train(config)
        return 0
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def use_few_digits():
    """Replace MNIST by smooth blobs, and do not ask git for the commit, which may change meanwhile."""
    images, labels = blobs(200)
    train, test = (Digits(images[part], labels[part]) for part in (slice(160), slice(160, 200)))
    datasets.load_mnist = lambda root: Mnist(train, test)
    datasets.TRAIN_DIGITS = len(train.labels)
    environment.commit = train_module.commit = lambda: "none"


def blobs(count):
    """Images (N, 28, 28) of ten noisy shapes, and their labels (N,)."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 10
    coarse = torch.rand(10, 1, 5, 5, generator=generator)[labels]
    coarse = 0.6 * coarse + 0.4 * torch.rand(coarse.shape, generator=generator)
    images = pad(interpolate(coarse, size=(20, 20), mode="bilinear", align_corners=False)[:, 0], (4, 4, 4, 4))
    return (images * 255).byte(), labels


def report_events(pipe, fault):
    """Report each step, each write before and after it, and the like; inject the fault at its event."""
    counts = Counter()

    def report(event, unfinished=None):
        os.write(pipe, f"{event}\n".encode())
        kind = kind_of(event)
        counts[kind] += 1
        if fault and (kind, counts[kind]) == (fault.kind, fault.count):
            if unfinished:
                os.truncate(unfinished, unfinished.stat().st_size // 2)
            os.kill(os.getpid(), fault.signal)

    report_training(report)
    report_writes(report)


def report_training(report):
    """Report the step from which a run resumes, each step, and the start of each evaluation."""
    restore, train_step = train_module.TrainingRun._restore, Trainer.train_step
    evaluate = train_module.evaluate

    def restore_and_report(run):
        restore(run)
        report(f"from {run.trainer.step}")

    def step_and_report(trainer, batch):
        metrics = train_step(trainer, batch)
        report(f"step {trainer.step + 1}")
        return metrics

    def report_and_evaluate(model, batch):
        report("evaluate")
        return evaluate(model, batch)

    train_module.TrainingRun._restore, Trainer.train_step = restore_and_report, step_and_report
    train_module.evaluate = report_and_evaluate


def report_writes(report):
    """Report each file that is written but not yet synced, which a fault then halves, and each renaming."""
    fsync, replace = os.fsync, Path.replace

    def report_and_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name.endswith(".tmp") and threading.current_thread() is threading.main_thread():
            report(f"half {final_name(path)}", path)
        fsync(descriptor)

    def report_and_replace(path, target):
        report(f"before {target.name}")
        moved = replace(path, target)
        report(f"after {target.name}")
        return moved

    os.fsync, Path.replace = report_and_sync, report_and_replace


def final_name(path):
    """The name that a temporary file gets when it is complete."""
    return re.sub(r"^\.|\.\d+\.tmp$", "", path.name)


def kind_of(event):
    """An event without its numbers."""
    return re.sub(r"\d+", "#", event)


def kill_a_script(root):
    """Kill a process of ``scripts/train.py``, and let another resume."""
    settings = npz_settings(root)
    whole = make_config(*settings, f"run.root={root / 'whole'}")
    require(run_child(whole, root / "log").status == 0, "the run without faults fails")
    settings.append(f"run.root={root / 'outputs'}")
    folder = folder_of(make_config(*settings))
    process = start_script(*settings)
    wait_until(lambda: (folder / "checkpoints" / "last.pt").exists() or process.poll() is not None)
    process.kill()
    process.communicate()
    require(process.returncode == -signal.SIGKILL, f"scripts/train.py ends with {process.returncode}")
    print("SIGKILL of scripts/train.py when there is a last.pt        , ", end="", flush=True)
    process = start_script(*settings)
    output, errors = process.communicate(timeout=TOO_LONG)
    require(process.returncode == 0, f"scripts/train.py ends with {process.returncode}: {errors}")
    resumed = re.search(r"resumes after step (\d+)", output)
    require(resumed, f"scripts/train.py does not resume: {output}")
    print(f"resumes from step {resumed[1]}", flush=True)
    require_same(outcome(folder), outcome(folder_of(whole)))


def npz_settings(root):
    """Settings of a small run, and its few images in a file, so that a script needs no MNIST."""
    images, labels = blobs(200)
    arrays = {f"{name}_{split}": array[part].numpy() for name, array in (("x", images), ("y", labels))
              for split, part in (("train", slice(160)), ("test", slice(160, 200)))}  # fmt: skip
    np.savez(root / "digits.npz", **arrays)
    return [*SMALL, "data=npz", f"data.file={root / 'digits.npz'}", "data.valid_size=40"]


def start_script(*settings):
    """Start ``scripts/train.py``."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)


def wait_until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + TOO_LONG
    while not condition():
        require(time.monotonic() < end, "a condition that was waited for does not hold")
        time.sleep(0.005)


def make_config(*settings):
    """The config of a small run with these settings."""
    return compose(ROOT / "configs", [*SMALL, *settings])


def folder_of(config):
    """The folder of a config's run."""
    return RunFolder.of(config).folder


def outcome(folder):
    """The content of all files of a run except times, as one value for each name.

    TensorBoard's file, which keeps lost steps, the previous checkpoint and the lock are omitted.
    """
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            content = checkpoints.load(path)
        elif path.suffix == ".json":
            content = json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            content = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".yaml":
            content = {**yaml.safe_load(path.read_text()), "run": None}  # where it lies
        else:
            content = path.read_bytes() if path.is_file() else None
        if not re.match(r"lock$|previous\.pt$|events\.out\.tfevents\.", path.name):
            found |= flat(content, name)
    return found


def flat(value, name):
    """A nested value as one value for each name; two of them are equal if all their bits are."""
    if isinstance(value, torch.Tensor):
        return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    if isinstance(value, float):
        return {name: value.hex()}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: (type(value), value)}
    items = ((key, item) for key, item in value.items() if key not in IGNORED)
    return {name: len(value)} | {k: v for key, item in items for k, v in flat(item, f"{name}: {key}").items()}


def require_same(found, wanted):
    """Check that a run has the expected outcome."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    require(not names, f"a run has another outcome in {len(names)} places: {'; '.join(names[:10])}")


def require(condition, message):
    if not condition:
        raise SoakFailure(message)


if __name__ == "__main__":
    main()
