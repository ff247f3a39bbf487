"""Three and two digits of 2×2 pixels, which stand for MNIST."""

import pickle

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data import idx, mnist
from tests.data.damage import CreatesAFile

NAMES = [file.name for file in idx.FILES]
ARRAYS = [
    np.array([0, 9, 10, 99, 100, 255, 1, 2, 3, 4, 5, 6], np.uint8).reshape(3, 2, 2),
    np.array([5, 0, 4], np.uint8),
    np.array([7, 70, 170, 0, 0, 0, 0, 1], np.uint8).reshape(2, 2, 2),
    np.array([7, 2], np.uint8),
]
CONTENTS = [idx.encode(array) for array in ARRAYS]
FLIPPED = CONTENTS[0][:-1] + b"\x07"
PICKLE = pickle.dumps(CreatesAFile("created"))


def write_files(folder, rename=str, pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (folder / rename(name)).write_bytes(pack(content))


def files_in(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != "fetch.lock")


def assert_loads(root=None):
    digits = mnist.load_mnist(root)
    for tensor, array in zip((*digits.train, *digits.test), ARRAYS, strict=True):
        expected = torch.from_numpy(array)
        torch.testing.assert_close(tensor, expected if array.ndim == 3 else expected.long())


def assert_refused(root, *parts, kind=UserError):
    with pytest.raises(kind) as caught:
        mnist.load_mnist(root)
    line = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in line
    assert [part for part in map(str, parts) if part not in line] == []


def forbidden(work):
    raise AssertionError("nothing may be fetched here")


def broken(work):
    (work / "half").write_text("of a download")
    raise RuntimeError("Error downloading:\nTried a mirror, got:\nno such host\n")
