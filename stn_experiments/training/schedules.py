"""Learning-rate schedules: the factor on the learning rate as a function of progress, from 0 to 1."""

import math
from collections.abc import Callable
from typing import Annotated

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range

Schedule = Callable[[float], float]
Share = Annotated[float, Range(0, 1)]


def onecycle(warmup: Share = 0.25, start: Share = 0.04, end: Share = 0.0) -> Schedule:
    """Up from ``start`` to 1 over the share ``warmup``, then down to ``end``, both along a half cosine.

    The learning-rate part of Smith and Topin, "Super-convergence", 2019; with ``warmup=0`` a plain cosine.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return _half_cosine(start, 1, progress / warmup)
        return _half_cosine(1, end, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0

    return factor


def step(steps: Annotated[int, Range(1, 100)] = 3, factor: Share = 0.1) -> Schedule:
    """``steps`` equal parts, each ``factor`` times the last: the paper's is /10 at each third."""
    if factor == 0:
        raise UserError("factor must be above 0, or nothing is learned after the first step, got 0")
    return lambda progress: factor ** min(int(progress * steps), steps - 1)


def constant() -> Schedule:
    """No change."""
    return lambda progress: 1.0


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
