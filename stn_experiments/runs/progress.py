"""The progress of one run, for logs: a line every few seconds where there is no terminal."""

import sys
import time

from stn_experiments.common.durations import time_text

EVERY = 10.0
"""Seconds between two lines."""


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
