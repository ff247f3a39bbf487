"""The speed of the distortions, beside torchvision's by sample and kornia's by batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.bench import Bench
from benchmarks.measure import Job, again
from benchmarks.rivals import NotSupported, kornia_draw, loader, torchvision_samples
from benchmarks.table import Cell, Table, label, quotient, rate
from stn_experiments.config.build import build
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.training.loop import batches_per_chunk

NAMES = (
    *("clean", "rotated", "translated", "rts", "projective", "elastic", "cluttered", "mixed", "noisy"),
    *("motion_blur", "low_contrast", "affnist", "sim2mnist", "addition"),
)
OURS, TORCHVISION, KORNIA = "ours", "torchvision, DataLoader", "kornia"


def tables(bench: Bench) -> list[Table]:
    """Images per second of every distortion."""
    configs = bench.configs("data", NAMES)
    rows = [row(bench, config) for config in configs]
    size = configs[0]["trainer"]["batch_size"]
    return [
        Table(
            "data",
            f"Distortions, images/s in batches of {size}",
            ["data", OURS, TORCHVISION, KORNIA, "ours ÷ torchvision", "ours ÷ kornia"],
            rows,
            f"Ours and kornia's: {batches_per_chunk(size)} batches together, as in training. "
            f"torchvision's: sample by sample, {bench.workers} workers. All without poses, as in training.",
        )
    ]


def row(bench: Bench, config: dict[str, Any]) -> list[Cell]:
    """One distortion."""
    task, size = build(config["data"], "data", DistortedMnist).distortion, config["trainer"]["batch_size"]
    many = batches_per_chunk(size)
    train, generator = bench.train_set(task), Generator(bench.device).manual_seed(0)

    def batches(draw: Callable[[Tensor], object]) -> Job:
        return again(lambda: draw(torch.randint(train.size, (many * size,), device=bench.device)))

    jobs: dict[str, Job | str] = {OURS: batches(lambda index: train.draw(index, generator))}
    try:
        samples = torchvision_samples(task, bench.mnist.train)
        load = loader(samples, size, bench.workers).job(bench.device)
        jobs[TORCHVISION] = lambda lots: load(many * lots)
    except NotSupported as error:
        jobs[TORCHVISION] = str(error)
    try:
        jobs[KORNIA] = batches(kornia_draw(task, bench.digits))
    except NotSupported as error:
        jobs[KORNIA] = str(error)
    ours, *others = bench.measure(jobs).values()
    rates = [rate(times, many * size) for times in (ours, *others)]
    return [label(config["data"]["name"]), *rates, *(quotient(times, ours) for times in others)]
