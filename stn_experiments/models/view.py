"""The view: what one attention did to one batch. Panels and scores are made from views."""

from typing import NamedTuple

from torch import Tensor


class Transform(NamedTuple):
    """What a spatial transformer did: ``theta`` (B, P) and its sampling ``grid`` (B, s H', s W', 2) on U.

    Each pixel of V is the mean of s × s samples.
    """

    theta: Tensor
    grid: Tensor


class Heat(NamedTuple):
    """Weights (B, h, w) >= 0 of the cells of a map, and the ``places`` (B, h, w, 2) of these cells."""

    weights: Tensor
    places: Tensor


class View(NamedTuple):
    """What one attention did to one batch. Fields that do not apply are ``None``.

    Points are normalised (x, y), see ``geometry``. In a model's output they lie on the map that the attention
    reads; ``evaluation.coordinates`` maps them to the network's input.

    Args:
        output: the result (B, C, H', W'): V, a weighted map or a glimpse.
        outline: the boundary of the attended region, a closed line (B, K, 2). Attention without a location
            has none.
        marks: further points (B, M, 2): a spline's control points, or the path to a glimpse.
        heat: the weight of each place.
        gates: the weight in [0, 1] of each channel (B, G).
        words: the weight of each word of a question (B, T); they sum to 1.
        transform: what a spatial transformer did.
    """

    output: Tensor
    outline: Tensor | None = None
    marks: Tensor | None = None
    heat: Heat | None = None
    gates: Tensor | None = None
    words: Tensor | None = None
    transform: Transform | None = None
