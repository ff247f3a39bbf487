"""A user's own images as a data set, from one ``.npz`` file or from a folder of image files."""

import logging
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from torch import Generator, Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range, Seed, Size, height_width
from stn_experiments.data.augmentation import Augmentation
from stn_experiments.data.batch import Batch, collect
from stn_experiments.data.distortions import CHUNK_PIXELS
from stn_experiments.data.folder import Fit, check_memory, find_images, read_images
from stn_experiments.data.npz import LabelledImages, read_npz
from stn_experiments.data.splits import Splits, TrainingSet, without_pose

logger = logging.getLogger(__name__)

Fraction = Annotated[float, Range(0.001, 0.5)]


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
    length = 1
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
    length = 1
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


def _own_splits(
    splits: Sequence[LabelledImages], training: Augmentation | None, device: torch.device
) -> Splits:
    """Training, validation and test images on a device, with unknown poses."""
    train, valid, test = (LabelledImages(*(part.to(device) for part in split)) for split in splits)
    draw = partial(_draw_own, train, training or Augmentation())
    return Splits(TrainingSet(len(train.labels), draw), without_pose(valid), without_pose(test))


def _draw_own(
    images: LabelledImages, training: Augmentation, index: Tensor, generator: Generator, posed: bool = False
) -> Batch:
    def draw(part: Tensor) -> Batch:
        batch = without_pose(LabelledImages(*(field.index_select(0, part) for field in images)))
        return batch._replace(images=training.apply(batch.images, generator))

    count = max(1, CHUNK_PIXELS // images.images[0, 0].numel())  # fits a CPU's cache
    return collect(map(draw, index.split(count)), len(index))
