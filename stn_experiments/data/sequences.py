"""Several digits on one canvas, to be read from left to right (Sønderby et al. 2015)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range, Size
from stn_experiments.data.batch import Batch, Task
from stn_experiments.data.canvas import (
    SIDE,
    Clutter,
    CropSide,
    add_clutter,
    draw_crops,
)
from stn_experiments.data.mnist import Digits


@dataclass(frozen=True)
class Sequences(Task):
    """Digits side by side on a sloping line, with a label for each: ``labels`` (B, T), from left to right.

    The frames of neighbours touch. The line begins at a random place; it rises or falls from each digit to
    the next by the same number of pixels. Where it leaves the canvas, digits stay at the edge.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        digits: number of digits in each image.
        slope: largest number of pixels between neighbours, up or down.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
    """

    canvas: Size = 100
    digits: Annotated[int, Range(2, 9)] = 3
    slope: Annotated[int, Range(0, 100)] = 14
    clutter: Annotated[int, Range(0, 1000)] = 8
    clutter_size: CropSide = 9

    def __post_init__(self) -> None:
        height, width = self.size
        if height < SIDE or width < SIDE * self.digits:
            raise UserError(
                f"canvas must have room for {self.digits} digits of {SIDE} pixels side by side, "
                f"got {self.canvas}"
            )

    @property
    def length(self) -> int:
        return self.digits

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; ``index`` are the first digits, the others are drawn too."""
        shape = (len(index), self.digits - 1)
        others = torch.randint(len(digits.labels), shape, generator=generator, device=generator.device)
        chosen = torch.cat([index[:, None], others], 1)
        corner = self._draw_corners(len(index), generator)
        originals = digits.images[chosen].float().div_(255)
        images, pose = draw_crops(originals, originals, corner, self.size, posed)
        if self.clutter:
            clutter = Clutter(self.clutter, self.clutter_size)
            add_clutter(images, digits.images, index, clutter, generator)
        return Batch(images, digits.labels[chosen], pose)

    def _draw_corners(self, count: int, generator: Generator) -> Tensor:
        """The top left corners (B, D, 2) of the digits, as whole (y, x)."""
        height, width = self.size
        x, y, slope = (
            torch.randint(low, high + 1, (count, 1), generator=generator, device=generator.device)
            for low, high in (
                (0, width - SIDE * self.digits),
                (0, height - 1),
                (-self.slope, self.slope),
            )
        )
        number = torch.arange(self.digits, device=generator.device)
        return torch.stack([(y + number * slope).clamp(0, height - SIDE), x + number * SIDE], 2)
