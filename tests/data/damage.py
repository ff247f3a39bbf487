"""Damage to the bytes of a file, and objects that reveal that they were unpickled."""

import random
from pathlib import Path


def damaged(content, seed):
    """``content`` after one to three random edits; the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        at, count = rng.randrange(len(content) + 1), rng.randint(1, 64)
        start, part, rest = content[:at], content[at : at + count], content[at + count :]
        flipped = bytes(byte ^ rng.randint(1, 255) for byte in part[:1]) + part[1:]
        content = rng.choice(
            [
                start + flipped + rest,
                start,
                start + rest,
                start + part + part + rest,
                start + bytes(len(part)) + rest,
                start + b"\xff" * count + part + rest,
                content + content[:count],
            ]
        )
    return content


class CreatesAFile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def files(folder):
    """The content of every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
