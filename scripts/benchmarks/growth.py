"""How do time and memory grow with the canvas, the batch, the control points and the runs of a sweep?

Each point is a process of its own, so that memory starts afresh:
``python -m benchmarks.growth`` reads one from stdin and writes what it found to stdout.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import torch

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Times
from benchmarks.table import Cell, Table, label, milliseconds, number
from benchmarks.training import our_loop
from stn_experiments.common.errors import UserError
from stn_experiments.data.mnist import Digits
from stn_experiments.runs.experiment import build_experiment

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"
POINTS = {
    "data.distortion.canvas": (28, 42, 56, 84, 112),
    "trainer.batch_size": (64, 256, 1024, 4096),
    "stn.family.control_points": (4, 8, 12, 16),
}
RUNS = (1, 2, 4, 8, 16)
TINY = ("trainer.epochs=1", "trainer.images_per_epoch=2560", "data.valid_size=500", "backbone.width=8")


def tables(bench: Bench) -> list[Table]:
    """A step's time and memory, and a sweep's time."""
    return [steps(bench), sweep(bench)]


def steps(bench: Bench) -> Table:
    """Time and peak memory of a step; all points once, then all once more, as often as there are repeats."""
    points = [(setting, value) for setting, values in POINTS.items() for value in values]
    if bench.quick:
        points = [("data.distortion.canvas", 28)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {point: [] for point in points}
    for _ in range(bench.repeats):
        for setting, value in points:
            family = ["stn=tps"] if "control_points" in setting else []
            config = bench.config(*family, last=[f"{setting}={value}"])
            found[setting, value].append(in_a_process(bench, config))
    rows = [[label(f"{setting}={value}"), *cells(some)] for (setting, value), some in found.items()]
    columns = ["setting", "ms a step", "µs an image", "peak memory, MB", "of it by training, MB"]
    note = "Each point in a process of its own. Peak memory: of the process on a CPU, of torch's on a GPU."
    return Table("growth", "Growth of a training step", columns, rows, note)


def cells(found: Iterable[dict[str, float]]) -> list[Cell]:
    """A point's time a step and an image, its peak memory, and what of it training has added."""
    seconds, images, before, peak = zip(*(point.values() for point in found), strict=True)
    return [
        milliseconds(Times(seconds)),
        number(tuple(1e6 * one / count for one, count in zip(seconds, images, strict=True))),
        number(peak),
        number(tuple(most - first for most, first in zip(peak, before, strict=True))),
    ]


def sweep(bench: Bench) -> Table:
    """Wall time and peak memory of sweeps over tiny runs: all of a command, from its start to its end."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in (RUNS[:1] if bench.quick else RUNS)}
    with tempfile.TemporaryDirectory() as folder:
        made_up = ["data=npz", f"data.file={digits_file(bench.mnist.train, folder)}"] if bench.quick else []
        for repeat in range(bench.repeats):
            for count in found:
                root, seeds = f"run.root={folder}/{repeat}-{count}", f"seed=range({count})"
                command = [sys.executable, str(TRAIN), "-m", *made_up, *bench.overrides, *TINY, root, seeds]
                found[count].append(watched(command))
    rows = []
    for count, some in found.items():
        seconds, memory = zip(*some, strict=True)
        rows.append([label(count), *map(number, (seconds, tuple(one / count for one in seconds), memory))])
    note = "python scripts/train.py -m " + " ".join([*TINY, "seed=range(N)"])
    columns = ["runs", "seconds", "seconds a run", "peak memory, MB"]
    return Table("sweep", "Growth of a sweep", columns, rows, f"`{note}`")


def watched(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and the peak of its memory in MB, 0 where that cannot be seen.

    Raises:
        UserError: it failed.
    """
    start, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        said.seek(0)
        require_success(command, process.returncode, said.read())
    return seconds, peak


def in_a_process(bench: Bench, config: dict[str, Any]) -> dict[str, float]:
    """A point, found out by a fresh process."""
    question = {"config": config, "seconds": bench.seconds, "quick": bench.quick}
    command = [sys.executable, "-m", "benchmarks.growth"]
    return json.loads(call(command, json.dumps(question)).splitlines()[-1])


def call(command: list[str], given: str = "") -> str:
    """What a command prints.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    require_success(command, done.returncode, done.stderr)
    return done.stdout


def require_success(command: list[str], code: int, said: str) -> None:
    """See that a command that said something on its way out has not failed.

    Raises:
        UserError: it has.
    """
    if code:
        last = (said.strip().splitlines() or ["no word of why"])[-1]
        raise UserError(f"{' '.join(command[1:])} ended with {code}: {last}")


def answer(question: dict[str, Any]) -> dict[str, float]:
    """Train for a while: a step's seconds, its images, and the peak of memory before and after."""
    config = question["config"]
    bench = Bench(lambda _: config, repeats=1, seconds=question["seconds"], quick=question["quick"])
    experiment = build_experiment(config)
    job = our_loop(experiment, bench.train_set(task_of(experiment)))
    before = peak_memory(bench.device)
    times = bench.measure({"": job})[""]
    assert isinstance(times, Times)
    size = experiment.trainer.batch_size
    return {"seconds": times.median, "images": size, "before": before, "peak": peak_memory(bench.device)}


def peak_memory(device: torch.device) -> float:
    """The most memory so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # On Linux a process's ru_maxrss starts at that of the one which started it.
    return peak_of(os.getpid()) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_of(process: int) -> float:
    """The most memory of a process so far, in MB; 0 of one that has ended, and where no /proc tells."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def digits_file(digits: Digits, folder: str) -> str:
    """Digits as a file for data=npz."""
    images, labels = (part.numpy() for part in digits)
    numpy.savez(f"{folder}/digits.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return f"{folder}/digits.npz"


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
