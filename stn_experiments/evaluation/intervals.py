"""Confidence intervals of test errors, which count two sources of chance: the seeds and the test images.

A model is trained with S seeds, and each run is tested on the same N images. The mean error varies because
of the seeds' own runs and because of the images that happen to be in the test set. Both variances come from
the table of wrong predictions, as in a two-way random-effects analysis of variance (Brennan 2001,
"Generalizability Theory", chapter 3).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 20_000


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval, in percent."""

    mean: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether a difference may be due to chance alone."""
        return self.low <= 0 <= self.high


def error_interval(wrong: np.ndarray) -> Interval:
    """The error in % of a model whose runs were wrong (S, N) on N test images, one row a seed.

    With one seed only the images count, as nothing is known about other seeds.
    """
    mean, low, high = _interval([wrong], wrong.mean(0))
    return Interval(mean, max(0.0, low), min(100.0, high))


def difference_interval(first: np.ndarray, second: np.ndarray) -> Interval:
    """The error in % of ``first`` (S, N) less that of ``second`` (T, N), on the same N images.

    The images are paired; the seeds are not. With one seed each, only the images count.
    """
    return _interval([first, second], first.mean(0) - second.mean(0))


def _interval(models: Sequence[np.ndarray], of_images: np.ndarray) -> Interval:
    """An interval of the mean of ``of_images`` (N,), the images' mean results over all ``models``' seeds.

    The mean's error is the sum of a normal number for the images and of one with Student's distribution for
    the few seeds, whose variance is pooled over the models. The ends are quantiles of that sum, from a fixed
    sequence of random draws.
    """
    mean = float(of_images.mean())
    if len(of_images) == 1:  # one image says nothing about others
        return Interval(100 * mean, -np.inf, np.inf)
    generator = np.random.default_rng(0)
    images = float(of_images.var(ddof=1)) / len(of_images)
    errors = generator.standard_normal(DRAWS)
    of_seeds = np.zeros(DRAWS)
    if freedom := sum(len(wrong) - 1 for wrong in models):
        parts = [(len(wrong) - 1, *_variances(wrong)) for wrong in models if len(wrong) > 1]
        seeds = sum(weight * variance for weight, variance, _ in parts) / freedom
        rest = sum(weight * variance for weight, _, variance in parts) / freedom
        runs = sum(1 / len(wrong) for wrong in models)
        images = max(0.0, images - rest * runs / len(of_images))  # it is in the seeds' variance as well
        of_seeds = generator.standard_t(freedom, DRAWS) * (seeds * runs) ** 0.5
    low, high = np.quantile(errors * images**0.5 + of_seeds, [0.025, 0.975]).tolist()
    return Interval(100 * mean, 100 * (mean + low), 100 * (mean + high))


def _variances(wrong: np.ndarray) -> tuple[float, float]:
    """The variance of the runs' means, and that of what neither run nor image explains alone."""
    seeds, count = wrong.shape
    rest = wrong - wrong.mean(0) - wrong.mean(1, keepdims=True) + wrong.mean()
    return float(wrong.mean(1).var(ddof=1)), float(np.square(rest).sum()) / ((seeds - 1) * (count - 1))
