"""How fast are the distortions, beside torchvision's by the sample and kornia's by the batch?"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from stn_experiments.benchmark.bench import Bench
from stn_experiments.benchmark.measure import Job
from stn_experiments.benchmark.rivals import Lacks, kornia_draw, loader, torchvision_samples
from stn_experiments.benchmark.table import Cell, Table, label, missing, rate, times_as_fast
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
            f"torchvision: sample by sample, {bench.workers} workers. Ours gives each digit's pose too.",
        )
    ]


def row(bench: Bench, config: dict) -> list[Cell]:
    """One distortion."""
    data, size = build(config["data"], "data", DistortedMnist), config["trainer"]["batch_size"]
    train = bench.train_set(data.distortion)
    generator = Generator(bench.device).manual_seed(0)
    jobs: dict[str, Job] = {OURS: draws(train.size, size, bench, lambda index: train.draw(index, generator))}
    reasons = {}
    try:
        samples = torchvision_samples(data.distortion, bench.mnist.train)
        jobs[TORCHVISION] = loader(samples, size, bench.workers).job(bench.device)
    except Lacks as lacks:
        reasons[TORCHVISION] = str(lacks)
    try:
        jobs[KORNIA] = draws(train.size, size, bench, kornia_draw(data.distortion, bench.digits))
    except Lacks as lacks:
        reasons[KORNIA] = str(lacks)
    times = bench.measure(jobs)
    rivals = (TORCHVISION, KORNIA)
    return [
        label(config["data"]["name"]),
        rate(times[OURS], size),
        *(rate(times[name], size) if name in times else missing(reasons[name]) for name in rivals),
        *(
            times_as_fast(times[name], times[OURS]) if name in times else missing(reasons[name])
            for name in rivals
        ),
    ]


def draws(count: int, size: int, bench: Bench, draw: Callable[[Tensor], object]) -> Job:
    """Batches of random digits out of ``count``."""

    def job(units: int) -> None:
        for _ in range(units):
            draw(torch.randint(count, (size,), device=bench.device))

    return job
