"""The two text files of the rotated digits of Larochelle et al. 2007, ``mnist_rotation_new.zip``."""

import os
from pathlib import Path

import numpy as np
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data.canvas import SIDE
from stn_experiments.data.mnist import DATA_DIR_VARIABLE
from stn_experiments.data.npz import LabelledImages

TRAIN_IMAGES = 12_000
FILES = {
    "mnist_all_rotation_normalized_float_train_valid.amat": TRAIN_IMAGES,
    "mnist_all_rotation_normalized_float_test.amat": 50_000,
}
"""The number of images in each file: for training and validation, and for testing."""


def read_rotated12k(root: str | None = None) -> tuple[LabelledImages, LabelledImages]:
    """The images of both files in the folder ``root``, or else in that of ``STN_DATA_DIR``.

    A line is an image: 784 grey levels from 0 to 1, row by row, and the label.

    Raises:
        UserError: there is no such folder, or a file is missing or damaged.
    """
    folder = root or os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        raise UserError(f"data.root must be the folder with {' and '.join(FILES)}")
    first, second = (_read(Path(folder).expanduser() / name, count) for name, count in FILES.items())
    return first, second


def _read(path: Path, count: int) -> LabelledImages:
    try:
        lines = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except OSError as error:
        raise UserError(f"data.root: {path} cannot be read: put the original file there") from error
    except ValueError as error:
        raise UserError(f"data.root: {path} is damaged: put the original file there") from error
    if lines.shape != (count, SIDE**2 + 1):
        raise UserError(f"data.root: {path} must have {count} lines of 785 numbers, got {lines.shape}")
    images, labels = lines[:, :-1], lines[:, -1].astype(np.int64)
    in_range = 0 <= images.min() <= images.max() <= 1 and 0 <= labels.min() <= labels.max() <= 9
    if not in_range or (labels != lines[:, -1]).any():
        raise UserError(f"data.root: {path} must have grey levels from 0 to 1 and labels from 0 to 9")
    shaped = np.ascontiguousarray(images).reshape(count, 1, SIDE, SIDE)
    return LabelledImages(torch.from_numpy(shaped), torch.from_numpy(labels))
