"""MNIST under a distortion as a data set; validation and test sets are fixed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range, Seed
from stn_experiments.data.amat import TRAIN_IMAGES, read_rotated12k
from stn_experiments.data.batch import (
    Batch,
    ImageTraits,
    Task,
    collect,
    concat_batches,
    index_batch,
    to_device,
)
from stn_experiments.data.distortions import Distortion, Mixed
from stn_experiments.data.mnist import Digits, load_mnist
from stn_experiments.data.own_images import ImageFolder, NpzFile
from stn_experiments.data.splits import KindSet, Pairs, Splits, TrainingSet, index_fixed, without_pose

CHUNK = 1000
PAIRS = 1000
"""About how many test digits are drawn twice."""
FIRST_KIND = 6
"""The number of the first fixed set of a single kind; those before it are of the whole mixture."""
TRAIN_DIGITS = 60_000


@dataclass(frozen=True)
class DistortedMnist(ImageTraits):
    """MNIST under a distortion.

    Args:
        distortion: what each digit undergoes.
        training: what each training digit undergoes instead, as augmentation; null: the same.
        root: folder with the four IDX files; by default they are fetched once into a cache.
        online: distort the training digits anew in every epoch, or only once.
        seed: decides the split and the fixed sets, whatever the run's own seed, model and device.
        valid_size: digits of the 60,000 that are held out for validation.
        train_digits: how many of the others are for training; null: all. More of them include those of fewer.
    """

    distortion: Task
    training: Task | None = None
    root: str | None = None
    online: bool = True
    seed: Seed = 0
    valid_size: Annotated[int, Range(1, 50_000)] = 5_000
    train_digits: Annotated[int, Range(1, 60_000)] | None = None

    # Images of each training digit in an epoch, and of each test digit; see RepeatedMnist.
    draws = 1
    test_draws = 1

    def __post_init__(self) -> None:
        if self._train_digits > TRAIN_DIGITS - self.valid_size:
            raise UserError(
                f"train_digits must be at most the {TRAIN_DIGITS - self.valid_size} digits that are not held "
                f"out, got {self.train_digits}"
            )
        made, wanted = (
            (task.shape, task.classes, task.vocab_size, task.length)
            for task in (self.training_task, self.distortion)
        )
        if made != wanted:
            raise UserError(
                "training must make {} images of {} classes, {} words and {} labels, as distortion does, "
                "got {} of {}, {} and {}".format(*wanted, *made)
            )

    @property
    def training_task(self) -> Task:
        """What each training digit undergoes."""
        return self.training or self.distortion

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.distortion.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.distortion.classes

    @property
    def vocab_size(self) -> int:
        return self.distortion.vocab_size

    @property
    def length(self) -> int:
        return self.distortion.length

    @property
    def turns_about_centre(self) -> bool:
        return self.distortion.turns_about_centre

    @property
    def lies_anywhere(self) -> bool:
        return self.distortion.lies_anywhere

    @property
    def train_size(self) -> int:
        """Number of training images in an epoch."""
        return self._train_digits * self.draws

    @property
    def _train_digits(self) -> int:
        return self.train_digits or TRAIN_DIGITS - self.valid_size

    def load(self, device: torch.device) -> Splits:
        """Load the digits, fetching them if needed, split them, and draw the fixed sets.

        Raises:
            UserError: the digits are unavailable, or a file is damaged.
        """
        mnist = load_mnist(self.root)
        order = torch.randperm(len(mnist.train.labels), generator=Generator().manual_seed(self.seed))
        train, valid = (
            Digits(mnist.train.images[part], mnist.train.labels[part])
            for part in (order[: self._train_digits], order[-self.valid_size :])
        )
        digits = Digits(train.images.to(device), train.labels.to(device))
        shown = self._shown(train)
        if self.online:
            draw = partial(self._draw, digits, shown.to(device))
        else:
            index = shown[torch.arange(self.train_size) % len(shown)]
            fixed = self._draw_fixed(train, 3, self.training_task, index)
            draw = partial(index_fixed, to_device(fixed, device))
        index = self._shown(mnist.test).repeat(self.test_draws)
        test = self._draw_fixed(mnist.test, 2, self.distortion, index)
        return Splits(
            TrainingSet(self.train_size, draw, self._encoder_draw(digits)),
            to_device(self._draw_fixed(valid, 1, self.distortion, self._shown(valid)), device),
            to_device(test, device),
            partial(self._draw_pairs, mnist.test, device),
            self._kinds(mnist.test, device),
        )

    def test_digits(self, count: int) -> Digits:
        """About ``count`` digits that the test shows, spread over them, without a distortion."""
        test = load_mnist(self.root).test
        shown = self._shown(test)
        index = shown[:: max(1, len(shown) // count)]
        return Digits(test.images[index], test.labels[index])

    def _shown(self, digits: Digits) -> Tensor:
        """The indices of the digits that are shown."""
        return torch.arange(len(digits.labels))

    def _encoder_draw(self, digits: Digits) -> Callable[..., Batch] | None:
        """Draws images by which an encoder is trained, if the data is for that."""
        return None

    def _draw(
        self, digits: Digits, shown: Tensor, index: Tensor, generator: Generator, posed: bool = False
    ) -> Batch:
        return self.training_task.draw(digits, shown[index % len(shown)], generator, posed)

    def _draw_pairs(self, digits: Digits, device: torch.device) -> Pairs:
        shown = self._shown(digits)
        index = shown[:: max(1, len(shown) // PAIRS)]
        first, second = (self._draw_fixed(digits, number, self.distortion, index) for number in (4, 5))
        return to_device(first, device), to_device(second, device)

    def _kinds(self, digits: Digits, device: torch.device) -> dict[str, Callable[[], KindSet]] | None:
        if not isinstance(self.distortion, Mixed):
            return None
        kinds = enumerate(self.distortion.kinds.items(), FIRST_KIND)
        return {
            name: partial(self._draw_kind, digits, device, number, kind) for number, (name, kind) in kinds
        }

    def _draw_kind(self, digits: Digits, device: torch.device, number: int, kind: Distortion) -> KindSet:
        generator = self._generator(number)
        index = torch.arange(len(digits.labels))
        chunks = [kind.draw_disturbed(digits, chunk, generator) for chunk in index.split(CHUNK)]
        batches, disturbances = zip(*chunks, strict=True)
        return KindSet(to_device(concat_batches([*batches]), device), torch.cat(disturbances).to(device))

    def _generator(self, number: int) -> Generator:
        """The generator of a fixed set; it is on the CPU, so images are the same on every device."""
        return Generator().manual_seed(self.seed * 1_000_003 + number)

    def _draw_fixed(self, digits: Digits, number: int, task: Task, index: Tensor) -> Batch:
        generator = self._generator(number)
        chunks = index.split(CHUNK)
        return collect((task.draw(digits, chunk, generator) for chunk in chunks), len(index))


@dataclass(frozen=True)
class RepeatedMnist(DistortedMnist):
    """MNIST under a distortion, with several images of each digit, as some benchmarks have it.

    Args:
        draws: images of each training digit in an epoch.
        test_draws: images of each test digit.
    """

    draws: Annotated[int, Range(1, 100)] = 1
    test_draws: Annotated[int, Range(1, 100)] = 1


@dataclass(frozen=True)
class OneDigitMnist(DistortedMnist):
    """MNIST's images of one class under a distortion, and digits of all classes for an encoder.

    An epoch has as many images as there are training digits of all classes. Clutter is cut from them, too.

    Args:
        digit: the class.
        encoder: the distortion of the digits by which an encoder is trained.
    """

    digit: Annotated[int, Range(0, 9)] = 7
    encoder: Distortion = field(default_factory=Distortion)

    def _shown(self, digits: Digits) -> Tensor:
        shown = (digits.labels == self.digit).nonzero()[:, 0]
        if not len(shown):
            raise UserError(f"train_digits and valid_size must leave a {self.digit} in each split")
        return shown

    def _encoder_draw(self, digits: Digits) -> Callable[..., Batch]:
        return partial(self.encoder.draw, digits)


@dataclass(frozen=True)
class Rotated12kFiles(ImageTraits):
    """The rotated digits of Larochelle et al. 2007, from their own two files; poses are unknown.

    The last images of the file for training are for validation, as in that paper.

    Args:
        root: the folder with the files; by default that in ``STN_DATA_DIR``.
        valid_size: number of images for validation.
        angle: the rotation of the images, uniform in ±angle, degrees, which the files do not tell.
    """

    root: str | None = None
    valid_size: Annotated[int, Range(1, 11_999)] = 2_000
    angle: Annotated[float, Range(0, 180)] = 180.0

    shape = (1, 28, 28)
    classes = 10

    @property
    def turns_about_centre(self) -> bool:
        return self.angle > 0

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return TRAIN_IMAGES - self.valid_size

    def load(self, device: torch.device) -> Splits:
        """The three splits on a device.

        Raises:
            UserError: a file is missing or damaged.
        """
        both, test = (to_device(without_pose(split), device) for split in read_rotated12k(self.root))
        train, valid = (
            index_batch(both, part) for part in (slice(self.train_size), slice(self.train_size, None))
        )
        return Splits(TrainingSet(self.train_size, partial(index_fixed, train)), valid, test)


DataSet = DistortedMnist | Rotated12kFiles | NpzFile | ImageFolder
