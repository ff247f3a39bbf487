"""Kill short runs, at random moments and amid each of their writes, and see that they come to the same.

    python tests/runs/soak.py --kills 40 --seed 0

A run is a child, forked from this process when torch is loaded, so that it takes about a second. It tells its
parent through a pipe what it does. A fault is a signal at one of these events or at a random moment; then
another child goes on in the same folder. What it all comes to must be, bit by bit, what a run comes to that
nothing happens to. Linux only.
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
from stn_experiments.runs import train as train_run
from stn_experiments.storage import checkpoints
from stn_experiments.storage import run_folder as runs
from stn_experiments.training import loop

ROOT = Path(__file__).parents[2]
UNLIKE = ("seconds", "train_seconds", "images_per_second", "commit")  # it may change while tests run
TOO_LONG = 300  # seconds, for what takes a few
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
"""Where every soak kills, however short; one of forty kills kills at each of the other events, too."""


class Fault(NamedTuple):
    """A signal at the ``count``-th event of a kind or, without a kind, ``delay`` seconds after any first."""

    signal: signal.Signals
    kind: str = ""
    count: int = 0
    delay: float = 0.0


class Life(NamedTuple):
    """What a child did, and how it ended: with its exit code, or with less than 0, a signal."""

    events: list[str]
    status: int
    seconds: float

    def last(self, name):
        """The number in the last event of that name, if there is one."""
        return next((int(event.split()[1]) for event in self.events[::-1] if event.startswith(name)), None)


class Harm(Exception):
    """A run cannot go on, or loses more than it may, or comes to something else."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="how often runs are killed (40)")
    parser.add_argument("--seed", type=int, default=0, help="decides when and where (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the child of a process that has computed with several may hang
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        soak(options.kills, random.Random(options.seed), root)
    except Harm as harm:
        sys.exit(f"error: {harm}; see {root}")
    shutil.rmtree(root)


def soak(kills, chance, root):
    """Have ``kills`` kills, and some stops, happen to runs, and report each of them."""
    began = time.monotonic()
    kill_a_script(root)
    # With this seed the second of the three epochs is the best, so that best.pt is written twice.
    config = make_config(f"run.root={root / 'outputs'}", "data.valid_size=40", "seed=6")
    whole = live(config, root / "log")
    require(whole.status == 0, f"the run that nothing happens to ends with {whole.status}")
    folder = folder_of(config)
    wanted = outcome(folder)
    faults = plan(whole.events, kills - 1, chance)
    done, finished = [], 1
    while faults:
        shutil.rmtree(folder)
        done += suffer(config, faults, whole, chance, root / "log")
        require_same(outcome(folder), wanted)
        finished += 1
    signals = Counter(fault.signal.name for fault in done) + Counter(SIGKILL=1)
    kinds = {fault.kind for fault in done if fault.kind}
    print(
        f"{', '.join(f'{count} {name}' for name, count in signals.items())}: 1 of a script, "
        f"{sum(not fault.kind for fault in done)} at random moments, the others at {len(kinds)} kinds of "
        f"event. Each of the {finished} runs went on every time and came, bit by bit, to what one comes to "
        f"that nothing happens to. {time.monotonic() - began:.0f} s"
    )


def plan(events, kills, chance):
    """The faults that shall happen, without their moments, given the events of a whole run."""
    kinds = [kind for kind in dict.fromkeys(map(kind_of, events)) if not kind.startswith("from")]
    missing = [kind for kind in MUST if kind not in kinds]
    require(not missing, f"no run does any more what was to be interrupted: {', '.join(missing)}")
    others = [kind for kind in kinds if kind not in MUST]
    chance.shuffle(others)
    anywhere = kills // 4
    chosen = [*[""] * anywhere, *islice(cycle([*MUST, *others]), kills - anywhere)]
    stops = cycle(zip([signal.SIGTERM, signal.SIGINT] * 2, ["step #", "evaluate", "", ""], strict=True))
    faults = [Fault(signal.SIGKILL, kind) for kind in chosen]
    faults += [Fault(*stop) for stop in islice(stops, max(2, kills // 8))]
    chance.shuffle(faults)
    return faults


def suffer(config, faults, whole, chance, log):
    """Bring one run to its end through as many of the faults as fit in; these are taken out, and given."""
    done = []
    start = reached = floor = 0  # steps: where it went on, how far it came, where it must go on at least
    while True:
        fault = next_fault(faults, whole, start, chance)
        life = live(config, log, fault)
        went_on = life.last("from")
        if done:
            ended = "is finished" if life.status == 0 else "ends again before it goes on"
            print(ended if went_on is None else f"goes on from step {went_on}", flush=True)
        if went_on is not None:
            require(floor <= went_on <= reached, f"it should go on from a step from {floor} to {reached}")
            start, reached, floor = went_on, life.last("step") or went_on, math.inf
        if life.status == 0:
            return done
        require(fault and life.status in ends(fault), f"{fault} makes a child end with {life.status}")
        floor = min(floor, reached - (STEPS if fault.signal == signal.SIGKILL else 0))
        faults.remove(fault._replace(count=0, delay=0.0))
        done.append(fault)
        where = f"at {fault.kind}, number {fault.count}"
        if not fault.kind:
            where = f"after {fault.delay:.2f} s and {life.events[-1]}"
        print(f"{fault.signal.name:7} {where:40} step {reached:2}, ", end="", flush=True)


def next_fault(faults, whole, start, chance):
    """The next fault that may happen to a run that goes on from a step, with a moment for it."""
    begin = whole.events.index("from 0") + 1
    skipped = whole.events.index(f"step {start}") + 1 if start else begin
    ahead = whole.events[:begin] + whole.events[skipped:]
    kinds = Counter(map(kind_of, ahead))
    fault = next((fault for fault in faults if not fault.kind or fault.kind in kinds), None)
    if fault is None:
        return None
    if fault.kind:
        last = kinds[fault.kind]
        first = last if "best.pt" in fault.kind else 1  # what is written again would hide the harm
        by = 1 if fault.signal == signal.SIGKILL else STEPS  # a stop is to come when not all is saved
        return fault._replace(count=chance.randrange(first, last + 1, by))
    return fault._replace(delay=chance.uniform(0.1, 1) * whole.seconds * len(ahead) / len(whole.events))


def ends(fault):
    """How a child may end by a fault: a stop is a plain death only where there is nothing to be saved."""
    if fault.signal == signal.SIGKILL:
        return {-fault.signal}
    return {128 + fault.signal} if fault.kind == "step #" else {128 + fault.signal, -fault.signal}


def live(config, log, fault=None):
    """Train in a child, which a fault may happen to, until it ends."""
    read, write = os.pipe()
    began = time.monotonic()
    if not (child := os.fork()):
        os.close(read)
        os._exit(train(config, log, fault, write))
    os.close(write)
    try:
        told = listen(read, child, fault)
    finally:
        os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Life(told.splitlines(), status, time.monotonic() - began)


def listen(read, child, fault):
    """What a child tells until it ends; a fault at a random moment happens to it meanwhile."""
    told = b""
    end, due = time.monotonic() + TOO_LONG, math.inf
    while True:
        patience = min(due, end) - time.monotonic()
        if patience > 0:
            if select.select([read], [], [], patience)[0]:
                if not (chunk := os.read(read, 65536)):
                    return told.decode()
                if fault and not fault.kind and not told:
                    due = time.monotonic() + fault.delay
                told += chunk
        elif due < end:
            os.kill(child, fault.signal)
            due = math.inf
        else:
            os.kill(child, signal.SIGKILL)
            raise Harm(f"a child hangs, of which was last heard {told.decode().splitlines()[-1:]}")


def train(config, log, fault, pipe):
    """What a child does; its exit code."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    try:
        use_few_digits()
        tell_events(pipe, fault)
        train_run.train_run(config)
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
    """Have smooth blobs stand for MNIST; and ask git nothing, whose answer may change meanwhile."""
    images, labels = blobs(200)
    train, test = (Digits(images[part], labels[part]) for part in (slice(160), slice(160, 200)))
    datasets.load_mnist = lambda root: Mnist(train, test)
    datasets.TRAIN_DIGITS = len(train.labels)
    runs.commit = train_run.commit = lambda: "none"


def blobs(count):
    """Images (N, 28, 28) of ten noisy shapes, and which of them it is (N,)."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 10
    coarse = torch.rand(10, 1, 5, 5, generator=generator)[labels]
    coarse = 0.6 * coarse + 0.4 * torch.rand(coarse.shape, generator=generator)
    images = pad(interpolate(coarse, size=(20, 20), mode="bilinear", align_corners=False)[:, 0], (4, 4, 4, 4))
    return (images * 255).byte(), labels


def tell_events(pipe, fault):
    """Tell of each step, of each write before and after it, and the like; and have the fault happen there."""
    counts = Counter()

    def tell(event, unfinished=None):
        os.write(pipe, f"{event}\n".encode())
        kind = kind_of(event)
        counts[kind] += 1
        if fault and (kind, counts[kind]) == (fault.kind, fault.count):
            if unfinished:
                os.truncate(unfinished, unfinished.stat().st_size // 2)
            os.kill(os.getpid(), fault.signal)

    tell_of_the_run(tell)
    tell_of_files(tell)


def tell_of_the_run(tell):
    """Tell from which step a run goes on, of each step done, and that an evaluation begins."""
    resume, train_step, evaluate = train_run.resume, loop.train_step, train_run.evaluate

    def telling_resume(training, run):
        history = resume(training, run)
        tell(f"from {training.progress.step}")
        return history

    def telling_train_step(training, batch, trainer):
        column = train_step(training, batch, trainer)
        tell(f"step {training.progress.step + 1}")
        return column

    def telling_evaluate(model, batch):
        tell("evaluate")
        return evaluate(model, batch)

    train_run.resume, loop.train_step, train_run.evaluate = (
        telling_resume,
        telling_train_step,
        telling_evaluate,
    )


def tell_of_files(tell):
    """Tell of each file that is written but not yet safe, where a fault halves it, and of each renaming."""
    fsync, replace = os.fsync, Path.replace
    safe = set()

    def telling_fsync(opened):
        path = Path(f"/proc/self/fd/{opened}").readlink()
        if path.is_file() and threading.current_thread() is threading.main_thread():  # not the lock's heart
            tell(f"half {final_name(path)}", path)
            safe.add(path)
        fsync(opened)

    def telling_replace(path, target):
        if path not in safe and final_name(path) == target.name:
            tell(f"half {target.name}", path)
        tell(f"before {target.name}")
        moved = replace(path, target)
        tell(f"after {target.name}")
        return moved

    os.fsync, Path.replace = telling_fsync, telling_replace


def final_name(path):
    """The name that a file gets when it is whole."""
    return re.sub(r"^\.|\.(tmp|\d+)$", "", path.name)


def kind_of(event):
    """An event without its numbers."""
    return re.sub(r"\d+", "#", event)


def kill_a_script(root):
    """Kill a process of ``scripts/train.py``, and have another go on."""
    settings = npz_settings(root)
    whole = make_config(*settings, f"run.root={root / 'whole'}")
    require(live(whole, root / "log").status == 0, "the run that nothing happens to fails")
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
    went_on = re.search(r"goes on after step (\d+)", output)
    require(went_on, f"scripts/train.py does not go on: {output}")
    print(f"goes on from step {went_on[1]}", flush=True)
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
    """Wait until something is so."""
    end = time.monotonic() + TOO_LONG
    while not condition():
        require(time.monotonic() < end, "what was waited for does not come")
        time.sleep(0.005)


def make_config(*settings):
    """The config of a small run with these settings."""
    return compose(ROOT / "configs", [*SMALL, *settings])


def folder_of(config):
    """The folder of a config's run."""
    return Path(config["run"]["root"]) / runs.run_name(config)


def outcome(folder):
    """All that a run came to, but what tells the time: what each file holds, and there for each name a value.

    Left out are TensorBoard's file, which keeps what was done in vain, the last checkpoint but one, and the
    lock file, which a kill may leave for good when all else is done.
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
    """A nested value as one value for each name, of which two are equal if they are so bit by bit."""
    if isinstance(value, torch.Tensor):
        return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    if isinstance(value, float):
        return {name: value.hex()}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: (type(value), value)}
    items = ((key, item) for key, item in value.items() if key not in UNLIKE)
    return {name: len(value)} | {k: v for key, item in items for k, v in flat(item, f"{name}: {key}").items()}


def require_same(found, wanted):
    """See that a run came to what it was to come to."""
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    require(not names, f"a run came to something else in {len(names)} places: {'; '.join(names[:10])}")


def require(condition, message):
    if not condition:
        raise Harm(message)


if __name__ == "__main__":
    main()
