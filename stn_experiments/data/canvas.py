"""What is done to digits and canvases, by the batch: rendering, clutter, blur, noise."""

import math
from functools import cache
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.data.batch import Pose, unknown_pose

SIDE = 28
"""The side in pixels of an MNIST digit's own frame."""
CropSide = Annotated[int, Range(1, SIDE)]
"""The side in pixels of a crop of a digit."""
MAX_INK_CELLS = 24


def render(digits: Tensor, source: Tensor, size: tuple[int, int]) -> Tensor:
    """Black canvases (B, 1, *size) that show digits (B, 28, 28) at the points ``source`` (B, H * W, 2)."""
    return F.grid_sample(digits[:, None], source.view(-1, *size, 2), align_corners=False)


def paste(digits: Tensor, corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Black canvases (B, 1, *size) with digits (B, 28, 28) as they are, all of them on it.

    The top left pixel of each lies at ``corner`` (B, 2), whole (x, y). The same as :func:`render`, several
    times as fast.
    """
    if size == (SIDE, SIDE):
        return digits[:, None]
    height, width = size
    step = torch.arange(SIDE, device=digits.device)
    x, y = corner[:, :, None, None].unbind(1)
    places = (y + step[:, None]) * width + x + step
    canvases = digits.new_zeros(len(digits), height * width)
    return canvases.scatter_(1, places.flatten(1), digits.flatten(1)).view(-1, 1, height, width)


def ink_boxes(digits: Tensor) -> Tensor:
    """The corners (B, 4, 2) of the ink of digits (B, 28, 28) in their own frame, clockwise."""
    edges = torch.linspace(-1, 1, SIDE + 1, device=digits.device)
    columns, rows = (digits.sum(dim) > 0 for dim in (1, 2))  # ten times as fast as amax

    def first_and_last(ink: Tensor) -> tuple[Tensor, Tensor]:
        return edges[ink.byte().argmax(1)], edges[SIDE - ink.byte().flip(1).argmax(1)]

    (left, right), (top, bottom) = first_and_last(columns), first_and_last(rows)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(corner, -1) for corner in corners], 1)


def average_ink(canvases: Tensor) -> Tensor:
    """The ink of canvases (B, C, H, W) that show only digits, averaged over at most 24×24 cells."""
    height, width = (min(side // 2, MAX_INK_CELLS) for side in canvases.shape[-2:])
    return F.adaptive_avg_pool2d(canvases, (height, width))


class Clutter(NamedTuple):
    """``crops`` square crops of other digits, each of ``size`` pixels."""

    crops: int
    size: int


def add_clutter(images: Tensor, pool: Tensor, index: Tensor, clutter: Clutter, generator: Generator) -> None:
    """Add ``clutter`` to images (B, 1, H, W), in place, and clip at 1.

    The digit of ``pool`` (N, 28, 28) that a crop is cut from, the part of it that is cut and the place where
    it lands are each uniform, as in the first public generator of cluttered MNIST (Mnih et al. 2014).
    ``index`` (B,) is each image's own digit in the pool, from which no crop is cut.

    Raises:
        UserError: the pool has no other digit.
    """
    if len(pool) < 2:
        raise UserError("clutter is cut from other digits: train_digits and valid_size must be at least 2")
    batch, _, height, width = images.shape
    device = generator.device
    count, side = clutter

    def uniform(high: int) -> Tensor:
        return torch.randint(high, (count, batch, 1, 1), generator=generator, device=device)

    source = (index[:, None, None] + 1 + uniform(len(pool) - 1)) % len(pool)
    source_y, source_x = uniform(SIDE - side + 1), uniform(SIDE - side + 1)
    target_y, target_x = uniform(height - side + 1), uniform(width - side + 1)
    step = torch.arange(side, device=device)
    crops = pool[source, source_y + step[:, None], source_x + step].float().div_(255)
    add_crops(images, crops, torch.stack([target_y, target_x], 2).flatten(2))


def add_crops(images: Tensor, crops: Tensor, corner: Tensor) -> None:
    """Add crops (N, B, s, s) to images (B, 1, H, W), in place, and clip at 1.

    ``corner`` (N, B, 2) is the pixel (y, x) at which the top left pixel of each crop lies.
    """
    (batch, _, height, width), side = images.shape, crops.shape[-1]
    step = torch.arange(side, device=images.device)
    y, x = corner[..., None, None].unbind(2)
    places = ((y + step[:, None]) * width + x + step).flatten(2)
    # One crop at a time: within one no pixel is hit twice, so the sum has one order on every device.
    flat = images.view(batch, height * width)
    for crop, place in zip(crops.flatten(2), places, strict=True):
        flat.scatter_(1, place, flat.gather(1, place) + crop)
    flat.clamp_(max=1)


def draw_crops(
    originals: Tensor, crops: Tensor, corner: Tensor, size: tuple[int, int], posed: bool
) -> tuple[Tensor, Pose]:
    """Canvases (B, 1, *size) with D digits each, and their pose; see :func:`pose_of_crops`.

    The pose is unknown unless it is ``posed``.
    """
    images = torch.zeros(len(crops), 1, *size, device=crops.device)
    add_crops(images, crops.transpose(0, 1), corner.transpose(0, 1))
    pose = pose_of_crops(originals, crops, corner, size) if posed else unknown_pose(len(crops), crops.device)
    return images, pose


def pose_of_crops(originals: Tensor, crops: Tensor, corner: Tensor, size: tuple[int, int]) -> Pose:
    """The pose of D digits on canvases of (height, width).

    Args:
        originals: the digits (B, D, 28, 28).
        crops: the same as they are on the canvas (B, D, s, s).
        corner: the top left pixel of each (B, D, 2), whole (y, x).
        size: (height, width) of the canvas.
    """
    (batch, digits), (height, width), side = corner.shape[:2], size, crops.shape[-1]
    shift = corner.flatten(0, 1).flip(1) + side / 2 - geometry.constant((width, height), corner) / 2
    scale = torch.full_like(shift[:, 0], side / SIDE)
    matrix = geometry.similarity(torch.zeros_like(scale), scale, shift)
    matrix = geometry.normalised(matrix, (SIDE, SIDE), size)
    box = geometry.transform(matrix, ink_boxes(originals.flatten(0, 1)))
    alone = torch.zeros(batch * digits, 1, height, width, device=crops.device)
    add_crops(alone, crops.flatten(0, 1)[None], corner.flatten(0, 1)[None])
    ink = average_ink(alone)[:, 0]
    return Pose(*(part.unflatten(0, (batch, digits)) for part in (matrix, box, ink)))


def add_noise(images: Tensor, deviation: float, generator: Generator) -> None:
    """Add white Gaussian noise of a standard deviation to images, in place, and clip to [0, 1]."""
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    images.add_(noise, alpha=deviation).clamp_(0, 1)


def blur(images: Tensor, length: float, angle: float) -> Tensor:
    """Images (B, 1, H, W) as under a linear motion of ``length`` pixels at ``angle`` degrees."""
    kernel = _motion(length, angle)
    height, width = images.shape[-2:]
    padded = F.pad(images, [len(kernel) // 2] * 4)
    blurred = torch.zeros_like(images)
    # Most weights are zero, and a convolution of a single channel is slow on a CPU.
    for y, row in enumerate(kernel):
        for x, weight in enumerate(row):
            if weight:
                blurred.add_(padded[..., y : y + height, x : x + width], alpha=weight)
    return blurred


@cache
def _motion(length: float, angle: float) -> list[list[float]]:
    """A line of that length through the middle of a kernel: each pixel's weight falls with its distance."""
    reach = math.ceil(length / 2)
    steps = torch.arange(-reach, reach + 1.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    half = (length - 1) / 2
    beyond = (x * cos - y * sin).abs().sub(half).clamp(min=0)  # y points down, a positive angle turns up
    weight = (1 - torch.hypot(beyond, x * sin + y * cos)).clamp(min=0)
    return (weight / weight.sum()).tolist()
