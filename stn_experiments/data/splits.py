"""What a data set gives: training images that are drawn, and fixed sets for validation and test."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from stn_experiments.data.batch import Batch, index_batch, unknown_pose
from stn_experiments.data.npz import LabelledImages


class TrainingSet(NamedTuple):
    """Training images on the training device.

    Args:
        size: number of images in an epoch.
        draw: called with indices (B,), a generator and perhaps ``posed=True``; returns their batch. The
            generator decides everything random. With ``posed=True`` the batch has poses, if they are known.
        draw_encoder: the same for the images of all classes by which an encoder is trained, as many.
        is_capturable: whether a CUDA graph can draw; not if images are read from files.
    """

    size: int
    draw: Callable[..., Batch]
    draw_encoder: Callable[..., Batch] | None = None
    is_capturable: bool = True

    def order(self, generator: Generator) -> Tensor:
        """All images' indices (``size``,) in random order."""
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


def one_of_each_class(batch: Batch) -> Batch:
    """The first image of each class in a batch; of every n-th class if there are more than ten.

    If there is one class, the first ten images.

    The class of a sequence is its first label.
    """
    first_labels = batch.labels.view(len(batch.labels), -1)[:, 0]
    labels = first_labels.unique()
    if len(labels) == 1:
        return index_batch(batch, slice(0, 10))
    firsts = [int((first_labels == label).nonzero()[0]) for label in labels[:: -(-len(labels) // 10)]]
    return index_batch(batch, torch.tensor(firsts, device=batch.labels.device))


def index_fixed(batch: Batch, index: Tensor, generator: Generator, posed: bool = False) -> Batch:
    """The images at ``index`` (B,) of a fixed set; for :class:`TrainingSet`."""
    return index_batch(batch, index)


def without_pose(split: LabelledImages) -> Batch:
    """A batch of images (B, C, H, W), of which bytes are brought to [0, 1], with unknown poses."""
    images, labels = split
    if images.dtype == torch.uint8:
        images = images.float().div_(255)
    return Batch(images, labels, unknown_pose(len(labels), images.device))
