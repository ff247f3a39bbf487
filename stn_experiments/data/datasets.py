"""Data sets: distorted MNIST or a user's own images; validation and test sets are fixed."""

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range, Seed, Size, height_width
from stn_experiments.data.amat import TRAIN_IMAGES, read_rotated12k
from stn_experiments.data.augmentation import Augmentation
from stn_experiments.data.batch import (
    Batch,
    Task,
    collect,
    concat_batches,
    index_batch,
    to_device,
    unknown_pose,
)
from stn_experiments.data.distortions import CHUNK_PIXELS, Distortion, Mixed
from stn_experiments.data.folder import Fit, check_memory, find_images, read_images
from stn_experiments.data.mnist import Digits, load_mnist
from stn_experiments.data.npz import LabelledImages, read_npz

logger = logging.getLogger(__name__)

CHUNK = 1000
PAIRS = 1000
"""About how many test digits are drawn twice."""
FIRST_KIND = 6
"""The number of the first fixed set of a single kind; those before it are of the whole mixture."""
TRAIN_DIGITS = 60_000
Fraction = Annotated[float, Range(0.001, 0.5)]


class TrainingSet:
    """Training images on the training device.

    Args:
        size: number of digits.
        draw: called with indices (B,), a generator and perhaps ``posed=True``; returns their batch. The
            generator decides everything random. With ``posed=True`` the batch has poses, if they are known.
    """

    def __init__(self, size: int, draw: Callable[..., Batch]) -> None:
        self.size = size
        self.draw = draw

    def order(self, generator: Generator) -> Tensor:
        """All digits' indices (``size``,) in random order."""
        return torch.randperm(self.size, generator=generator, device=generator.device)


Pairs = tuple[Batch, Batch]
"""Two images of each of the same digits, under two distortions."""


class KindSet(NamedTuple):
    """All test digits under one of the distortions of ``Mixed``.

    ``disturbance`` (B, h, w) is the energy of clutter and noise, see ``Distortion.draw_disturbed``.
    """

    batch: Batch
    disturbance: Tensor


class Splits(NamedTuple):
    """The three splits, on one device; validation and test are whole sets that never change.

    ``draw_pairs`` draws digits of the test set, spread over it, twice; always the same images. It is None if
    the digits' poses are unknown. ``kinds`` draws the test digits under each distortion of a mixture alone;
    always the same images. It is None for other data.
    """

    train: TrainingSet
    valid: Batch
    test: Batch
    draw_pairs: Callable[[], Pairs] | None = None
    kinds: Mapping[str, Callable[[], KindSet]] | None = None


@dataclass(frozen=True)
class DistortedMnist:
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
    class_names = None

    def __post_init__(self) -> None:
        if self._train_digits > TRAIN_DIGITS - self.valid_size:
            raise UserError(
                f"train_digits must be at most the {TRAIN_DIGITS - self.valid_size} digits that are not held "
                f"out, got {self.train_digits}"
            )
        made, wanted = (
            (task.shape, task.classes, task.vocab_size) for task in (self.training_task, self.distortion)
        )
        if made != wanted:
            raise UserError(
                "training must make {} images of {} classes and {} words, as distortion does, "
                "got {} of {} and {}".format(*wanted, *made)
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
        """Number of words in the questions' vocabulary, 0 if nothing is asked."""
        return self.distortion.vocab_size

    @property
    def turns_about_centre(self) -> bool:
        """Whether images differ by rotations about their centre."""
        return self.distortion.turns_about_centre

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
        if self.online:
            digits = Digits(train.images.to(device), train.labels.to(device))
            draw = partial(self._draw, digits)
        else:
            fixed = self._draw_fixed(train, 3, self.training_task, _every(train).repeat(self.draws))
            draw = partial(_index_fixed, to_device(fixed, device))
        test = self._draw_fixed(mnist.test, 2, self.distortion, _every(mnist.test).repeat(self.test_draws))
        return Splits(
            TrainingSet(self.train_size, draw),
            to_device(self._draw_fixed(valid, 1, self.distortion, _every(valid)), device),
            to_device(test, device),
            partial(self._draw_pairs, mnist.test, device),
            self._kinds(mnist.test, device),
        )

    def test_digits(self, count: int) -> Digits:
        """About ``count`` digits of the test set, spread over it, without a distortion."""
        test = load_mnist(self.root).test
        step = max(1, len(test.labels) // count)
        return Digits(test.images[::step], test.labels[::step])

    def _draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = False) -> Batch:
        return self.training_task.draw(digits, index, generator, posed)

    def _draw_pairs(self, digits: Digits, device: torch.device) -> Pairs:
        index = _every(digits, max(1, len(digits.labels) // PAIRS))
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
        chunks = [kind.draw_disturbed(digits, chunk, generator) for chunk in _every(digits).split(CHUNK)]
        batches, disturbances = zip(*chunks, strict=True)
        return KindSet(to_device(concat_batches([*batches]), device), torch.cat(disturbances).to(device))

    def _generator(self, number: int) -> Generator:
        """Of the fixed set of this number, always on the CPU: the images are the same on every device."""
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

    def _draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = False) -> Batch:
        return super()._draw(digits, index % self._train_digits, generator, posed)


@dataclass(frozen=True)
class Rotated12kFiles:
    """The rotated digits of Larochelle et al. 2007, from their own two files; poses are unknown.

    The last images of the file for training are for validation, as in that paper.

    Args:
        root: the folder with the files; by default that in ``STN_DATA_DIR``.
        valid_size: number of images for validation.
    """

    root: str | None = None
    valid_size: Annotated[int, Range(1, 11_999)] = 2_000

    shape = (1, 28, 28)
    classes = 10
    class_names = None
    vocab_size = 0
    turns_about_centre = True

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return TRAIN_IMAGES - self.valid_size

    def load(self, device: torch.device) -> Splits:
        """The three splits on a device.

        Raises:
            UserError: a file is missing or damaged.
        """
        both, test = (to_device(_without_pose(split), device) for split in read_rotated12k(self.root))
        train, valid = (
            index_batch(both, part) for part in (slice(self.train_size), slice(self.train_size, None))
        )
        return Splits(TrainingSet(self.train_size, partial(_index_fixed, train)), valid, test)


class NpzFile:
    """A user's own images with unknown poses, from one ``.npz`` file.

    Args:
        file: the file; see ``npz.read_npz`` for what it may hold.
        image_size: (height, width) of images that are stored flat; null: they are square.
        seed: decides the validation split if the file has none.
        valid_size: number of images in that split.
        training: augmentation of the training images, anew in every epoch.
    """

    vocab_size = 0
    turns_about_centre = False
    class_names: Sequence[str] | None = None

    def __init__(
        self,
        file: str,
        image_size: tuple[Pixels, Pixels] | None = None,
        seed: Seed = 0,
        valid_size: Annotated[int, Range(1, 1_000_000)] = 5_000,
        training: Augmentation | None = None,
    ) -> None:
        self.file = file
        self.training = training
        self._content = read_npz(file, valid_size, seed, image_size)
        channels, height, width = self._content.train.images.shape[1:]
        self.shape = (channels, height, width)
        self.classes = self._content.classes
        self.train_size = len(self._content.train.labels)

    def load(self, device: torch.device) -> Splits:
        """The three splits on a device; warns of labels that training never has, and if it has no label 0."""
        known = self._content.train.labels
        if first := int(known.min()):
            logger.warning(
                "warning: %s: the training labels begin at %d; classes are numbered from 0", self.file, first
            )
        for name, split in (("validation", self._content.valid), ("test", self._content.test)):
            unknown = split.labels[~torch.isin(split.labels, known)].unique().tolist()
            if unknown:
                text = textwrap.shorten(", ".join(map(str, unknown)), 200)
                logger.warning(
                    "warning: %s: the %s images have labels of no training image: %s", self.file, name, text
                )
        return _own_splits(self._content[:3], self.training, device)


class ImageFolder:
    """A user's own images with unknown poses, from a folder with one folder of files for each class.

    Args:
        folder: the folder; see ``folder.find_images`` for what it may hold.
        size: side, or (height, width), in pixels that every image is brought to.
        fit: ``resize``: each side by its own factor; ``crop``: the middle of the image; ``pad``: the whole
            image, with black bars.
        colour: RGB images, or grey ones.
        seed: decides the split.
        fractions: of each class, held out for validation and for the test where there is no such split.
        training: augmentation of the training images, anew in every epoch.
    """

    vocab_size = 0
    turns_about_centre = False

    def __init__(  # noqa: PLR0913 -- settings
        self,
        folder: str,
        size: Size = 64,
        fit: Fit = "resize",
        colour: bool = True,
        seed: Seed = 0,
        fractions: tuple[Fraction, Fraction] = (0.15, 0.15),
        training: Augmentation | None = None,
    ) -> None:
        self.fit, self.training = fit, training
        self.shape = (3 if colour else 1, *height_width(size))
        try:
            self._files = find_images(Path(folder).expanduser(), fractions, seed)
        except UserError as error:
            raise UserError(f"folder {folder}: {error}") from error
        check_memory(self._files, self.shape)
        self.class_names = self._files.class_names
        self.classes = len(self.class_names)
        self.train_size = sum(map(len, self._files.train.values()))

    def load(self, device: torch.device) -> Splits:
        """Decode all images, and put the three splits on a device.

        Raises:
            UserError: a file is damaged.
        """
        splits = [read_images(classes, self.shape, self.fit) for classes in self._files[:3]]
        return _own_splits(splits, self.training, device)


DataSet = DistortedMnist | Rotated12kFiles | NpzFile | ImageFolder


def one_of_each_class(batch: Batch) -> Batch:
    """The first image of each class in a batch; of every n-th class if there are more than ten."""
    labels = batch.labels.unique()
    firsts = [int((batch.labels == label).nonzero()[0]) for label in labels[:: -(-len(labels) // 10)]]
    return index_batch(batch, torch.tensor(firsts, device=batch.labels.device))


def _every(digits: Digits, step: int = 1) -> Tensor:
    """The index of every digit, or of every ``step``-th."""
    return torch.arange(0, len(digits.labels), step)


def _index_fixed(batch: Batch, index: Tensor, generator: Generator, posed: bool = False) -> Batch:
    return index_batch(batch, index)


def _own_splits(
    splits: Sequence[LabelledImages], training: Augmentation | None, device: torch.device
) -> Splits:
    """Training, validation and test images on a device, with unknown poses."""
    train, valid, test = (LabelledImages(*(part.to(device) for part in split)) for split in splits)
    draw = partial(_draw_own, train, training or Augmentation())
    return Splits(TrainingSet(len(train.labels), draw), _without_pose(valid), _without_pose(test))


def _draw_own(
    images: LabelledImages, training: Augmentation, index: Tensor, generator: Generator, posed: bool = False
) -> Batch:
    def draw(part: Tensor) -> Batch:
        batch = _without_pose(LabelledImages(*(field.index_select(0, part) for field in images)))
        return batch._replace(images=training.apply(batch.images, generator))

    count = max(1, CHUNK_PIXELS // images.images[0, 0].numel())  # fits a CPU's cache
    return collect(map(draw, index.split(count)), len(index))


def _without_pose(split: LabelledImages) -> Batch:
    images, labels = split
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    return Batch(images, labels, unknown_pose(len(labels), images.device))
