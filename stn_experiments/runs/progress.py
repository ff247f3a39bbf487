"""The progress of one run: what to expect, and lines in logs, which have no progress bar."""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from stn_experiments.common.durations import time_text
from stn_experiments.common.files import read_json
from stn_experiments.config.tree import decisive
from stn_experiments.runs.experiment import Experiment
from stn_experiments.storage.run_folder import RunFolder

EVERY = 10.0
"""Seconds between two lines."""
KEPT_RESULTS = Path(__file__).parents[2] / "docs" / "results"


class ProgressLines:
    """Prints how far a run is and how long it will take; nothing on a terminal, which has a progress bar.

    Args:
        epochs: number of epochs.
        steps_per_epoch: number of steps in each.
    """

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.enabled = not sys.stderr.isatty()
        self._first: tuple[int, float] | None = None  # the first step that this process has done, and when
        self._printed = time.monotonic()

    def update(self, step: int) -> None:
        """Print a line if ``EVERY`` seconds have passed since the last one.

        Args:
            step: number of steps that are done in the whole run.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        if not self.enabled or now - self._printed < EVERY:
            return
        self._printed = now
        total = self.epochs * self.steps_per_epoch
        epoch = (step - 1) // self.steps_per_epoch + 1
        line = f"epoch {epoch:{len(str(self.epochs))}}/{self.epochs}  step {step:,} of {total:,}"
        first_step, since = self._first
        if step > first_step:
            left = (now - since) / (step - first_step) * (total - step)
            line += f"  about {time_text(left)} left"
        print(line, flush=True)


def outlook(experiment: Experiment, folder: RunFolder, epoch_seconds: float) -> str:
    """How long the rest takes after the first epoch, the usual error then, and where to look meanwhile.

    Args:
        experiment: what the run's config describes.
        folder: the run's folder.
        epoch_seconds: how long an epoch takes, with its validation and panel.
    """
    epochs = experiment.trainer.epochs
    left = time_text((epochs - 1) * epoch_seconds)
    usual = usual_error(experiment.config)
    until = "" if usual is None else f" until a validation error of about {usual:.1f} %"
    drawn = 1 if 1 in experiment.run.panel_epochs(epochs) else 0
    look = f"{folder.panel(drawn)} and tensorboard --logdir {shlex.quote(str(folder.folder.parent))}"
    return f"about {left} left{until}; meanwhile, see {look}"


def usual_error(config: Mapping[str, Any]) -> float | None:
    """The mean validation error at the end, percent, of kept runs of this config but for the seed."""
    wanted = decisive({**config, "seed": None})
    for file in sorted(KEPT_RESULTS.glob("*.json")):
        if not (kept := read_json(file)):
            continue
        is_one_config = all(run["settings"].keys() == {"seed"} for run in kept["runs"])
        if is_one_config and decisive({**kept["config"], "seed": None}) == wanted:
            return mean(run["history"]["val_error"][-1] for run in kept["runs"])
    return None
