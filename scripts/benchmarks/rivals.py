"""The same distortions by other libraries: torchvision by sample in a DataLoader, kornia by batch.

Or the nearest ones: neither places digits by whole pixels, and torchvision's elastic transform smooths a
random field instead of bending a thin plate spline. Neither returns poses.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import InterpolationMode, v2

from benchmarks.measure import Job
from stn_experiments.data.batch import Task
from stn_experiments.data.canvas import SIDE
from stn_experiments.data.distortions import Addition, Distortion, Mixed
from stn_experiments.data.mnist import Digits

NO_BLUR = "torchvision has no motion blur"
NO_CLUTTER = "kornia pastes no crops of other images"


class NotSupported(Exception):
    """A library has no such distortion."""


class Samples(Dataset[tuple[Tensor, int]]):
    """Digits one by one, as in torchvision's MNIST, each through ``transform``.

    Args:
        digits: on the CPU.
        transform: from a PIL image to a tensor.
        pairs: put another digit beside each, and add the labels.
    """

    def __init__(self, digits: Digits, transform: Callable[[Any], Tensor], pairs: bool = False) -> None:
        self.digits = digits
        self.transform = transform
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.digits.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._one(index)
        if self.pairs:
            other, more = self._one(random.randrange(len(self)))
            image, label = torch.cat([image, other]), label + more
        return image, label

    def _one(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.digits.images[index].numpy())
        return self.transform(picture), int(self.digits.labels[index])


class CountedBatches(Sampler[list[int]]):
    """``count`` batches in a new order at each pass; ``count`` may change between passes."""

    def __init__(self, size: int, batch: int) -> None:
        self.size = size
        self.batch = batch
        self.count = 1

    def __iter__(self) -> Iterator[list[int]]:
        batches = torch.randperm(self.size).split(self.batch)
        whole = max(1, self.size // self.batch)
        return (batches[number % whole].tolist() for number in range(self.count))

    def __len__(self) -> int:
        return self.count


class Loader(NamedTuple):
    """A DataLoader whose sampler sets the length of a pass; its workers stay alive between passes."""

    batches: DataLoader[Any]
    sampler: CountedBatches

    def passes(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass of ``count`` batches."""
        self.sampler.count = count
        return iter(self.batches)

    def job(self, device: torch.device) -> Job:
        """Batches onto the device."""

        def load(count: int) -> None:
            for images, labels in self.passes(count):
                images.to(device), labels.to(device)

        return load


def loader(samples: Samples, batch: int, workers: int) -> Loader:
    """A DataLoader over ``samples``."""
    sampler = CountedBatches(len(samples), batch)
    return Loader(
        DataLoader(samples, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0),
        sampler,
    )


def torchvision_samples(task: Task, digits: Digits) -> Samples:
    """The digits under torchvision's equivalent of ``task``.

    Raises:
        NotSupported: it has none.
    """
    if isinstance(task, Addition):
        return Samples(digits, _by_sample(task.each, digits), pairs=True)
    if isinstance(task, Mixed):
        return Samples(digits, v2.RandomChoice([_by_sample(kind, digits) for kind in task.kinds.values()]))
    assert isinstance(task, Distortion)
    return Samples(digits, _by_sample(task, digits))


def kornia_draw(task: Task, digits: Digits) -> Callable[[Tensor], Tensor]:
    """Images of the digits at an index under kornia's equivalent of ``task``.

    Raises:
        NotSupported: it has none, or is not installed.
    """
    if isinstance(task, Addition):
        one = kornia_draw(task.each, digits)
        return lambda index: torch.cat([one(index), one(torch.randint_like(index, len(digits.labels)))], 1)
    if isinstance(task, Mixed):
        raise NotSupported(NO_CLUTTER)
    assert isinstance(task, Distortion)
    chain = torch.nn.Sequential(*_by_batch(task))
    left, right, top, bottom = _padding(task)
    pad = (left, right, top, bottom)

    def draw(index: Tensor) -> Tensor:
        images = digits.images[index][:, None].float().div_(255)
        images = chain(torch.nn.functional.pad(images, pad)) * task.contrast
        if task.noise:
            images = (images + task.noise * torch.randn_like(images)).clamp_(0, 1)
        return images

    return draw


def _by_sample(task: Distortion, digits: Digits) -> v2.Compose:
    if task.blur > 1:
        raise NotSupported(NO_BLUR)
    left, right, top, bottom = _padding(task)
    bilinear = {"interpolation": InterpolationMode.BILINEAR}
    chain: list[Callable[[Any], Any]] = [v2.Pad([left, top, right, bottom])] if left or top else []
    if task.place == "centre" and task.scale == (1, 1) and task.angle:
        chain.append(v2.RandomRotation(task.angle, **bilinear))
    elif moves := _moves(task):
        chain.append(v2.RandomAffine(**moves, **bilinear))
    if task.corners:
        chain.append(v2.RandomPerspective(2 * task.corners / SIDE, p=1, **bilinear))
    if task.bend:
        chain.append(v2.ElasticTransform(alpha=30.0, sigma=4.0, **bilinear))
    chain += [v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
    if task.clutter:
        chain.append(Clutter(digits, task.clutter, task.clutter_size))
    if task.contrast != 1:
        chain.append(v2.Lambda(lambda image: image * task.contrast))
    if task.noise:
        chain.append(v2.GaussianNoise(sigma=task.noise))
    return v2.Compose(chain)


class Clutter:
    """Crops of other digits on one image (1, H, W), written for one sample."""

    def __init__(self, digits: Digits, count: int, side: int) -> None:
        self.digits = digits
        self.count = count
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        side, (height, width) = self.side, image.shape[1:]
        for _ in range(self.count):
            other = self.digits.images[random.randrange(len(self.digits.labels))]
            y, x = random.randint(0, SIDE - side), random.randint(0, SIDE - side)
            top, left = random.randint(0, height - side), random.randint(0, width - side)
            image[0, top : top + side, left : left + side] += other[y : y + side, x : x + side] / 255
        return image.clamp_(max=1)


def _by_batch(task: Distortion) -> list[torch.nn.Module]:
    if task.clutter:
        raise NotSupported(NO_CLUTTER)
    try:
        import kornia.augmentation as kornia
    except ImportError:
        raise NotSupported("kornia is not installed") from None
    chain: list[torch.nn.Module] = []
    if task.place == "centre" and task.scale == (1, 1) and task.angle:
        chain.append(kornia.RandomRotation(task.angle, p=1.0))
    elif moves := _moves(task):
        chain.append(kornia.RandomAffine(**moves, p=1.0))
    if task.corners:
        chain.append(kornia.RandomPerspective(2 * task.corners / SIDE, p=1.0))
    if task.bend:
        chain.append(kornia.RandomThinPlateSpline(2 * task.bend / SIDE, p=1.0))
    if task.blur > 1:
        length = int(task.blur) // 2 * 2 + 1
        chain.append(kornia.RandomMotionBlur(length, (task.blur_angle, task.blur_angle), 0.0, p=1.0))
    return chain


def _moves(task: Distortion) -> dict[str, Any]:
    """The arguments of RandomAffine, which have the same names in both libraries; empty if nothing moves."""
    moves: dict[str, Any] = {}
    if task.place != "centre":
        height, width = task.size
        moves["translate"] = ((width - SIDE) / 2 / width, (height - SIDE) / 2 / height)
    if task.scale != (1, 1):
        moves["scale"] = task.scale
    if task.shear:
        moves["shear"] = torch.rad2deg(torch.tensor(task.shear).atan()).item()
    return {"degrees": task.angle, **moves} if moves or task.angle else {}


def _padding(task: Distortion) -> tuple[int, int, int, int]:
    """From a digit to the canvas: left, right, top, bottom."""
    height, width = (side - SIDE for side in task.size)
    return width // 2, width - width // 2, height // 2, height - height // 2
