"""Checkpoints: everything from which training goes on as if it had never stopped."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stn_experiments.common.errors import UserError

FORMAT = 2


class Damaged(UserError):
    """A checkpoint that is not what was written: one clear line, exit code 2."""


def save(state: Mapping[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all; once it is whole, the one that was there becomes ``keep``.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    content = io.BytesIO()  # of a file that cannot be written torch.save says so in a RuntimeError of its own
    torch.save({"format": FORMAT, "digest": digest(state), **state}, content)
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without running any code that it may hold.

    Raises:
        Damaged: it is not what was written.
        UserError: there is none, or it is of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged file raises whatever its damage leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Damaged(f"the checkpoint {path} is damaged: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"the checkpoint {path} is not of format {FORMAT}, which this version reads")
    written = state.pop("digest", None)
    del state["format"]
    # torch.load does not notice a flipped bit.
    if digest(state) != written:
        raise Damaged(f"the checkpoint {path} is damaged: it is not what was written")
    return state


def digest(value: Any) -> str:
    """A hash of nested mappings and sequences of tensors and plain values, on whatever device they are."""
    hashed = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
            hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                hashed.update(f"{key!r}:".encode())
                add(item)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            hashed.update(f"{len(value)} of".encode())
            for item in value:
                add(item)
        else:
            hashed.update(repr(value).encode())

    add(value)
    return hashed.hexdigest()


def sync_folder(folder: Path) -> None:
    """See to it that a folder's renames outlive a loss of power, too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
