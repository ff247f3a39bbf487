"""A user's own images: one .npz file with arrays for training, validation and test."""

import itertools
import math
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
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
"""The split and kind of each known key, in lower case and without separators: ``xtrain``, ``trainx``, ..."""
MAX_CHANNELS = 4
MAX_CLASSES = 10_000
MAX_GB = 8
TOLERANCE = 1e-3  # rounding may put images on the scale 0 to 1 so far above 1


class LabelledImages(NamedTuple):
    """One split: ``images`` (N, C, H, W), float32 in [0, 1] or uint8; ``labels`` (N,) int64, from 0."""

    images: Tensor
    labels: Tensor


class NpzSplits(NamedTuple):
    """The three splits, whose images all have the same (C, H, W), and the number of classes."""

    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages
    classes: int


def read_npz(
    path: str | Path, valid_size: int = 5000, seed: int = 0, size: tuple[int, int] | None = None
) -> NpzSplits:
    """Read images and labels from an .npz file, under keys such as ``x_train`` or ``Test_Labels``.

    Images are (N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C) with C up to 4. Their values are from 0 to
    255, or from 0 to 1 if no value in the file is above 1. Labels are whole numbers from 0, (N,) or (N, 1),
    or one-hot (N, K). The number of classes is K, or else the highest label plus one.

    Args:
        path: the file. Pickled objects in it are never loaded.
        valid_size: number of training images held out if the file has no validation set; at most a fifth of
            them, at least one.
        seed: decides which images are held out.
        size: (height, width) in pixels, for flat images that are not square and for ambiguous shapes.

    Raises:
        UserError: the file is missing, damaged, too large or not as described above.
    """
    try:
        with _open(path) as archive:
            return _read(archive, valid_size, seed, size)
    except UserError as error:
        raise UserError(" ".join(f"file {path}: {error}".splitlines())) from error


def _require(condition: bool, what: str, takes: str, got: object) -> None:
    if not condition:
        raise UserError(f"{what} must {takes}, got {got}")


def _reason(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)


def _open(path: str | Path) -> NpzFile:
    try:
        content = np.load(Path(path).expanduser(), allow_pickle=False)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "it is a folder" if isinstance(error, IsADirectoryError) else "there is no such file"
        raise UserError(f"{what}: give the path of an .npz file") from error
    except Exception as error:  # its type depends on the damage
        raise UserError(f"it must be an .npz file, as numpy.savez writes it ({_reason(error)})") from error
    is_npz = isinstance(content, NpzFile)
    _require(is_npz, "it", "be an .npz file, as numpy.savez writes it", "a single .npy array")
    return content


def _read(archive: NpzFile, valid_size: int, seed: int, size: tuple[int, int] | None) -> NpzSplits:
    keys = _find_keys(archive.files)
    _check_size(archive, [key for by_split in keys.values() for key in by_split.values()])
    labels = {key: _read_labels(key, _read_array(archive, key)) for key in keys["labels"].values()}
    images = {key: _read_images(key, _read_array(archive, key), size) for key in keys["images"].values()}
    _check_match(images, labels)
    classes = _count_classes(labels)
    _rescale(images)
    pairs = zip(images.values(), labels.values(), strict=True)
    read = [LabelledImages(split_images, split_labels) for split_images, (split_labels, _) in pairs]
    splits = dict(zip(keys["images"], read, strict=True))
    if "valid" not in splits:
        splits["train"], splits["valid"] = _hold_out(splits["train"], valid_size, seed)
    return NpzSplits(**splits, classes=classes)


def _find_keys(names: list[str]) -> dict[str, dict[str, str]]:
    """The key of each kind of array and each split; the validation split may be missing."""
    found: dict[tuple[str, str], list[str]] = {role: [] for role in ROLES.values()}
    for name in names:
        if role := ROLES.get("".join(filter(str.isalnum, name.lower()))):
            found[role].append(name)
    has_valid = any(found["valid", kind] for kind in KINDS)
    splits = [split for split in SPLITS if split != "valid" or has_valid]
    needs = "have x_train, y_train, x_test, y_test, and x_valid with y_valid or neither (x images, y labels)"
    for role in itertools.product(splits, KINDS):
        keys, description = found[role], " ".join(role)
        _require(len(keys) > 0, f"has no {description}: it", needs, _listed(names))
        _require(len(keys) == 1, "it", f"have one array of {description}", _listed(keys))
    return {kind: {split: found[split, kind][0] for split in splits} for kind in KINDS}


def _listed(keys: list[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, keys)), 300) or "no arrays"


def _check_size(archive: NpzFile, keys: list[str]) -> None:
    """Check the unpacked size that the zip directory gives, before anything is read."""
    assert archive.zip is not None
    sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
    needed = sum(sizes[key] for key in keys) / 1e9
    _require(needed <= MAX_GB, "it", f"unpack to at most {MAX_GB} GB", f"{needed:.1f} GB in {_listed(keys)}")


def _read_array(archive: NpzFile, key: str) -> np.ndarray:
    try:
        array = np.asarray(archive[key])
    except Exception as error:  # its type depends on the damage
        if "Object arrays" in str(error):
            raise UserError(f"{key!r} must be an array of numbers, got Python objects") from error
        raise UserError(f"{key!r} is damaged or cannot be read ({_reason(error)})") from error
    is_text = array.dtype.kind in "US" and array.size > 0
    got = (
        f"strings such as {array.flat[0].item()[:40]!r}; number the classes from 0"
        if is_text
        else array.dtype
    )
    _require(array.dtype.kind in "buif", repr(key), "be an array of numbers", got)
    has_items = array.ndim > 0 and array.size > 0
    _require(has_items, repr(key), "hold at least one image or label", f"shape {array.shape}")
    return array


def _read_labels(key: str, array: np.ndarray) -> tuple[Tensor, int | None]:
    """Labels (N,), and the number of classes if they are stored as one-hot."""
    takes = f"be labels (N,), (N, 1) or one-hot (N, K) with K up to {MAX_CLASSES}"
    fits = array.ndim <= 2 and math.prod(array.shape[1:]) <= MAX_CLASSES
    _require(fits, repr(key), takes, f"shape {array.shape}")
    if array.ndim == 2 and array.shape[1] > 1:
        one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
        _require(one_hot, repr(key), "be one-hot where (N, K)", "rows that are not a single 1 among 0s")
        return torch.from_numpy(array.argmax(axis=1)), array.shape[1]
    array = array.reshape(-1)
    low, high = array.min(), array.max()
    in_range = low >= 0 and high < MAX_CLASSES  # false of NaN
    got = _count_nan(torch.from_numpy(array)) if np.isnan(low) else f"{low} to {high}"
    _require(in_range, repr(key), f"be labels from 0 to {MAX_CLASSES - 1}", got)
    labels = array.astype(np.int64)
    _require((labels == array).all(), repr(key), "be whole numbers", "fractions")
    return torch.from_numpy(labels), None


def _count_classes(labels: dict[str, tuple[Tensor, int | None]]) -> int:
    """The number of classes, on which one-hot labels and whole numbers must agree."""
    widths = {key: width for key, (_, width) in labels.items() if width}
    counts = {key: int(values.max()) + 1 for key, (values, _) in labels.items()}
    classes = min(widths.values(), default=max(counts.values()))
    for key, count in {**counts, **widths}.items():
        _require(count <= classes, repr(key), f"have {classes} classes as the one-hot labels do", count)
    _require(classes > 1, "labels", "be of at least two classes", "0 alone")
    return classes


def _read_images(key: str, array: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """Images (N, C, H, W) on their stored scale: bytes as they are, which take little memory, or float32."""
    shape = _chw(key, array.shape, size)
    if array.ndim == 4 and array.shape[1:] != shape:
        array = array.transpose(0, 3, 1, 2)
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # what becomes infinite is refused later
        return torch.from_numpy(np.ascontiguousarray(array, dtype).reshape(-1, *shape))


def _chw(key: str, shape: tuple[int, ...], size: tuple[int, int] | None) -> tuple[int, int, int]:
    """The (C, H, W) of images stored with a shape."""
    ways = [way for way in _possible_chw(shape, size) if size in (None, way[1:])]
    wanted = f"be images of {size[0]}x{size[1]} pixels" if size else "be images (square where flat)"
    if len(ways) > 1:
        wanted = "be images that can be read in one way only, or whose size (height, width) is given"
    takes = f"{wanted}, (N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C) with C up to {MAX_CHANNELS}"
    _require(len(ways) == 1, repr(key), takes, f"shape {shape}")
    return ways[0]


def _possible_chw(shape: tuple[int, ...], size: tuple[int, int] | None) -> list[tuple[int, int, int]]:
    """Every (C, H, W) that a stored shape may mean. Flat images get ``size`` if it is given."""
    if len(shape) == 2:
        height, width = size or (math.isqrt(shape[1]), math.isqrt(shape[1]))
        return [(1, height, width)] if height * width == shape[1] else []
    if len(shape) == 3:
        ways = [(1, shape[1], shape[2])]
        # A narrow axis may be one of channels, with flat images; only ``size`` can tell.
        return ways * 2 if size is None and min(shape[1:]) <= MAX_CHANNELS else ways
    if len(shape) == 4:
        ways = [(shape[1], shape[2], shape[3]), (shape[3], shape[1], shape[2])]
        return [way for way in ways if way[0] <= MAX_CHANNELS]
    return []


def _check_match(images: dict[str, Tensor], labels: dict[str, tuple[Tensor, int | None]]) -> None:
    """Check that the splits have images of one shape, and a label for each image."""
    first = next(iter(images))
    wanted = tuple(images[first].shape[1:])
    for (key, split_images), (label_key, (split_labels, _)) in zip(
        images.items(), labels.items(), strict=True
    ):
        shape, count = tuple(split_images.shape[1:]), len(split_images)
        _require(shape == wanted, repr(key), f"have images {wanted} (C, H, W) as in {first!r}", shape)
        takes = f"have a label for each of the {count} images in {key!r}"
        _require(len(split_labels) == count, repr(label_key), takes, len(split_labels))


def _rescale(images: dict[str, Tensor]) -> None:
    """Bring all images, which share one scale, to [0, 1]; bytes from 0 to 255 stay what they are."""
    highs = {}
    for key, values in images.items():
        low, high = (bound.item() for bound in values.aminmax())
        in_range = low >= 0 and high <= 255  # false of NaN
        got = _count_nan(values) if math.isnan(low) else f"{low:g} to {high:g}"
        _require(in_range, repr(key), "be from 0 to 1 or 0 to 255", got)
        highs[key] = high
    is_255 = max(highs.values()) > 1 + TOLERANCE
    for key, values in images.items():
        is_other_scale = is_255 and highs[key] <= 1 + TOLERANCE and bool((values % 1).any())
        _require(not is_other_scale, repr(key), "go to 255 as the others do", "fractions up to 1")
        if not (is_255 and values.dtype == torch.uint8):
            images[key] = values.float().div_(255 if is_255 else 1).clamp_(max=1)


def _count_nan(values: Tensor) -> str:
    """How many of the rows of images or labels (N, ...) have a NaN, in words."""
    rows = values.flatten(1).isnan().any(1) if values.ndim > 1 else values.isnan()
    return f"NaN in {int(rows.sum())} of {len(rows)}, first in number {int(rows.nonzero()[0])} from 0"


def _hold_out(train: LabelledImages, valid_size: int, seed: int) -> tuple[LabelledImages, LabelledImages]:
    total = len(train.labels)
    _require(total > 1, "it", "have 2 training images or more, to hold one out for validation", total)
    held = max(1, min(valid_size, total // 5))
    order = torch.randperm(total, generator=Generator().manual_seed(seed))
    rest, chosen = (
        LabelledImages(train.images[part], train.labels[part]) for part in order.split([total - held, held])
    )
    return rest, chosen
