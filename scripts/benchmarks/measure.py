"""A timer for jobs that take turns: rivals meet the same drift of a shared machine.

``torch.utils.benchmark`` measures one statement after the other, and cannot time jobs that only know their
own seconds, such as a pass of a DataLoader with warm workers.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch

Job = Callable[[int], float | None]
"""Does a number of units of work; returns the seconds that count, or ``None`` if all do."""

MOST_UNITS = 100_000


def again(once: Callable[[], object]) -> Job:
    """A job whose unit is one call."""

    def job(units: int) -> None:
        for _ in range(units):
            once()

    return job


class Times(NamedTuple):
    """Seconds per unit of work, for each repeat."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)


def spread(values: tuple[float, ...]) -> float:
    """Half the range, as a fraction of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleaved(
    jobs: Mapping[str, Job | str],
    repeats: int,
    seconds: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times | str]:
    """Time each job ``repeats`` times for about ``seconds``, warm and in turns: A B A B.

    A text instead of a job is the reason why there is none; it is returned.
    """

    def timed(job: Job, units: int) -> float:
        wait(device)
        start = clock()
        counted = job(units)
        wait(device)
        return clock() - start if counted is None else counted

    able = {name: job for name, job in jobs.items() if not isinstance(job, str)}
    units = {name: _units(partial(timed, job), seconds) for name, job in able.items()}
    found: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(repeats):
        for name, job in able.items():
            found[name].append(timed(job, units[name]) / units[name])
    return {name: Times(tuple(found[name])) if name in able else job for name, job in jobs.items()}  # type: ignore[misc]


def _units(timed: Callable[[int], float], seconds: float) -> int:
    """How many units take about ``seconds``; this is the warm-up, too."""
    timed(1)
    units = 1
    while (took := timed(units)) < seconds / 4 and units < MOST_UNITS:
        units = min(MOST_UNITS, max(2 * units, round(units * seconds / 3 / max(took, 1e-9))), 10 * units)
    return max(1, min(MOST_UNITS, round(units * seconds / max(took, 1e-9))))
