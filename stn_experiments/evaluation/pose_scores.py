"""Scores of the poses of digits in V: what is left of their rotation, scale and translation.

Rotations lie on a circle, and may be spread over all of it: deviations are wrapped to ±180°. Uniformly
distributed rotations have a root mean square deviation of 180° / sqrt(3) = 104° from any direction.
No function makes the host wait for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from stn_experiments.common import geometry
from stn_experiments.common.geometry import cross
from stn_experiments.evaluation.localisation_scores import EPSILON, bounded

STEP = 5.0
"""Degrees between the directions among which the search for a median direction begins."""


class Residual(NamedTuple):
    """The pose of a digit's frame in V.

    ``rotation`` (B,) is in degrees in (-180, 180], positive counter-clockwise. ``scale`` (B,) > 0 is 1 if the
    frame is as large as V. ``translation`` (B, 2) is from V's centre to the frame's, in pixels of the canvas.
    ``mirrored`` (B,) is 1 if V shows a mirror image of the digit, and 0 otherwise.
    """

    rotation: Tensor
    scale: Tensor
    translation: Tensor
    mirrored: Tensor


def pose_scores(outline: Tensor, matrix: Tensor, members: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """The :func:`spread` of the digits' poses in V (``residual_…``) and in the whole canvas (``input_…``).

    ``mirrored_share`` is the fraction of the digits that V shows as mirror images.

    Args:
        outline: the outlines (N, K, 2) of a transformer.
        matrix: the matrices (N, 3, 3) of the poses of the digits, one an image.
        members: whether each digit is of each class (N, C).
        size: (height, width) of the canvases.
    """
    residual = residual_pose(outline, matrix, size)
    canvas = residual_pose(whole_canvas(outline), matrix, size)
    scores = {
        f"{name}_{key}": value
        for name, poses in (("residual", residual), ("input", canvas))
        for key, value in spread(poses, members).items()
    }
    return scores | {"mirrored_share": residual.mirrored.mean()}


def whole_canvas(like: Tensor) -> Tensor:
    """The outlines (N, 4, 2) of a view of the whole canvas, as many as there are in ``like`` (N, ...)."""
    return geometry.boundary_points(1, like.device).expand(len(like), -1, -1)


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
    rotations are equally near. ``mirrored`` is 1 if det D < 0. An outline without area counts as one with the
    area ``EPSILON``.
    """
    frame = geometry.transform(pose, geometry.boundary_points(1, pose.device))
    pixels = geometry.constant((size[1] / 2, size[0] / 2), frame)
    centre, digit = axes(bounded(frame) * pixels)
    middle, view = axes(bounded(outline) * pixels)
    (x, y), (right, down) = digit.unbind(2), view.unbind(2)
    digit_area, view_area = cross(x, y), cross(right, down)
    # By Cramer's rule, view_area D = (x × down, y × down; right × x, right × y).
    sign = torch.where(view_area < 0, -1.0, 1.0)
    sine, cosine = cross(y, down) - cross(right, x), cross(x, down) + cross(right, y)
    rotation = torch.atan2(sign * sine, sign * cosine).rad2deg()
    scale = (digit_area.abs().clamp(min=EPSILON) / view_area.abs().clamp(min=EPSILON)).sqrt()
    mirrored = (digit_area * view_area < 0).to(scale.dtype)
    return Residual(wrapped(rotation), scale, centre - middle, mirrored)


def relative(residual: Residual, reference: Residual) -> Residual:
    """The poses of distorted digits in V, relative to those of the same digits before they are distorted."""
    rotation = wrapped(residual.rotation - reference.rotation)
    translation = residual.translation - reference.translation
    return Residual(rotation, residual.scale / reference.scale, translation, residual.mirrored)


def spread(residual: Residual, members: Tensor) -> dict[str, Tensor]:
    """How much the poses of a set of N items vary; 0 if all are the same.

    ``rotation_deg`` is the root mean square deviation from the circular mean; a uniform distribution in ±a
    gives a / sqrt(3). ``rotation_within_class_deg`` is that from the :func:`median_directions` of the items'
    own classes, where ``members`` (N, C) tells the class of each. ``scale`` is the standard deviation of log
    scale. ``translation_px`` is the root mean square distance from the mean.
    """
    mean = circular_mean(residual.rotation)
    upright = median_directions(residual.rotation, members)
    deviation = wrapped(residual.rotation[:, None] - upright)
    within = torch.where(members, deviation, 0).sum(1)  # the median of an empty class is NaN
    offset = residual.translation - residual.translation.mean(0)
    return {
        "rotation_deg": wrapped(residual.rotation - mean).square().mean().sqrt(),
        "rotation_within_class_deg": within.square().mean().sqrt(),
        "scale": residual.scale.log().std(correction=0),
        "translation_px": offset.square().sum(1).mean().sqrt(),
    }


def circular_mean(degrees: Tensor) -> Tensor:
    """The direction of the mean of unit vectors with these angles (N,), in degrees."""
    angle = degrees.deg2rad()
    return torch.atan2(angle.sin().mean(), angle.cos().mean()).rad2deg()


def median_directions(rotation: Tensor, members: Tensor) -> Tensor:
    """The median directions (C,), in degrees, of the classes of rotations (N,); NaN for a class without any.

    A median direction has the smallest mean absolute deviation (Fisher 1993, "Statistical analysis of
    circular data"). Unlike the circular mean it is defined, and hardly moved by a few opposite directions,
    where rotations are spread over the whole circle. The best of several directions, ``STEP`` apart, is moved
    by the median of the deviations from it. ``members`` (N, C) tells the class of each rotation.
    """
    directions = torch.arange(-180, 180, STEP, device=rotation.device)
    deviations = wrapped(rotation[:, None] - directions).abs()
    near = directions[(members.to(rotation.dtype).T @ deviations).argmin(1)]
    around = torch.where(members, wrapped(rotation[:, None] - near), torch.nan)
    return wrapped(near + around.nanquantile(0.5, 0))


def pair_rotation(first: Tensor, second: Tensor) -> Tensor:
    """What is left of the difference of the rotations (P,) of the same digits under two distortions.

    The root mean square difference over sqrt(2), so that it compares with the deviations of single digits:
    independent deviations of s degrees give s. What depends on the digit alone, such as its slant and the
    upright of its class, cancels.
    """
    return wrapped(first - second).square().mean().div(2).sqrt()


def wrapped(degrees: Tensor) -> Tensor:
    """Equal angles in (-180, 180]."""
    return degrees - 360 * ((degrees - 180) / 360).ceil()
