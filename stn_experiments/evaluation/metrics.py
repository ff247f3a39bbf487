"""Whether a transformer works, from its views alone."""

from torch import Tensor


def theta_spread(theta: Tensor) -> Tensor:
    """Standard deviation of theta (N, P) over a set, averaged over P: 0 if theta ignores the input."""
    return theta.std(0, correction=0).mean()


def outside_share(grid: Tensor) -> Tensor:
    """Share (B,) of the points of sampling grids (B, H', W', 2) that are outside the image."""
    x, y = grid.unbind(-1)
    return ((x.abs() > 1) | (y.abs() > 1)).float().mean((1, 2))
