"""Homographies: the corners of a frame move at random."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.data.canvas import SIDE

CornerFrame = Literal["scaled", "whole", "canvas"]
CornerMoves = Literal["axes", "axes_and_shift", "direction", "diagonal"]
HALVINGS = 4
"""How often the movements of a frame's corners are halved at most, until the frame does not fold."""
HORIZON = 0.1
"""The smallest third homogeneous coordinate of a corner of a digit's 28×28 frame; that of its centre is 1."""


class Corners(NamedTuple):
    """Which corners move, and how; see the settings of ``Distortion`` that begin with ``corner``.

    Args:
        deviation: standard deviation of a corner's movement, in pixels of the canvas.
        frame: the frame whose corners they are.
        moves: the directions in which they move.
        size: (height, width) of the canvas in pixels.
    """

    deviation: float
    frame: CornerFrame
    moves: CornerMoves
    size: tuple[int, int]

    def move(self, matrix: Tensor, scale: Tensor, generator: Generator) -> Tensor:
        """Matrices (B, 3, 3), in pixels, of poses whose ``scale`` is (B,), after the corners have moved."""
        if self.frame == "canvas":
            return self._draw_views(matrix, generator) @ matrix
        if self.frame == "whole":
            return self._draw_of_digits(torch.ones_like(scale), generator) @ matrix
        return matrix @ self._draw_of_digits(scale, generator)

    def _draw_of_digits(self, scale: Tensor, generator: Generator) -> Tensor:
        """Homographies (B, 3, 3), in pixels, that move the corners of a 28×28 frame.

        They move ``deviation`` pixels of the canvas, on which the frame is scaled by ``scale`` (B,).
        """
        frame = geometry.boundary_points(1, generator.device) * (SIDE / 2)
        moves = self._draw_moves(len(scale), generator) / scale[:, None, None]
        return corner_homographies(frame, moves)

    def _draw_views(self, matrix: Tensor, generator: Generator) -> Tensor:
        """Homographies (B, 3, 3), in pixels, to canvases whose corners have moved, for poses (B, 3, 3)."""
        square = geometry.boundary_points(1, generator.device)
        frame = square * geometry.constant(self.size[::-1], square) / 2
        digits = geometry.affine(matrix, square * (SIDE / 2)).mT
        moves = self._draw_moves(len(matrix), generator)
        for _ in range(HALVINGS):
            depth = 1 + (_view(frame, moves)[:, 2:, :2] @ digits)[:, 0]
            fits = geometry.is_convex(frame + moves) & (depth > HORIZON).all(1)
            moves = torch.where(fits[:, None, None], moves, moves / 2)
        return _view(frame, moves)

    def _draw_moves(self, count: int, generator: Generator) -> Tensor:
        """Movements (B, 4, 2) of the corners, in pixels."""
        device = generator.device
        moves = torch.randn(count, 4, 2, generator=generator, device=device)
        if self.moves == "diagonal":
            moves = geometry.boundary_points(1, device) / math.sqrt(2) * moves[..., :1]
        elif self.moves == "direction":
            length = torch.randn(count, 4, 1, generator=generator, device=device)
            moves = F.normalize(moves, dim=-1) * length
        elif self.moves == "axes_and_shift":
            moves = moves + torch.randn(count, 1, 2, generator=generator, device=device)
        return moves * self.deviation


def corner_homographies(frame: Tensor, moves: Tensor) -> Tensor:
    """Homographies (B, 3, 3) that move the corners (4, 2) of a frame by ``moves`` (B, 4, 2).

    Where the frame would fold, all four move half as far.
    """
    for _ in range(HALVINGS):
        moves = torch.where(geometry.is_convex(frame + moves)[:, None, None], moves, moves / 2)
    return geometry.homography(frame, frame + moves)


def _view(frame: Tensor, moves: Tensor) -> Tensor:
    """The homographies (B, 3, 3) from an image to frames (4, 2) whose corners move over it by (B, 4, 2)."""
    view = torch.linalg.inv_ex(geometry.homography(frame, frame + moves)).inverse
    return view / view[:, 2:, 2:]
