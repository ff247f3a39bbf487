"""The view: what one attention did to one batch. Panels and scores are made from views."""

from typing import NamedTuple

from torch import Tensor

from stn_experiments.common import pixels
from stn_experiments.common.errors import UserError
from stn_experiments.common.geometry import image_size
from stn_experiments.common.ranges import Count, height_width
from stn_experiments.config.build import check

AnySize = Count | tuple[Count, Count]


class Transform(NamedTuple):
    """What a spatial transformer did: ``theta`` (B, P) and its sampling ``grid`` (B, s H', s W', 2) on U.

    Each pixel of V is the mean of s × s samples. ``matrix`` maps normalised points of V to those of U. It is
    (B, 2, 3), of projective transforms (B, 3, 3), and None for thin plate splines.
    """

    theta: Tensor
    grid: Tensor
    matrix: Tensor | None = None


class Heat(NamedTuple):
    """Weights (B, h, w) >= 0 of the cells of a map, and the ``places`` (B, h, w, 2) of these cells."""

    weights: Tensor
    places: Tensor


class View(NamedTuple):
    """What one attention did to one batch. Fields that do not apply are ``None``.

    Points are normalised (x, y), see ``geometry``. In a model's output they lie on the map that the attention
    reads; ``evaluation.coordinates`` maps them to the network's input.

    Args:
        output: the result (B, C, H', W'): V, a weighted map or a glimpse.
        outline: the boundary of the attended region, a closed line (B, K, 2). Attention without a location
            has none.
        marks: further points (B, M, 2): a spline's control points, or the path to a glimpse.
        heat: the weight of each place.
        gates: the weight in [0, 1] of each channel (B, G).
        words: the weight of each word of a question (B, T); they sum to 1.
        transform: what a spatial transformer did.
    """

    output: Tensor
    outline: Tensor | None = None
    marks: Tensor | None = None
    heat: Heat | None = None
    gates: Tensor | None = None
    words: Tensor | None = None
    transform: Transform | None = None

    def matrix_pixels(self, size: int | tuple[int, int], centre: float = 0.0) -> Tensor:
        """The matrices (B, 2, 3), projective ones (B, 3, 3), from pixels of V to pixels of U.

        ``cv2.warpAffine`` and ``cv2.warpPerspective`` take them with ``WARP_INVERSE_MAP``, and
        ``PIL.Image.transform`` takes those with ``centre=0.5``.

        Args:
            size: side or (height, width) of U, the map that the transformer reads.
            centre: the coordinate of the centre of the first pixel: 0 for cv2, scipy, kornia and indices of
                arrays, 0.5 for PIL.

        Raises:
            UserError: the view is of no spatial transformer, or of a thin plate spline.
        """
        return pixels.matrix_in_pixels(self._matrix(), image_size(self.output), _checked(size), centre)

    def inverse_matrix_pixels(self, size: int | tuple[int, int], centre: float = 0.0) -> Tensor:
        """The inverses of :meth:`matrix_pixels`, from pixels of U to pixels of V.

        A transform that collapses V to a line or a point has no finite inverse.
        """
        inverse = pixels.inverse(self._matrix())
        return pixels.matrix_in_pixels(inverse, _checked(size), image_size(self.output), centre)

    def box_pixels(self, size: int | tuple[int, int], centre: float = 0.0) -> Tensor:
        """The outline in pixels: the points (B, K, 2) of the closed line around the attended region.

        Those of a transformer go clockwise from the top left of V. K is 4, or more for a thin plate spline.

        Args:
            size: side or (height, width) of the map that the outline lies on.
            centre: see :meth:`matrix_pixels`.

        Raises:
            UserError: the view has no outline.
        """
        if self.outline is None:
            raise UserError("this view has no box: its attention has no outline")
        return pixels.points_in_pixels(self.outline, _checked(size), centre)

    def _matrix(self) -> Tensor:
        """The matrices of the transform between normalised coordinates.

        Raises:
            UserError: there are none.
        """
        if self.transform is None:
            raise UserError("this view has no matrix: only spatial transformers transform by one")
        if self.transform.matrix is None:
            raise UserError(
                "a thin plate spline has no matrix: box_pixels has its box, transform.grid its points"
            )
        return self.transform.matrix


def _checked(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size.

    Raises:
        UserError: it is not a size.
    """
    return height_width(check(size, AnySize, "size"))
