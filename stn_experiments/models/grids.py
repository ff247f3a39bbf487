"""Grid generators: from theta to the points of U that each pixel of V reads (Jaderberg et al. 2015, 3.2)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.ranges import Range

HORIZON = 0.1


class Family(nn.Module, ABC):
    """A family of transforms T_theta from points of V to points of U, both normalised (x, y) in [-1, 1]."""

    identity: Sequence[float]
    """The parameters that change nothing."""
    points_per_side = 1
    """Points that tell an image of the square's sides: their corners, where they stay straight."""

    @abstractmethod
    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """T_theta of ``points`` (N, 2), or of each one's own (B, N, 2), for theta (B, P): (B, N, 2)."""
        raise NotImplementedError

    def compose(self, first: Tensor, second: Tensor) -> Tensor:
        """Theta (B, P) of looking closer, by ``second``, at what ``first`` shows: T_first after T_second.

        Raises:
            NotImplementedError: one transform after another is none of the family.
        """
        raise NotImplementedError

    def marks(self, theta: Tensor) -> Tensor:
        """Points (B, M, 2) of U that tell more of T_theta than the edge of V does, for panels; M may be 0."""
        return theta.new_zeros(len(theta), 0, 2)


class MatrixFamily(Family):
    """A family of homogeneous matrices, in which one transform after another is again one of the family."""

    @abstractmethod
    def matrix(self, theta: Tensor) -> Tensor:
        """The matrix (B, 3, 3) of theta (B, P)."""
        raise NotImplementedError

    @abstractmethod
    def theta(self, matrix: Tensor) -> Tensor:
        """Theta (B, P) of a matrix (B, 3, 3) of the family."""
        raise NotImplementedError

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """See :meth:`Family.transform`."""
        return geometry.affine(self.matrix(theta), points)

    def compose(self, first: Tensor, second: Tensor) -> Tensor:
        """See :meth:`Family.compose`."""
        return self.theta(self.matrix(first) @ self.matrix(second))


class Translation(MatrixFamily):
    """theta = (tx, ty): a window of a fixed size that moves.

    Args:
        window: its side by that of U. 1 shows all of U, and starts at the identity. Below 1 V is a crop that
            starts in the middle of U; at 28/60 one of 28×28 pixels from 60×60, pixel for pixel.
    """

    identity = (0.0, 0.0)

    def __init__(self, window: Annotated[float, Range(0.01, 10)] = 1.0) -> None:
        super().__init__()
        self.window = window

    def matrix(self, theta: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.matrix`."""
        side, zero = torch.full_like(theta[:, 0], self.window), torch.zeros_like(theta[:, 0])
        return _affine(side, zero, theta[:, 0], zero, side, theta[:, 1])

    def theta(self, matrix: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.theta`."""
        return matrix[:, :2, 2]


class Attention(MatrixFamily):
    """theta = (s, tx, ty), equation 2: isotropic scale and translation."""

    identity = (1.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.matrix`."""
        scale, x, y = theta.unbind(1)
        zero = torch.zeros_like(scale)
        return _affine(scale, zero, x, zero, scale, y)

    def theta(self, matrix: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.theta`."""
        return torch.stack([matrix[:, 0, 0], matrix[:, 0, 2], matrix[:, 1, 2]], 1)


class Similarity(MatrixFamily):
    """theta = (s cos a, s sin a, tx, ty): rotation by a and scale on a square U, then translation."""

    identity = (1.0, 0.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.matrix`."""
        cos, sin, x, y = theta.unbind(1)
        return _affine(cos, sin, x, -sin, cos, y)

    def theta(self, matrix: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.theta`."""
        return torch.cat([matrix[:, 0, :2], matrix[:, :2, 2]], 1)


class Affine(MatrixFamily):
    """theta = (a, b, tx, c, d, ty), the rows of equation 1: x' = a x + b y + tx, y' = c x + d y + ty."""

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.matrix`."""
        return _affine(*theta.unbind(1))

    def theta(self, matrix: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.theta`."""
        return matrix[:, :2].flatten(1)


class Projective(MatrixFamily):
    """theta = the first eight entries of a homography, row by row; the ninth is 1.

    Points at the horizon or behind it, where the third homogeneous coordinate is below ``HORIZON``, are held
    there: otherwise a step too far would send the grid to infinity, and no gradient would bring it back.
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def matrix(self, theta: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.matrix`."""
        return torch.cat([theta, torch.ones_like(theta[:, :1])], 1).view(-1, 3, 3)

    def theta(self, matrix: Tensor) -> Tensor:
        """See :meth:`MatrixFamily.theta`."""
        return (matrix / matrix[:, 2:, 2:]).flatten(1)[:, :8]

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """See :meth:`Family.transform`."""
        return geometry.transform(self.matrix(theta), points, horizon=HORIZON)


class ThinPlateSpline(Family):
    """theta = where on U each control point of V is read, (x, y) after (x, y), row by row.

    The control points are a regular grid from edge to edge of V; between them the spline bends least
    (Bookstein 1989, "Principal warps").

    Args:
        control_points: along each side; the paper has 4.
    """

    points_per_side = 8
    control: Tensor
    solution: Tensor

    def __init__(self, control_points: Annotated[int, Range(2, 32)] = 4) -> None:
        super().__init__()
        control = geometry.control_points(control_points)
        self.identity = control.flatten().tolist()
        self.register_buffer("control", control, persistent=False)
        self.register_buffer("solution", geometry.spline_solution(control), persistent=False)

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """See :meth:`Family.transform`; theta is (B, 2 K²)."""
        weights = geometry.spline_basis(self.control, points) @ self.solution
        # A spline of what the control points are moved by, so that where none is moved nothing is rounded.
        return points + geometry.weighted(weights, theta.unflatten(1, (-1, 2)) - self.control)

    def marks(self, theta: Tensor) -> Tensor:
        """The control points: (B, K², 2)."""
        return theta.unflatten(1, (-1, 2))


class GridGenerator(nn.Module):
    """A family of transforms, and the regular grid of V that it is applied to.

    Args:
        family: the family.
        size: (height, width) of the grid in points.
    """

    target: Tensor
    frame: Tensor

    def __init__(self, family: Family, size: tuple[int, int]) -> None:
        super().__init__()
        self.family = family
        self.size = size
        self.register_buffer("target", geometry.pixel_centres(*size), persistent=False)
        self.register_buffer("frame", geometry.boundary_points(family.points_per_side), persistent=False)

    def forward(self, theta: Tensor) -> Tensor:
        """The sampling grid of each theta (B, P): (B, H', W', 2)."""
        return self.family.transform(theta, self.target).unflatten(1, self.size)

    def outline(self, theta: Tensor) -> Tensor:
        """Where the edge of V lies on U, clockwise from V's top left: a closed line (B, K, 2)."""
        return self.family.transform(theta, self.frame)


def _affine(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    rows = [torch.stack(row, 1) for row in ((a, b, x), (c, d, y), (zero, zero, zero + 1))]
    return torch.stack(rows, 1)
