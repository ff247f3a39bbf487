"""Points and matrices, in the convention of ``torch.nn.functional.grid_sample``.

Points are (x, y), with x to the right and y *down*. They are normalised: the outer *edges* of an image are at
-1 and 1 (``align_corners=False``). Angles are in radians, positive counter-clockwise as seen on the screen.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_DEPTH = 1e-6
"""The smallest absolute value of a third homogeneous coordinate; it keeps points at infinity finite."""


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """A tensor (N,) with the device and dtype of ``like``, made without a copy from host to device."""
    return torch.stack([like.new_full((), value) for value in values])


def image_size(images: Tensor) -> tuple[int, int]:
    """The (height, width) of images (..., H, W)."""
    return images.shape[-2], images.shape[-1]


def pixel_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The centres of an image's pixels, row by row: (height * width, 2)."""
    x = (torch.arange(width, device=device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=device) * 2 + 1) / height - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def boundary_points(points_per_side: int, device: torch.device | None = None) -> Tensor:
    """Points on the edge of the [-1, 1] square, clockwise on the screen from the top left: (4 * n, 2)."""
    step = torch.arange(points_per_side, device=device) * 2 / points_per_side - 1
    one = torch.ones_like(step)
    sides = [(step, -one), (one, step), (-step, one), (-one, -step)]
    return torch.cat([torch.stack(side, -1) for side in sides])


def transform(matrix: Tensor, points: Tensor, horizon: float | None = None) -> Tensor:
    """Apply homogeneous matrices (B, 3, 3) to points (N, 2) or (B, N, 2): (B, N, 2).

    The third homogeneous coordinate is clamped to at least ``horizon``. Without a horizon, points at infinity
    become finite points far away, where sampling gives black instead of NaN.
    """
    moved = _product(matrix, points)
    depth = moved[:, 2:]
    depth = (
        torch.where(depth.abs() < MIN_DEPTH, MIN_DEPTH, depth)
        if horizon is None
        else depth.clamp(min=horizon)
    )
    return (moved[:, :2] / depth).mT


def affine(matrix: Tensor, points: Tensor) -> Tensor:
    """A faster :func:`transform` for affine matrices (B, 3, 3)."""
    return _product(matrix[:, :2], points).mT


def _product(matrix: Tensor, points: Tensor) -> Tensor:
    """Products (B, R, N) of matrix rows (B, R, 3) and points (N, 2) or (B, N, 2)."""
    if points.dim() == 3:
        return matrix[:, :, :2] @ points.mT + matrix[:, :, 2:]
    # One product for the whole batch is many times faster than one for each matrix.
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    return (matrix.reshape(-1, 3) @ homogeneous.T).unflatten(0, matrix.shape[:2])


def control_points(per_side: int) -> Tensor:
    """A regular grid of points from edge to edge of the [-1, 1] square, row by row: (per_side², 2)."""
    ticks = torch.linspace(-1, 1, per_side)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).reshape(-1, 2)


def spline_basis(control: Tensor, points: Tensor) -> Tensor:
    """The basis of a thin plate spline (Bookstein 1989) at points (N, 2) or (B, N, 2): (..., N, K + 3).

    It is U(r) = r² log r² of the distances to the K control points (K, 2), then 1, x and y.
    """
    squared = (points[..., :, None, :] - control).square().sum(-1)
    bend = squared * squared.clamp(min=torch.finfo(squared.dtype).tiny).log()
    return torch.cat([bend, torch.ones_like(points[..., :1]), points], -1)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sums (B, N, 2) of values (B, K, 2), weighted by (N, K) or (B, N, K)."""
    if weights.dim() == 3:
        return weights @ values
    # One product for the whole batch is many times faster than one for each item.
    return (values.mT.flatten(0, 1) @ weights.T).unflatten(0, (-1, 2)).mT


def spline_solution(control: Tensor) -> Tensor:
    """The matrix (K + 3, K) from values at K control points (K, 2) to weights of :func:`spline_basis`."""
    exact = control.double()
    count = len(control)
    basis = spline_basis(exact, exact)
    system = torch.zeros(count + 3, count + 3, dtype=torch.double)
    system[:count] = basis
    system[count:, :count] = basis[:, count:].T
    return torch.linalg.inv(system)[:, :count].to(control.dtype)


def similarity(angle: Tensor, scale: Tensor, shift: Tensor, shear: Tensor | float = 0.0) -> Tensor:
    """Matrices (B, 3, 3) that rotate by ``angle`` (B,), scale by ``scale`` (B,), then shift by (B, 2).

    Before all that, x is moved by ``shear`` (B,) times y. Both axes have the same unit, such as pixels;
    convert the result with :func:`normalised`.
    """
    cos, sin, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
    x = torch.stack([cos, sin + shear * cos, shift[:, 0]], -1)
    y = torch.stack([-sin, cos - shear * sin, shift[:, 1]], -1)
    return torch.stack([x, y, torch.stack([zero, zero, zero + 1], -1)], 1)


def normalised(matrix: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Convert matrices (B, 3, 3) from pixels, relative to the images' centres, to normalised coordinates.

    ``matrix`` maps points of an image of (height, width) ``source`` to points of one of ``target``.
    """
    (h, w), (height, width) = source, target
    to_pixels = constant((w / 2, h / 2, 1), matrix)
    from_pixels = constant((2 / width, 2 / height, 1), matrix)
    return from_pixels[:, None] * matrix * to_pixels


def homography(source: Tensor, target: Tensor) -> Tensor:
    """Matrices (B, 3, 3), with last entry 1, that map four points (4, 2) to four points (B, 4, 2)."""
    x, y = source.unbind(-1)
    u, v = target.unbind(-1)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    x, y = x.expand_as(u), y.expand_as(u)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    system, values = torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1)
    entries = torch.linalg.solve_ex(system, values).result
    return torch.cat([entries, one[:, :1]], 1).view(-1, 3, 3)


def is_convex(corners: Tensor) -> Tensor:
    """Whether quadrilaterals (B, 4, 2), clockwise on the screen, are clearly convex: (B,)."""
    edge = corners.roll(-1, 1) - corners
    next_edge = edge.roll(-1, 1)
    return (cross(edge, next_edge) > 0.1 * edge.norm(dim=2) * next_edge.norm(dim=2)).all(1)


def cross(p: Tensor, q: Tensor) -> Tensor:
    """The cross products (...) of vectors (..., 2); positive if q is clockwise of p on the screen."""
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def signed_area(polygon: Tensor) -> Tensor:
    """Areas (B,) of simple polygons (B, N, 2), positive if clockwise on the screen: Σ p × q / 2.

    This is the shoelace formula. It is more exact where a corner is the origin.
    """
    return cross(polygon, polygon.roll(-1, 1)).sum(1) / 2
