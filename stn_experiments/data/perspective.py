"""Digits of log-uniform scale and aspect, seen in perspective."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from stn_experiments.common.ranges import Range
from stn_experiments.data.canvas import SIDE
from stn_experiments.data.distortions import Distortion


@dataclass(frozen=True)
class Perspective(Distortion):
    """A :class:`Distortion` whose ``scale`` is log-uniform, with an aspect ratio and perspective.

    Tai et al. 2019, "Equivariant transformer networks": Projective MNIST. The order is perspective, scale and
    aspect, shear, rotation.

    Args:
        aspect: the width of the digit is multiplied by a factor, log-uniform from 1/aspect to aspect, and its
            height is divided by it.
        perspective: a point (x, y) of the digit's frame, from -1 to 1, is divided by 1 + p x + q y, with p
            uniform in ±perspective and q uniform in ±(perspective - abs(p)).
    """

    aspect: Annotated[float, Range(1, 4)] = 1.0
    perspective: Annotated[float, Range(0, 0.95)] = 0.0

    @property
    def _is_affine(self) -> bool:
        return super()._is_affine and not self.perspective

    @property
    def _is_warped(self) -> bool:
        return super()._is_warped or self.aspect != 1 or self.perspective > 0

    def _scales(self, place: Tensor) -> Tensor:
        low, high = map(math.log, self.scale)
        return (low + place * (high - low)).exp()

    def _draw_homographies(self, matrix: Tensor, scale: Tensor, generator: Generator) -> Tensor:
        shape = (3, len(scale))
        aspect, p, q = 2 * torch.rand(shape, generator=generator, device=generator.device) - 1
        width = (aspect * math.log(self.aspect)).exp()
        stretch = torch.diag_embed(torch.stack([width, 1 / width, torch.ones_like(width)], -1))
        tilt = torch.eye(3, device=generator.device).repeat(len(scale), 1, 1)
        tilt[:, 2, :2] = torch.stack([p, q * (1 - p.abs())], -1) * (self.perspective / (SIDE / 2))
        return super()._draw_homographies(matrix @ stretch @ tilt, scale, generator)
