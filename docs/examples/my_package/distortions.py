"""A distortion: subclass ``Distortion`` to add to it, or ``Task`` to draw something else."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from stn_experiments.common.ranges import Range
from stn_experiments.data.batch import Batch
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits


@dataclass(frozen=True)
class Occluded(Distortion):
    """A distorted digit behind a black bar.

    Args:
        bar: height of the bar in pixels; its place is uniform over the canvas.
    """

    bar: Annotated[int, Range(0, 28)] = 6

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See ``Task.draw``."""
        batch = super().draw(digits, index, generator, posed)
        height, device = self.size[0], generator.device
        top = torch.randint(height - self.bar + 1, (len(index), 1), generator=generator, device=device)
        row = torch.arange(height, device=device)
        hidden = (row >= top) & (row < top + self.bar)  # (B, H)
        return batch._replace(images=batch.images.masked_fill(hidden[:, None, :, None], 0))
