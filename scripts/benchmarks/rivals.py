"""The same distortions by other libraries: torchvision by sample in a DataLoader, kornia by batch.

Or the nearest ones: neither places digits by whole pixels, and torchvision's elastic transform smooths a
random field instead of bending a thin plate spline. Neither returns poses.
"""

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from benchmarks.measure import Job
from stn_experiments.data.batch import Task
from stn_experiments.data.canvas import SIDE
from stn_experiments.data.distortions import Addition, Distortion, Mixed
from stn_experiments.data.mnist import Digits


class Samples(Dataset[tuple[Tensor, int]]):
    """Digits one by one, as in torchvision's MNIST; with ``pairs`` there is another digit beside each."""

    def __init__(self, digits: Digits, transform: Callable[[Any], Tensor], pairs: bool = False) -> None:
        self.digits = digits
        self.transform = transform
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.digits.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picked = [index, *([random.randrange(len(self))] if self.pairs else [])]
        images = [self.transform(Image.fromarray(self.digits.images[place].numpy())) for place in picked]
        return torch.cat(images), sum(int(self.digits.labels[place]) for place in picked)


class Loader:
    """A DataLoader whose passes have any length, and whose workers stay alive between passes."""

    def __init__(self, samples: Samples | ImageFolder, batch: int, workers: int) -> None:
        self.size, self.batch = len(samples), batch
        self.order: list[list[int]] = [[0]]
        self.batches: DataLoader[Any] = DataLoader(
            samples, batch_sampler=self.order, num_workers=workers, persistent_workers=workers > 0
        )

    def passes(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A pass of ``count`` batches in a new order."""
        self.shuffle(count)
        return iter(self.batches)

    def shuffle(self, count: int) -> None:
        """Make the next pass ``count`` batches long; whole epochs come one after the other."""
        whole = self.size // self.batch * self.batch
        epochs = -(-count * self.batch // whole)
        index = torch.cat([torch.randperm(self.size)[:whole] for _ in range(epochs)])
        self.order[:] = index.view(-1, self.batch)[:count].tolist()


def reads(loader: Loader, batches: int, device: torch.device) -> Job:
    """A job whose unit is to take so many batches to a device."""

    def read(units: int) -> None:
        for images, labels in loader.passes(batches * units):
            images.to(device), labels.to(device)

    return read


def torchvision_samples(task: Task, digits: Digits) -> Samples | None:
    """The digits under torchvision's equivalent of a distortion; it has no motion blur."""
    kinds = _kinds(task)
    if any(kind.blur > 1 for kind in kinds):
        return None
    transforms = [_by_sample(kind, digits) for kind in kinds]
    transform = v2.RandomChoice(transforms) if isinstance(task, Mixed) else transforms[0]
    return Samples(digits, transform, pairs=isinstance(task, Addition))


def kornia_draw(task: Task, digits: Digits) -> Callable[[Tensor], Tensor] | None:
    """Images of the digits at an index under kornia's equivalent; it pastes no crops of other images."""
    kinds = _kinds(task)
    if isinstance(task, Mixed) or any(kind.clutter for kind in kinds) or find_spec("kornia") is None:
        return None
    transform = _by_batch(kinds[0])

    def draw(index: Tensor) -> Tensor:
        return transform(digits.images[index][:, None].float().div_(255))

    if isinstance(task, Addition):
        return lambda index: torch.cat([draw(index), draw(torch.randint_like(index, len(digits.labels)))], 1)
    return draw


def _kinds(task: Task) -> list[Distortion]:
    if isinstance(task, Mixed):
        return list(task.kinds.values())
    return [cast(Distortion, task.each if isinstance(task, Addition) else task)]


def _by_sample(task: Distortion, digits: Digits) -> v2.Compose:
    bilinear = {"interpolation": InterpolationMode.BILINEAR}
    chain = [getattr(v2, name)(**settings, **bilinear) for name, settings in _warps(task)]
    if task.bend:
        chain.append(v2.ElasticTransform(alpha=30.0, sigma=4.0, **bilinear))
    chain += [v2.PILToTensor(), v2.ToDtype(torch.float, scale=True)]
    if task.clutter:
        chain.append(v2.Lambda(partial(_clutter, digits=digits, count=task.clutter, side=task.clutter_size)))
    return v2.Compose([*_pad(task), *chain, *_fade(task)])


def _by_batch(task: Distortion) -> nn.Sequential:
    import kornia.augmentation as kornia

    chain = [getattr(kornia, name)(**{"p": 1.0, **settings}) for name, settings in _warps(task)]
    if task.bend:
        chain.append(kornia.RandomThinPlateSpline(2 * task.bend / SIDE, p=1.0))
    if task.blur > 1:
        length = int(task.blur) // 2 * 2 + 1
        chain.append(kornia.RandomMotionBlur(length, (task.blur_angle, task.blur_angle), 0.0, p=1.0))
    return nn.Sequential(*_pad(task), *chain, *_fade(task))


def _pad(task: Distortion) -> list[nn.Module]:
    """From a digit to the canvas."""
    height, width = (side - SIDE for side in task.size)
    left, top = width // 2, height // 2
    return [v2.Pad([left, top, width - left, height - top])] if width or height else []


def _warps(task: Distortion) -> list[tuple[str, dict[str, Any]]]:
    """Transforms that have the same names and arguments in both libraries."""
    height, width = task.size
    moves: dict[str, Any] = {}
    if task.place != "centre":
        moves["translate"] = ((width - SIDE) / 2 / width, (height - SIDE) / 2 / height)
    if task.scale != (1, 1):
        moves["scale"] = task.scale
    if task.shear:
        moves["shear"] = math.degrees(math.atan(task.shear))
    warps: list[tuple[str, dict[str, Any]]] = []
    if moves:
        warps.append(("RandomAffine", {"degrees": task.angle, **moves}))
    elif task.angle:
        warps.append(("RandomRotation", {"degrees": task.angle}))
    if task.corners:
        warps.append(("RandomPerspective", {"distortion_scale": 2 * task.corners / SIDE, "p": 1.0}))
    return warps


def _fade(task: Distortion) -> list[nn.Module]:
    """Contrast and noise."""
    chain: list[nn.Module] = []
    if task.contrast != 1:
        chain.append(v2.Lambda(lambda image: image * task.contrast))
    if task.noise:
        chain.append(v2.GaussianNoise(sigma=task.noise))
    return chain


def _clutter(image: Tensor, digits: Digits, count: int, side: int) -> Tensor:
    """Add crops of other digits to one image (1, H, W), as one writes it for one sample."""
    height, width = image.shape[1:]
    for _ in range(count):
        other = digits.images[random.randrange(len(digits.labels))]
        y, x = random.randint(0, SIDE - side), random.randint(0, SIDE - side)
        top, left = random.randint(0, height - side), random.randint(0, width - side)
        image[0, top : top + side, left : left + side] += other[y : y + side, x : x + side] / 255
    return image.clamp_(max=1)
