"""A user's own images: a folder with one folder of image files for each class."""

import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import files_below
from stn_experiments.data.npz import MAX_GB, SPLITS, LabelledImages

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".ppm": "PPM", ".bmp": "BMP", ".webp": "WEBP"}
PER_TASK = 32
"""Images that a process decodes at a time."""
PER_PROCESS = 250
"""With fewer images, another process costs more time than it saves."""
START = "fork" if sys.platform == "linux" else "spawn"
"""How processes start: the default of a process that joblib started cannot start others."""
Array = npt.NDArray[np.uint8]
Fit = Literal["resize", "crop", "pad"]
FITS: dict[str, Callable[..., Image.Image]] = {
    "resize": Image.Image.resize,
    "crop": ImageOps.fit,
    "pad": ImageOps.pad,
}
Classes = dict[str, list[str]]
"""The paths of the images of each class by its name, in the order of the labels."""


class FolderSplits(NamedTuple):
    """The images of the three splits, and the names of the classes."""

    train: Classes
    valid: Classes
    test: Classes
    class_names: list[str]


def find_images(folder: Path, fractions: tuple[float, float], seed: int) -> FolderSplits:
    """The image files in a folder, by split and class; no image is opened.

    The folder has the folders ``train``, ``test`` and perhaps ``valid``, each with a folder for each class,
    or the classes themselves. The splits have the same names as in ``.npz`` files, such as ``Training``.

    Args:
        folder: the folder.
        fractions: of each class, held out for validation and for the test, where there is no such split; at
            least one image.
        seed: decides which images are held out.

    Raises:
        UserError: there is no such folder, or it is not as described above.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder")
    found = _find_splits(folder) or {"train": folder}
    splits = {split: _find_classes(path) for split, path in found.items()}
    names = list(splits["train"])
    if len(names) < 2:
        raise UserError(
            f"{found['train']} must have a folder of images for each class, got {names or 'none'}"
        )
    for split, classes in splits.items():
        if odd := sorted(set(classes) ^ set(names)):
            places = f"{found[split]} and {found['train']}"
            raise UserError(f"{places} must have the same classes, but only one of them has {odd[0]}")
        for name, paths in classes.items():
            if not paths:
                raise UserError(f"{found[split] / name} has no images, which end in {', '.join(FORMATS)}")
    generator = Generator().manual_seed(seed)
    sizes = {name: len(paths) for name, paths in splits["train"].items()}
    for split, fraction in zip(("test", "valid"), fractions[::-1], strict=True):
        if split not in splits:
            splits[split] = {
                name: _draw(name, paths, fraction * sizes[name], generator)
                for name, paths in splits["train"].items()
            }
            for name, paths in splits[split].items():
                splits["train"][name] = sorted({*splits["train"][name]} - {*paths})
    return FolderSplits(**splits, class_names=names)


def _find_splits(folder: Path) -> dict[str, Path]:
    """The folders of the splits; none if the folders in ``folder`` are classes."""
    folders = _folders(folder)
    found: dict[str, Path] = {}
    for split, words in SPLITS.items():
        named = [path for path in folders if path.name.lower() in words]
        if len(named) > 1:
            raise UserError(f"{named[0]} and {named[1]} are the same split: keep one of them")
        found |= dict.fromkeys([split] * len(named), named[0] if named else folder)
    if "train" in found and "test" not in found and len(found) == len(folders):
        raise UserError(f"has no folder test: give {found['train']} alone, which is split, or add one")
    return found if {"train", "test"} <= found.keys() else {}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; those that are numbers by number."""
    paths = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (int(path.name) if path.name.isdecimal() else 0, path.name))


def _find_classes(folder: Path) -> Classes:
    classes: Classes = {path.name: [] for path in _folders(folder)}
    for path in files_below(folder):
        name, suffix = path.partition(os.sep)[0], os.path.splitext(path)[1]  # noqa: PTH122 (many files)
        if suffix.lower() in FORMATS and name in classes:
            classes[name].append(f"{folder}{os.sep}{path}")
    return classes


def _draw(name: str, paths: list[str], wanted: float, generator: Generator) -> list[str]:
    """About as many ``paths`` of a class as ``wanted``, in order; one at least is left."""
    if len(paths) < 2:
        raise UserError(f"class {name} has too few images to be split: each set needs one")
    count = min(max(1, round(wanted)), len(paths) - 1)
    index = torch.randperm(len(paths), generator=generator)[:count].sort().values
    return [paths[i] for i in index.tolist()]


def fits_in_memory(splits: FolderSplits, shape: tuple[int, int, int]) -> bool:
    """Whether the training images (C, H, W), as bytes, fit in memory beside the others, as float32.

    Raises:
        UserError: the others alone do not fit.
    """
    train, valid, test = (sum(map(len, classes.values())) for classes in splits[:3])
    one = math.prod(shape) / 1e9
    others = 4 * (valid + test) * one
    if others > MAX_GB:
        raise UserError(
            f"size or fractions must be smaller: the {valid + test:,} images for validation and test need "
            f"{others:.1f} GB of memory at {shape[1]}×{shape[2]} pixels, and at most {MAX_GB} GB are allowed"
        )
    return train * one + others <= MAX_GB


class ImageFiles(Dataset[Array | UserError]):
    """Images of some classes, decoded whenever they are asked for.

    Args:
        classes: the files.
        shape: (C, H, W) of each image.
        fit: how a file is brought to it.
    """

    def __init__(self, classes: Classes, shape: tuple[int, int, int], fit: Fit) -> None:
        self.paths = [path for paths in classes.values() for path in paths]
        self.labels = torch.tensor([label for label, some in enumerate(classes.values()) for _ in some])
        self.shape, self.fit = shape, fit

    def read(self, index: Sequence[int]) -> LabelledImages:
        """Images (N, C, H, W) uint8, decoded by several threads.

        Raises:
            UserError: a file is damaged or no image.
        """
        images = np.empty((len(index), *self.shape), np.uint8)
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(partial(_decode_into, fit=self.fit), [self.paths[i] for i in index], images):
                pass
        return LabelledImages(torch.from_numpy(images), self.labels[list(index)])

    def read_all(self) -> LabelledImages:
        """All images, decoded by several processes: with many small files, threads wait for one another.

        Raises:
            UserError: a file is damaged or no image.
        """
        images = np.empty((len(self.paths), *self.shape), np.uint8)
        tasks = [slice(start, start + PER_TASK) for start in range(0, len(images), PER_TASK)]
        processes = min(torch.get_num_threads(), len(images) // PER_PROCESS)
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=tasks,
            num_workers=processes,
            multiprocessing_context=START if processes else None,
            collate_fn=_unchanged,  # tensors would need shared memory, of which a container has little
            worker_init_fn=_ignore_interrupts,
            generator=Generator(),  # not the global one, which is the run's
        )
        for task, part in zip(tasks, loader, strict=True):
            if isinstance(part, UserError):
                raise part
            images[task] = part
        return LabelledImages(torch.from_numpy(images), self.labels)

    def __getitem__(self, task: slice) -> Array | UserError:
        """Some images (N, C, H, W), or an error: the loader would add a traceback to one that is raised."""
        paths = self.paths[task]
        images = np.empty((len(paths), *self.shape), np.uint8)
        try:
            for path, image in zip(paths, images, strict=True):
                _decode_into(path, image, self.fit)
        except UserError as error:
            return error
        return images


def _unchanged(images: Any) -> Any:
    return images


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _decode_into(path: str, target: Array, fit: Fit) -> None:
    """Decode a file into an image (C, H, W)."""
    channels, height, width = target.shape
    mode, most = "RGB" if channels == 3 else "L", 2 * max(height, width)
    try:
        with Image.open(path, formats=list(FORMATS.values())) as file:
            file.draft(mode, (most, most))  # a large JPEG is decoded at a fraction of its size, at least this
            image: Any = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # Pillow would clip 16 bits
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = FITS[fit](image.convert(mode), (width, height), Image.Resampling.BILINEAR)
            target[:] = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
    except Exception as error:  # its type depends on the damage
        reason = textwrap.shorten(str(error), 200)
        raise UserError(f"data.folder: {path} cannot be read as an image ({reason})") from error
