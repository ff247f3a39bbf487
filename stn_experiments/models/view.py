"""The view: what one attention did to one batch. Panels, scores and health are made from views alone."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Transform(NamedTuple):
    """What a spatial transformer did: ``theta`` (B, P), and the ``grid`` (B, h, w, 2) where it read the map.

    The points of the grid are normalised (x, y) on that map, U, and s × s samples of each pixel of V.
    """

    theta: Tensor
    grid: Tensor


class Heat(NamedTuple):
    """The ``weights`` (B, h, w), at least 0, of a map's cells, and the ``places`` (B, h, w, 2) of these."""

    weights: Tensor
    places: Tensor


class View(NamedTuple):
    """What one attention did to one batch; what it does not have is ``None``.

    Points are normalised (x, y) on the network's input, see ``geometry``.

    Args:
        output: what it gives on (B, C, H', W'): V, a masked map, a glimpse.
        outline: the edge of what it looks at, a closed line (B, K, 2); without one it has no place in space.
        marks: points (B, M, 2) that tell more: a spline's control points, the way to a glimpse.
        heat: how much each place counts.
        gates: the weight in [0, 1] of each channel (B, G).
        words: the weight of each word of a question (B, T), summing to 1.
        transform: what a spatial transformer did.
    """

    output: Tensor
    outline: Tensor | None = None
    marks: Tensor | None = None
    heat: Heat | None = None
    gates: Tensor | None = None
    words: Tensor | None = None
    transform: Transform | None = None


def densest_region(heat: Tensor) -> Tensor:
    """Outlines (B, 4, 2) of where a heat (B, h, w) is densest, as the map's own normalised (x, y).

    The box about those cells above the middle between the heat's mean and its peak which hang together with
    the peak, sideways or cornerwise. A heat that is everywhere the same is dense everywhere.
    """
    height, width = heat.shape[1:]
    flat = heat.flatten(1)
    peak, place = flat.max(1)
    dense = (flat >= ((peak + flat.mean(1)) / 2)[:, None]).view_as(heat)
    region = F.one_hot(place, height * width).bool().view_as(heat)
    for _ in range(height + width):  # far enough for all but a spiral, and without asking the device
        region = _grown(region) & dense
    (left, right), (top, bottom) = (_extent(region.any(side)) for side in (1, 2))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(corner, 1) for corner in corners], 1)


def _grown(region: Tensor) -> Tensor:
    """Regions (B, h, w) and their neighbours, sideways and cornerwise; a max_pool2d, but 13 times as fast."""
    wide = region.clone()
    wide[:, :, 1:] |= region[:, :, :-1]
    wide[:, :, :-1] |= region[:, :, 1:]
    grown = wide.clone()
    grown[:, 1:] |= wide[:, :-1]
    grown[:, :-1] |= wide[:, 1:]
    return grown


def _extent(inside: Tensor) -> tuple[Tensor, Tensor]:
    """From where to where (B,), in [-1, 1], a line (B, N) is true; if nowhere, the whole."""
    count = inside.shape[1]
    first = inside.float().argmax(1)
    last = count - 1 - inside.flip(1).float().argmax(1)
    return 2 * first / count - 1, 2 * (last + 1) / count - 1
