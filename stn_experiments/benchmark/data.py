"""How fast are the distortions, beside torchvision's by the sample and kornia's by the batch?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from stn_experiments.benchmark.bench import Bench
from stn_experiments.benchmark.measure import Job, again
from stn_experiments.benchmark.rivals import Lacks, kornia_draw, loader, torchvision_samples
from stn_experiments.benchmark.table import Cell, Table, label, quotient, rate
from stn_experiments.config import build
from stn_experiments.data.datasets import DistortedMnist

NAMES = (
    *("clean", "rotated", "translated", "rts", "projective", "elastic", "cluttered", "mixed", "noisy"),
    *("motion_blur", "low_contrast", "affnist", "sim2mnist", "addition"),
)
OURS, TORCHVISION, KORNIA = "ours", "torchvision, DataLoader", "kornia"


def tables(bench: Bench) -> list[Table]:
    """Images a second of every distortion."""
    configs = bench.configs("data", NAMES)
    rows = [row(bench, config) for config in configs]
    size = configs[0]["trainer"]["batch_size"]
    return [
        Table(
            "data",
            f"Distortions, images/s in batches of {size}",
            ["data", OURS, TORCHVISION, KORNIA, "ours ÷ torchvision", "ours ÷ kornia"],
            rows,
            f"torchvision: sample by sample, {bench.workers} workers. All without poses, as for training.",
        )
    ]


def row(bench: Bench, config: dict[str, Any]) -> list[Cell]:
    """One distortion."""
    task, size = build(config["data"], "data", DistortedMnist).distortion, config["trainer"]["batch_size"]
    train, generator = bench.train_set(task), Generator(bench.device).manual_seed(0)

    def batches(draw: Callable[[Tensor], object]) -> Job:
        return again(lambda: draw(torch.randint(train.size, (size,), device=bench.device)))

    jobs: dict[str, Job | str] = {OURS: batches(lambda index: train.draw(index, generator))}
    try:
        samples = torchvision_samples(task, bench.mnist.train)
        jobs[TORCHVISION] = loader(samples, size, bench.workers).job(bench.device)
    except Lacks as lacks:
        jobs[TORCHVISION] = str(lacks)
    try:
        jobs[KORNIA] = batches(kornia_draw(task, bench.digits))
    except Lacks as lacks:
        jobs[KORNIA] = str(lacks)
    ours, *others = bench.measure(jobs).values()
    rates = [rate(times, size) for times in (ours, *others)]
    return [label(config["data"]["name"]), *rates, *(quotient(times, ours) for times in others)]
