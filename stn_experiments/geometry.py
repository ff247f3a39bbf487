"""Points and matrices in the one convention of the project, the one of ``torch.nn.functional.grid_sample``.

Points are (x, y), x to the right and y *down*, normalised so that an image's outer *edges* lie at -1 and 1
(``align_corners=False``). Angles are in radians, positive counter-clockwise as seen on the screen.
"""

import torch
from torch import Tensor


def pixel_centres(height: int, width: int) -> Tensor:
    """The centres of an image's pixels, row by row, as normalised (x, y): (height * width, 2)."""
    x = (torch.arange(width) * 2 + 1) / width - 1
    y = (torch.arange(height) * 2 + 1) / height - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


def frame(points_per_side: int) -> Tensor:
    """Points along the edge of the [-1, 1] square, clockwise on the screen from the top left: (4 * n, 2)."""
    step = torch.arange(points_per_side) * 2 / points_per_side - 1
    one = torch.ones_like(step)
    sides = [(step, -one), (one, step), (-step, one), (-one, -step)]
    return torch.cat([torch.stack(side, -1) for side in sides])


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply homogeneous matrices (B, 3, 3) to points (N, 2), or to each one's own (B, N, 2): (B, N, 2)."""
    moved = points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def similarity(angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rotate by ``angle`` (B,), scale by ``scale`` (B,), then shift by ``shift`` (B, 2): (B, 3, 3).

    For axes of one unit, pixels say; normalise with :func:`normalised` after.
    """
    cos, sin, zero = scale * angle.cos(), scale * angle.sin(), torch.zeros_like(angle)
    x = torch.stack([cos, sin, shift[:, 0]], -1)
    y = torch.stack([-sin, cos, shift[:, 1]], -1)
    return torch.stack([x, y, torch.stack([zero, zero, zero + 1], -1)], 1)


def normalised(matrix: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Carry (B, 3, 3) over from pixels about the images' centres to normalised coordinates.

    ``matrix`` maps points of an image of (height, width) ``source`` to points of one of ``target``.
    """
    (h, w), (height, width) = source, target
    to_pixels = matrix.new_tensor([w / 2, h / 2, 1])
    from_pixels = matrix.new_tensor([2 / width, 2 / height, 1])
    return from_pixels[:, None] * matrix * to_pixels
