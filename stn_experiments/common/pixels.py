"""Normalised points and matrices in pixels, for libraries that count in pixels.

``centre`` is the coordinate of the centre of an image's first pixel. It is 0 for those that count pixels by
their indices, such as cv2, scipy and kornia. It is 0.5 for those that measure from the outer edge of the
image, such as PIL.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.common import geometry


def points_in_pixels(points: Tensor, size: tuple[int, int], centre: float = 0.0) -> Tensor:
    """Normalised points (..., 2) of an image of (height, width) ``size``, in pixels."""
    height, width = size
    return (points + 1) * geometry.constant((width / 2, height / 2), points) + (centre - 0.5)


def matrix_in_pixels(
    matrix: Tensor, source: tuple[int, int], target: tuple[int, int], centre: float = 0.0
) -> Tensor:
    """Matrices (B, 2, 3) or (B, 3, 3) between normalised coordinates, between those in pixels.

    They map points of an image of (height, width) ``source`` to points of one of ``target``. The last entry
    of a projective matrix is 1.
    """
    (h, w), (height, width), shift = source, target, centre - 0.5
    from_pixels = [[2 / w, 0, -1 - 2 * shift / w], [0, 2 / h, -1 - 2 * shift / h], [0, 0, 1]]
    to_pixels = [[width / 2, 0, width / 2 + shift], [0, height / 2, height / 2 + shift], [0, 0, 1]]
    product = matrix.new_tensor(to_pixels) @ homogeneous(matrix) @ matrix.new_tensor(from_pixels)
    return product[:, :2] if matrix.shape[1] == 2 else product / product[:, 2:, 2:]


def inverse(matrix: Tensor) -> Tensor:
    """The inverses of matrices (B, 2, 3) or (B, 3, 3); that of a singular one is not finite."""
    first, second, third = homogeneous(matrix).unbind(1)
    columns = [
        torch.linalg.cross(one, other) for one, other in ((second, third), (third, first), (first, second))
    ]
    determinant = (first * columns[0]).sum(1)
    inverses = torch.stack(columns, 2) / determinant[:, None, None]
    return inverses[:, : matrix.shape[1]]


def homogeneous(matrix: Tensor) -> Tensor:
    """Matrices (B, 2, 3) or (B, 3, 3) with three rows."""
    if matrix.shape[1] == 3:
        return matrix
    return F.pad(matrix, (0, 0, 0, 1)) + matrix.new_tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1]])
