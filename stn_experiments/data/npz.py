"""A data set of the user's own: one .npz file with arrays for training, validation and test."""

import io
import itertools
import math
import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}
KINDS = {
    "images": ("x", "image", "images", "data", "input", "inputs"),
    "labels": ("y", "label", "labels", "target", "targets"),
}
ROLES = {
    "".join(words): (split, kind)
    for split, kind in itertools.product(SPLITS, KINDS)
    for pair in itertools.product(SPLITS[split], KINDS[kind])
    for words in (pair, pair[::-1])
}
"""The split and kind that a key stands for; the key in lower case, without what joins its words."""
MAX_CHANNELS = 4
MAX_CLASSES = 10_000
MAX_GB = 8
HEADER_BYTES = 16_384  # more than numpy takes for the header of an array
ABOVE_ONE = 1e-3  # sums of images on the scale of 0 to 1 may stray so far above it


class Arrays(NamedTuple):
    """One split: ``images`` (N, C, H, W) float32 in [0, 1]; ``labels`` (N,) int64, from 0."""

    images: Tensor
    labels: Tensor


class File(NamedTuple):
    """The three splits, with images of one shape (C, H, W), and the number of classes in them all."""

    train: Arrays
    valid: Arrays
    test: Arrays
    classes: int


class Entry(NamedTuple):
    """An array that is not yet read: its key, where it is in the archive, and what its header says."""

    key: str
    info: ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype


Entries = dict[str, Entry]
"""The images, or the labels, by split."""


def read_npz(
    path: str | Path, valid_size: int = 5000, seed: int = 0, size: tuple[int, int] | None = None
) -> File:
    """The images and labels of an .npz file, under keys such as ``x_train`` or ``Test_Labels``.

    Images are (N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C) with C up to 4: numbers from 0 to 255, or
    from 0 to 1 where none in the whole file is above 1. Labels are whole numbers from 0, (N,) or (N, 1), or
    one-hot (N, K); then K is the number of classes, else it is one more than the highest label.

    Args:
        path: the file. It is only read, and pickled objects in it are refused.
        valid_size: how many training images are held out where the file has none for validation; never more
            than a fifth of them, but at least one.
        seed: decides which images are held out.
        size: (height, width) in pixels, for flat images that are not square and for ambiguous shapes.

    Raises:
        UserError: the file is missing or damaged, or not what is said above.
    """
    try:
        with _open(path) as archive, warnings.catch_warnings():
            # numpy warns of files from Python 2, which it reads well, and of what float32 cannot hold, which
            # is refused here.
            warnings.simplefilter("ignore")
            return _read(archive, valid_size, seed, size)
    except UserError as error:
        raise UserError(" ".join(f"file {path}: {error}".splitlines())) from error


def _require(holds: bool, what: str, takes: str, got: object) -> None:
    if not holds:
        raise UserError(f"{what} must {takes}, got {got}")


@contextmanager
def _sound(what: str) -> Iterator[None]:
    """For the code of others that decodes bytes: whatever it raises, the bytes are at fault."""
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"{what} is damaged or cannot be read ({reason})") from error


def _open(path: str | Path) -> ZipFile:
    with _sound("the path"):
        path = Path(path).expanduser()
    if not os.path.isfile(path):  # noqa: PTH113 (up to Python 3.13 Path.is_file may raise)
        raise UserError("there is no such file: give the path of an .npz file")
    with _sound("it"), path.open("rb") as stream:
        start = stream.read(len(npy.MAGIC_PREFIX))
    kind = "a single .npy array" if start == npy.MAGIC_PREFIX else "a file of another kind"
    _require(start.startswith(b"PK"), "it", "be an .npz file, as numpy.savez writes it", kind)
    with _sound("it"):
        return ZipFile(path)


def _read(archive: ZipFile, valid_size: int, seed: int, size: tuple[int, int] | None) -> File:
    # All that names and headers can tell is checked before anything is allocated.
    images, labels = _find(archive)
    _check_counts(images, labels)
    _check_memory([*images.values(), *labels.values()])
    shape = _shape(images["train"], size)
    for entry in images.values():
        wanted = f"have images {shape} (C, H, W) as in {images['train'].key!r}"
        _require(_shape(entry, size) == shape, repr(entry.key), wanted, _shape(entry, size))
    targets = {split: _read_labels(archive, entry) for split, entry in labels.items()}
    classes = _classes(labels, targets)
    pixels = {split: _read_images(archive, entry, shape) for split, entry in images.items()}
    _rescale(images, pixels)
    splits = {split: Arrays(pixels.pop(split), targets[split]) for split in images}
    if "valid" not in splits:
        splits["train"], splits["valid"] = _hold_out(splits.pop("train"), valid_size, seed)
    return File(splits["train"], splits["valid"], splits["test"], classes)


def _find(archive: ZipFile) -> tuple[Entries, Entries]:
    found: dict[tuple[str, str], list[ZipInfo]] = {}
    for info in archive.infolist():
        if role := ROLES.get("".join(filter(str.isalnum, _key(info).lower()))):
            found.setdefault(role, []).append(info)
    splits = [split for split in SPLITS if split != "valid" or any("valid" in role for role in found)]
    needs = "have x_train, y_train, x_test, y_test, and x_valid with y_valid or neither (x images, y labels)"
    for role in itertools.product(splits, KINDS):
        infos, name = found.get(role, []), " ".join(role)
        _require(len(infos) > 0, f"has no {name}: it", needs, _keys(archive.infolist()))
        _require(len(infos) == 1, "it", f"have one array of {name}", _keys(infos))
    images, labels = ({split: _entry(archive, found[split, kind][0]) for split in splits} for kind in KINDS)
    return images, labels


def _key(info: ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _keys(infos: Iterable[ZipInfo]) -> str:
    return textwrap.shorten(", ".join(repr(_key(info)) for info in infos), 300) or "no arrays"


def _entry(archive: ZipFile, info: ZipInfo) -> Entry:
    key = _key(info)
    with _sound(repr(key)):
        with archive.open(info) as stream:
            start = io.BytesIO(stream.read(HEADER_BYTES))
        header = npy.read_array_header_1_0 if npy.read_magic(start) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(start)
        str(math.prod(shape))  # one of more than 4300 digits cannot be said in a message
    kind = "pickled objects, which are never loaded" if dtype.hasobject else dtype
    _require(dtype.kind in "buif", repr(key), "be an array of numbers", kind)
    _require(min(shape, default=0) > 0, repr(key), "hold at least one image or label", f"shape {shape}")
    length = start.tell() + math.prod(shape) * dtype.itemsize
    _require(info.file_size == length, f"{key!r} is damaged: it", f"take {length} bytes", info.file_size)
    return Entry(key, info, shape, dtype)


def _check_counts(images: Entries, labels: Entries) -> None:
    for split, (key, _, shape, _) in labels.items():
        takes = f"be labels (N,), (N, 1) or one-hot (N, K) with K up to {MAX_CLASSES}"
        fits = len(shape) <= 2 and math.prod(shape[1:]) <= MAX_CLASSES
        _require(fits, repr(key), takes, f"shape {shape}")
        count = images[split].shape[0]
        takes = f"have a label for each of the {count} images in {images[split].key!r}"
        _require(shape[0] == count, repr(key), takes, shape[0])


def _check_memory(entries: list[Entry]) -> None:
    # Images are held as float32, whatever they are stored as.
    needed = sum(math.prod(entry.shape) * max(entry.dtype.itemsize, 4) for entry in entries) / 1e9
    keys = _keys(entry.info for entry in entries)
    _require(needed <= MAX_GB, "it", f"fit in {MAX_GB} GB of memory", f"{needed:.1f} GB in {keys}")


def _shape(entry: Entry, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """The (C, H, W) of images."""
    ways = [way for way in _ways(entry.shape, size) if size in (None, way[1:])]
    wanted = f"be images of {size[0]}x{size[1]} pixels" if size else "be images (square where flat)"
    if len(ways) > 1:
        wanted = "be images that can be read in one way only, or whose size (height, width) is given"
    takes = f"{wanted}, (N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C) with C up to {MAX_CHANNELS}"
    _require(len(ways) == 1, repr(entry.key), takes, f"shape {entry.shape}")
    return ways[0]


def _ways(shape: tuple[int, ...], size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Every (C, H, W) that a shape may mean. Flat images become ``size``, if that is given."""
    if len(shape) == 2:
        height, width = size or (math.isqrt(shape[1]), math.isqrt(shape[1]))
        return [(1, height, width)] if height * width == shape[1] else []
    if len(shape) == 3:
        # So narrow, the images may as well be flat and have an axis of channels.
        narrow = min(shape[1:]) <= MAX_CHANNELS
        return [(1, shape[1], shape[2])] * (2 if narrow and size is None else 1)
    if len(shape) == 4:
        ways = (shape[1], shape[2], shape[3]), (shape[3], shape[1], shape[2])
        return [way for way in ways if way[0] <= MAX_CHANNELS]
    return []


def _read_array(archive: ZipFile, entry: Entry) -> np.ndarray:
    # This reads to the last byte, where zipfile compares the checksum.
    with _sound(repr(entry.key)), archive.open(entry.info) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _read_labels(archive: ZipFile, entry: Entry) -> Tensor:
    array, key = _read_array(archive, entry), repr(entry.key)
    if _is_table(entry):
        one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
        _require(one_hot, key, "be one-hot where (N, K)", "rows that are not a single 1 among 0s")
        return torch.from_numpy(array.argmax(axis=1))
    low, high = array.min(), array.max()
    in_range = low >= 0 and high < MAX_CLASSES  # false of NaN
    _require(in_range, key, f"be labels from 0 to {MAX_CLASSES - 1}", f"{low} to {high}")
    labels = array.reshape(-1).astype(np.int64)
    _require((labels == array.reshape(-1)).all(), key, "be whole numbers", "fractions")
    return torch.from_numpy(labels)


def _is_table(labels: Entry) -> bool:
    return math.prod(labels.shape[1:]) > 1


def _classes(labels: Entries, targets: dict[str, Tensor]) -> int:
    """The number of classes, on which one-hot labels and whole numbers must agree."""
    widths = {entry.key: entry.shape[1] for entry in labels.values() if _is_table(entry)}
    counts = {entry.key: int(targets[split].max()) + 1 for split, entry in labels.items()}
    classes = min(widths.values(), default=max(counts.values()))
    for key, count in {**counts, **widths}.items():
        _require(count <= classes, repr(key), f"have {classes} classes as the one-hot labels do", count)
    return classes


def _read_images(archive: ZipFile, entry: Entry, shape: tuple[int, int, int]) -> Tensor:
    array = _read_array(archive, entry)
    if array.ndim == 4 and array.shape[1:] != shape:
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array, np.float32).reshape(-1, *shape))


def _rescale(images: Entries, pixels: dict[str, Tensor]) -> None:
    """Bring all images, which share one scale, to [0, 1] in place."""
    highs = {}
    for split, values in pixels.items():
        low, high = (bound.item() for bound in values.aminmax())
        in_range = low >= 0 and high <= 255  # false of NaN
        _require(in_range, repr(images[split].key), "be from 0 to 1 or 0 to 255", f"{low:g} to {high:g}")
        highs[split] = high
    in_bytes = max(highs.values()) > 1 + ABOVE_ONE
    for split, values in pixels.items():
        of_one = in_bytes and highs[split] <= 1 + ABOVE_ONE and values.frac().any()
        _require(not of_one, repr(images[split].key), "go to 255 as the others do", "fractions up to 1")
        values.div_(255 if in_bytes else 1).clamp_(max=1)


def _hold_out(train: Arrays, valid_size: int, seed: int) -> tuple[Arrays, Arrays]:
    total = len(train.labels)
    _require(total > 1, "it", "have 2 training images or more, to hold one out for validation", total)
    held = max(1, min(valid_size, total // 5))
    order = torch.randperm(total, generator=Generator().manual_seed(seed))
    rest, chosen = (Arrays(train.images[at], train.labels[at]) for at in order.split([total - held, held]))
    return rest, chosen
