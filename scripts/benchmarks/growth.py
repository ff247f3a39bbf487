"""Time and memory of a step by canvas, batch and control points."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Values
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


class Growth(NamedTuple):
    """A training step: its seconds and images, and the peak memory in MB before training and in all."""

    seconds: float
    images: int
    before: float
    peak: float


def tables(bench: Bench) -> list[Table]:
    """Time and peak memory of a step; all points are measured once, then all again for each repeat."""
    configs = {
        f"{setting}={value}": bench.config(
            *(["stn=tps"] if "control_points" in setting else []), last=[f"{setting}={value}"]
        )
        for setting, values in POINTS.items()
        for value in values
    }
    found: dict[str, list[Growth]] = {setting: [] for setting in configs}
    for _ in range(bench.repeats):
        for setting, config in configs.items():
            found[setting].append(in_new_process(measure_step, config, bench.seconds))
    rows = [row(setting, steps) for setting, steps in found.items()]
    note = "Each point in its own process. Peak memory: of the process on a CPU, of torch on a GPU."
    return [Table("growth", "Growth of a training step", rows, note)]


def row(setting: str, steps: list[Growth]) -> dict[str, Values]:
    """Time per step and per image, peak memory, and how much of it training has added."""
    return {
        "setting": setting,
        "ms per step": tuple(1e3 * step.seconds for step in steps),
        "µs per image": tuple(1e6 * step.seconds / step.images for step in steps),
        "peak memory, MB": tuple(step.peak for step in steps),
        "of it by training, MB": tuple(step.peak - step.before for step in steps),
    }


def in_new_process(work: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a process that has imported torch and done nothing else.

    Raises:
        UserError: it failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except UserError:
            raise
        except Exception as error:  # also BrokenProcessPool, where the system ends a process for its memory
            raise UserError(f"growth could not be measured: {type(error).__name__}: {error}") from error


def measure_step(config: dict[str, Any], seconds: float) -> Growth:
    """Train for about so many seconds."""
    bench = Bench(lambda _: config, repeats=1, seconds=seconds)
    experiment = build_experiment(config)
    set_up_torch(experiment.trainer, experiment.device)
    job = our_loop(experiment, bench.train_set(task_of(config)))
    before = peak_memory(bench.device)
    (values,) = bench.measure({"": job}).values()
    assert not isinstance(values, str)
    return Growth(values[0], experiment.trainer.batch_size, before, peak_memory(bench.device))


def peak_memory(device: torch.device) -> float:
    """The peak memory of this process so far, in MB: torch's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # On Linux this starts with the memory of the parent, which here is the fork server.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
