"""What has no deterministic backward pass on CUDA, made of what has; slower, and the same but for rounding.

Where ``torch.use_deterministic_algorithms`` is on, torch refuses the backward pass of its own ``grid_sample``
and ``adaptive_avg_pool2d`` there: many threads add to one pixel, in the order in which they happen to come.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry


def wanted(tensor: Tensor) -> bool:
    """Whether a function of this tensor has to take the long way."""
    return tensor.is_cuda and torch.are_deterministic_algorithms_enabled()


def bilinear_sample(source: Tensor, grid: Tensor) -> Tensor:
    """U (B, C, H, W) at ``grid`` (B, H', W', 2): (B, C, H', W'), black outside, as ``grid_sample`` has it.

    The four pixels about each point are indexed, whose backward pass sorts before it adds. Points that are
    not finite read black.
    """
    batch, channels, height, width = source.shape
    pixels = source.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    image = torch.arange(batch, device=source.device)[:, None]
    size = geometry.constant((width, height), grid)
    point = (((grid + 1) * size - 1) / 2).flatten(1, 2)
    corner = point.floor()
    total = torch.zeros_like(pixels[:, :1])
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        pixel = corner + geometry.constant(step, grid)
        inside = ((pixel >= 0) & (pixel < size)).all(2)
        across, down = (1 - (point - pixel).abs()).unbind(2)  # the way back from a prod waits for the device
        weight = across * down
        x, y = torch.where(inside[..., None], pixel, 0).long().unbind(2)
        total = total + pixels[image, y * width + x] * torch.where(inside, weight, 0)[..., None]
    return total.mT.unflatten(2, grid.shape[1:3])


class AveragePool(nn.AdaptiveAvgPool2d):
    """``AdaptiveAvgPool2d`` to a square, which takes the long way where it must."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) averaged to (B, C, side, side)."""
        if not wanted(maps):
            return super().forward(maps)
        # Each output is a mean over some rows and some columns: two products with matrices of weights.
        rows, columns = (
            F.adaptive_avg_pool1d(torch.eye(side, dtype=maps.dtype, device=maps.device)[None], self.side)[0]
            for side in maps.shape[-2:]
        )
        return rows.T @ maps @ columns
