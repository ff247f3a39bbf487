"""Scores of attended regions against the true places of the digits.

Polygons are closed lines (B, N, 2) of normalised (x, y), see ``geometry``. An *outline* is that of a view; a
*box* is that of one digit in ``batch.Pose``. No function makes the host wait for the device. They expect
:func:`bounded` polygons; :func:`score` bounds its own.
"""

from collections.abc import Sequence

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


def bounded(polygon: Tensor) -> Tensor:
    """Clamp polygons (..., N, 2) to ±``FAR``; those that are not finite become the origin, without area."""
    finite = polygon.isfinite().flatten(-2).all(-1)
    return torch.where(finite[..., None, None], polygon, 0).clamp(-FAR, FAR)


def area(polygon: Tensor) -> Tensor:
    """Areas (B,) of simple polygons (B, N, 2) of either orientation."""
    return geometry.signed_area(polygon - polygon[:, :1]).abs()  # a near origin reduces rounding errors


def intersection_area(polygon: Tensor, convex: Tensor) -> Tensor:
    """Areas (B,) of the intersections of simple polygons (B, N, 2) and convex ones (B, M, 2).

    By Green's theorem an area is Σ p × q / 2 along the boundary. That of the intersection consists of the
    polygon's edges as far as they are inside every side of the convex one (Cyrus and Beck 1978), and of the
    convex one's sides between the points where the polygon leaves and re-enters. Orientations are arbitrary.
    """
    largest = torch.minimum(area(polygon), area(convex))
    clockwise = geometry.signed_area(convex - convex[:, :1]) > 0
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
    edges = geometry.cross(polygon, polygon.roll(-1, 1)) * (last - first).clamp(min=0)

    place = along.lerp(along.roll(-1, 1), crossing) / side.square().sum(2).clamp(min=EPSILON**2)[:, None]
    back_in_less_out = (place.clamp(0, 1) * (outside.float() - outside_after.float())).sum(1)
    sides = geometry.cross(convex, side) * back_in_less_out

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


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > EPSILON, part / whole, 0).clamp(max=1)
