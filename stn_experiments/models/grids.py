"""Grid generators: map theta to the points of U that the pixels of V read (Jaderberg et al. 2015, 3.2)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range

HORIZON = 0.1
"""The smallest third homogeneous coordinate of a projective transform."""


class Family(nn.Module, ABC):
    """A family of transforms T_theta that map points of V to points of U, both normalised (x, y)."""

    identity: Sequence[float]
    """Theta of the identity."""
    entries: Sequence[tuple[int, int]] = ()
    """For matrices: the (row, column) of the entry that equals each parameter."""
    points_per_side = 1
    """Points that describe a transformed side of the square: one is enough if sides stay straight."""

    @property
    def translates(self) -> bool:
        """Whether two parameters are a translation along x and along y."""
        return {(0, 2), (1, 2)} <= set(self.entries)

    def on(self, size: tuple[int, int]) -> "Family":
        """The same transforms for maps of a size (height, width)."""
        return self

    @abstractmethod
    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """T_theta of ``points`` (N, 2) or (B, N, 2), for theta (B, P): (B, N, 2)."""

    def compose(self, first: Tensor, second: Tensor) -> Tensor:
        """Theta (B, P) of T_first(T_second(.)): warp by ``first``, then warp the result by ``second``.

        The window of a translation keeps its size.

        Raises:
            NotImplementedError: the composition is not in the family.
        """
        raise NotImplementedError

    def marks(self, theta: Tensor) -> Tensor:
        """Points (B, M, 2) of U that panels draw beside the outline of V; M may be 0."""
        return theta.new_zeros(theta.shape[0], 0, 2)


class MatrixFamily(Family):
    """A family of homogeneous matrices that is closed under composition, but for a translation's window."""

    is_affine = True
    """Whether the third row of each matrix is (0, 0, 1), as :meth:`transform` assumes."""

    @abstractmethod
    def matrix(self, theta: Tensor) -> Tensor:
        """The matrix (B, 3, 3) of theta (B, P)."""

    def theta(self, matrix: Tensor) -> Tensor:
        """Theta (B, P) of a matrix (B, 3, 3) of the family."""
        return torch.stack([matrix[:, row, column] for row, column in self.entries], 1)

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        return geometry.affine(self.matrix(theta), points)

    def compose(self, first: Tensor, second: Tensor) -> Tensor:
        return self.theta(self.matrix(first) @ self.matrix(second))


class Translation(MatrixFamily):
    """theta = (tx, ty): a window of fixed size that moves.

    Args:
        window: side of the window relative to U. At 1 the transform starts as the identity. Below 1 it starts
            as a crop from the centre of U: 28/60 crops 28×28 of 60×60 pixels exactly.
    """

    identity = (0.0, 0.0)
    entries = ((0, 2), (1, 2))

    def __init__(self, window: Annotated[float, Range(0.01, 10)] = 1.0) -> None:
        super().__init__()
        self.window = window

    def matrix(self, theta: Tensor) -> Tensor:
        side, zero = torch.full_like(theta[:, 0], self.window), torch.zeros_like(theta[:, 0])
        return _affine(side, zero, theta[:, 0], zero, side, theta[:, 1])


class Similarity(MatrixFamily):
    """theta = (s cos a, s sin a, tx, ty): rotation by a and scale, in pixels of U, then translation.

    Without rotation, theta has no s sin a; without scale too, no s cos a; without translation, no tx and ty.
    With rotation but no scale, the first two are divided by their length. The angle itself would jump at 180°
    (Zhou et al. 2019, "On the continuity of rotation representations in neural networks").

    Args:
        rotation: whether it rotates.
        scale: whether it scales.
        translation: whether it translates.

    Raises:
        UserError: nothing is left.
    """

    aspect = 1.0
    """Width ÷ height of U, which the matrix of a rotation of its pixels needs in normalised coordinates."""

    def __init__(self, rotation: bool = True, scale: bool = True, translation: bool = True) -> None:
        super().__init__()
        if not (rotation or scale or translation):
            raise UserError("rotation, scale and translation must not all be false")
        self.is_rigid = rotation and not scale
        has = {(0, 0): rotation or scale, (0, 1): rotation, (0, 2): translation, (1, 2): translation}
        self.entries = [entry for entry, is_there in has.items() if is_there]
        self.identity = [1.0 if entry == (0, 0) else 0.0 for entry in self.entries]

    def on(self, size: tuple[int, int]) -> "Similarity":
        family = copy(self)
        family.aspect = size[1] / size[0]
        return family

    def theta(self, matrix: Tensor) -> Tensor:
        parts = [matrix[:, row, column] for row, column in self.entries]
        if (0, 1) in self.entries:
            parts[1] = parts[1] * self.aspect
        return torch.stack(parts, 1)

    def matrix(self, theta: Tensor) -> Tensor:
        zero = torch.zeros_like(theta[:, 0])
        parts = dict(zip(self.entries, theta.unbind(1), strict=True))
        cos, sin = parts.get((0, 0), zero + 1), parts.get((0, 1), zero)
        if self.is_rigid:
            cos, sin = F.normalize(theta[:, :2], dim=1).unbind(1)
        across, down = sin / self.aspect, -sin * self.aspect
        return _affine(cos, across, parts.get((0, 2), zero), down, cos, parts.get((1, 2), zero))


class ScaleTranslation(Similarity):
    """theta = (s, tx, ty): isotropic scale and translation, the paper's attention (equation 2)."""

    def __init__(self) -> None:
        super().__init__(rotation=False)


class Affine(MatrixFamily):
    """theta = (a, b, tx, c, d, ty), the rows of equation 1: x' = a x + b y + tx, y' = c x + d y + ty."""

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    entries = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))

    def matrix(self, theta: Tensor) -> Tensor:
        return _affine(*theta.unbind(1))


class Projective(MatrixFamily):
    """theta = the first eight entries of a homography, row by row; the ninth is 1.

    The third homogeneous coordinate is clamped to at least ``HORIZON``. Otherwise too large a training step
    could send the grid to infinity, where it gets no gradient.
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    entries = (*Affine.entries, (2, 0), (2, 1))
    is_affine = False

    def matrix(self, theta: Tensor) -> Tensor:
        return torch.cat([theta, torch.ones_like(theta[:, :1])], 1).view(-1, 3, 3)

    def theta(self, matrix: Tensor) -> Tensor:
        return super().theta(matrix / matrix[:, 2:, 2:].clamp(min=HORIZON))

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        return geometry.transform(self.matrix(theta), points, horizon=HORIZON)


class ThinPlateSpline(Family):
    """theta = the points (x, y) of U that the control points of V read, row by row.

    The control points are a regular grid from edge to edge of V. The spline interpolates between them with
    the least bending energy (Bookstein 1989, "Principal warps").

    Args:
        control_points: control points along each side; the paper uses 4.
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
        weights = geometry.spline_basis(self.control, points) @ self.solution
        # Interpolating displacements instead of positions makes the identity exact.
        return points + geometry.weighted(weights, theta.unflatten(1, (-1, 2)) - self.control)

    def marks(self, theta: Tensor) -> Tensor:
        """The control points: (B, K², 2)."""
        return theta.unflatten(1, (-1, 2))


FamilyName = Literal[
    "translation", "rotation", "scale_translation", "similarity", "affine", "projective", "tps"
]
FAMILIES: dict[FamilyName, Callable[[], Family]] = {
    "translation": Translation,
    "rotation": partial(Similarity, scale=False, translation=False),
    "scale_translation": ScaleTranslation,
    "similarity": Similarity,
    "affine": Affine,
    "projective": Projective,
    "tps": ThinPlateSpline,
}
"""The families by their names in ``configs/stn``."""


class GridGenerator(nn.Module):
    """Applies transforms of a family to the regular grid of V.

    Args:
        family: the family of transforms.
        size: (height, width) of the grid in points.
    """

    target: Tensor
    boundary: Tensor

    def __init__(self, family: Family, size: tuple[int, int]) -> None:
        super().__init__()
        self.family = family
        self.size = size
        self.register_buffer("target", geometry.pixel_centres(*size), persistent=False)
        self.register_buffer("boundary", geometry.boundary_points(family.points_per_side), persistent=False)

    def forward(self, theta: Tensor) -> Tensor:
        """The sampling grids (B, H', W', 2) of theta (B, P)."""
        return self.family.transform(theta, self.target).unflatten(1, self.size)

    def outline(self, theta: Tensor) -> Tensor:
        """The boundary of V on U, a closed line (B, K, 2), clockwise from the top left of V."""
        return self.family.transform(theta, self.boundary)


def _affine(*entries: Tensor) -> Tensor:
    """Matrices (B, 3, 3) from the six entries (B,) of their first two rows."""
    zero = torch.zeros_like(entries[0])
    return torch.stack([*entries, zero, zero, zero + 1], 1).view(-1, 3, 3)
