"""The speed of the distortions, beside torchvision's by sample and kornia's by batch."""

from functools import partial
from typing import Any

from torch import Generator

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Row, speeds
from benchmarks.rivals import Loader, kornia_draw, reads, torchvision_samples
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
        f"sample by sample, in a DataLoader with {bench.workers} workers. All without poses, as in training. "
        "torchvision has no motion blur, and kornia pastes no crops of other images."
    )
    return [
        Table(f"Distortions, images/s in batches of {size}", [row(bench, config) for config in configs], note)
    ]


def row(bench: Bench, config: dict[str, Any]) -> Row:
    """One distortion."""
    task, size = task_of(config), config["trainer"]["batch_size"]
    per_chunk = batches_per_chunk(size)
    images = per_chunk * size
    train, generator = bench.train_set(task), Generator(bench.device).manual_seed(0)
    samples, kornia = torchvision_samples(task, bench.mnist.train), kornia_draw(task, bench.digits)
    loader = None if samples is None else Loader(samples, size, bench.workers)
    jobs = {
        "ours": bench.draws(partial(train.draw, generator=generator), train.size, images),
        "torchvision": None if loader is None else reads(loader, per_chunk, bench.device),
        "kornia": kornia and bench.draws(kornia, train.size, images),
    }
    return {"data": config["data"]["name"], **speeds(bench.measure(jobs), images)}
