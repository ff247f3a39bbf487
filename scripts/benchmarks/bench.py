"""What all questions share: the config, the digits, and how long to measure."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.measure import Job, Values, interleaved, repeat
from stn_experiments.config.build import build
from stn_experiments.data.batch import Batch, Task, to_device
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.data.mnist import Digits, Mnist, load_mnist
from stn_experiments.data.splits import TrainingSet
from stn_experiments.runs.experiment import find_device


@dataclass(frozen=True)
class Bench:
    """How to measure: ``compose`` makes a config from overrides, of which the user gave ``overrides``.

    There are ``repeats`` measurements of each number, each of about so many ``seconds``.
    """

    compose: Callable[[Sequence[str]], dict[str, Any]]
    overrides: Sequence[str] = ()
    repeats: int = 5
    seconds: float = 1.0

    def config(self, *choices: str) -> dict[str, Any]:
        """The config of choices that the user does not override, and the user's overrides."""
        taken = {override.partition("=")[0] for override in self.overrides}
        own = [choice for choice in choices if choice.partition("=")[0] not in taken]
        return self.compose([*own, *self.overrides])

    def configs(self, group: str, names: Sequence[str], *choices: str) -> list[dict[str, Any]]:
        """The config of each choice in a group, or of the user's alone."""
        if any(override.startswith(f"{group}=") for override in self.overrides):
            return [self.config(*choices)]
        return [self.config(*choices, f"{group}={name}") for name in names]

    @cached_property
    def device(self) -> torch.device:
        """The device that is trained on."""
        return find_device(self.config()["trainer"]["device"])

    @property
    def workers(self) -> int:
        """The workers of each DataLoader, one for each core that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def mnist(self) -> Mnist:
        """The digits, on the CPU."""
        return load_mnist(self.config()["data"].get("root"))

    @cached_property
    def digits(self) -> Digits:
        """The training digits on the device."""
        return self._on_device(self.mnist.train)

    def measure(self, jobs: Mapping[str, Job | None]) -> dict[str, Values]:
        """See :func:`measure.interleaved`."""
        return interleaved(jobs, self.repeats, self.seconds, self.device)

    def train_set(self, task: Task, digits: Digits | None = None) -> TrainingSet:
        """Digits on the device, by default all training digits, under a distortion; without poses."""
        digits = digits or self.digits
        return TrainingSet(len(digits.labels), partial(task.draw, digits, posed=False))

    def draws(self, draw: Callable[[Tensor], object], size: int, images: int) -> Job:
        """A job that draws so many ``images`` at once, at random indices below ``size``."""
        return repeat(lambda: draw(torch.randint(size, (images,), device=self.device)))

    def batches(self, task: Task, count: int, size: int) -> list[Batch]:
        """Ready-made batches."""
        generator, train = Generator(self.device).manual_seed(0), self.train_set(task)
        return [train.draw(part, generator) for part in train.order(generator).split(size)[:count]]

    def held_out(self, task: Task, count: int) -> tuple[Digits, TrainingSet, Batch]:
        """All but ``count`` training digits, on the CPU and as a training set; the others as a fixed set."""
        images, labels = self.mnist.train
        raw, rest = Digits(images[:-count], labels[:-count]), Digits(images[-count:], labels[-count:])
        fixed = task.draw(rest, torch.arange(count), Generator().manual_seed(0))
        return raw, self.train_set(task, self._on_device(raw)), to_device(fixed, self.device)

    def _on_device(self, digits: Digits) -> Digits:
        return Digits(*(part.to(self.device) for part in digits))


def task_of(config: Mapping[str, Any]) -> Task:
    """The distortion of a config's data."""
    return build(config["data"], "data", DistortedMnist).distortion
