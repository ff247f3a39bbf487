"""Time jobs that take turns, so that all of them meet the same drift of a shared machine.

``torch.utils.benchmark`` measures one statement after the other, and cannot time a job that knows its own
seconds, as Lightning's does.
"""

import time
from collections.abc import Callable, Mapping
from operator import truediv
from typing import Any

import torch

Job = Callable[[int], float | None]
"""Does a number of units of work; returns the seconds that count, or ``None`` if all do."""

Values = tuple[float, ...]
"""One value for each repeat; none where nothing was measured."""

Row = dict[str, Any]
"""A row of a table: a label in its first column, ``Values`` in the others."""


def repeat(once: Callable[[], object]) -> Job:
    """A job whose unit is one call."""

    def job(units: int) -> None:
        for _ in range(units):
            once()

    return job


def interleaved(
    jobs: Mapping[str, Job | None], repeats: int, seconds: float, device: torch.device
) -> dict[str, Values]:
    """Seconds per unit of each job, after a warm-up, in turns: A B A B.

    Args:
        jobs: by name; ``None`` has no values.
        repeats: measurements of each job.
        seconds: approximate length of a measurement.
        device: the device on which the jobs work.
    """
    units = {name: _units(job, device, seconds) for name, job in jobs.items() if job}
    values: dict[str, Values] = dict.fromkeys(jobs, ())
    for _ in range(repeats):
        for name, job in jobs.items():
            if job:
                values[name] += (timed(job, device, units[name]) / units[name],)
    return values


def timed(job: Job, device: torch.device, units: int) -> float:
    """Seconds that units of a job take, until the device is done."""
    _synchronize(device)
    start = time.perf_counter()
    counted = job(units)
    _synchronize(device)
    return time.perf_counter() - start if counted is None else counted


def rate(seconds: Values, images: int) -> Values:
    """Images per second, if a unit of work is so many images."""
    return tuple(images / one for one in seconds)


def ratio(one: Values, other: Values) -> Values:
    """The quotient of each repeat's times; none where one of both is missing."""
    return tuple(map(truediv, one, other))


def speeds(seconds: Mapping[str, Values], images: int) -> Row:
    """Columns: images per second of each job, and how many times as fast the first is as each other job."""
    first, *others = seconds
    return {
        **{name: rate(values, images) for name, values in seconds.items()},
        **{f"{first} ÷ {name}": ratio(seconds[name], seconds[first]) for name in others},
    }


def _units(job: Job, device: torch.device, seconds: float) -> int:
    """How many units take about ``seconds``; finding it out warms the job up."""
    timed(job, device, 1)
    units = 1
    while (took := timed(job, device, units)) < seconds / 4:
        units *= 2
    return max(1, round(units * seconds / took))


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
