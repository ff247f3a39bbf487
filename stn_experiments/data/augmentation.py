"""Augmentation of a user's own training images, drawn by the batch on any device."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Fraction, Range
from stn_experiments.data.canvas import add_noise
from stn_experiments.data.corners import corner_homographies
from stn_experiments.data.warp import CONTROL_POINTS, Scale, Warp

Distance = Annotated[float, Range(0, 1024)]


@dataclass(frozen=True)
class Augmentation:
    """Images are warped as digits are by a ``Distortion``; then brightness, contrast and noise change.

    Beyond its edge, an image goes on with the colours of the edge.

    Args:
        angle: rotation about the centre, uniform in ±angle, degrees.
        scale: smallest and largest factor, uniform between them.
        shear: x is moved by this factor times y, uniform in ±shear, before the rotation.
        shift: movement along each axis, uniform in ±shift, pixels.
        corners: standard deviation in pixels of the movement of each corner along each axis: a homography.
        bend: standard deviation in pixels of the movement of 4×4 control points: a thin plate spline.
        flip: mirror every second image, at random, left to right.
        brightness: factor on all values, uniform in 1 ± brightness.
        contrast: factor on the distance from the image's mean, uniform in 1 ± contrast.
        noise: standard deviation of white Gaussian noise, added last and clipped to [0, 1].
    """

    angle: Annotated[float, Range(0, 180)] = 0.0
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    shear: Annotated[float, Range(0, 2)] = 0.0
    shift: Distance = 0.0
    corners: Distance = 0.0
    bend: Distance = 0.0
    flip: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    noise: Annotated[float, Range(0, 10)] = 0.0

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale must be given as smallest, largest, got {list(self.scale)}")

    @property
    def _warps(self) -> bool:
        amounts = (self.angle, self.shear, self.shift, self.corners, self.bend, self.flip)
        return any(amounts) or self.scale != (1, 1)

    def apply(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment images (B, C, H, W) in [0, 1], perhaps in place; all randomness is the generator's."""
        if self._warps:
            images = self._warp(images, generator)
        if self.brightness or self.contrast:
            spread = torch.rand(2, len(images), 1, 1, 1, generator=generator, device=images.device) * 2 - 1
            mean = images.mean((1, 2, 3), keepdim=True)
            images = (images - mean).mul_(1 + self.contrast * spread[0]).add_(mean)
            images.mul_(1 + self.brightness * spread[1]).clamp_(0, 1)
        if self.noise:
            add_noise(images, self.noise, generator)
        return images

    def _warp(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        warp = Warp(self._draw_matrices(images, generator), None, is_affine=not self.corners)
        if self.bend:
            moves = torch.randn(count, CONTROL_POINTS**2, 2, generator=generator, device=images.device)
            warp.bend = moves * (2 * self.bend) / geometry.constant((width, height), moves)
        grid = warp.to_digit(geometry.pixel_centres(height, width, images.device))
        grid = grid.view(count, height, width, 2)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _draw_matrices(self, images: Tensor, generator: Generator) -> Tensor:
        """The matrices (B, 3, 3) from images (B, C, H, W) to warped ones, in normalised coordinates."""
        count, _, height, width = images.shape
        draws = 2 * torch.rand(6, count, generator=generator, device=images.device) - 1
        scale = self.scale[0] + (draws[1] + 1) / 2 * (self.scale[1] - self.scale[0])
        angle, shear = draws[0] * math.radians(self.angle), self.shear * draws[2]
        matrix = geometry.similarity(angle, scale, torch.zeros_like(draws[:2].T), shear)
        if self.flip:
            matrix[:, :2, 0] *= torch.where(draws[3, :, None] < 0, -1.0, 1.0)  # never 0, as sign may be
        if self.corners:
            frame = geometry.boundary_points(1, images.device) * geometry.constant((width, height), draws) / 2
            moves = torch.randn(count, 4, 2, generator=generator, device=images.device) * self.corners
            matrix = corner_homographies(frame, moves) @ matrix
        matrix[:, :2] += self.shift * draws[4:].T[:, :, None] * matrix[:, 2:]
        return geometry.normalised(matrix, (height, width), (height, width))


@dataclass(frozen=True)
class FixedAugmentation(Augmentation):
    """An augmentation with a given pose: of the warp, only the bend is random.

    All images are rotated by ``angle``, sheared by ``shear``, which both may be negative, and scaled by the
    mean of ``scale``. ``shift``, ``corners`` and ``flip`` have no effect.

    Args:
        offset: (x, y) in pixels by which images are moved.
    """

    offset: tuple[float, float] = (0.0, 0.0)

    _warps = True

    def matrices(self, images: Tensor) -> Tensor:
        """The matrices (B, 3, 3) from images (B, C, H, W) to warped ones, in normalised coordinates."""
        size = geometry.image_size(images)
        ones = torch.ones(len(images), device=images.device)
        shift = geometry.constant(self.offset, ones).expand(len(images), -1)
        angle, scale = ones * math.radians(self.angle), ones * sum(self.scale) / 2
        return geometry.normalised(geometry.similarity(angle, scale, shift, self.shear), size, size)

    def _draw_matrices(self, images: Tensor, generator: Generator) -> Tensor:
        return self.matrices(images)
