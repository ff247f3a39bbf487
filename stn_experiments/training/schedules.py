"""Learning-rate schedules: factors on the learning rate, as functions of training progress in [0, 1]."""

import math
from collections.abc import Callable
from typing import Annotated

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Fraction, Range

Schedule = Callable[[float], float]


def onecycle(warmup: Fraction = 0.25, start: Fraction = 0.04, end: Fraction = 0.0) -> Schedule:
    """Rise from ``start`` to 1 in the fraction ``warmup``, then fall to ``end``, both along half a cosine.

    The learning rates of Smith and Topin, "Super-convergence", 2019. ``warmup=0`` is a plain cosine decay.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return _half_cosine(start, 1, progress / warmup)
        return _half_cosine(1, end, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0

    return factor


def step(steps: Annotated[int, Range(1, 100)] = 3, factor: Fraction = 0.1) -> Schedule:
    """Multiply by ``factor`` after each of ``steps`` equal parts; Jaderberg et al. 2015: 3 and 0.1."""
    if factor == 0:
        raise UserError("factor must be above 0, got 0, with which nothing is learned after the first part")
    return lambda progress: factor ** min(int(progress * steps), steps - 1)


def constant() -> Schedule:
    """A factor of 1."""
    return lambda progress: 1.0


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
