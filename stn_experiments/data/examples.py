"""Test images of which a user takes one, rotates, moves and spoils it: MNIST digits, or the user's own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.data.augmentation import FixedAugmentation
from stn_experiments.data.batch import Batch, Pose
from stn_experiments.data.datasets import DataSet, DistortedMnist
from stn_experiments.data.distortions import FixedDistortion
from stn_experiments.data.mnist import Digits
from stn_experiments.data.npz import LabelledImages
from stn_experiments.data.own_images import ImageFolder, NpzFile
from stn_experiments.data.splits import without_pose

TEST_DIGITS = 10_000


class Slider(NamedTuple):
    """The range of a setting."""

    label: str
    low: float
    high: float
    step: float


class Example(NamedTuple):
    """An image (1, H, W) or (1, C, H, W), and its label (1,)."""

    image: Tensor
    label: Tensor


class Examples(ABC):
    """Test images of one size.

    ``of_class`` has the indices of the images of each class that has any.

    Args:
        images: all of them.
        size: (height, width) of what is drawn.
        class_names: the names of all classes, in the order of the labels.
    """

    def __init__(
        self, images: Digits | LabelledImages, size: tuple[int, int], class_names: Sequence[str]
    ) -> None:
        self.images, self.size, self.class_names = images, size, class_names
        labels = images.labels
        self.of_class = {int(label): (labels == label).nonzero()[:, 0] for label in labels.unique()}
        self.sliders = pose_sliders(size)

    def example(self, label: int, number: int) -> Example:
        """The image of a class with a number from 0; the last one if it has fewer."""
        indices = self.of_class[label]
        index = indices[min(number, len(indices) - 1)]
        return Example(self.images.images[index, None], self.images.labels[index, None])

    @abstractmethod
    def draw(self, example: Example, values: Mapping[str, float]) -> Batch:
        """One image as the sliders say; always the same."""


def kind_of(data: DataSet) -> str | None:
    """What the images of a data set show: a digit each, or the user's own; ``None`` if anything else."""
    if shows_one_digit(data):
        return "digits"
    return f"images of {data.classes} classes" if isinstance(data, NpzFile | ImageFolder) else None


def find_examples(data: DataSet) -> Examples:
    """The test images of a data set for which ``kind_of`` has a name.

    Raises:
        UserError: a file is damaged.
    """
    if shows_one_digit(data):
        return DigitExamples(data.test_digits(TEST_DIGITS), data.shape[1:])
    assert isinstance(data, NpzFile | ImageFolder)
    return OwnExamples(data.test_images(), data.class_names or [str(n) for n in range(data.classes)])


def shows_one_digit(data: DataSet) -> TypeGuard[DistortedMnist]:
    """Whether each image of a data set shows one MNIST digit, which is its label."""
    if not isinstance(data, DistortedMnist):
        return False
    return (data.shape[0], data.classes, data.vocab_size, data.length) == (1, 10, 0, 1)


class DigitExamples(Examples):
    """Digits on a canvas of (height, width) ``size``."""

    def __init__(self, digits: Digits, size: tuple[int, int]) -> None:
        super().__init__(digits, size, [str(label) for label in range(10)])
        self.sliders["clutter"] = Slider("clutter, crops", 0, 16, 1)
        self.sliders["seed"] = Slider("seed of bend, noise, clutter", 0, 99, 1)

    def draw(self, example: Example, values: Mapping[str, float]) -> Batch:
        digits = Digits(*map(torch.cat, zip(example, self.images, strict=True)))  # clutter is of all others
        distortion = FixedDistortion(self.size, clutter=int(values["clutter"]), **warp_settings(values))
        return distortion.draw(digits, torch.tensor([0]), Generator().manual_seed(int(values["seed"])))


class OwnExamples(Examples):
    """A user's own images. The true box of one is that of the whole image."""

    def __init__(self, images: LabelledImages, class_names: Sequence[str]) -> None:
        super().__init__(images, geometry.image_size(images.images), class_names)
        self.sliders["seed"] = Slider("seed of bend, noise", 0, 99, 1)

    def draw(self, example: Example, values: Mapping[str, float]) -> Batch:
        batch = without_pose(LabelledImages(*example))
        augmentation = FixedAugmentation(**warp_settings(values))
        matrix = augmentation.matrices(batch.images)
        box = geometry.transform(matrix, geometry.boundary_points(1))
        pose = Pose(matrix[:, None], box[:, None], torch.ones(1, 1, 1, 1))
        images = augmentation.apply(batch.images, Generator().manual_seed(int(values["seed"])))
        return batch._replace(images=images, pose=pose)


def pose_sliders(size: tuple[int, int]) -> dict[str, Slider]:
    """The sliders of images of (height, width)."""
    height, width = size
    return {
        "angle": Slider("angle, degrees", -180, 180, 1),
        "scale": Slider("scale", 0.5, 2, 0.05),
        "x": Slider("moved right, pixels", -(width // 2), width // 2, 1),
        "y": Slider("moved down, pixels", -(height // 2), height // 2, 1),
        "shear": Slider("shear", -1, 1, 0.05),
        "bend": Slider("bend, pixels", 0, 3, 0.1),
        "noise": Slider("noise, standard deviation", 0, 1, 0.05),
    }


def warp_settings(values: Mapping[str, float]) -> dict[str, Any]:
    """The sliders' values as settings of a distortion or an augmentation."""
    settings: dict[str, Any] = {name: values[name] for name in ("angle", "shear", "bend", "noise")}
    return settings | {"scale": (values["scale"], values["scale"]), "offset": (values["x"], values["y"])}
