"""When a run's state is saved, and from what it goes on."""

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunConfig, RunFolder
from stn_experiments.training.loop import Progress, Training, stop_unless_finite

History = list[dict[str, Any]]


class Due:
    """Says between two steps whether a checkpoint is due, by the settings of a run."""

    def __init__(self, settings: RunConfig) -> None:
        self.settings = settings
        self._steps, self._since = 0, time.monotonic()

    def __call__(self) -> bool:
        """To be asked after each step."""
        self._steps += 1
        seconds, steps = self.settings.checkpoint_seconds, self.settings.checkpoint_steps
        due = (steps is not None and self._steps >= steps) or (
            seconds is not None and time.monotonic() - self._since >= seconds
        )
        if due:
            self._steps, self._since = 0, time.monotonic()
        return due


def save(training: Training, history: History, run: RunFolder) -> None:
    """Write the checkpoint from which :func:`resume` goes on.

    Raises:
        TrainingFailed: a step before it was not finite, so that nobody should go on from it.
    """
    stop_unless_finite(training)
    state = {"run": run.folder.name, "training": training.state(), "history": history}
    checkpoints.save(state, run.last, keep=run.previous)


def resume(training: Training, run: RunFolder) -> History:
    """Put ``training`` where the run's newest sound checkpoint was, and give the history up to there.

    Raises:
        UserError: there are checkpoints, but none is sound, or they are another run's.
    """
    state = newest_checkpoint(run)
    if state is None:
        return []
    restore(training, state, run)
    progress = training.progress
    print(f"{run.folder} goes on after step {progress.step:,} (in epoch {progress.epoch})")
    return state["history"]


def restore(training: Training, state: Mapping[str, Any], run: RunFolder) -> None:
    """Put ``training`` where a checkpoint was.

    Raises:
        UserError: it does not fit, as where the code or a data file has changed since.
    """
    try:
        training.load(state["training"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"what is in {run.last.parent} does not fit this network, its data or this version ({reason}): "
            "run.force=true starts this run again"
        ) from error


def best_weights(run: RunFolder, epoch: int) -> dict[str, Tensor]:
    """The model's state after the run's best epoch.

    Raises:
        UserError: there is none, or it is damaged, or of another epoch or run.
    """
    try:
        state = checkpoints.load(run.best)
    except UserError as error:
        raise UserError(f"{error}: run.force=true starts this run again") from error
    if (state.get("run"), state.get("epoch"), "model" in state) != (run.folder.name, epoch, True):
        raise UserError(
            f"{run.best} is not of this run's epoch {epoch}: run.force=true starts this run again"
        )
    return state["model"]


def newest_checkpoint(run: RunFolder, before: int | None = None) -> dict[str, Any] | None:
    """The run's newest sound checkpoint, of those before a step; ``None`` if there is none.

    Raises:
        UserError: none of several is sound, or they are another run's.
    """
    damage, sound = [], None
    for path in (path for path in (run.last, run.previous) if path.exists()):
        try:
            state = checkpoints.load(path)
        except checkpoints.Damaged as error:
            damage.append(str(error))
            continue
        if state.get("run") != run.folder.name or not {"training", "history"} <= state.keys():
            raise UserError(
                f"{path} is a checkpoint of {state.get('run')}'s, but not of this run's training: "
                "run.force=true starts this run again"
            )
        done = Progress(**state["training"]["progress"]).step
        if before is None or done < before:
            sound = state
            break
    if damage and sound is None and before is None:
        raise UserError(f"{'; '.join(damage)}: run.force=true starts this run again")
    for line in damage:
        print(f"{line}; {'the one before it is taken' if sound else 'the step is reached from the start'}")
    if damage and sound and before is None:
        run.previous.replace(run.last)  # the next save would put the damaged one in the sound one's place
    return sound
