"""The retina: a glimpse that is sharp at a place and coarser around it (Mnih et al. 2014, section 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.models.sampler import Sampler


class Retina(nn.Module):
    """Extracts patches around a place, each twice as wide as the one before, all of the same resolution.

    Args:
        shape: (C, H, W) of the map.
        size: side of a patch in its own pixels; those of the finest patch are the map's.
        scales: number of patches.
    """

    points: Tensor
    corners: Tensor
    blurred_scale: Tensor

    def __init__(self, shape: tuple[int, int, int], size: int, scales: int) -> None:
        super().__init__()
        self.pixel_sides = [2**scale for scale in range(scales)]
        map_size = torch.tensor([shape[2], shape[1]])
        points = geometry.pixel_centres(size, size).view(size, size, 2) * size / map_size
        blurred_scale = torch.stack([map_size / (map_size + side - 1) for side in self.pixel_sides])
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("corners", geometry.boundary_points(1) * size / map_size, persistent=False)
        self.register_buffer("blurred_scale", blurred_scale, persistent=False)
        self.sampler = Sampler()

    def blur(self, features: Tensor) -> list[Tensor]:
        """For each scale, the means of the map over windows as large as the pixels of that patch.

        A pixel of a coarse patch is one sample of these means, so they are computed once for all glimpses.
        A window of side s may lie partly outside the map, so the means extend s - 1 pixels beyond it.
        """
        return [
            F.avg_pool2d(F.pad(features, [side - 1] * 4), side, 1) if side > 1 else features
            for side in self.pixel_sides
        ]

    def forward(self, blurred: Sequence[Tensor], place: Tensor) -> Tensor:
        """The patches (B, S, C, p, p) around places (B, 2), finest first; outside the map they are black."""
        patches = [
            self.sampler(means, (place[:, None, None] + side * self.points) * scale)
            for means, side, scale in zip(blurred, self.pixel_sides, self.blurred_scale, strict=True)
        ]
        return torch.stack(patches, 1)

    def outline(self, place: Tensor) -> Tensor:
        """The corners (B, 4, 2) of the finest patches around places (B, 2)."""
        return place[:, None] + self.corners
