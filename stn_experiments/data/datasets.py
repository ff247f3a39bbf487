"""Data sets: the splits of distorted MNIST, fresh training batches, fixed validation and test sets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range, Seed
from stn_experiments.data.batch import Batch, Task, concat_batches, index_batch, to_device, unknown_pose
from stn_experiments.data.mnist import Digits, load_mnist
from stn_experiments.data.npz import LabelledImages, read_npz

CHUNK = 1000
TRAIN_DIGITS = 60_000


class TrainingSet:
    """Training images on the training device.

    Args:
        size: number of digits.
        draw: the batch of the digits at an index (B,), of which a generator decides what is random; with
            ``posed=True`` also where its digits are, if that is known.
    """

    def __init__(self, size: int, draw: Callable[..., Batch]) -> None:
        self.size = size
        self.draw = draw

    def order(self, generator: Generator) -> Tensor:
        """All digits' indices (``size``,) in random order."""
        return torch.randperm(self.size, generator=generator, device=generator.device)


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
        training: what is done to those of the training set instead, to augment it; null: the same.
        root: folder with the four IDX files; by default they are fetched once into a cache.
        online: distort the training digits anew in every epoch, or once and for all.
        seed: decides the split and the fixed sets, whatever the run's own seed, model and device.
        valid_size: digits of the 60,000 that are held out for validation.
    """

    distortion: Task
    training: Task | None = None
    root: str | None = None
    online: bool = True
    seed: Seed = 0
    valid_size: Annotated[int, Range(1, 50_000)] = 5_000

    def __post_init__(self) -> None:
        for training in (self.training,) if self.training is not None else ():
            made, wanted = (
                (self._shape(task), task.classes, task.vocab_size) for task in (training, self.distortion)
            )
            if made != wanted:
                raise UserError(
                    "training must make {} images of {} classes and {} words, as distortion does, "
                    "got {} of {} and {}".format(*wanted, *made)
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self._shape(self.distortion)

    @staticmethod
    def _shape(distortion: Task) -> tuple[int, int, int]:
        return (distortion.channels, *distortion.size)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.distortion.classes

    @property
    def vocab_size(self) -> int:
        """Number of words that its questions are made of, 0 where it asks none."""
        return self.distortion.vocab_size

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
        train, valid = (_index_digits(mnist.train, part) for part in order.split(self.train_size))
        digits = Digits(train.images.to(device), train.labels.to(device))
        task = self.training or self.distortion
        frozen = None if self.online else to_device(self._fixed(train, 3, task), device)
        return Splits(
            TrainingSet(self.train_size, partial(self._draw, digits, frozen)),
            to_device(self._fixed(valid, 1, self.distortion), device),
            to_device(self._fixed(mnist.test, 2, self.distortion), device),
        )

    def _draw(
        self,
        digits: Digits,
        frozen: Batch | None,
        index: Tensor,
        generator: Generator,
        posed: bool = False,
    ) -> Batch:
        task = self.training or self.distortion
        return task.draw(digits, index, generator, posed) if frozen is None else index_batch(frozen, index)

    def _fixed(self, digits: Digits, stream: int, task: Task) -> Batch:
        # Always drawn on the CPU, whose generator gives the same images wherever the model is trained.
        generator = Generator().manual_seed(self.seed * 1_000_003 + stream)
        parts = torch.arange(len(digits.labels)).split(CHUNK)
        return concat_batches([task.draw(digits, part, generator) for part in parts])


class NpzFile:
    """A user's own images, as they are, from one ``.npz`` file; nothing is known of where its digits lie.

    Args:
        file: the file, see ``npz.read_npz`` for what it may hold.
        image_size: (height, width) of images that are stored flat; null: they are square.
        seed: decides the validation split, where the file has none.
        valid_size: images of that split.
    """

    vocab_size = 0

    def __init__(
        self,
        file: str,
        image_size: tuple[Pixels, Pixels] | None = None,
        seed: Seed = 0,
        valid_size: Annotated[int, Range(1, 1_000_000)] = 5_000,
    ) -> None:
        self._content = read_npz(file, valid_size, seed, image_size)
        channels, height, width = self._content.train.images.shape[1:]
        self.shape = (channels, height, width)
        self.classes = self._content.classes
        self.train_size = len(self._content.train.labels)

    def load(self, device: torch.device) -> Splits:
        """The three splits on a device."""
        train, valid, test = (to_device(_without_pose(split), device) for split in self._content[:3])
        return Splits(
            TrainingSet(self.train_size, lambda index, *_, **__: index_batch(train, index)), valid, test
        )


DataSet = DistortedMnist | NpzFile


def one_of_each_class(batch: Batch) -> Batch:
    """The first image of each class in a batch, by class; of every n-th where there are more than ten."""
    labels = batch.labels.unique()
    firsts = [int((batch.labels == label).nonzero()[0]) for label in labels[:: -(-len(labels) // 10)]]
    return index_batch(batch, torch.tensor(firsts, device=batch.labels.device))


def _index_digits(digits: Digits, index: Tensor) -> Digits:
    return Digits(digits.images[index], digits.labels[index])


def _without_pose(split: LabelledImages) -> Batch:
    return Batch(split.images, split.labels, unknown_pose(len(split.labels)))
