"""Distorted digits, made by the batch on any device, each with the pose that was given to it.

The sets are those of Jaderberg et al. 2015 (appendix A), of n-MNIST (Basu et al. 2015), of affNIST (Tieleman
2013) and of Esteves et al. 2018 (SIM2MNIST); every one is a setting of the distortions here, see
``configs/data``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range, Size, height_width
from stn_experiments.data.batch import Batch, Pose, concat_batches, index_batch, unknown_pose
from stn_experiments.data.canvas import (
    SIDE,
    Clutter,
    add_clutter,
    add_noise,
    blur,
    ink_boxes,
    paste,
    render,
    require_crops,
)
from stn_experiments.data.mnist import Digits

Scale = Annotated[float, Range(0.1, 4)]
MOST_INK_CELLS = 24
CONTROL_POINTS = 4
INVERSION_STEPS = 30
PIXELS_AT_ONCE = 2**19


@dataclass(frozen=True)
class Distortion:
    """A digit warped and placed on a black canvas, then cluttered, faded, blurred, and noisy.

    Args:
        canvas: side, or (height, width), of the canvas in pixels, at least the digit's own 28.
        angle: rotation about the digit's centre, uniform in ±angle, degrees.
        scale: smallest and largest factor, uniform between them.
        shear: x moves by this share of y, uniform in ±shear, before the rotation.
        place: ``centre``; ``anywhere``: uniform over the places where the digit's scaled 28×28 frame lies on
            the canvas, by whole pixels, so that an unscaled digit stays crisp; ``inside``: uniform over the
            places where all its ink does.
        corners: standard deviation in pixels by which each corner of the digit's frame is moved along each
            axis, which makes a homography; where a corner would fold the frame, all four move half as far.
        bend: standard deviation in pixels of the digit by which each of 4×4 control points of a thin plate
            spline over the canvas is moved along each axis.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
        contrast: factor on all grey levels.
        blur: length in pixels of a linear motion; 0 and 1 do nothing.
        blur_angle: its direction in degrees, counter-clockwise from the right.
        noise: standard deviation of white Gaussian noise, added last and clipped to [0, 1].
    """

    canvas: Size = SIDE
    angle: Annotated[float, Range(0, 180)] = 0.0
    scale: tuple[Scale, Scale] = (1.0, 1.0)
    shear: Annotated[float, Range(0, 2)] = 0.0
    place: Literal["centre", "anywhere", "inside"] = "centre"
    corners: Annotated[float, Range(0, SIDE)] = 0.0
    bend: Annotated[float, Range(0, 3)] = 0.0
    clutter: Annotated[int, Range(0, 1000)] = 0
    clutter_size: Pixels = 6
    contrast: Annotated[float, Range(0, 1)] = 1.0
    blur: Annotated[float, Range(0, 28)] = 0.0
    blur_angle: Annotated[float, Range(-180, 180)] = 15.0
    noise: Annotated[float, Range(0, 10)] = 0.0

    classes = 10
    channels = 1
    vocab_size = 0

    def __post_init__(self) -> None:
        if min(self.size) < SIDE:
            raise UserError(f"canvas must be at least the digit's own {SIDE} pixels, got {self.canvas}")
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale must be given as smallest, largest, got {list(self.scale)}")
        require_crops(self.clutter, self.clutter_size)

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`."""
        originals = digits.images.index_select(0, index).float().div_(255)  # faster than [index]
        matrix = self._matrices(originals, generator)
        warp = Warp(matrix, self._bends(len(index), generator), is_affine=not self.corners)
        if self._is_moved_by_whole_pixels:
            images = paste(originals, self._corners(matrix), self.size)
        else:
            images = self._warped(originals, warp)
        pose = self._pose(originals, images, warp) if posed else unknown_pose(len(index), images.device)
        return Batch(self._spoil(images, digits, index, generator), digits.labels[index], pose)

    def _warped(self, originals: Tensor, warp: "Warp") -> Tensor:
        """Canvases that show nothing but the digits, made so few at a time that a cache holds them."""
        pixels = geometry.pixel_centres(*self.size, originals.device)
        few = max(1, PIXELS_AT_ONCE // len(pixels))
        parts = zip(originals.split(few), warp.split(few), strict=True)
        return torch.cat([render(some, part.to_digit(pixels), self.size) for some, part in parts])

    @cached_property
    def _is_moved_by_whole_pixels(self) -> bool:
        """Whether that is all that is done to the digit itself."""
        warped = self.angle or self.shear or self.corners or self.bend or self.scale != (1, 1)
        between = self.place == "inside" or (self.place == "centre" and any(side % 2 for side in self.size))
        return not warped and not between

    def _corners(self, matrix: Tensor) -> Tensor:
        """The pixel (x, y) at which the digit's top left one lies: (B, 2), for digits that are only moved."""
        canvas = geometry.constant(self.size[::-1], matrix)
        return ((matrix[:, :2, 2] * canvas + canvas - SIDE) / 2).round().long()

    def _pose(self, originals: Tensor, images: Tensor, warp: "Warp") -> Pose:
        """Where the digits are on canvases that show nothing else yet."""
        height, width = (min(side // 2, MOST_INK_CELLS) for side in self.size)
        box = warp.to_canvas(ink_boxes(originals))
        return Pose(warp.matrix[:, None], box[:, None], F.adaptive_avg_pool2d(images, (height, width)))

    def _spoil(self, images: Tensor, digits: Digits, index: Tensor, generator: Generator) -> Tensor:
        if self.clutter:
            add_clutter(images, digits.images, index, Clutter(self.clutter, self.clutter_size), generator)
        if self.contrast != 1:
            images.mul_(self.contrast)
        if self.blur > 1:
            images = blur(images, self.blur, self.blur_angle)
        if self.noise:
            add_noise(images, self.noise, generator)
        return images

    def _matrices(self, originals: Tensor, generator: Generator) -> Tensor:
        """The pose (B, 3, 3) of digits (B, 28, 28)."""
        count, device = len(originals), generator.device
        angle, scale, *place = torch.rand(4, count, generator=generator, device=device)
        angle = (2 * angle - 1) * math.radians(self.angle)
        scale = self.scale[0] + scale * (self.scale[1] - self.scale[0])
        matrix = geometry.similarity(angle, scale, torch.zeros(count, 2, device=device))
        if self.shear:
            shear = self.shear * (2 * torch.rand(count, generator=generator, device=device) - 1)
            matrix[:, :2, 1] += shear[:, None] * matrix[:, :2, 0]
        if self.corners:
            matrix = matrix @ self._homographies(scale, generator)
        matrix[:, :2, 2] += self._shifts(torch.stack(place, -1), matrix, scale, originals)
        return geometry.normalised(matrix, (SIDE, SIDE), self.size)

    def _shifts(self, place: Tensor, matrix: Tensor, scale: Tensor, originals: Tensor) -> Tensor:
        """Where to move digits, in pixels (B, 2), for a ``place`` (B, 2) drawn from [0, 1)."""
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

    def _homographies(self, scale: Tensor, generator: Generator) -> Tensor:
        """Homographies (B, 3, 3), in pixels, that move the corners of a digit's frame."""
        frame = geometry.boundary_points(1, generator.device) * (SIDE / 2)
        moves = torch.randn(len(scale), 4, 2, generator=generator, device=generator.device) * self.corners
        moves = moves / scale[:, None, None]  # the jitter is in pixels of the canvas, the frame yet unscaled
        for _ in range(4):
            moves = torch.where(geometry.is_convex(frame + moves)[:, None, None], moves, moves / 2)
        return geometry.homography(frame, frame + moves)

    def _bends(self, count: int, generator: Generator) -> Tensor | None:
        if not self.bend:
            return None
        moves = torch.randn(count, CONTROL_POINTS**2, 2, generator=generator, device=generator.device)
        return moves * (self.bend * 2 / SIDE)


class Warp:
    """The way from a canvas to its digit and back: a pose (B, 3, 3), and a bend (B, K, 2) or none."""

    def __init__(self, matrix: Tensor, bend: Tensor | None, is_affine: bool = False) -> None:
        self.matrix = matrix
        self.is_affine = is_affine
        self._apply = geometry.affine if is_affine else geometry.transform
        self.bend = bend

    def split(self, count: int) -> Iterator["Warp"]:
        """The warps of ``count`` digits after the other."""
        for start in range(0, len(self.matrix), count):
            part = slice(start, start + count)
            yield Warp(self.matrix[part], None if self.bend is None else self.bend[part], self.is_affine)

    @cached_property
    def inverse(self) -> Tensor:
        """The pose back from the canvas."""
        return torch.linalg.inv_ex(self.matrix).inverse  # waits for no device, unlike inv

    def to_digit(self, points: Tensor) -> Tensor:
        """Points (N, 2) of the canvas in the digit's frame: (B, N, 2)."""
        source = self._apply(self.inverse, points)
        return source if self.bend is None else source + bent(self.bend, points)

    def to_canvas(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) of the digit's frame on the canvas: (B, N, 2)."""
        there = self._apply(self.matrix, points)
        if self.bend is not None:
            # A bend has no inverse in closed form: what it adds is taken off again until nothing changes.
            for _ in range(INVERSION_STEPS):
                there = self._apply(self.matrix, points - bent(self.bend, there))
        return there


def bent(bend: Tensor, points: Tensor) -> Tensor:
    """How far a spline moves ``points`` (..., N, 2) when its control points move by ``bend`` (B, K, 2)."""
    control, solution = _spline(points.device)
    return geometry.weighted(geometry.spline_basis(control, points), solution @ bend)


@cache
def _spline(device: torch.device) -> tuple[Tensor, Tensor]:
    control = geometry.control_points(CONTROL_POINTS)
    return control.to(device), geometry.spline_solution(control).to(device)


@dataclass(frozen=True)
class Mixed:
    """Each image of one of several ``kinds``, drawn at random, every draw holding equally many of each.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        kinds: the distortions by name, each on that canvas.
    """

    canvas: Size
    kinds: Mapping[str, Distortion]

    classes = 10
    channels = 1
    vocab_size = 0

    def __post_init__(self) -> None:
        if not self.kinds:
            raise UserError("kinds must name at least one distortion, got none")
        for name, kind in self.kinds.items():
            if kind.size != self.size:
                raise UserError(
                    f"kinds.{name}.canvas must be the same as canvas, {self.canvas}, got {kind.canvas}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; which image is of which kind is drawn too."""
        # Kinds are dealt out by a shuffled place in the batch: shapes stay fixed and no device has to wait.
        order = torch.randperm(len(index), generator=generator, device=generator.device)
        parts = [
            kind.draw(digits, index[place], generator, posed)
            for kind, place in zip(self.kinds.values(), order.tensor_split(len(self.kinds)), strict=True)
        ]
        return index_batch(concat_batches(parts), order.argsort())


@dataclass(frozen=True)
class Addition:
    """Two digits, each distorted by itself in a channel of its own; the label is their sum.

    The task for parallel transformers of Jaderberg et al. 2015, appendix A.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        each: the distortion of each digit, on that canvas.
    """

    canvas: Size
    each: Distortion

    classes = 19
    channels = 2
    vocab_size = 0

    def __post_init__(self) -> None:
        if self.each.size != height_width(self.canvas):
            raise UserError(f"each.canvas must be the same as canvas, {self.canvas}, got {self.each.canvas}")

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; which digit is added to each is drawn too."""
        other = torch.randint(len(digits.labels), index.shape, generator=generator, device=generator.device)
        one, two = (self.each.draw(digits, part, generator, posed) for part in (index, other))
        pose = Pose(*(torch.cat(fields, 1) for fields in zip(one.pose, two.pose, strict=True)))
        return Batch(torch.cat([one.images, two.images], 1), one.labels + two.labels, pose)
