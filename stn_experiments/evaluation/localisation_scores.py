"""Scores of attended regions against the true places and poses of the digits.

Polygons are closed lines (B, N, 2) of normalised (x, y), see ``geometry``. An *outline* is that of a view; a
*box* and a *pose* are those of one digit in ``batch.Pose``. No function makes the host wait for the
device. They expect :func:`bounded` polygons; :func:`score` and :func:`residual_pose` bound theirs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.common import geometry
from stn_experiments.data.batch import Pose

FAR = 1e3
"""Coordinates are clamped to ±``FAR``, because their squares would overflow."""

LOCALISED = 0.5
"""A digit is localised if the IoU exceeds this (Jaderberg et al. 2015, appendix A.2, co-localisation)."""

HIT = 0.01
"""A view hits a digit if it holds at least this fraction of the digit's ink."""

EPSILON = 1e-6
"""Areas and amounts of ink up to this are rounding errors."""


class Residual(NamedTuple):
    """The pose of a digit's frame in V.

    ``rotation`` (B,) is in degrees in (-180, 180], positive counter-clockwise. ``scale`` (B,) > 0 is 1 if the
    frame is as large as V. ``translation`` (B, 2) is from V's centre to the frame's, in pixels of the canvas.
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor


def bounded(polygon: Tensor) -> Tensor:
    """Clamp polygons (..., N, 2) to ±``FAR``; those that are not finite become the origin, without area."""
    finite = polygon.isfinite().flatten(-2).all(-1)
    return torch.where(finite[..., None, None], polygon, 0).clamp(-FAR, FAR)


def area(polygon: Tensor) -> Tensor:
    """Areas (B,) of simple polygons (B, N, 2) of either orientation: |Σ p × q| / 2, the shoelace formula."""
    return _signed_area(polygon).abs()


def intersection_area(polygon: Tensor, convex: Tensor) -> Tensor:
    """Areas (B,) of the intersections of simple polygons (B, N, 2) and convex ones (B, M, 2).

    By Green's theorem an area is Σ p × q / 2 along the boundary. That of the intersection consists of the
    polygon's edges as far as they are inside every side of the convex one (Cyrus and Beck 1978), and of the
    convex one's sides between the points where the polygon leaves and re-enters. Orientations are arbitrary.
    """
    largest = torch.minimum(area(polygon), area(convex))
    clockwise = _signed_area(convex) > 0
    convex = torch.where(clockwise[:, None, None], convex, convex.flip(1))
    # Σ p × q does not depend on the origin; a near one reduces rounding errors.
    polygon, convex = polygon - convex[:, :1], convex - convex[:, :1]
    side = convex.roll(-1, 1) - convex
    # The distance (B, N, M) of each point of the polygon from each side, inwards and along it.
    inward = torch.stack([-side[..., 1], side[..., 0]], 2)
    height = polygon @ inward.mT - (convex * inward).sum(2)[:, None]
    along = polygon @ side.mT - (convex * side).sum(2)[:, None]
    after = height.roll(-1, 1)
    outside, outside_after = height < 0, after < 0
    # Where each edge of the polygon crosses the line of each side: 0 at its start, 1 at its end.
    crossing = torch.where(outside != outside_after, height / (height - after), 0)
    first = torch.where(outside, crossing, 0).amax(2)
    last = torch.where(outside_after, crossing, 1).amin(2)
    edges = _cross(polygon, polygon.roll(-1, 1)) * (last - first).clamp(min=0)

    place = along.lerp(along.roll(-1, 1), crossing) / side.square().sum(2).clamp(min=EPSILON**2)[:, None]
    back_in_less_out = (place.clamp(0, 1) * (outside.float() - outside_after.float())).sum(1)
    sides = _cross(convex, side) * back_in_less_out

    # Rounding errors and outlines that cross themselves must not give more area than possible.
    return ((edges.sum(1) + sides.sum(1)).abs() / 2).minimum(largest)


def overlap(outline: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """The IoU (B,) of outlines (B, K, 2) and boxes (B, 4, 2), and the fraction (B,) of the outline outside.

    Both are in [0, 1]. For an outline without area they are 0 and 1.
    """
    intersection, outline_area = intersection_area(outline, box), area(outline)
    union = outline_area + area(box) - intersection
    return _fraction(intersection, union), 1 - _fraction(intersection, outline_area)


def ink_inside(outline: Tensor, ink: Tensor) -> Tensor:
    """The fraction (B,) of ``ink`` (B, h, w) >= 0 that is inside outlines (B, K, 2); 0 if there is no ink.

    A row of cells is inside where its middle line is. By Green's theorem the ink inside is Σ ± F over the
    points where the outline crosses such a line, upwards or downwards, where F is the row's ink left of that
    point. Outlines may be concave. Where an outline crosses itself, ink can cancel, as area does.
    """
    height, width = ink.shape[1:]
    with ink.device:
        row = ((torch.arange(height) * 2 + 1) / height - 1)[:, None]  # (h, 1), against outlines (B, 1, K)
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
    return _fraction((inside * up_or_down).sum((1, 2)).abs(), to_the_left[:, :, -1].sum(1))


def score(outlines: Sequence[Tensor], pose: Pose) -> dict[str, Tensor]:
    """Scores (B,) of V outlines (B, K, 2), where K may differ, against the D digits of a pose.

    A digit has two targets: the box of its ink, and its own 28×28 frame. ``iou_mean``, ``ink_inside`` and
    ``off_target`` are means over the digits, each scored against its ink in the view of the highest IoU;
    other digits count as off target. ``iou_above_half`` is 1 if that mean exceeds ``LOCALISED``.
    ``frame_iou_mean`` is the mean over the digits of the highest IoU with the frame. ``found`` is the
    fraction of the digits for which the IoU of a view with one of the targets exceeds ``LOCALISED``.
    ``hit_rate`` is the fraction of the views that hold at least ``HIT`` of a digit's ink.
    """
    (batch, digits), views = pose.box.shape[:2], len(outlines)
    # The last point of a shorter outline repeats.
    longest = max(outline.shape[1] for outline in outlines)
    padded = [F.pad(line.mT, (0, longest - line.shape[1]), mode="replicate").mT for line in outlines]
    pairs = bounded(torch.stack(padded * digits, 1)).flatten(0, 1)
    boxes, frames, ink = (
        part.flatten(0, 1).repeat_interleave(views, 0) for part in (pose.box, digit_frames(pose), pose.ink)
    )
    results = (*overlap(pairs, boxes), overlap(pairs, frames)[0], ink_inside(pairs, ink))
    iou, off_target, frame_iou, inside = (value.view(batch, digits, views) for value in results)
    best = iou.argmax(2, keepdim=True)
    iou_mean = iou.amax(2).mean(1)
    return {
        "iou_mean": iou_mean,
        "iou_above_half": (iou_mean > LOCALISED).float(),
        "frame_iou_mean": frame_iou.amax(2).mean(1),
        "found": (iou.maximum(frame_iou) > LOCALISED).any(2).float().mean(1),
        "ink_inside": inside.gather(2, best).squeeze(2).mean(1),
        "off_target": off_target.gather(2, best).squeeze(2).mean(1),
        "hit_rate": (inside.amax(1) >= HIT).float().mean(1),
    }


def digit_frames(pose: Pose) -> Tensor:
    """The corners (B, D, 4, 2) of the digits' own 28×28 frames on the canvas."""
    corners = geometry.boundary_points(1, pose.matrix.device)
    return geometry.transform(pose.matrix.flatten(0, 1), corners).view_as(pose.box)


def axes(outline: Tensor) -> tuple[Tensor, Tensor]:
    """The centres (B, 2) and matrices (B, 2, 2) of outlines (B, K, 2), where K is 4 or a multiple of 8.

    They follow from the middles of the four sides: the columns are (right - left) / 2 and (bottom - top) / 2,
    and the centre is the mean. This is exact for affine outlines.
    """
    side = outline.shape[1] // 4
    middles = (outline + outline.roll(-1, 1)) / 2 if side == 1 else outline[:, side // 2 :: side]
    top, right, bottom, left = middles.unbind(1)
    return middles.mean(1), torch.stack([right - left, bottom - top], 2) / 2


def residual_pose(outline: Tensor, pose: Tensor, size: tuple[int, int]) -> Residual:
    """The poses of digits in V, for poses (B, 3, 3) and outlines (B, K, 2) on canvases of (height, width).

    Let P and L be the matrices of :func:`axes`, in pixels, of the digit's 28×28 frame and of the outline. V
    shows the frame as D = L^-1 P. ``rotation`` is that of the rotation nearest to D, atan2(D01 - D10,
    D00 + D11) (Higham 1986, polar decomposition), and ``scale`` is sqrt|det D|. For a pure mirror image all
    rotations are equally near. An outline without area counts as one with the area ``EPSILON``.
    """
    frame = geometry.transform(pose, geometry.boundary_points(1, pose.device))
    centre, digit = axes(_pixels(bounded(frame), size))
    middle, view = axes(_pixels(bounded(outline), size))
    (x, y), (right, down) = digit.unbind(2), view.unbind(2)
    digit_area, view_area = _cross(x, y), _cross(right, down)
    # By Cramer's rule, view_area D = (x × down, y × down; right × x, right × y).
    sign = torch.where(view_area < 0, -1.0, 1.0)
    sine, cosine = _cross(y, down) - _cross(right, x), _cross(x, down) + _cross(right, y)
    rotation = torch.atan2(sign * sine, sign * cosine).rad2deg()
    scale = (digit_area.abs().clamp(min=EPSILON) / view_area.abs().clamp(min=EPSILON)).sqrt()
    return Residual(_wrapped(rotation), scale, centre - middle)


def spread(residual: Residual) -> dict[str, Tensor]:
    """How much the poses of a set of N items vary; 0 if all are the same.

    ``rotation_deg`` is the root mean square deviation from the circular mean; a uniform distribution in ±a
    gives a / sqrt(3). ``scale`` is the standard deviation of log scale. ``translation_px`` is the root mean
    square distance from the mean.
    """
    angle = residual.rotation.deg2rad()
    mean = torch.atan2(angle.sin().mean(), angle.cos().mean()).rad2deg()
    offset = residual.translation - residual.translation.mean(0)
    return {
        "rotation_deg": _wrapped(residual.rotation - mean).square().mean().sqrt(),
        "scale": residual.scale.log().std(correction=0),
        "translation_px": offset.square().sum(1).mean().sqrt(),
    }


def _pixels(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (..., 2) in pixels from the centre of a canvas of (height, width)."""
    return torch.stack([points[..., 0] * size[1] / 2, points[..., 1] * size[0] / 2], -1)


def _cross(p: Tensor, q: Tensor) -> Tensor:
    return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]


def _signed_area(polygon: Tensor) -> Tensor:
    """Areas (B,) of polygons (B, N, 2), positive if clockwise on the screen."""
    # Relative to a corner, to reduce rounding errors.
    polygon = polygon - polygon[:, :1]
    return _cross(polygon, polygon.roll(-1, 1)).sum(1) / 2


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > EPSILON, part / whole, 0).clamp(max=1)


def _wrapped(degrees: Tensor) -> Tensor:
    """Equal angles in (-180, 180]."""
    return degrees - 360 * ((degrees - 180) / 360).ceil()
