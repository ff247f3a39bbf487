"""Batches of labelled images, the true poses of their digits, and the base class of what draws them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.common.ranges import Size, height_width
from stn_experiments.data.mnist import Digits


class Pose(NamedTuple):
    """Where the D digits of each image are, in the normalised coordinates of ``geometry``.

    ``matrix`` (B, D, 3, 3) maps a digit's own 28×28 frame onto the canvas. It is the theta with which a
    transformer gives the upright digit back, except for a bend. ``box`` (B, D, 4, 2) holds the corners of
    the digit's ink on the canvas, clockwise from the digit's own top left. ``ink`` (B, D, h, w) is the digit
    alone on the canvas, in [0, 1], averaged over cells.
    """

    matrix: Tensor
    box: Tensor
    ink: Tensor


class Batch(NamedTuple):
    """``images`` (B, C, H, W) in [0, 1], ``labels`` (B,) int64 and the ``pose`` of the digits.

    Labels of sequences are (B, T), T of each image.
    ``question`` (B, T) int64 holds the indices of a question's words, or is None if nothing is asked.
    """

    images: Tensor
    labels: Tensor
    pose: Pose
    question: Tensor | None = None


class ImageTraits:
    """What networks must know of the images of a task or a data set, beside ``shape`` and ``classes``."""

    class_names: Sequence[str] | None = None
    """The names of the classes, in the order of the labels; ``None``: the labels themselves."""

    @property
    def vocab_size(self) -> int:
        """Number of words in the questions' vocabulary, 0 if nothing is asked."""
        return 0

    @property
    def length(self) -> int:
        """Number of labels of an image."""
        return 1

    @property
    def turns_about_centre(self) -> bool:
        """Whether images differ by rotations about their centre."""
        return False

    @property
    def lies_anywhere(self) -> bool:
        """Whether each image has one digit, which may be anywhere."""
        return False


class Task(ImageTraits, ABC):
    """Draws labelled images of digits on a canvas; see ``distortions`` and ``questions``."""

    canvas: Size
    channels = 1
    classes = 10

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.channels, *self.size)

    @abstractmethod
    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """Draw images of the digits at ``index`` (B,), on their device; all randomness is the generator's.

        ``posed=False`` gives the same images without poses, which doubles the speed.
        """


def unknown_pose(count: int, device: torch.device | None = None) -> Pose:
    """The pose of ``count`` images whose digits' places are unknown: it has D = 0 digits."""
    shapes = ((0, 3, 3), (0, 4, 2), (0, 1, 1))
    return Pose(*(torch.empty(count, *shape, device=device) for shape in shapes))


def index_batch(batch: Batch, index: Tensor | slice) -> Batch:
    """The part of a batch at ``index``."""
    if isinstance(index, slice):
        return _map(batch, lambda field: field[index])
    return _map(batch, lambda field: field.index_select(0, index))  # faster than [index]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return _map(batch, lambda field: field.to(device))


def concat_batches(batches: list[Batch]) -> Batch:
    """Concatenate batches along their first dimension."""
    images, labels, poses, questions = zip(*batches, strict=True)
    pose = Pose(*(torch.cat(fields) for fields in zip(*poses, strict=True)))
    question = None if None in questions else torch.cat(questions)
    return Batch(torch.cat(images), torch.cat(labels), pose, question)


def collect(batches: Iterable[Batch], count: int) -> Batch:
    """The same of batches of ``count`` images in all, with only one of them in memory beside the result."""
    batches = iter(batches)
    first = next(batches)
    whole, start = _map(first, lambda field: field.new_empty(count, *field.shape[1:])), 0
    for batch in chain([first], batches):
        stop = start + len(batch.labels)
        for target, part in zip(_fields(whole), _fields(batch), strict=True):
            target[start:stop] = part
        start = stop
    return whole


def _fields(batch: Batch) -> list[Tensor]:
    """The tensors of a batch."""
    question = [] if batch.question is None else [batch.question]
    return [batch.images, batch.labels, *batch.pose, *question]


def _map(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    pose = Pose(*map(function, batch.pose))
    question = None if batch.question is None else function(batch.question)
    return Batch(function(batch.images), function(batch.labels), pose, question)
