"""The sampler: reads U at the points of a sampling grid (Jaderberg et al. 2015, section 3.3)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.models import deterministic

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Padding = Literal["zeros", "border", "reflection"]


class Sampler(nn.Module):
    """Reads U at the points of a grid, every channel alike (equations 3 to 7).

    Interpolation sees the few pixels of U about a point, however far apart the grid's points are. Where V is
    smaller than U, most of U would go unread and the gradient would be noise; so each pixel of V can be the
    mean of ``oversample`` × ``oversample`` samples of a finer grid, as the paper's average pooling behind the
    transformer does for RTS and TC.

    Args:
        interpolation: ``bilinear`` (equation 5), ``bicubic``, or ``nearest``, whose grid gets no gradient.
        padding: what is read outside U: black, the nearest edge, or the image reflected at its edges.
        oversample: samples along each side of a pixel of V.
    """

    def __init__(
        self, interpolation: Interpolation = "bilinear", padding: Padding = "zeros", oversample: int = 1
    ) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.padding = padding
        self.oversample = oversample

    def forward(self, source: Tensor, grid: Tensor) -> Tensor:
        """U (B, C, H, W) at ``grid`` (B, s H', s W', 2), where s is ``oversample``: V (B, C, H', W')."""
        if deterministic.wanted(source) and (self.interpolation, self.padding) == ("bilinear", "zeros"):
            fine = deterministic.bilinear_sample(source, grid)
        else:
            fine = F.grid_sample(source, grid, self.interpolation, self.padding, align_corners=False)
        return F.avg_pool2d(fine, self.oversample) if self.oversample > 1 else fine
