"""Distorted digits with their true poses, drawn by the batch on any device.

Their settings cover the data sets of Jaderberg et al. 2015 (appendix A), n-MNIST (Basu et al. 2015), affNIST
(Tieleman 2013), SIM2MNIST (Esteves et al. 2018) and those of Lin and Lucey 2017; see ``configs/data``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Fraction, Range, Size
from stn_experiments.data.batch import Batch, Pose, Task, concat_batches, index_batch, unknown_pose
from stn_experiments.data.canvas import (
    SIDE,
    Clutter,
    CropSide,
    add_clutter,
    add_noise,
    average_ink,
    blur,
    ink_boxes,
    paste,
    render,
)
from stn_experiments.data.corners import CornerFrame, CornerMoves, Corners
from stn_experiments.data.mnist import Digits
from stn_experiments.data.warp import CONTROL_POINTS, Scale, Warp

CHUNK_PIXELS = 2**19


@dataclass(frozen=True)
class Distortion(Task):
    """A digit is warped and placed on a black canvas; then clutter, contrast, blur and noise are applied.

    Args:
        canvas: side, or (height, width), of the canvas in pixels, at least the digit's own 28.
        angle: rotation about the digit's centre, uniform in ±angle, degrees.
        scale: smallest and largest factor, uniform between them.
        shear: x is moved by this factor times y, uniform in ±shear, before the rotation.
        place: ``centre``; ``anywhere``: uniform over the places, in whole pixels, where the digit's scaled
            28×28 frame lies on the canvas; ``inside``: uniform over the places where all its ink does, before
            it is bent.
        corners: standard deviation in pixels of the movement of each corner of a frame, which makes a
            homography. If the frame would fold, or that of the digit reach the horizon, all four move half as
            far.
        corner_frame: that frame: the ``scaled`` frame of the digit, the ``whole`` 28×28 pixels around it, in
            which the digit is scaled first, or that of the ``canvas``, which moves over the image and shows
            it from there, so that the image moves the other way (Lin and Lucey 2017).
        corner_moves: ``axes``: each corner moves by that deviation along x and along y; ``axes_and_shift``:
            besides, all four move together by the same deviation; ``direction``: each along a random
            direction; ``diagonal``: along the diagonal of the frame through it.
        bend: standard deviation, in pixels of the digit, of the movement of each of 4×4 control points of a
            thin plate spline over the canvas, along each axis.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
        contrast: factor on all grey levels.
        blur: length in pixels of a linear motion; 0 and 1 have no effect.
        blur_angle: direction of the motion in degrees, counter-clockwise from the right.
        noise: standard deviation of white Gaussian noise, added last and clipped to [0, 1].
    """

    canvas: Size = SIDE
    angle: Annotated[float, Range(0, 180)] = 0.0
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    shear: Annotated[float, Range(0, 2)] = 0.0
    place: Literal["centre", "anywhere", "inside"] = "centre"
    corners: Annotated[float, Range(0, SIDE)] = 0.0
    corner_frame: CornerFrame = "scaled"
    corner_moves: CornerMoves = "axes"
    bend: Annotated[float, Range(0, 3)] = 0.0
    clutter: Annotated[int, Range(0, 1000)] = 0
    clutter_size: CropSide = 6
    contrast: Fraction = 1.0
    blur: Annotated[float, Range(0, 28)] = 0.0
    blur_angle: Annotated[float, Range(-180, 180)] = 15.0
    noise: Annotated[float, Range(0, 10)] = 0.0

    def __post_init__(self) -> None:
        if min(self.size) < SIDE:
            raise UserError(f"canvas must be at least the digit's own {SIDE} pixels, got {self.canvas}")
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale must be given as smallest, largest, got {list(self.scale)}")

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`."""
        originals = digits.images.index_select(0, index).float().div_(255)  # faster than [index]
        matrix = self._draw_matrices(originals, generator)
        warp = Warp(matrix, self._draw_bends(len(index), generator), self._is_affine)
        if self._moves_by_whole_pixels:
            images = paste(originals, self._top_left(matrix), self.size)
        else:
            images = self._render(originals, warp)
        pose = unknown_pose(len(index), images.device)
        if posed:
            box = warp.to_canvas(ink_boxes(originals))
            pose = Pose(matrix[:, None], box[:, None], average_ink(images))
        return Batch(self._degrade(images, digits, index, generator), digits.labels[index], pose)

    def draw_disturbed(self, digits: Digits, index: Tensor, generator: Generator) -> tuple[Batch, Tensor]:
        """What :meth:`draw` gives, and the energy (B, h, w) of clutter and noise, averaged over cells.

        The energy is the squared difference from the same image without clutter and noise.
        """
        state = generator.get_state()
        undisturbed = replace(self, clutter=0, noise=0).draw(digits, index, generator, posed=False)
        generator.set_state(state)  # poses are drawn before clutter and noise, so they are the same
        batch = self.draw(digits, index, generator)
        return batch, average_ink((batch.images - undisturbed.images).square())[:, 0]

    @property
    def turns_about_centre(self) -> bool:
        """Whether the digit is rotated, and in the middle of the canvas."""
        return self.angle > 0 and self.place == "centre"

    @property
    def lies_anywhere(self) -> bool:
        """Whether the digit may be elsewhere than in the middle of the canvas."""
        return self.place != "centre"

    @cached_property
    def _moves_by_whole_pixels(self) -> bool:
        """Whether the digit is only moved, by whole pixels."""
        between = self.place == "inside" or (self.place == "centre" and any(side % 2 for side in self.size))
        return not self._is_warped and not between

    @property
    def _is_affine(self) -> bool:
        """Whether the matrices of all poses are affine."""
        return not self.corners

    @property
    def _is_warped(self) -> bool:
        """Whether digits are more than moved."""
        return bool(self.angle or self.shear or self.corners or self.bend) or self.scale != (1, 1)

    def _top_left(self, matrix: Tensor) -> Tensor:
        """The pixels (x, y) of the top left corners (B, 2) of digits that are only moved."""
        canvas = geometry.constant(self.size[::-1], matrix)
        return ((matrix[:, :2, 2] * canvas + canvas - SIDE) / 2).round().long()

    def _render(self, originals: Tensor, warp: Warp) -> Tensor:
        """Render the digits in chunks that fit a CPU's cache."""
        pixels = geometry.pixel_centres(*self.size, originals.device)
        count = max(1, CHUNK_PIXELS // len(pixels))
        chunks = zip(originals.split(count), warp.split(count), strict=True)
        return torch.cat([render(chunk, part.to_digit(pixels), self.size) for chunk, part in chunks])

    def _degrade(self, images: Tensor, digits: Digits, index: Tensor, generator: Generator) -> Tensor:
        if self.clutter:
            add_clutter(images, digits.images, index, Clutter(self.clutter, self.clutter_size), generator)
        if self.contrast != 1:
            images.mul_(self.contrast)
        if self.blur > 1:
            images = blur(images, self.blur, self.blur_angle)
        if self.noise:
            add_noise(images, self.noise, generator)
        return images

    def _draw_matrices(self, originals: Tensor, generator: Generator) -> Tensor:
        """The matrices (B, 3, 3) of the poses of digits (B, 28, 28)."""
        count, device = len(originals), generator.device
        angle, scale, *place = torch.rand(4, count, generator=generator, device=device)
        angle = (2 * angle - 1) * math.radians(self.angle)
        scale = self._scales(scale)
        shear: Tensor | float = 0.0
        if self.shear:
            shear = self.shear * (2 * torch.rand(count, generator=generator, device=device) - 1)
        matrix = geometry.similarity(angle, scale, torch.zeros(count, 2, device=device), shear)
        matrix = self._draw_homographies(matrix, scale, generator)
        shifts = self._shifts(torch.stack(place, -1), matrix, scale, originals)
        matrix[:, :2] += shifts[:, :, None] * matrix[:, 2:]
        return geometry.normalised(matrix, (SIDE, SIDE), self.size)

    def _shifts(self, place: Tensor, matrix: Tensor, scale: Tensor, originals: Tensor) -> Tensor:
        """Movements (B, 2) of digits from the centre, in pixels, for a ``place`` (B, 2) drawn from [0, 1)."""
        height, width = self.size
        canvas = geometry.constant((width, height), place)
        if self.place == "anywhere":
            room = (canvas - SIDE * scale[:, None]).clamp(min=0)
            return (place * (room + 1)).floor().minimum(room) - room / 2
        if self.place == "inside":
            ink = geometry.transform(matrix, ink_boxes(originals) * (SIDE / 2))
            lowest, highest = -canvas / 2 - ink.amin(1), canvas / 2 - ink.amax(1)
            return torch.where(lowest < highest, lowest + place * (highest - lowest), (lowest + highest) / 2)
        return torch.zeros_like(place)

    def _scales(self, place: Tensor) -> Tensor:
        """The scales (B,) for places (B,), from 0 to 1, in their range."""
        return self.scale[0] + place * (self.scale[1] - self.scale[0])

    def _draw_homographies(self, matrix: Tensor, scale: Tensor, generator: Generator) -> Tensor:
        """Matrices (B, 3, 3), in pixels, of poses whose ``scale`` is (B,), after the corners have moved."""
        if not self.corners:
            return matrix
        corners = Corners(self.corners, self.corner_frame, self.corner_moves, self.size)
        return corners.move(matrix, scale, generator)

    def _draw_bends(self, count: int, generator: Generator) -> Tensor | None:
        """Movements (B, 16, 2) of the spline's control points, in normalised coordinates of the digit."""
        if not self.bend:
            return None
        moves = torch.randn(count, CONTROL_POINTS**2, 2, generator=generator, device=generator.device)
        return moves * (self.bend * 2 / SIDE)


@dataclass(frozen=True)
class FixedDistortion(Distortion):
    """A distortion with a given pose: only bend, clutter and noise are random.

    All digits are rotated by ``angle``, sheared by ``shear``, which both may be negative, and scaled by the
    mean of ``scale``. ``place`` and ``corners`` have no effect.

    Args:
        offset: (x, y) in pixels of the canvas by which digits are moved from its centre.
    """

    offset: tuple[float, float] = (0.0, 0.0)

    _moves_by_whole_pixels = False

    def _draw_matrices(self, originals: Tensor, generator: Generator) -> Tensor:
        ones = torch.ones(len(originals), device=originals.device)
        shift = geometry.constant(self.offset, ones).expand(len(originals), -1)
        angle = ones * math.radians(self.angle)
        matrix = geometry.similarity(angle, self._scales(ones / 2), shift, self.shear)
        return geometry.normalised(matrix, (SIDE, SIDE), self.size)


@dataclass(frozen=True)
class Mixed(Task):
    """Each image has one of several distortions, at random; each batch has equally many images of each.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        kinds: the distortions by name, each with the same canvas.
    """

    canvas: Size
    kinds: Mapping[str, Distortion]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise UserError("kinds must name at least one distortion, got none")
        for name, kind in self.kinds.items():
            if kind.size != self.size:
                raise UserError(
                    f"kinds.{name}.canvas must be the same as canvas, {self.canvas}, got {kind.canvas}"
                )

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; the kind of each image is drawn too."""
        # A permutation of the batch is split among the kinds: shapes stay fixed and no device has to wait.
        order = torch.randperm(len(index), generator=generator, device=generator.device)
        parts = [
            kind.draw(digits, index[place], generator, posed)
            for kind, place in zip(self.kinds.values(), order.tensor_split(len(self.kinds)), strict=True)
        ]
        return index_batch(concat_batches(parts), order.argsort())


@dataclass(frozen=True)
class Addition(Task):
    """Two digits, each with its own distortion and channel; the label is their sum.

    The task for parallel transformers of Jaderberg et al. 2015, appendix A.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        each: the distortion of each digit, with the same canvas.
    """

    canvas: Size
    each: Distortion

    channels = 2
    classes = 19

    def __post_init__(self) -> None:
        if self.each.size != self.size:
            raise UserError(f"each.canvas must be the same as canvas, {self.canvas}, got {self.each.canvas}")

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; the second digits are drawn too."""
        other = torch.randint(len(digits.labels), index.shape, generator=generator, device=generator.device)
        one, two = (self.each.draw(digits, part, generator, posed) for part in (index, other))
        pose = Pose(*(torch.cat(fields, 1) for fields in zip(one.pose, two.pose, strict=True)))
        return Batch(torch.cat([one.images, two.images], 1), one.labels + two.labels, pose)
