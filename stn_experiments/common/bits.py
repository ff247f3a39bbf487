"""Many yes-or-no values as a short text for a JSON file."""

import base64
import zlib

import numpy as np


def pack_bits(values: np.ndarray) -> str:
    """Booleans (N,) as text: Base64 of zlib of the bits, eight a byte."""
    return base64.b64encode(zlib.compress(np.packbits(values).tobytes(), 9)).decode()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """The inverse of :func:`pack_bits` for ``count`` values (``count``,).

    Raises:
        ValueError: the text holds something else.
    """
    try:
        packed = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes are not the bits of {count} values")
    return np.unpackbits(packed, count=count).astype(bool)
