"""A user's own images as a data set, from one ``.npz`` file or from a folder of image files."""

import logging
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range, Seed, Size, height_width
from stn_experiments.data.augmentation import Augmentation
from stn_experiments.data.batch import Batch, ImageTraits, collect
from stn_experiments.data.distortions import CHUNK_PIXELS
from stn_experiments.data.folder import Fit, ImageFiles, find_images, fits_in_memory
from stn_experiments.data.npz import LabelledImages, read_npz
from stn_experiments.data.splits import Splits, TrainingSet, without_pose

logger = logging.getLogger(__name__)

HeldOut = Annotated[float, Range(0.001, 0.5)]


class NpzFile(ImageTraits):
    """A user's own images with unknown poses, from one ``.npz`` file.

    Args:
        file: the file; see ``npz.read_npz`` for what it may hold.
        image_size: (height, width) of images that are stored flat; null: they are square.
        seed: decides the validation split if the file has none.
        valid_size: number of images in that split.
        training: augmentation of the training images, anew in every epoch.
    """

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

    def test_images(self) -> LabelledImages:
        """The test images alone."""
        return self._content.test

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
                    "warning: %s: %s images have labels that no training image has: %s", self.file, name, text
                )
        train, *held_out = self._content[:3]
        return _own_splits(_in_memory(train, device), held_out, self.training, device)


class ImageFolder(ImageTraits):
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

    def __init__(  # noqa: PLR0913 -- settings
        self,
        folder: str,
        size: Size = 64,
        fit: Fit = "resize",
        colour: bool = True,
        seed: Seed = 0,
        fractions: tuple[HeldOut, HeldOut] = (0.15, 0.15),
        training: Augmentation | None = None,
    ) -> None:
        self.fit, self.training = fit, training
        self.shape = (3 if colour else 1, *height_width(size))
        try:
            self._files = find_images(Path(folder).expanduser(), fractions, seed)
        except (UserError, OSError) as error:
            raise UserError(f"folder {folder}: {error}") from error
        self._fits = fits_in_memory(self._files, self.shape)
        self.class_names = self._files.class_names
        self.classes = len(self.class_names)
        self.train_size = sum(map(len, self._files.train.values()))

    def test_images(self) -> LabelledImages:
        """The test images alone, decoded.

        Raises:
            UserError: a file is damaged.
        """
        return ImageFiles(self._files.test, self.shape, self.fit).read_all()

    def load(self, device: torch.device) -> Splits:
        """Decode all images and put them on a device; training images by the batch if they do not fit there.

        Raises:
            UserError: a file is damaged.
        """
        train, *held_out = (ImageFiles(classes, self.shape, self.fit) for classes in self._files[:3])
        if self._fits:
            images = _in_memory(train.read_all(), device)
        else:
            logger.warning(
                "warning: the training images do not fit in memory: each batch is read anew, which is slower"
            )
            images = OwnImages(self.train_size, partial(_read_batch, train, device), in_memory=False)
        return _own_splits(images, [files.read_all() for files in held_out], self.training, device)


class OwnImages(NamedTuple):
    """Training images: how many, what gives those at an index (B,) on the device, and where they are."""

    size: int
    at: Callable[[Tensor], LabelledImages]
    in_memory: bool = True


def _to_device(images: LabelledImages, device: torch.device) -> LabelledImages:
    return LabelledImages(images.images.to(device), images.labels.to(device))


def _in_memory(images: LabelledImages, device: torch.device) -> OwnImages:
    images = _to_device(images, device)
    return OwnImages(
        len(images.labels),
        lambda index: LabelledImages(*(field.index_select(0, index) for field in images)),
    )


def _read_batch(files: ImageFiles, device: torch.device, index: Tensor) -> LabelledImages:
    return _to_device(files.read(index.tolist()), device)


def _own_splits(
    train: OwnImages,
    held_out: Sequence[LabelledImages],
    training: Augmentation | None,
    device: torch.device,
) -> Splits:
    """Training, validation and test images on a device, with unknown poses."""
    valid, test = (without_pose(_to_device(split, device)) for split in held_out)
    augmentation = training or Augmentation()
    per_chunk = max(1, CHUNK_PIXELS // valid.images[0, 0].numel())  # fits a CPU's cache

    def draw(index: Tensor, generator: Generator, posed: bool = False) -> Batch:
        def chunk(part: Tensor) -> Batch:
            batch = without_pose(train.at(part))
            return batch._replace(images=augmentation.apply(batch.images, generator))

        return collect(map(chunk, index.split(per_chunk)), len(index))

    return Splits(TrainingSet(train.size, draw, is_capturable=train.in_memory), valid, test)
