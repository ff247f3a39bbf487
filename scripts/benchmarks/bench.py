"""What all questions share: the config, the digits, and how long to measure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator

from benchmarks.measure import Job, Times, interleaved
from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import Batch, Task, to_device
from stn_experiments.data.datasets import DistortedMnist, TrainingSet
from stn_experiments.data.mnist import Digits, Mnist, load_mnist
from stn_experiments.runs.experiment import Experiment, find_device

QUICK = ("trainer.batch_size=16", "trainer.epochs=1", "trainer.images_per_epoch=320")
"""Overrides for a smoke test."""


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Args:
        compose: makes a config from a list of overrides.
        overrides: those of the user.
        repeats: measurements of each number.
        seconds: length of each measurement.
        epochs: largest number of epochs of the tutorial's loop.
        workers: of each DataLoader.
        quick: a smoke test with little work and synthetic digits.
    """

    compose: Callable[[Sequence[str]], dict[str, Any]]
    overrides: Sequence[str] = ()
    repeats: int = 5
    seconds: float = 1.0
    epochs: int = 12
    workers: int = 2
    quick: bool = False

    def config(self, *choices: str, last: Sequence[str] = ()) -> dict[str, Any]:
        """The config of choices that the user does not override, the user's overrides, and then ``last``."""
        taken = {override.partition("=")[0] for override in self.overrides}
        choices = (*choices, *(QUICK if self.quick else ()))
        own = [choice for choice in choices if choice.partition("=")[0] not in taken]
        return self.compose([*own, *self.overrides, *last])

    def configs(self, group: str, names: Sequence[str], *choices: str) -> list[dict[str, Any]]:
        """The config of each choice in a group, or of the user's alone."""
        if any(override.startswith(f"{group}=") for override in self.overrides):
            return [self.config(*choices)]
        return [self.config(*choices, f"{group}={name}") for name in names]

    @cached_property
    def device(self) -> torch.device:
        """The device that is trained on."""
        return find_device(self.config()["trainer"]["device"])

    @cached_property
    def mnist(self) -> Mnist:
        """The digits, on the CPU."""
        return synthetic() if self.quick else load_mnist(self.config()["data"].get("root"))

    @cached_property
    def digits(self) -> Digits:
        """The training digits on the device."""
        return Digits(*(part.to(self.device) for part in self.mnist.train))

    def measure(self, jobs: Mapping[str, Job | str]) -> dict[str, Times | str]:
        """See :func:`measure.interleaved`."""
        return interleaved(jobs, self.repeats, self.seconds, self.device)

    def train_set(self, task: Task) -> TrainingSet:
        """The training digits under a distortion, as ``DistortedMnist`` has them."""
        return TrainingSet(len(self.digits.labels), partial(task.draw, self.digits, posed=False))

    def batches(self, task: Task, count: int, size: int) -> list[Batch]:
        """Ready-made batches."""
        generator, train = Generator(self.device).manual_seed(0), self.train_set(task)
        parts = train.order(generator)[: count * size].split(size)
        return [train.draw(part, generator) for part in parts]

    def held_out(self, task: Task, count: int) -> tuple[Digits, TrainingSet, Batch]:
        """All but ``count`` training digits, on the CPU and as a training set; the others as a fixed set."""
        images, labels = self.mnist.train
        count = min(count, len(labels) // 2)
        raw, rest = Digits(images[:-count], labels[:-count]), Digits(images[-count:], labels[-count:])
        digits = Digits(*(part.to(self.device) for part in raw))
        fixed = task.draw(rest, torch.arange(count), Generator().manual_seed(0))
        return (
            raw,
            TrainingSet(len(raw.labels), partial(task.draw, digits, posed=False)),
            to_device(fixed, self.device),
        )


def task_of(experiment: Experiment) -> Task:
    """The distortion of an experiment.

    Raises:
        UserError: its data have none.
    """
    if not isinstance(experiment.data, DistortedMnist):
        raise UserError("data must be distorted digits, got a file")
    return experiment.data.distortion


def synthetic(count: int = 1280) -> Mnist:
    """Blobs instead of digits: one shape for each class, slightly different every time."""
    generator = Generator().manual_seed(0)
    shapes = torch.rand(10, 1, 5, 5, generator=generator).repeat(count // 10, 1, 1, 1)
    coarse = (shapes + 0.1 * torch.rand(shapes.shape, generator=generator)) / 1.1
    ink = F.pad(F.interpolate(coarse, size=(20, 20), mode="bilinear")[:, 0], (4, 4, 4, 4))
    digits = Digits((255 * ink).byte(), torch.arange(len(ink)) % 10)
    return Mnist(digits, digits)
