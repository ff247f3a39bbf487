"""The training loop: ``Trainer`` holds everything that changes while a model trains."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from stn_experiments.common.errors import NotFinite
from stn_experiments.data.batch import Batch, index_batch
from stn_experiments.data.splits import TrainingSet
from stn_experiments.models.classifier import INPUT, LOCALISATION, NETWORK, Classifier
from stn_experiments.training.average import WeightAverage, estimate_batch_statistics
from stn_experiments.training.config import TrainerConfig
from stn_experiments.training.cuda_graphs import CudaGraphs
from stn_experiments.training.health import FIRST_STEP_WARNING
from stn_experiments.training.losses import batch_consistency, main_loss, policy_loss
from stn_experiments.training.pretrain import pretrain

logger = logging.getLogger(__name__)

CHECK_EVERY = 50
"""Steps between two looks at the metrics, for which the host waits for the device."""
IMAGES_PER_CHUNK = 512
"""Images that are drawn together, if a batch is smaller: this takes half as long as batch by batch."""
PARTS = ("model", "optimizer", "scheduler", "average")
"""What a trainer's state contains, beside its progress."""
STATISTICS_IMAGES = 2048
"""Training images of which batch statistics are estimated for evaluation, if an epoch has as many."""


class StepMetrics(NamedTuple):
    """Metrics of one step, each of shape (), or of the N steps of an epoch, each of shape (N,).

    ``loss`` is the cross-entropy, or in its place the loss of co-localisation. ``error`` is the fraction of
    wrong predictions. The gradients are the norms before clipping, of the localisation networks' parameters
    and of all others. ``consistency`` is that loss with its tilt loss, without the weight; where it is off,
    there is none.
    """

    loss: Tensor
    error: Tensor
    localisation_gradient: Tensor
    gradient: Tensor
    consistency: Tensor | None = None


class Trainer:
    """Trains a model, and holds its optimizer, its schedule and how far training is.

    Each epoch's order, each chunk of batches that are drawn together and each step's own random numbers have
    a seed of their own, see :func:`derive_seed`. So any step can be repeated alone, and no state of a random
    number generator has to be stored.

    Args:
        model: the network, on the training device.
        scheduler: steps once for each batch; it holds the optimizer.
        train_set: where batches come from.
        config: the settings.
        seed: decides all random numbers of training.
    """

    def __init__(
        self,
        model: Classifier,
        scheduler: LRScheduler,
        train_set: TrainingSet,
        config: TrainerConfig,
        seed: int,
    ) -> None:
        self.model, self.scheduler, self.optimizer = model, scheduler, scheduler.optimizer
        self.train_set, self.config, self.seed = train_set, config, seed
        self.steps_per_epoch = config.steps_per_epoch(train_set.size)
        self.epoch, self.steps_done, self.seconds = 1, 0, 0.0
        """The current epoch, the number of its steps that are done, and the time that they took."""
        device = next(model.parameters()).device
        self._is_consistent = model.consistency.is_on and INPUT in model.transformers
        rows = len(StepMetrics._fields) - (not self._is_consistent)
        self._metrics = torch.zeros(rows, self.steps_per_epoch, device=device)
        self._consistency_weight = torch.zeros((), device=device)
        self._generator = Generator(device)
        averaged_steps = config.averaging * config.epochs * self.steps_per_epoch
        self.average = WeightAverage(model.parameters(), averaged_steps)
        self._localisation = model.localisation_parameters()
        own = {id(parameter) for parameter in self._localisation}
        self._network = [p for p in model.parameters() if id(p) not in own and p.requires_grad]
        is_fused = all(group.get("fused") for group in self.optimizer.param_groups)
        self.cuda_graphs = CudaGraphs(self._generator, config.cuda_graph and is_fused)
        self.cuda_graphs.make_capturable(self.optimizer)
        draw = partial(train_set.draw, generator=self._generator)
        self._draw = self.cuda_graphs.wrap(draw) if train_set.is_capturable else draw
        self._update = self.cuda_graphs.wrap(self._forward_backward_update)

    @property
    def step(self) -> int:
        """Number of steps that are done in the whole run."""
        return (self.epoch - 1) * self.steps_per_epoch + self.steps_done

    @property
    def step_metrics(self) -> StepMetrics:
        """The metrics of the current epoch's steps that are done."""
        return StepMetrics(*self._metrics[:, : self.steps_done])

    def run_epoch(self, until_step: int | None = None, pause: Callable[[], bool] = lambda: False) -> bool:
        """Train from the current step to the end of the epoch, or until something stops it before.

        Args:
            until_step: stop when so many steps of the whole run are done.
            pause: asked after each step; training stops where it returns true.

        Returns:
            Whether the epoch is complete. If not, the next call goes on with it.

        Raises:
            NotFinite: the loss or a gradient is not finite.
        """
        if self.step == 0:
            self._pretrain()
        self.model.train()
        size, total = self.config.batch_size, self.steps_per_epoch
        batches = self.batches()
        with self._progress_bar() as bar:
            while self.steps_done < total and self.step != until_step:
                start = time.perf_counter()
                self._metrics[:, self.steps_done] = self.train_step(next(batches))
                self.steps_done += 1
                bar.update(size)
                if self.steps_done % CHECK_EVERY == 0 or self.steps_done == total or self.step == 1:
                    # The host waits for the device here, and nowhere else in the loop.
                    self.check_finite()
                    self._warn_if_no_gradient()
                    loss, error = self._metrics[:2, : self.steps_done].mean(1).tolist()
                    bar.set_postfix_str(f"loss {loss:.4f}, error {100 * error:.2f} %")
                self.seconds += time.perf_counter() - start
                if pause():
                    break
        return self.steps_done == total

    def _pretrain(self) -> None:
        """Train the encoder of co-localisation."""
        if self.model.colocalisation and self.train_set.draw_encoder is not None:
            start = time.perf_counter()
            generator = self._generator.manual_seed(derive_seed(self.seed, "encoder", 0))
            pretrain(self.model.backbone, self.train_set.draw_encoder, self.train_set.size, generator)
            self.seconds += time.perf_counter() - start

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.steps_done, self.seconds = self.epoch + 1, 0, 0.0

    def batches(self, with_pose: bool = False) -> Iterator[Batch]:
        """The current epoch's batches from the next step on.

        Args:
            with_pose: also compute where the digits are, which training does not need.
        """
        size, per_chunk = self.config.batch_size, batches_per_chunk(self.config.batch_size)
        self._generator.manual_seed(derive_seed(self.seed, "epoch", self.epoch))
        order = self.train_set.order(self._generator)[: self.steps_per_epoch * size]
        epoch_start, skipped = self.step - self.steps_done, self.steps_done
        draw = (
            partial(self.train_set.draw, generator=self._generator, posed=True) if with_pose else self._draw
        )
        for number, chunk in enumerate(order.split(per_chunk * size)):
            first = number * per_chunk
            if first + per_chunk <= skipped:
                continue
            self._generator.manual_seed(derive_seed(self.seed, "chunk", epoch_start + first + 1))
            drawn = draw(chunk)
            for place in range(max(0, skipped - first), len(chunk) // size):
                yield index_batch(drawn, slice(place * size, (place + 1) * size))

    def train_step(self, batch: Batch) -> Tensor:
        """Update the model by one batch; returns the :class:`StepMetrics` as a tensor (4,) or (5,)."""
        self._generator.manual_seed(derive_seed(self.seed, "step", self.step + 1))
        tensors = [part for part in (batch.images, batch.labels, batch.question) if part is not None]
        if self._is_consistent:
            # A captured step reads this tensor anew at each replay.
            progress = self.step / (self.config.epochs * self.steps_per_epoch)
            self._consistency_weight.fill_(self.model.consistency.weight_at(progress))
        metrics = self._update(*tensors)
        self.scheduler.step()
        return metrics

    def _forward_backward_update(
        self, images: Tensor, labels: Tensor, question: Tensor | None = None
    ) -> Tensor:
        with self.config.autocast(images.device):
            output = self.model(images, question, self._generator)
            consistency = None
            if self._is_consistent:
                consistency = batch_consistency(self.model, output, images, self._generator)
            loss = main_loss(self.model, output, images, labels, self._generator)
        total = loss + policy_loss(output, labels)
        if consistency is not None:
            total = total + self._consistency_weight * consistency
        self.optimizer.zero_grad()
        total.backward()
        gradient, localisation_gradient = torch.zeros_like(loss), torch.zeros_like(loss)
        if self._network:
            gradient = gradient_norm(self._network)
        if self._localisation:
            localisation_gradient = gradient_norm(self._localisation)
            limit = self.config.localisation_clip or math.inf
            nn.utils.clip_grads_with_norm_(self._localisation, limit, localisation_gradient)
        self.optimizer.step()
        self.average.update()
        error = (output.logits.argmax(1) != labels).float().mean()
        metrics = [loss.detach(), error, localisation_gradient, gradient]
        return torch.stack(metrics if consistency is None else [*metrics, consistency.detach()])

    def averaged_model(self) -> Classifier:
        """A copy of the model to evaluate: averaged weights, and batch statistics that fit them.

        The weights are the last ones before the first step. The statistics are those of ``STATISTICS_IMAGES``
        training images, which only the run's seed and the number of steps decide.
        """
        model = deepcopy(self.model)
        if self.step:
            self.average.copy_to(model.parameters(), self.step)
        generator = self._generator.manual_seed(derive_seed(self.seed, "statistics", self.step))
        images = min(STATISTICS_IMAGES, self.steps_per_epoch * self.config.batch_size)
        indices = torch.randint(
            self.train_set.size, (images,), generator=generator, device=generator.device
        ).tensor_split(-(-images // IMAGES_PER_CHUNK))  # of equal sizes, for each counts as much
        batches = (self.train_set.draw(index, generator=generator) for index in indices)
        estimate_batch_statistics(model, batches, generator)
        return model

    def epoch_metrics(self) -> dict[str, float]:
        """The metrics of a complete epoch: error in percent, mean norms of gradients, seconds of training."""
        means = StepMetrics(*self._metrics.mean(1).tolist())
        rates = {group["part"]: float(group["lr"]) for group in self.optimizer.param_groups}
        metrics: dict[str, Any] = {
            "train_loss": means.loss,
            "train_error": 100 * means.error,
            "gradient": means.gradient,
            "lr": rates[NETWORK],
        }
        if LOCALISATION in rates:
            metrics |= {
                "localisation_gradient": means.localisation_gradient,
                "localisation_lr": rates[LOCALISATION],
            }
        if means.consistency is not None:
            metrics["train_consistency"] = means.consistency
        images = self.steps_per_epoch * self.config.batch_size
        return {**metrics, "images": images, "seconds": self.seconds}

    def check_finite(self) -> None:
        """Check the current epoch's steps that are done.

        Raises:
            NotFinite: the loss or a gradient of one of them is not finite.
        """
        finite = self._metrics[:, : self.steps_done].cpu().isfinite()
        if not finite.all():
            index = int((~finite.all(0)).nonzero()[0])
            step = self.step - self.steps_done + index + 1
            what = "gradient" if StepMetrics(*finite[:, index]).loss else "loss"
            raise NotFinite(what, step)

    def _warn_if_no_gradient(self) -> None:
        """Warn after the run's first step if its transformer cannot move."""
        if self.step == 1 and self._localisation and not self.step_metrics.localisation_gradient.item():
            logger.warning(FIRST_STEP_WARNING)

    def _progress_bar(self) -> tqdm:
        """A progress bar of images, which hides itself where there is no terminal."""
        size = self.config.batch_size
        return tqdm(
            desc=f"epoch {self.epoch}/{self.config.epochs}",
            total=self.steps_per_epoch * size,
            initial=self.steps_done * size,
            unit=" images",
            unit_scale=True,
            leave=False,
            disable=None,
            dynamic_ncols=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of model, optimizer, scheduler and progress; the same on every device."""
        state = {name: getattr(self, name).state_dict() for name in PARTS}
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        state["scheduler"]["_last_lr"] = rates
        for group, rate in zip(state["optimizer"]["param_groups"], rates, strict=True):
            group["lr"] = rate
        progress = {
            "epoch": self.epoch,
            "done": self.steps_done,
            "seconds": self.seconds,
            "metrics": self._metrics,
        }
        return {**state, "step": self.step, "progress": progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError, KeyError or RuntimeError: it does not fit this model or training set.
        """
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.cuda_graphs.make_capturable(self.optimizer)
        progress = state["progress"]
        steps = progress["metrics"].shape[1]
        if steps != self.steps_per_epoch:
            raise ValueError(f"it has {steps} steps in an epoch, not {self.steps_per_epoch}")
        self.epoch, self.steps_done, self.seconds = (progress[name] for name in ("epoch", "done", "seconds"))
        self._metrics.copy_(progress["metrics"])


def derive_seed(
    seed: int, kind: Literal["epoch", "chunk", "step", "statistics", "encoder"], number: int
) -> int:
    """The seed, in [0, 2^63), of an epoch's order, of the chunk that starts at a step, and so on."""
    name = "lot" if kind == "chunk" else kind  # the published results were made with this name
    hashed = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") >> 1


def batches_per_chunk(batch_size: int) -> int:
    """How many batches are drawn together."""
    return max(1, IMAGES_PER_CHUNK // batch_size)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm () of all gradients of ``parameters`` together."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
