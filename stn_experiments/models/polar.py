"""A localisation network on polar coordinates: where the image turns, its keypoints turn with it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.sampler import Sampler

RINGS, SPOKES = 8, 32


class PolarSampling(nn.Module):
    """Samples maps at the crossings of ``RINGS`` circles and ``SPOKES`` rays from the centre.

    A rotation of the map by 360°/``SPOKES`` shifts the samples by one ray (Esteves et al. 2018, "Polar
    transformer networks", section 3). The circles reach to the nearest edge.

    Args:
        size: (height, width) of the maps.
    """

    points: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        # Persistent, so that the weights of a network without polar sampling do not fit.
        self.register_buffer("points", polar_points(RINGS, SPOKES, size))
        self.sampler = Sampler()

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ``RINGS``, ``SPOKES``)."""
        with autocast_disabled(maps):
            # shape[0], because len() would fix the number of maps in an export
            points = self.points.unflatten(0, (RINGS, SPOKES)).expand(maps.shape[0], -1, -1, -1)
            return self.sampler(to_float32(maps), points)


class RingConv2d(nn.Conv2d):
    """A convolution of maps (B, C, rings, spokes) that wraps around along rings; beyond them are zeros."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, padding=(side // 2, 0), bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """A map as large as the input, divided by the stride."""
        around = self.kernel_size[1] // 2
        return super().forward(F.pad(input, (around, around, 0, 0), mode="circular"))


def polar_points(rings: int, spokes: int, size: tuple[int, int]) -> Tensor:
    """Normalised points (rings * spokes, 2) in the middles of the cells of a polar grid, ring by ring.

    The first ray of a ring is just below the x axis, the next ones follow clockwise on the screen.
    """
    height, width = size
    angle = (torch.arange(spokes) + 0.5) * (2 * math.pi / spokes)
    radius = (torch.arange(rings) + 0.5) * (min(size) / rings)
    x, y = radius[:, None] * angle.cos() / width, radius[:, None] * angle.sin() / height
    return torch.stack([x, y], 2).flatten(0, 1)


def log_polar_points(rings: int, spokes: int, size: tuple[int, int]) -> Tensor:
    """The same with circles whose radii grow by a constant factor: (rings, spokes, 2).

    They lie between 1 pixel and half the shorter side.
    """
    half = min(size) / 2
    radius = half ** ((torch.arange(rings) + 0.5) / rings)
    return polar_points(1, spokes, size) * (radius / (half / 2))[:, None, None]
