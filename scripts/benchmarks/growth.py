"""Time and memory of a step by canvas, batch and control points.

Each point is measured in its own process, so that memory starts from zero: ``python -m benchmarks.growth``
reads a point from stdin and writes the measurement to stdout.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Times
from benchmarks.table import Cell, Table, label, milliseconds, number
from benchmarks.training import our_loop
from stn_experiments.common.errors import UserError
from stn_experiments.runs.experiment import build_experiment

SCRIPTS = Path(__file__).parents[1]
POINTS = {
    "data.distortion.canvas": (28, 42, 56, 84, 112),
    "trainer.batch_size": (64, 256, 1024, 4096),
    "stn.family.control_points": (4, 8, 12, 16),
}


def tables(bench: Bench) -> list[Table]:
    """Time and peak memory of a step; all points are measured once, then all again for each repeat."""
    points = [(setting, value) for setting, values in POINTS.items() for value in values]
    if bench.quick:
        points = [("data.distortion.canvas", 28)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {point: [] for point in points}
    for _ in range(bench.repeats):
        for setting, value in points:
            family = ["stn=tps"] if "control_points" in setting else []
            config = bench.config(*family, last=[f"{setting}={value}"])
            found[setting, value].append(measure_in_process(bench, config))
    rows = [[label(f"{setting}={value}"), *cells(some)] for (setting, value), some in found.items()]
    columns = ["setting", "ms per step", "µs per image", "peak memory, MB", "of it by training, MB"]
    note = "Each point in its own process. Peak memory: of the process on a CPU, of torch on a GPU."
    return [Table("growth", "Growth of a training step", columns, rows, note)]


def cells(found: Iterable[dict[str, float]]) -> list[Cell]:
    """Time per step and per image, peak memory, and how much of it training has added."""
    seconds, images, before, peak = zip(*(point.values() for point in found), strict=True)
    return [
        milliseconds(Times(seconds)),
        number(tuple(1e6 * one / count for one, count in zip(seconds, images, strict=True))),
        number(peak),
        number(tuple(most - first for most, first in zip(peak, before, strict=True))),
    ]


def measure_in_process(bench: Bench, config: dict[str, Any]) -> dict[str, float]:
    """Measure a point in a new process.

    Raises:
        UserError: it failed.
    """
    question = {"config": config, "seconds": bench.seconds, "quick": bench.quick}
    command = [sys.executable, "-m", "benchmarks.growth"]
    path = os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        input=json.dumps(question),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{' '.join(command[1:])} ended with {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(question: dict[str, Any]) -> dict[str, float]:
    """Train for a while: seconds and images of a step, and peak memory before and after."""
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
    """The peak memory so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # On Linux, ru_maxrss of a process starts with that of its parent.
    return peak_of(os.getpid()) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_of(process: int) -> float:
    """The peak memory of a process so far, in MB; 0 if it has ended, or without /proc."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
