"""The training loop."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.common.ranges import Count, Range
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.data.distortions import Batch, index_batch
from stn_experiments.models.classifier import Classifier
from stn_experiments.training.cuda_graphs import Recorder
from stn_experiments.training.health import first_step_warning
from stn_experiments.training.reinforce import policy_loss

Device = Literal["auto", "cpu", "cuda", "mps"]
logger = logging.getLogger(__name__)

LOOK_EVERY = 50
DRAWN_AT_ONCE = 512
"""Images that are drawn at once, if they are several batches: that takes half as long as one by one."""
BAR: dict[str, Any] = {
    "unit": " images",
    "unit_scale": True,
    "leave": False,
    "disable": None,
    "dynamic_ncols": True,
}
"""The progress bar, which hides itself where there is no terminal."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long and on what to train.

    Args:
        epochs: number of epochs; validation, a panel and a checkpoint come after each.
        batch_size: images per step.
        images_per_epoch: images that make an epoch; null is the whole training set. What is left over
            after whole batches is passed over, in a new order every epoch.
        localisation_lr: factor on the learning rate for the localisation network.
        localisation_clip: largest norm of the localisation network's gradient; null does not clip.
        precision: of the training steps' convolutions and products; weights, theta and all that is
            evaluated are float32 in any case.
        deterministic: on CUDA use only kernels that give the same bits every time; a CPU always does.
        cuda_graph: on CUDA record a step once as a graph and replay it, if the optimiser is a fused one; many
            times faster, but not for networks that wait for the device, to branch on what they compute.
        device: ``auto`` takes CUDA or MPS where there is one.
    """

    epochs: Count
    batch_size: Annotated[int, Range(2)]  # batch normalisation takes two values or more
    images_per_epoch: Count | None = None
    localisation_lr: Annotated[float, Range(0, 1000)] = 1.0
    localisation_clip: Annotated[float, Range(1e-6)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = False
    cuda_graph: bool = True
    device: Device = "auto"

    def autocast(self, device: torch.device) -> torch.autocast:
        """Within it a network computes in ``precision``."""
        return torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16")

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


@dataclass
class Progress:
    """How far training is: ``done`` steps of epoch ``epoch``, which took ``seconds``.

    ``steps`` (4, N) has a column for each of the epoch's N steps, of those done so far: the loss, the share
    of wrong predictions, and the norms of the localisation network's and of all other gradients.
    """

    steps: Tensor
    epoch: int = 1
    done: int = 0
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Number of steps done in the whole run."""
        return (self.epoch - 1) * self.steps.shape[1] + self.done

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.done, self.seconds = self.epoch + 1, 0, 0.0


class Training(NamedTuple):
    """All that changes while training, and that a checkpoint holds; the ``seed`` decides all that is random.

    The order of each epoch, each lot of batches that are drawn at once and what the model draws in each step
    have a stream of random numbers of their own, see :func:`stream`. So nothing need be remembered of
    ``generator``, and any step can be done again alone.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    progress: Progress
    generator: Generator
    recorder: Recorder
    seed: int

    def state(self) -> dict[str, Any]:
        """The state of each part, the same on every device."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scheduler")}
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        parts["scheduler"]["_last_lr"] = rates
        for group, rate in zip(parts["optimizer"]["param_groups"], rates, strict=True):
            group["lr"] = rate
        return {**parts, "progress": vars(self.progress), "seed": self.seed}

    def load(self, state: Mapping[str, Any]) -> None:
        """Put every part back into a state."""
        for name in ("model", "optimizer", "scheduler"):
            getattr(self, name).load_state_dict(state[name])
        self.recorder.adopt(self.optimizer)
        for field in fields(Progress):
            value = state["progress"][field.name]
            if field.name == "steps" and value.shape != self.progress.steps.shape:
                raise ValueError(
                    f"it has {value.shape[1]} steps in an epoch, not {self.progress.steps.shape[1]}"
                )
            here = value.to(self.generator.device) if field.name == "steps" else value
            setattr(self.progress, field.name, here)


def derive_seed(seed: int, kind: Literal["epoch", "lot", "step"], number: int) -> int:
    """The seed of the random numbers of an epoch's order, of the batches drawn at once from a step on, or of
    what the model draws in a step, in [0, 2^63).
    """
    digest = hashlib.sha256(f"{seed} {kind} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def train_epoch(
    training: Training,
    train: TrainingSet,
    trainer: TrainerConfig,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train to the end of the epoch that ``training`` is in, from where it is, and give the epoch's metrics.

    Errors are in percent, ``seconds`` are those of training alone, the gradients are mean norms before
    clipping. ``after_step`` is called between steps, where all of ``training`` is as a checkpoint wants it.

    Raises:
        TrainingFailed: the loss or a gradient of a step, which the message names, is not finite.
    """
    progress, size = training.progress, trainer.batch_size
    count = progress.steps.shape[1]
    batches = epoch_batches(training, train, size)
    training.model.train()
    label = f"epoch {progress.epoch}/{trainer.epochs}"
    with tqdm(desc=label, total=count * size, initial=progress.done * size, **BAR) as bar:
        while progress.done < count:
            start = time.perf_counter()
            progress.steps[:, progress.done] = train_step(training, next(batches), trainer)
            progress.done += 1
            bar.update(size)
            if progress.done % LOOK_EVERY == 0 or progress.done == count or progress.step == 1:
                # The host waits for the device here, and nowhere else in the loop.
                stop_unless_finite(training)
                tell_of_the_first_step(training)
                loss, wrong = progress.steps[:2, : progress.done].mean(1).tolist()
                bar.set_postfix_str(f"loss {loss:.4f}, error {100 * wrong:.2f} %")
            progress.seconds += time.perf_counter() - start
            after_step()
    return epoch_metrics(training, size)


def epoch_batches(training: Training, train: TrainingSet, size: int) -> Iterator[Batch]:
    """The batches of ``size`` images of the epoch that ``training`` is in, from its next step on."""
    progress, generator = training.progress, training.generator
    order = train.order(generator.manual_seed(derive_seed(training.seed, "epoch", progress.epoch)))
    many, skipped = batches_per_chunk(size), progress.done
    lots = order[: progress.steps.shape[1] * size].split(many * size)
    for number, lot in enumerate(lots[skipped // many :], skipped // many):
        first = progress.step - progress.done + number * many + 1
        generator.manual_seed(derive_seed(training.seed, "lot", first))
        drawn = training.recorder("draw", lambda index: train.draw(index, generator), lot)
        for place in range(max(0, skipped - number * many), len(lot) // size):
            yield index_batch(drawn, slice(place * size, (place + 1) * size))


def batches_per_chunk(size: int) -> int:
    """How many batches of ``size`` images are drawn at once, from one stream of random numbers."""
    return max(1, DRAWN_AT_ONCE // size)


def train_step(training: Training, batch: Batch, trainer: TrainerConfig) -> Tensor:
    """One step on one batch; gives a column (4,) of :class:`Progress`'s ``steps``."""
    training.generator.manual_seed(derive_seed(training.seed, "step", training.progress.step + 1))
    tensors = [part for part in (batch.images, batch.labels, batch.question) if part is not None]
    column = training.recorder("learn", partial(learn, training, trainer), *tensors)
    training.scheduler.step()
    return column


def learn(
    training: Training, trainer: TrainerConfig, images: Tensor, labels: Tensor, question: Tensor | None = None
) -> Tensor:
    """What :func:`train_step` does but for its learning rates and seeds, which are the host's."""
    with trainer.autocast(images.device):
        prediction = training.model(images, question, training.generator)
    loss = F.cross_entropy(prediction.logits.float(), labels)
    training.optimizer.zero_grad()
    (loss + policy_loss(prediction, labels)).backward()
    network, *localisation = (group["params"] for group in training.optimizer.param_groups)
    norm, localisation_norm = gradient_norm(network), torch.zeros_like(loss)
    for parameters in localisation:
        localisation_norm = gradient_norm(parameters)
        nn.utils.clip_grads_with_norm_(parameters, trainer.localisation_clip or math.inf, localisation_norm)
    training.optimizer.step()
    wrong = (prediction.logits.argmax(1) != labels).float().mean()
    return torch.stack([loss.detach(), wrong, localisation_norm, norm])


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm () of all gradients of ``parameters`` together."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def epoch_metrics(training: Training, batch_size: int) -> dict[str, float]:
    """The metrics of an epoch whose steps are done."""
    progress, groups = training.progress, training.optimizer.param_groups
    loss, wrong, localisation_norm, norm = progress.steps.mean(1).tolist()
    rates = [float(group["lr"]) for group in groups]
    metrics = {"train_loss": loss, "train_error": 100 * wrong, "gradient": norm, "lr": rates[0]}
    if len(groups) > 1:
        metrics |= {"localisation_gradient": localisation_norm, "localisation_lr": rates[1]}
    return {**metrics, "images": progress.steps.shape[1] * batch_size, "seconds": progress.seconds}


def stop_unless_finite(training: Training) -> None:
    """Check the steps done so far in the epoch.

    Raises:
        TrainingFailed: the loss or a gradient of one of them is not finite.
    """
    progress = training.progress
    steps = progress.steps[:, : progress.done].cpu()
    finite = steps.isfinite()
    if not finite.all():
        column = int((~finite.all(0)).nonzero()[0])
        step = progress.step - progress.done + column + 1
        what = "gradient" if finite[0, column] else "loss"
        raise TrainingFailed(
            f"training stopped: the {what} of step {step} is not finite; run.replay={step} shows its batch. "
            "A lower optimizer.lr or trainer.localisation_lr, or trainer.localisation_clip=1, usually helps"
        )


def tell_of_the_first_step(training: Training) -> None:
    """Warn after the run's first step if its transformer cannot move."""
    is_first = training.progress.step == 1 and len(training.optimizer.param_groups) > 1
    if is_first and (warning := first_step_warning(training.progress.steps[2, 0].item())):
        logger.warning(warning)
