"""The speed of the distortions, beside torchvision's by sample and kornia's by batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Job, Values, repeat, speeds
from benchmarks.rivals import Loader, kornia_draw, torchvision_samples
from benchmarks.table import Table
from stn_experiments.training.loop import batches_per_chunk

NAMES = (
    *("clean", "rotated", "translated", "rts", "projective", "elastic", "cluttered", "mixed"),
    *("noisy_translated", "motion_blur_translated", "low_contrast_translated"),
    *("affnist", "sim2mnist", "addition"),
)


def tables(bench: Bench) -> list[Table]:
    """Images per second of every distortion."""
    configs = bench.configs("data", NAMES)
    size = configs[0]["trainer"]["batch_size"]
    note = (
        f"Ours and kornia's: {batches_per_chunk(size)} batches together, as in training. torchvision's: "
        f"sample by sample, in a DataLoader with {bench.workers} workers. All without poses, as in training."
    )
    return [
        Table(f"Distortions, images/s in batches of {size}", [row(bench, config) for config in configs], note)
    ]


def row(bench: Bench, config: dict[str, Any]) -> dict[str, Values]:
    """One distortion."""
    task, size = task_of(config), config["trainer"]["batch_size"]
    per_chunk = batches_per_chunk(size)
    train, generator = bench.train_set(task), Generator(bench.device).manual_seed(0)
    samples, draw = torchvision_samples(task, bench.mnist.train), kornia_draw(task, bench.digits)

    def chunks(draw: Callable[[Tensor], object]) -> Job:
        return repeat(lambda: draw(torch.randint(train.size, (per_chunk * size,), device=bench.device)))

    def loaded(loader: Loader) -> Job:
        def load(chunks: int) -> None:
            for images, labels in loader.passes(per_chunk * chunks):
                images.to(bench.device), labels.to(bench.device)

        return load

    jobs: dict[str, Job | str] = {
        "ours": chunks(partial(train.draw, generator=generator)),
        "torchvision": samples if isinstance(samples, str) else loaded(Loader(samples, size, bench.workers)),
        "kornia": draw if isinstance(draw, str) else chunks(draw),
    }
    return {"data": config["data"]["name"], **speeds(bench.measure(jobs), per_chunk * size)}
