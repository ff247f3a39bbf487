"""The retina: what a glimpse sees, fine about a place and coarse farther out (Mnih et al. 2014, 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.models.sampler import Sampler


class Retina(nn.Module):
    """Patches about a place, each twice as wide as the one before, all averaged to one size.

    Args:
        shape: (C, H, W) of the map.
        size: side of the patches, and in pixels of the map that of the finest.
        scales: number of patches.
    """

    points: Tensor
    corners: Tensor
    receptive_scale: Tensor

    def __init__(self, shape: tuple[int, int, int], size: int, scales: int) -> None:
        super().__init__()
        self.sides = [2**scale for scale in range(scales)]
        pixels = torch.tensor([shape[2], shape[1]])
        points = geometry.pixel_centres(size, size).view(size, size, 2) * size / pixels
        receptive_scale = torch.stack([pixels / (pixels + side - 1) for side in self.sides])
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("corners", geometry.boundary_points(1) * size / pixels, persistent=False)
        self.register_buffer("receptive_scale", receptive_scale, persistent=False)
        self.sampler = Sampler()

    def blurred(self, features: Tensor) -> list[Tensor]:
        """For each scale the map's means over squares as large as its pixels, about every point of the map.

        A mean over samples one pixel apart is one sample of the means, so this is done once for all glimpses.
        A square of side s may lie half outside, so the means reach s - 1 pixels farther than the map.
        """
        return [
            F.avg_pool2d(F.pad(features, [side - 1] * 4), side, 1) if side > 1 else features
            for side in self.sides
        ]

    def forward(self, blurred: Sequence[Tensor], place: Tensor) -> Tensor:
        """The patches (B, S, C, p, p) about places (B, 2), finest first; black is outside the map."""
        patches = [
            self.sampler(means, (place[:, None, None] + side * self.points) * receptive_scale)
            for means, side, receptive_scale in zip(blurred, self.sides, self.receptive_scale, strict=True)
        ]
        return torch.stack(patches, 1)

    def outline(self, place: Tensor) -> Tensor:
        """The corners (B, 4, 2) of the finest patches about places (B, 2)."""
        return place[:, None] + self.corners
