"""The sampler: reads U at the points of a sampling grid (Jaderberg et al. 2015, section 3.3)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.models import deterministic

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Padding = Literal["zeros", "border", "reflection"]


class Sampler(nn.Module):
    """Reads U at the points of a grid, with the same grid for every channel (equations 3 to 7).

    Interpolation reads only the few pixels of U next to a point. If V is smaller than U, most of U is skipped
    and the gradient is noisy. Each pixel of V can therefore be the mean of several samples of a finer grid,
    like the paper's average pooling after the transformer for RTS and TC.

    Args:
        interpolation: ``bilinear`` (equation 5), ``bicubic``, or ``nearest``, without a gradient for grids.
        padding: the value outside U: black, the nearest edge, or the image reflected at its edges.
        oversample: samples in each pixel of V, down and across.
    """

    def __init__(
        self,
        interpolation: Interpolation = "bilinear",
        padding: Padding = "zeros",
        oversample: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.padding = padding
        self.oversample = oversample

    def forward(self, source: Tensor, grid: Tensor) -> Tensor:
        """V (B, C, H', W') from U (B, C, H, W) and ``grid`` (B, s H', t W', 2), ``oversample`` (s, t)."""
        if deterministic.is_required(source) and (self.interpolation, self.padding) == ("bilinear", "zeros"):
            samples = deterministic.bilinear_sample(source, grid)
        else:
            samples = F.grid_sample(source, grid, self.interpolation, self.padding, align_corners=False)
        return F.avg_pool2d(samples, self.oversample) if self.oversample != (1, 1) else samples
