"""The sampler: reads U at the points of a sampling grid (Jaderberg et al. 2015, section 3.3)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "border", "reflection"]


class Sampler(nn.Module):
    """Bilinear sampling, every channel alike, differentiable in U and in the grid (equations 5 to 7).

    Args:
        padding: what is read outside U: black, the nearest edge, or the image reflected at its edges.
    """

    def __init__(self, padding: Padding = "zeros") -> None:
        super().__init__()
        self.padding = padding

    def forward(self, source: Tensor, grid: Tensor) -> Tensor:
        """U (B, C, H, W) at ``grid`` (B, H', W', 2), normalised (x, y): V (B, C, H', W')."""
        return F.grid_sample(source, grid, mode="bilinear", padding_mode=self.padding, align_corners=False)
