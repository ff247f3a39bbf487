"""A digit that a user draws, prepared as MNIST's digits were."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.data.canvas import SIDE

INK_SIDE = 20
"""The longer side in pixels of the ink of MNIST's digits."""


def as_digit(ink: np.ndarray) -> Tensor | None:
    """The ink (H, W) uint8 of a drawing as a digit (28, 28) uint8; ``None`` if there is no ink.

    It is scaled to a longer side of 20 pixels. Its centre of mass is at the centre of the digit (LeCun et al.
    1998), as far as all of it stays inside.
    """
    rows, columns = np.nonzero(ink)
    if not len(rows):
        return None
    part = torch.from_numpy(ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].copy())
    sides = [max(1, round(side * INK_SIDE / max(part.shape))) for side in part.shape]
    part = F.interpolate(part.float()[None, None], sides, mode="bilinear", antialias=True)[0, 0]
    digit = torch.zeros(SIDE, SIDE)
    top, left = (_start(part.sum(other)) for other in (1, 0))
    digit[top : top + sides[0], left : left + sides[1]] = part
    return digit.round().clamp(0, 255).byte()


def _start(ink: Tensor) -> int:
    """The first pixel along one axis of ``ink`` (side,) whose centre of mass is the digit's centre."""
    centre = float(((torch.arange(len(ink)) + 0.5) * ink).sum() / ink.sum())
    return min(max(round(SIDE / 2 - centre), 0), SIDE - len(ink))
