"""The four official files of MNIST in their IDX format, told from all others by their MD5 sums.

Source of the digits: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11), 1998. The sums are those of the four official files, unpacked.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

READ_ERRORS = (OSError, EOFError, zlib.error, ValueError)
"""What :func:`read` raises for a file that is missing, damaged or not the official one."""


class IdxFile(NamedTuple):
    """One official file: its name, the MD5 sum of its unpacked bytes, and the shape of its uint8 array."""

    name: str
    md5: str
    shape: tuple[int, ...]

    @property
    def header_size(self) -> int:
        """Bytes before the data: a magic number, then one 32-bit length for each axis."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the whole unpacked file."""
        return self.header_size + math.prod(self.shape)


FILES = (
    IdxFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", (60_000, 28, 28)),
    IdxFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", (60_000,)),
    IdxFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", (10_000, 28, 28)),
    IdxFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", (10_000,)),
)


def read(path: Path, file: IdxFile) -> bytes:
    """The unpacked content of ``path``, plain or ``.gz``, checked; raises one of ``READ_ERRORS``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        # One byte more than is due, to see an overlong file without reading all of it.
        return checked(stream.read(file.size + 1), file)


def checked(content: bytes, file: IdxFile) -> bytes:
    """``content``, if it is that of the official file; raises ``ValueError`` where it is not."""
    if len(content) != file.size:
        amount = "less" if len(content) < file.size else "more"
        raise ValueError(f"{amount} than the {file.size:,} bytes of the official {file.name}")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise ValueError(f"not the MD5 sum of the official {file.name}")
    return content


def decode(content: bytes, file: IdxFile) -> Tensor:
    """The uint8 array of a file's checked content."""
    # The header is skipped unread: the sum has shown that these are the very bytes the table describes.
    array = np.frombuffer(content, np.uint8, offset=file.header_size)
    return torch.from_numpy(array.reshape(file.shape).copy())


def encode(array: np.ndarray) -> bytes:
    """IDX bytes of a uint8 array: two zeros, type 8 (unsigned byte), rank, big-endian lengths, the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
