"""Time jobs that take turns, so that all of them meet the same drift of a shared machine.

``torch.utils.benchmark`` measures one statement after the other, and cannot time a job that knows its own
seconds, as Lightning's does.
"""

import time
from collections.abc import Callable, Mapping

import torch

Job = Callable[[int], float | None]
"""Does a number of units of work; returns the seconds that count, or ``None`` if all do."""

Values = tuple[float, ...] | str
"""One value for each repeat, or the reason why there are none."""


def repeat(once: Callable[[], object]) -> Job:
    """A job whose unit is one call."""

    def job(units: int) -> None:
        for _ in range(units):
            once()

    return job


def interleaved(
    jobs: Mapping[str, Job | str], repeats: int, seconds: float, device: torch.device
) -> dict[str, Values]:
    """Seconds per unit of each job, after a warm-up, in turns: A B A B.

    Args:
        jobs: by name; a text is the reason why there is no job, and is returned.
        repeats: measurements of each job.
        seconds: approximate length of a measurement.
        device: the device on which the jobs work.
    """
    there = {name: job for name, job in jobs.items() if not isinstance(job, str)}
    units = {name: _units(job, device, seconds) for name, job in there.items()}
    turns = [
        {name: timed(job, device, units[name]) / units[name] for name, job in there.items()}
        for _ in range(repeats)
    ]
    return {
        name: job if isinstance(job, str) else tuple(turn[name] for turn in turns)
        for name, job in jobs.items()
    }


def timed(job: Job, device: torch.device, units: int) -> float:
    """Seconds that units of a job take, until the device is done."""
    _synchronize(device)
    start = time.perf_counter()
    counted = job(units)
    _synchronize(device)
    return time.perf_counter() - start if counted is None else counted


def per_repeat(figure: Callable[..., float], *columns: Values) -> Values:
    """A figure of each repeat's values; where some are missing, the reason."""
    reasons = [values for values in columns if isinstance(values, str)]
    return reasons[0] if reasons else tuple(map(figure, *columns))


def rate(seconds: Values, images: int) -> Values:
    """Images per second, if a unit of work is so many images."""
    return per_repeat(lambda one: images / one, seconds)


def ratio(one: Values, other: Values) -> Values:
    """The quotient of each repeat's times."""
    return per_repeat(lambda a, b: a / b, one, other)


def speeds(seconds: Mapping[str, Values], images: int) -> dict[str, Values]:
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
