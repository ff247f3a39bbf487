"""Time and memory of a step by canvas, batch and control points."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from benchmarks.bench import Bench, task_of
from benchmarks.table import Table
from benchmarks.training import our_loop
from stn_experiments.common.errors import UserError
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import set_up_torch

POINTS = {
    "data.distortion.canvas": (28, 42, 56, 84, 112),
    "trainer.batch_size": (64, 256, 1024, 4096),
    "stn.family.control_points": (4, 8, 12, 16),
}
Result = TypeVar("Result")


def tables(bench: Bench) -> list[Table]:
    """Time and peak memory of a step; all points are measured once, then all again for each repeat."""
    points = [f"{setting}={value}" for setting, values in POINTS.items() for value in values]
    configs = {
        point: bench.compose([*(["stn=tps"] if "control_points" in point else []), *bench.overrides, point])
        for point in points
    }
    repeats = [
        {point: in_new_process(measure_step, config, bench.seconds) for point, config in configs.items()}
        for _ in range(bench.repeats)
    ]
    rows = [
        {"setting": point, **{name: tuple(one[point][name] for one in repeats) for name in repeats[0][point]}}
        for point in points
    ]
    note = "Each point in its own process. Peak memory: of the process on a CPU, of torch on a GPU."
    return [Table("Growth of a training step", rows, note)]


def in_new_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that has imported torch and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise UserError("growth could not be measured: is there too little memory?") from error


def measure_step(config: dict[str, Any], seconds: float) -> dict[str, float]:
    """Time per step and per image, peak memory, and how much of it training about so many seconds added."""
    bench = Bench(lambda _: config, repeats=1, seconds=seconds)
    experiment = build_experiment(config)
    set_up_torch(experiment.trainer, experiment.device)
    job = our_loop(experiment, bench.train_set(task_of(config)))
    before = peak_memory(bench.device)
    took = bench.measure({"": job})[""][0]
    peak = peak_memory(bench.device)
    return {
        "ms per step": 1e3 * took,
        "µs per image": 1e6 * took / experiment.trainer.batch_size,
        "peak memory, MB": peak,
        "of it by training, MB": peak - before,
    }


def peak_memory(device: torch.device) -> float:
    """The peak memory of this process so far, in MB: torch's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # On Linux this starts with the memory of the parent, which here is the fork server.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
