"""Data sets: the splits of distorted MNIST, fresh training batches, fixed validation and test sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.data.distortions import Batch, Distortion, Mixed, Pose
from stn_experiments.data.mnist import Digits, load_mnist
from stn_experiments.ranges import Range, Seed

CHUNK = 1000
TRAIN_DIGITS = 60_000


@dataclass(frozen=True)
class TrainingSet:
    """Digits on the training device, distorted afresh for each batch, or frozen once and for all."""

    digits: Digits
    distortion: Distortion | Mixed
    frozen: Batch | None = None

    def __len__(self) -> int:
        return len(self.digits.labels)

    def batches(self, batch_size: int, count: int, generator: Generator) -> Iterator[Batch]:
        """``count`` whole batches in random order; a new order starts when the last cannot fill a batch."""
        order = torch.empty(0, dtype=torch.long, device=generator.device)
        for _ in range(count):
            if len(order) < batch_size:
                order = torch.randperm(len(self), generator=generator, device=generator.device)
            index, order = order[:batch_size], order[batch_size:]
            yield self.draw(index, generator)

    def draw(self, index: Tensor, generator: Generator) -> Batch:
        """The batch of the digits at ``index`` (B,)."""
        if self.frozen is not None:
            return take(self.frozen, index)
        return self.distortion.draw(self.digits, index, generator)


class Splits(NamedTuple):
    """The three splits, on one device; validation and test are whole sets, never drawn again."""

    train: TrainingSet
    valid: Batch
    test: Batch


@dataclass(frozen=True)
class DistortedMnist:
    """MNIST under a distortion.

    Args:
        distortion: what is done to each digit.
        root: folder with the four IDX files; by default they are fetched once into a cache.
        fresh: distort the training digits anew in every epoch, or once and for all.
        seed: decides the split and the fixed sets, whatever the run's own seed, model and device.
        valid_size: digits of the 60,000 that are held out for validation.
    """

    distortion: Distortion | Mixed
    root: str | None = None
    fresh: bool = True
    seed: Seed = 0
    valid_size: Annotated[int, Range(1, 50_000)] = 5_000

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.distortion.channels, *self.distortion.size)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.distortion.classes

    @property
    def train_size(self) -> int:
        """Number of training digits."""
        return TRAIN_DIGITS - self.valid_size

    def load(self, device: torch.device) -> Splits:
        """Fetch the digits where needed, split them, and draw the fixed sets.

        Raises:
            UserError: the digits cannot be had, or a file of them is damaged.
        """
        mnist = load_mnist(self.root)
        order = torch.randperm(len(mnist.train.labels), generator=Generator().manual_seed(self.seed))
        train, valid = (_take_digits(mnist.train, part) for part in order.split(self.train_size))
        frozen = None if self.fresh else _to(self._fixed(train, stream=3), device)
        digits = Digits(train.images.to(device), train.labels.to(device))
        return Splits(
            TrainingSet(digits, self.distortion, frozen),
            _to(self._fixed(valid, stream=1), device),
            _to(self._fixed(mnist.test, stream=2), device),
        )

    def _fixed(self, digits: Digits, stream: int) -> Batch:
        # Always drawn on the CPU, whose generator gives the same images wherever the model is trained.
        generator = Generator().manual_seed(self.seed * 1_000_003 + stream)
        parts = torch.arange(len(digits.labels)).split(CHUNK)
        batches = [self.distortion.draw(digits, part, generator) for part in parts]
        return Batch(
            torch.cat([batch.images for batch in batches]),
            torch.cat([batch.labels for batch in batches]),
            Pose(*(torch.cat(field) for field in zip(*(batch.pose for batch in batches), strict=True))),
        )


def take(batch: Batch, index: Tensor | slice) -> Batch:
    """The part of a batch at ``index``."""
    pose = Pose(*(field[index] for field in batch.pose))
    return Batch(batch.images[index], batch.labels[index], pose)


def one_of_each_class(batch: Batch) -> Batch:
    """The first image of each class in a batch, by class."""
    firsts = [int((batch.labels == label).nonzero()[0]) for label in batch.labels.unique()]
    return take(batch, torch.tensor(firsts, device=batch.labels.device))


def _take_digits(digits: Digits, index: Tensor) -> Digits:
    return Digits(digits.images[index], digits.labels[index])


def _to(batch: Batch, device: torch.device) -> Batch:
    pose = Pose(*(field.to(device) for field in batch.pose))
    return Batch(batch.images.to(device), batch.labels.to(device), pose)
