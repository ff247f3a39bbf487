"""The training loop."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from stn_experiments.data.datasets import Splits
from stn_experiments.errors import TrainingFailed, UserError
from stn_experiments.models.classifier import Classifier
from stn_experiments.ranges import Count, Range
from stn_experiments.training.evaluation import evaluate

Device = Literal["auto", "cpu", "cuda", "mps"]
logger = logging.getLogger(__name__)

LOOK_EVERY = 50
BAR: dict[str, Any] = {
    "unit": " images",
    "unit_scale": True,
    "leave": False,
    "disable": None,
    "dynamic_ncols": True,
}
"""The progress bar, which hides itself where there is no terminal."""


@dataclass(frozen=True)
class Trainer:
    """How long and on what to train.

    Args:
        epochs: number of epochs; validation, a panel and a checkpoint come after each.
        batch_size: images per step.
        images_per_epoch: images that make an epoch; null is the whole training set. What is left over
            after whole batches is passed over, in a new order every epoch.
        localisation_lr: factor on the learning rate for the localisation network.
        localisation_clip: largest norm of the localisation network's gradient; null does not clip.
        device: ``auto`` takes CUDA or MPS where there is one.
    """

    epochs: Count
    batch_size: Count
    images_per_epoch: Count | None = None
    localisation_lr: Annotated[float, Range(0, 1000)] = 1.0
    localisation_clip: Annotated[float, Range(1e-6)] | None = None
    device: Device = "auto"

    def steps_per_epoch(self, train_size: int) -> int:
        """Whole batches in an epoch.

        Raises:
            UserError: there is not one.
        """
        images = min(self.images_per_epoch or train_size, train_size)
        if images < self.batch_size:
            raise UserError(
                f"batch_size must be at most the {images} training images of an epoch, got {self.batch_size}"
            )
        return images // self.batch_size


class Training(NamedTuple):
    """All that changes while training, and that a checkpoint holds."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    generator: Generator

    def state(self) -> dict[str, Any]:
        """The state of each part."""
        parts = {name: part.state_dict() for name, part in self._asdict().items() if name != "generator"}
        return {**parts, "generator": self.generator.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        """Put every part back into a state."""
        for name, part in self._asdict().items():
            part.set_state(state[name]) if name == "generator" else part.load_state_dict(state[name])


def fit(
    training: Training, splits: Splits, trainer: Trainer, first_epoch: int = 1
) -> Iterator[dict[str, Any]]:
    """Train from ``first_epoch`` on; after each epoch yield its number and its metrics.

    Errors are in percent, ``seconds`` are those of training alone, ``localisation_gradient`` is the mean norm
    of the localisation network's gradient before clipping.

    Raises:
        TrainingFailed: the loss of a step, which the message names, is not finite.
    """
    for epoch in range(first_epoch, trainer.epochs + 1):
        start = time.perf_counter()
        metrics = train_epoch(training, splits, trainer, epoch)
        seconds = time.perf_counter() - start
        valid = {f"val_{name}": value for name, value in evaluate(training.model, splits.valid).items()}
        yield {"epoch": epoch, **metrics, **valid, "seconds": seconds}


def train_epoch(training: Training, splits: Splits, trainer: Trainer, epoch: int) -> dict[str, float]:
    """One epoch of training; see :func:`fit`."""
    model, optimizer, scheduler, generator = training
    localisation = model.localisation_parameters()
    steps, size = trainer.steps_per_epoch(splits.train.size), trainer.batch_size
    losses = torch.zeros(steps, device=generator.device)
    wrong, norms = torch.zeros_like(losses), torch.zeros_like(losses)
    model.train()
    with tqdm(total=steps * size, desc=f"epoch {epoch}/{trainer.epochs}", **BAR) as bar:
        for step, batch in enumerate(splits.train.batches(size, steps, generator)):
            prediction = model(batch.images)
            loss = F.cross_entropy(prediction.logits, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            if localisation:
                norms[step] = nn.utils.clip_grad_norm_(localisation, trainer.localisation_clip or math.inf)
            optimizer.step()
            scheduler.step()
            if localisation and epoch == 1 and step == 0:
                warn_without_gradient(norms[0])
            losses[step] = loss.detach()
            wrong[step] = (prediction.logits.argmax(1) != batch.labels).float().mean()
            bar.update(size)
            if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
                # The host waits for the device here, and nowhere else in the loop but after its first step.
                stop_unless_finite(losses[: step + 1], first_step=(epoch - 1) * steps + 1)
                so_far = losses[: step + 1].mean().item(), 100 * wrong[: step + 1].mean().item()
                bar.set_postfix_str(f"loss {so_far[0]:.4f}, error {so_far[1]:.2f} %")
    metrics = {"train_loss": so_far[0], "train_error": so_far[1], "lr": optimizer.param_groups[0]["lr"]}
    if localisation:
        metrics |= {"localisation_lr": optimizer.param_groups[1]["lr"]}
        metrics |= {"localisation_gradient": norms.mean().item()}
    return {**metrics, "images": steps * size}


def warn_without_gradient(norm: Tensor) -> None:
    """Say so if the first gradient of the localisation network, of that norm, is zero: it will never move."""
    if norm == 0:
        logger.warning(
            "warning: the localisation network has no gradient at step 1, so the transformer will not move; "
            "theta must not be behind a function that saturates, nor the sampler be stn.interpolation=nearest"
        )


def stop_unless_finite(losses: Tensor, first_step: int) -> None:
    """Check the ``losses`` (N,) of consecutive steps, the first of which is step ``first_step`` of the run.

    Raises:
        TrainingFailed: one of them is not finite.
    """
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0])
        raise TrainingFailed(
            f"training stopped: the loss of step {first_step + step} is {losses[step].item()}. "
            "A lower optimizer.lr or trainer.localisation_lr, or trainer.localisation_clip=1, usually helps"
        )
