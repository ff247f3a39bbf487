"""The speed of a user's own images, beside torchvision's ImageFolder in a DataLoader."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Generator, nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from benchmarks.bench import Bench
from benchmarks.measure import Job, Row, repeat, speeds
from benchmarks.rivals import Loader, reads
from benchmarks.table import Table
from stn_experiments.config.build import build
from stn_experiments.data.datasets import DataSet
from stn_experiments.data.splits import Splits
from stn_experiments.training.loop import batches_per_chunk

IMAGES, CLASSES, SIDE = 50_000, 10, 64
ANGLE, SCALE, SHIFT = 15, (0.8, 1.2), 6
AUGMENTATION = (
    f"data.training.angle={ANGLE}",
    f"data.training.scale=[{SCALE[0]},{SCALE[1]}]",
    f"data.training.shift={SHIFT}",
)


def tables(bench: Bench) -> list[Table]:
    """Images per second where files are read for the first time, and in later epochs."""
    count = bench.config()["trainer"]["images_per_epoch"] or IMAGES
    affine = v2.RandomAffine(
        ANGLE, (SHIFT / SIDE, SHIFT / SIDE), SCALE, interpolation=InterpolationMode.BILINEAR
    )
    batches = count // bench.config()["trainer"]["batch_size"]
    with TemporaryDirectory() as folder:
        write_images(Path(folder), count)
        read = {"ours": repeat(lambda: load(bench, folder)), "torchvision": loaded(bench, folder, batches)}
        rows = [
            {"images": "of the first epoch", **speeds(bench.measure(read), count)},
            {"images": "of later epochs", **later(bench, folder)},
            {"images": "of later epochs, rotated, scaled, moved", **later(bench, folder, affine)},
        ]
    title = f"{count:,} colour images of {SIDE}×{SIDE} pixels in JPEG files, images/s"
    note = (
        "`data=folder` reads all files before the first epoch and keeps them on the device; a DataLoader "
        f"with {bench.workers} workers reads them in each."
    )
    return [Table(title, rows, note)]


def write_images(folder: Path, count: int) -> None:
    """Write ``count`` pictures of smooth noise, which compress about as photographs do."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir()
    for place in range(count):
        small = Image.fromarray(random.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8))
        picture = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / str(place % CLASSES) / f"{place}.jpg", quality=90)


def later(bench: Bench, folder: str, *augmentation: nn.Module) -> Row:
    """Training images in batches, ours several together as in training."""
    size = bench.config()["trainer"]["batch_size"]
    per_chunk = batches_per_chunk(size)
    images = per_chunk * size
    train = load(bench, folder, *(AUGMENTATION if augmentation else ())).train
    draw = partial(train.draw, generator=Generator(bench.device).manual_seed(0))
    jobs = {
        "ours": bench.draws(draw, train.size, images),
        "torchvision": loaded(bench, folder, per_chunk, *augmentation),
    }
    return speeds(bench.measure(jobs), images)


def load(bench: Bench, folder: str, *overrides: str) -> Splits:
    """All images on the device, as ``data=folder`` has them."""
    config = bench.config("data=folder", f"data.folder={folder}", f"data.size={SIDE}", *overrides)
    return build(config["data"], "data", DataSet).load(bench.device)


def loaded(bench: Bench, folder: str, batches: int, *augmentation: nn.Module) -> Job:
    """A job that takes so many batches, read by torchvision, to the device."""
    transform = v2.Compose(
        [v2.Resize((SIDE, SIDE)), *augmentation, v2.PILToTensor(), v2.ToDtype(torch.float, True)]
    )
    loader = Loader(ImageFolder(folder, transform), bench.config()["trainer"]["batch_size"], bench.workers)
    return reads(loader, batches, bench.device)
