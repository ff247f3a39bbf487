"""Distorted digits, made by the batch on any device, each with the pose that was given to it.

The sets are those of Jaderberg et al. 2015 (appendix A) and of n-MNIST (Basu et al. 2015); every one is a
setting of the distortions here, see ``configs/data``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments import geometry
from stn_experiments.data.mnist import Digits
from stn_experiments.errors import UserError
from stn_experiments.ranges import Pixels, Range, Size, height_width

SIDE = 28
"""The side in pixels of an MNIST digit's own frame."""


class Pose(NamedTuple):
    """The truth about where the digits are, in the normalised coordinates of ``geometry``.

    ``matrix`` (B, 3, 3) maps the digit's own 28×28 frame onto the canvas: it is the theta with which a
    transformer would give the upright digit back. ``box`` (B, 4, 2) holds the corners of the digit's ink on
    the canvas, clockwise from the digit's own top left.
    """

    matrix: Tensor
    box: Tensor


class Batch(NamedTuple):
    """``images`` (B, 1, H, W) in [0, 1], ``labels`` (B,) and the ``pose`` of each digit."""

    images: Tensor
    labels: Tensor
    pose: Pose


@dataclass(frozen=True)
class Distortion:
    """A digit turned, scaled and placed on a black canvas, then cluttered, then noisy.

    Args:
        canvas: side, or (height, width), of the canvas in pixels, at least the digit's own 28.
        angle: rotation about the digit's centre, uniform in ±angle, degrees.
        scale: smallest and largest factor, uniform between them.
        place: ``centre``, or ``anywhere``: uniform over the places where the digit's scaled 28×28 frame lies
            on the canvas, by whole pixels, so that an unscaled digit stays crisp.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
        noise: standard deviation of white Gaussian noise, added last and clipped to [0, 1].
    """

    canvas: Size = SIDE
    angle: Annotated[float, Range(0, 180)] = 0.0
    scale: tuple[Annotated[float, Range(0.1, 4)], Annotated[float, Range(0.1, 4)]] = (1.0, 1.0)
    place: Literal["centre", "anywhere"] = "centre"
    clutter: Annotated[int, Range(0, 1000)] = 0
    clutter_size: Pixels = 6
    noise: Annotated[float, Range(0, 10)] = 0.0

    classes = 10
    channels = 1

    def __post_init__(self) -> None:
        if min(self.size) < SIDE:
            raise UserError(f"canvas must be at least the digit's own {SIDE} pixels, got {self.canvas}")
        if self.scale[0] > self.scale[1]:
            raise UserError(f"scale must be given as smallest, largest, got {list(self.scale)}")
        if self.clutter and self.clutter_size > SIDE:
            raise UserError(
                f"clutter_size must be at most {SIDE}, the side of the digits that crops are cut from, "
                f"got {self.clutter_size}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    def draw(self, digits: Digits, index: Tensor, generator: Generator) -> Batch:
        """Distort the digits at ``index`` (B,), on the device of ``digits``, whose generator decides all."""
        originals = digits.images[index].float().div_(255)
        matrix = self._poses(len(index), generator)
        images = render(originals, matrix, self.size)
        if self.clutter:
            add_clutter(images, digits.images, index, self.clutter, self.clutter_size, generator)
        if self.noise:
            noise = torch.randn(images.shape, generator=generator, device=images.device)
            images.add_(noise, alpha=self.noise).clamp_(0, 1)
        box = geometry.transform(matrix, ink_boxes(originals))
        return Batch(images, digits.labels[index], Pose(matrix, box))

    def _poses(self, count: int, generator: Generator) -> Tensor:
        angle, scale, *corner = torch.rand(4, count, generator=generator, device=generator.device)
        angle = (2 * angle - 1) * math.radians(self.angle)
        scale = self.scale[0] + scale * (self.scale[1] - self.scale[0])
        shift = torch.zeros(count, 2, device=generator.device)
        if self.place == "anywhere":
            height, width = self.size
            canvas = torch.tensor([width, height], device=generator.device)
            room = (canvas - SIDE * scale[:, None]).clamp(min=0)
            corner = (torch.stack(corner, -1) * (room + 1)).floor().minimum(room)
            shift = corner - room / 2
        matrix = geometry.similarity(angle, scale, shift)
        return geometry.normalised(matrix, (SIDE, SIDE), self.size)


@dataclass(frozen=True)
class Mixed:
    """Each image of one of several ``kinds``, drawn at random, every batch holding equally many of each.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        kinds: the distortions by name, each on that canvas.
    """

    canvas: Size
    kinds: Mapping[str, Distortion]

    classes = 10
    channels = 1

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

    def draw(self, digits: Digits, index: Tensor, generator: Generator) -> Batch:
        """As :meth:`Distortion.draw`; which image is of which kind is drawn too."""
        # Kinds are dealt out by a shuffled place in the batch: shapes stay fixed and no device has to wait.
        order = torch.randperm(len(index), generator=generator, device=generator.device)
        parts = [
            kind.draw(digits, index[place], generator)
            for kind, place in zip(self.kinds.values(), order.tensor_split(len(self.kinds)), strict=True)
        ]
        images, labels, poses = zip(*parts, strict=True)
        matrix, box = (torch.cat(field)[order.argsort()] for field in zip(*poses, strict=True))
        return Batch(
            torch.cat(images)[order.argsort()], torch.cat(labels)[order.argsort()], Pose(matrix, box)
        )


def render(digits: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Put digits (B, 28, 28) on black canvases (B, 1, *size) by their pose ``matrix`` (B, 3, 3)."""
    inverse = torch.linalg.inv_ex(matrix).inverse
    grid = geometry.transform(inverse, geometry.pixel_centres(*size).to(digits.device))
    return F.grid_sample(digits[:, None], grid.view(-1, *size, 2), align_corners=False)


def ink_boxes(digits: Tensor) -> Tensor:
    """The corners (B, 4, 2) of the ink of digits (B, 28, 28) in their own frame, clockwise."""
    edges = torch.linspace(-1, 1, SIDE + 1, device=digits.device)
    columns, rows = (digits.amax(dim) > 0 for dim in (1, 2))

    def first_and_last(ink: Tensor) -> tuple[Tensor, Tensor]:
        return edges[ink.byte().argmax(1)], edges[SIDE - ink.byte().flip(1).argmax(1)]

    (left, right), (top, bottom) = first_and_last(columns), first_and_last(rows)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(corner, -1) for corner in corners], 1)


def add_clutter(
    images: Tensor, pool: Tensor, index: Tensor, count: int, side: int, generator: Generator
) -> None:
    """Add ``count`` crops of ``side`` pixels to images (B, 1, H, W), in place, and clip at 1.

    Which digit of ``pool`` (N, 28, 28), which part of it and where it lands are each uniform, as in the first
    public generator of cluttered MNIST (Mnih et al. 2014). ``index`` (B,) is each image's own digit in the
    pool, from which no crop is taken.
    """
    batch, _, height, width = images.shape
    device = generator.device

    def uniform(high: int) -> Tensor:
        return torch.randint(high, (count, batch, 1, 1), generator=generator, device=device)

    source = (index[:, None, None] + 1 + uniform(len(pool) - 1)) % len(pool)
    source_y, source_x = uniform(SIDE - side + 1), uniform(SIDE - side + 1)
    target_y, target_x = uniform(height - side + 1), uniform(width - side + 1)
    step = torch.arange(side, device=device)
    crops = pool[source, source_y + step[:, None], source_x + step].float().div_(255)
    places = ((target_y + step[:, None]) * width + target_x + step).flatten(2)
    # One crop at a time: within one no pixel is hit twice, so the sum has one order on every device.
    flat = images.view(batch, -1)
    for crop, place in zip(crops.flatten(2), places, strict=True):
        flat.scatter_(1, place, flat.gather(1, place) + crop)
    flat.clamp_(max=1)
