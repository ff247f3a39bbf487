"""Deterministic versions of functions whose backward pass on CUDA is not; slower, and equal up to rounding.

With ``torch.use_deterministic_algorithms`` torch refuses the backward passes of ``grid_sample`` and
``adaptive_avg_pool2d`` on CUDA, because their threads add to the same pixel in an arbitrary order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry


def is_required(tensor: Tensor) -> bool:
    """Whether functions of this tensor need their deterministic version."""
    return tensor.is_cuda and torch.are_deterministic_algorithms_enabled()


def bilinear_sample(source: Tensor, grid: Tensor) -> Tensor:
    """``grid_sample`` of U (B, C, H, W) at ``grid`` (B, H', W', 2) with zero padding: (B, C, H', W').

    It indexes the four pixels around each point; the backward pass of indexing sorts before it adds. Points
    that are not finite read black.
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
        # Not prod(2), whose backward pass makes the host wait for the device.
        weight_x, weight_y = (1 - (point - pixel).abs()).unbind(2)
        weight = weight_x * weight_y
        x, y = torch.where(inside[..., None], pixel, 0).long().unbind(2)
        total = total + pixels[image, y * width + x] * torch.where(inside, weight, 0)[..., None]
    return total.mT.unflatten(2, grid.shape[1:3])


class AveragePool(nn.AdaptiveAvgPool2d):
    """``AdaptiveAvgPool2d`` to a square, deterministic where required."""

    output_size: int

    def forward(self, maps: Tensor) -> Tensor:
        """Average maps (B, C, H, W) to (B, C, side, side)."""
        if not is_required(maps):
            return super().forward(maps)
        # Each output is a mean over some rows and some columns: two products with matrices of weights.
        rows, columns = (
            F.adaptive_avg_pool1d(
                torch.eye(side, dtype=maps.dtype, device=maps.device)[None], self.output_size
            )[0]
            for side in maps.shape[-2:]
        )
        return rows.T @ maps @ columns
