"""The map between a canvas and a digit's own frame: a homography and the bend of a thin plate spline."""

from collections.abc import Iterator
from functools import cache, cached_property
from typing import Annotated

import torch
from torch import Tensor

from stn_experiments.common import geometry
from stn_experiments.common.ranges import Range

Scale = Annotated[float, Range(0.1, 4)]
CONTROL_POINTS = 4  # per side
INVERSION_STEPS = 30


class Warp:
    """Maps points between the canvases of B digits and the digits' frames, in normalised coordinates.

    Args:
        matrix: (B, 3, 3), from a digit's frame to its canvas.
        bend: (B, 16, 2), how far each control point of a spline over the canvas is moved in the digit's
            frame; None: no bend.
        is_affine: all matrices are affine, which is faster.
    """

    def __init__(self, matrix: Tensor, bend: Tensor | None, is_affine: bool = False) -> None:
        self.matrix = matrix
        self.bend = bend
        self.is_affine = is_affine
        self._apply = geometry.affine if is_affine else geometry.transform

    def split(self, count: int) -> Iterator["Warp"]:
        """Warps of at most ``count`` digits each; one of none if there are none, as ``Tensor.split`` does."""
        for start in range(0, max(len(self.matrix), 1), count):
            part = slice(start, start + count)
            yield Warp(self.matrix[part], None if self.bend is None else self.bend[part], self.is_affine)

    @cached_property
    def inverse(self) -> Tensor:
        """The matrices (B, 3, 3) from canvas to digit."""
        return torch.linalg.inv_ex(self.matrix).inverse  # waits for no device, unlike inv

    def to_digit(self, points: Tensor) -> Tensor:
        """Map points (N, 2) of the canvas to the digits' frames: (B, N, 2)."""
        source = self._apply(self.inverse, points)
        return source if self.bend is None else source + bend_offsets(self.bend, points)

    def to_canvas(self, points: Tensor) -> Tensor:
        """Map points (B, N, 2) of the digits' frames to the canvas: (B, N, 2)."""
        moved = self._apply(self.matrix, points)
        if self.bend is not None:
            # A spline has no inverse in closed form; this fixed-point iteration converges to it.
            for _ in range(INVERSION_STEPS):
                moved = self._apply(self.matrix, points - bend_offsets(self.bend, moved))
        return moved


def bend_offsets(bend: Tensor, points: Tensor) -> Tensor:
    """How far a spline moves ``points`` (..., N, 2) if its control points move by ``bend`` (B, K, 2)."""
    control, solution = _spline(points.device)
    return geometry.weighted(geometry.spline_basis(control, points), solution @ bend)


@cache
def _spline(device: torch.device) -> tuple[Tensor, Tensor]:
    control = geometry.control_points(CONTROL_POINTS)
    return control.to(device), geometry.spline_solution(control).to(device)
