"""Grid generators: from theta to the points of U that each pixel of V reads (Jaderberg et al. 2015, 3.2)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from stn_experiments import geometry

POINTS_PER_SIDE = 8


class GridGenerator(nn.Module):
    """One family of transforms T_theta from points of V to points of U, both normalised (x, y) in [-1, 1].

    A family is a subclass with the parameters of its ``identity`` and with ``transform``.

    Args:
        size: (height, width) of the grid in points.
    """

    identity: Sequence[float]
    target: Tensor
    frame: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("target", geometry.pixel_centres(*size), persistent=False)
        self.register_buffer("frame", geometry.frame(POINTS_PER_SIDE), persistent=False)

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """T_theta of ``points`` (N, 2) of V for each theta (B, P): points (B, N, 2) of U."""
        raise NotImplementedError

    def forward(self, theta: Tensor) -> Tensor:
        """The sampling grid of each theta (B, P): (B, H', W', 2)."""
        return self.transform(theta, self.target).unflatten(1, self.size)

    def outline(self, theta: Tensor) -> Tensor:
        """Where the edge of V lies on U, clockwise from V's top left: a closed line (B, K, 2)."""
        return self.transform(theta, self.frame)


class Affine(GridGenerator):
    """theta = (a, b, tx, c, d, ty), the rows of equation 1: x' = a x + b y + tx, y' = c x + d y + ty."""

    identity = (1, 0, 0, 0, 1, 0)

    def transform(self, theta: Tensor, points: Tensor) -> Tensor:
        """See :meth:`GridGenerator.transform`; theta is (B, 6)."""
        rows = theta.view(-1, 2, 3)
        return points @ rows[:, :, :2].mT + rows[:, None, :, 2]


Family = Literal["affine"]
FAMILIES: dict[Family, type[GridGenerator]] = {"affine": Affine}
