"""Where an attention looks, scored against where the digit is and how it was turned.

Polygons are closed lines (B, N, 2) of normalised (x, y), see ``geometry``; an *outline* is a transformer's
``View.outline``, a *box* and a *pose* are those of one digit of ``distortions.Pose``. Everything is per item
of the batch, on any device, without waiting for it. Polygons are :func:`bounded`; one that was not finite
counts as one without area. :func:`score` and :func:`residual_pose` see to that by themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stn_experiments.common import geometry

FAR = 1e3
"""Points further out, in half sides of the canvas, are brought in to here, that squares do not overflow."""

TOUCH = 0.01
"""The least share of a digit's ink that a view touching it holds."""

NOTHING = 1e-6
"""An area, or an amount of ink, too small to tell from rounding."""


class Residual(NamedTuple):
    """How a digit's frame lies in V: ``rotation`` (B,) in degrees in (-180, 180], positive counter-clockwise;
    ``scale`` (B,) > 0, 1 where it is as large as V; ``translation`` (B, 2), its centre minus V's, (x, y) in
    pixels of the canvas.
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor


def bounded(polygon: Tensor) -> Tensor:
    """Polygons (..., N, 2) with their points within ``FAR``; those not finite shrunk to the origin."""
    finite = polygon.isfinite().flatten(-2).all(-1)
    return torch.where(finite[..., None, None], polygon, 0).clamp(-FAR, FAR)


def area(polygon: Tensor) -> Tensor:
    """Area (B,) of simple polygons (B, N, 2), of either orientation: |Σ p × q| / 2, the shoelace formula."""
    return _signed_area(polygon).abs()


def intersection_area(polygon: Tensor, convex: Tensor) -> Tensor:
    """Area (B,) of simple polygons (B, N, 2), bent or not, within convex ones (B, M, 2), of any orientation.

    By Green's theorem it is Σ p × q / 2 along the edge of the intersection. That consists of the polygon's
    edges where they are inside every side of the convex one (Cyrus and Beck 1978), and of the convex one's
    sides from where the polygon crosses out to where it crosses back in.
    """
    most = torch.minimum(area(polygon), area(convex))
    clockwise = _signed_area(convex) > 0
    convex = torch.where(clockwise[:, None, None], convex, convex.flip(1))
    # Sums of p × q hold about any origin; about one nearby they lose less to rounding.
    polygon, convex = polygon - convex[:, :1], convex - convex[:, :1]
    side = convex.roll(-1, 1) - convex
    # Each point of the polygon (B, N, M) as seen from each side: how far inside, and how far along.
    inward = torch.stack([-side[..., 1], side[..., 0]], 2)
    height = polygon @ inward.mT - (convex * inward).sum(2)[:, None]
    along = polygon @ side.mT - (convex * side).sum(2)[:, None]
    after = height.roll(-1, 1)
    outside, outside_after = height < 0, after < 0
    # How far along its edge, 0 to 1, the polygon crosses the side's line.
    crossing = torch.where(outside != outside_after, height / (height - after), 0)
    first = torch.where(outside, crossing, 0).amax(2)
    last = torch.where(outside_after, crossing, 1).amin(2)
    edges = _cross(polygon, polygon.roll(-1, 1)) * (last - first).clamp(min=0)

    place = along.lerp(along.roll(-1, 1), crossing) / side.square().sum(2).clamp(min=NOTHING**2)[:, None]
    back_in_less_out = (place.clamp(0, 1) * (outside.float() - outside_after.float())).sum(1)
    sides = _cross(convex, side) * back_in_less_out

    # Rounding, or an outline that crosses itself and so loses area, must not give more than there is.
    return ((edges.sum(1) + sides.sum(1)).abs() / 2).minimum(most)


def iou(outline: Tensor, box: Tensor) -> Tensor:
    """Intersection over union (B,), in [0, 1], of outlines (B, K, 2) and boxes (B, 4, 2); 0 without area.

    Above 0.5 a digit counts as localised (Jaderberg et al. 2015, appendix, co-localisation).
    """
    return _overlap(outline, box)[0]


def off_target(outline: Tensor, box: Tensor) -> Tensor:
    """Share (B,), in [0, 1], of outlines (B, K, 2) outside boxes (B, 4, 2): on clutter or on nothing.

    1 - intersection / area of the outline; 1 for an outline without area.
    """
    return _overlap(outline, box)[1]


def ink_inside(outline: Tensor, ink: Tensor) -> Tensor:
    """Share (B,), in [0, 1], of ``ink`` (B, h, w) >= 0 that lies inside outlines (B, K, 2); without ink 0.

    ``ink`` is what each cell of the canvas holds, and a row of cells is inside where its middle line is. By
    Green's theorem the ink inside is Σ ± F over the places where the outline crosses a row's middle line, up
    or down, and F is the row's ink to the left of that place. So outlines may be bent, but one that crosses
    itself loses ink as it loses area.
    """
    height, width = ink.shape[1:]
    with ink.device:
        row = ((torch.arange(height) * 2 + 1) / height - 1)[:, None]  # against the (B, 1, K) corners
        earlier = torch.ones(width, width + 1).triu(1)
    (x, y), (next_x, next_y) = (line[:, None].unbind(-1) for line in (outline, outline.roll(-1, 1)))
    below = row - y
    above = (below < 0).float()
    up_or_down = above - above.roll(-1, 2)
    slope = torch.where(next_y == y, 0, (next_x - x) / (next_y - y))
    cell = torch.addcmul((x + 1) * (width / 2), below, slope * (width / 2)).clamp(0, width)
    whole = cell.long().clamp(max=width - 1)
    to_the_left = ink @ earlier  # not cumsum, which is not deterministic on CUDA
    inside = to_the_left.gather(2, whole) + (cell - whole) * ink.gather(2, whole)
    return _share((inside * up_or_down).sum((1, 2)).abs(), to_the_left[:, :, -1].sum(1))


def together(outlines: Sequence[Tensor]) -> Tensor:
    """Outlines (B, K, 2), each with a K of its own, as (B, V, K, 2): the last points of short ones repeat."""
    longest = max(outline.shape[1] for outline in outlines)
    return torch.stack(
        [
            torch.cat([outline, outline[:, -1:].expand(-1, longest - outline.shape[1], -1)], 1)
            for outline in outlines
        ],
        1,
    )


def score(outlines: Tensor, boxes: Tensor, ink: Tensor) -> dict[str, Tensor]:
    """``iou``, ``ink_inside``, ``elsewhere`` (B,): means over D digits, each in its view of the highest IoU.

    ``outlines`` (B, V, K, 2), ``boxes`` (B, D, 4, 2), ``ink`` (B, D, h, w). Other digits in a view count as
    elsewhere. ``touching`` (B,) is the share of the V views with at least ``TOUCH`` of a digit's ink in them.
    """
    (batch, views), digits = outlines.shape[:2], boxes.shape[1]
    outlines = bounded(outlines)
    pairs = outlines[:, None].expand(-1, digits, -1, -1, -1).flatten(0, 2)
    overlaps = _overlap(pairs, boxes.flatten(0, 1).repeat_interleave(views, 0))
    overlap, other = (value.view(batch, digits, views) for value in overlaps)
    ink_seen = ink_inside(pairs, ink.flatten(0, 1).repeat_interleave(views, 0)).view(batch, digits, views)
    best = overlap.argmax(2, keepdim=True)
    return {
        "iou": overlap.amax(2).mean(1),
        "ink_inside": ink_seen.gather(2, best).squeeze(2).mean(1),
        "off_target": other.gather(2, best).squeeze(2).mean(1),
        "hit_rate": (ink_seen.amax(1) >= TOUCH).float().mean(1),
    }


def axes(outline: Tensor) -> tuple[Tensor, Tensor]:
    """Outlines (B, K, 2), K four or divisible by 8, as parallelograms: centre (B, 2) and matrix (B, 2, 2).

    From the middles of the four sides, straight or bent: the columns are (right - left) / 2 and
    (bottom - top) / 2, the centre is their mean. Exact for affine outlines.
    """
    side = outline.shape[1] // 4
    middles = (outline + outline.roll(-1, 1)) / 2 if side == 1 else outline[:, side // 2 :: side]
    top, right, bottom, left = middles.unbind(1)
    return middles.mean(1), torch.stack([right - left, bottom - top], 2) / 2


def residual_pose(outline: Tensor, pose: Tensor, size: tuple[int, int]) -> Residual:
    """What is left of digits' poses (B, 3, 3) in the V of outlines (B, K, 2), on canvases of (height, width).

    With P and L the matrices of :func:`axes`, in pixels, of the digit's 28×28 frame and of the outline, V
    shows the frame as D = L^-1 P. ``rotation`` is that of the rotation nearest to D (Higham 1986, polar
    decomposition), atan2(D01 - D10, D00 + D11); ``scale`` is sqrt|det D|, 0.5 where the frame has half V's
    side. A mirrored V has both too, though to a pure mirror image every rotation is equally near. An outline
    without area is taken to have ``NOTHING``.
    """
    frame = geometry.transform(pose, geometry.boundary_points(1, pose.device))
    centre, digit = axes(_pixels(bounded(frame), size))
    middle, view = axes(_pixels(bounded(outline), size))
    (x, y), (right, down) = digit.unbind(2), view.unbind(2)
    digit_area, view_area = _cross(x, y), _cross(right, down)
    # D times view_area, by Cramer's rule, is (x × down, y × down; right × x, right × y).
    sign = torch.where(view_area < 0, -1.0, 1.0)
    sine, cosine = _cross(y, down) - _cross(right, x), _cross(x, down) + _cross(right, y)
    rotation = torch.atan2(sign * sine, sign * cosine).rad2deg()
    scale = (digit_area.abs().clamp(min=NOTHING) / view_area.abs().clamp(min=NOTHING)).sqrt()
    return Residual(_wrapped(rotation), scale, centre - middle)


def input_pose(pose: Tensor, size: tuple[int, int]) -> Residual:
    """What went in: the :func:`residual_pose` of poses (B, 3, 3) where V is the whole canvas (height, width).

    ``rotation`` is the digit's on the canvas, ``scale`` the side of its frame by the canvas's,
    sqrt(height width), and ``translation`` is from the middle of the canvas.
    """
    canvas = geometry.boundary_points(1, pose.device)
    return residual_pose(canvas.expand(len(pose), -1, -1), pose, size)


def spread(residual: Residual) -> dict[str, Tensor]:
    """How much the poses (N,) of a whole set vary about their means: 0 where every digit is shown alike.

    ``rotation``: standard deviation, in degrees, of the deviations from the circular mean, wrapped to
    (-180, 180]; uniform in ±a gives a / sqrt(3). ``scale``: standard deviation of log scale. ``translation``:
    root mean square distance from the mean, in pixels.
    """
    angle = residual.rotation.deg2rad()
    mean = torch.atan2(angle.sin().mean(), angle.cos().mean()).rad2deg()
    offset = residual.translation - residual.translation.mean(0)
    return {
        "rotation": _wrapped(residual.rotation - mean).square().mean().sqrt(),
        "scale": residual.scale.log().std(correction=0),
        "translation": offset.square().sum(1).mean().sqrt(),
    }


def _pixels(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (..., 2) in pixels from the middle of canvases of (height, width)."""
    return torch.stack([points[..., 0] * size[1] / 2, points[..., 1] * size[0] / 2], -1)


def _cross(p: Tensor, q: Tensor) -> Tensor:
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def _signed_area(polygon: Tensor) -> Tensor:
    """Positive where clockwise on the screen, about a corner of its own as that loses less to rounding."""
    polygon = polygon - polygon[:, :1]
    return _cross(polygon, polygon.roll(-1, 1)).sum(1) / 2


def _overlap(outline: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`iou` and :func:`elsewhere`, from one intersection."""
    both, seen = intersection_area(outline, box), area(outline)
    return _share(both, seen + area(box) - both), 1 - _share(both, seen)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > NOTHING, part / whole, 0).clamp(max=1)


def _wrapped(degrees: Tensor) -> Tensor:
    """The same angles in (-180, 180]."""
    return degrees - 360 * ((degrees - 180) / 360).ceil()
