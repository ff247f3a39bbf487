"""Checkpoints of a run: written whole, verified by a digest, and loaded without running any code."""

import hashlib
import io
import pickle
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically
from stn_experiments.storage.run_folder import RunFolder, digest_in

FORMAT = 4
START_AGAIN = "run.force=true starts this run again"


class DamagedCheckpoint(UserError):
    """The content of a checkpoint is not what was written."""


class CheckpointTimer:
    """Tells between two steps whether a checkpoint is due.

    Args:
        seconds: longest time between two checkpoints; ``None`` has no limit.
        steps: largest number of steps between two checkpoints; ``None`` has no limit.
    """

    def __init__(self, seconds: float | None, steps: int | None) -> None:
        self.seconds, self.steps = seconds, steps
        self._since, self._steps_since = time.monotonic(), 0

    def is_due(self) -> bool:
        """Whether a checkpoint is due. Has to be called after each step; starts again where it is true."""
        self._steps_since += 1
        due = (self.steps is not None and self._steps_since >= self.steps) or (
            self.seconds is not None and time.monotonic() - self._since >= self.seconds
        )
        if due:
            self._since, self._steps_since = time.monotonic(), 0
        return due


def save(state: Mapping[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint; the old one at ``path`` becomes ``keep`` when the new one is complete.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()  # torch.save to a file reports a full disk as a RuntimeError
    torch.save({"format": FORMAT, "digest": digest(state), **state}, content)
    write_atomically(path, content.getvalue(), keep)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. No code in the file is run.

    Raises:
        DamagedCheckpoint: the content is not what was written.
        UserError: there is no such file, it cannot be read, or it has another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except OSError as error:  # the file may be sound, and must not be replaced
        raise UserError(f"the checkpoint {path} cannot be read: {error}") from error
    except Exception as error:  # the type of the exception depends on the damage
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it in an unsafe way
            reason = "its content is not that of a checkpoint"
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"the checkpoint {path} is not of format {FORMAT}, which this version reads")
    written = state.pop("digest", None)
    del state["format"]
    # torch.load does not notice a flipped bit.
    if digest(state) != written:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: its digest does not match")
    return state


def newest(run: RunFolder, before: int | None = None) -> dict[str, Any] | None:
    """The newest sound checkpoint of a run, or ``None``.

    Args:
        run: the run's folder.
        before: only consider checkpoints with fewer steps done.

    Raises:
        UserError: there are checkpoints, but all are damaged, or they belong to another run.
    """
    damage, found = [], None
    for path in (path for path in (run.last, run.previous) if path.exists()):
        try:
            state = load(path)
        except DamagedCheckpoint as error:
            damage.append(str(error))
            continue
        if digest_in(str(state.get("run"))) != run.digest or not {"trainer", "history"} <= state.keys():
            raise UserError(f"{path} is a checkpoint of {state.get('run')}, not of this run: {START_AGAIN}")
        if before is None or state["trainer"]["step"] < before:
            found = state
            break
    if damage and found is None and before is None:
        raise UserError(f"{'; '.join(damage)}: {START_AGAIN}")
    for line in damage:
        print(f"{line}; {'using the one before it' if found else 'training starts from the beginning'}")
    if damage and found and before is None:
        run.previous.replace(run.last)  # or the next save would overwrite the sound one by the damaged one
    return found


def save_model(run: RunFolder, path: Path, model: nn.Module, epoch: int) -> None:
    """Write the weights that were evaluated after an epoch.

    Raises:
        OSError: they cannot be written.
    """
    save({"run": run.folder.name, "epoch": epoch, "model": model.state_dict()}, path)


def load_weights(run: RunFolder, path: Path, epoch: int) -> dict[str, Tensor]:
    """The model's state that was evaluated after an epoch.

    Raises:
        UserError: the checkpoint is missing, damaged, or belongs to another epoch or run.
    """
    try:
        state = load(path)
    except UserError as error:
        raise UserError(f"{error}: {START_AGAIN}") from error
    made = (digest_in(str(state.get("run"))), state.get("epoch"), "model" in state)
    if made != (run.digest, epoch, True):
        raise UserError(f"{path} does not belong to this run's epoch {epoch}: {START_AGAIN}")
    return state["model"]


def digest(value: Any) -> str:
    """The SHA-256 of nested mappings and sequences of tensors, on any device, and of plain values."""
    hashed = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            hashed.update(f"{value.dtype} {tuple(value.shape)}".encode())
            # A damaged file can hold a stride of 0, which contiguous() would leave.
            whole = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            hashed.update(whole.flatten().view(torch.uint8).numpy().data)
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
