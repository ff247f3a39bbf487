"""The weights that are evaluated: an exponential moving average, with batch statistics that fit it."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stn_experiments.data.batch import Batch
from stn_experiments.models.classifier import Classifier


class WeightAverage:
    """An exponential moving average of parameters, without a bias towards their initial values.

    The bias is corrected as in Kingma and Ba, "Adam", 2015, section 3.

    Args:
        parameters: what is averaged; they stay on their device.
        steps: the time constant in training steps; 0 keeps the last values alone.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], steps: float) -> None:
        self.parameters = list(parameters)
        self.decay = math.exp(-1 / steps) if steps > 0 else 0.0
        self._sums: list[Tensor] = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._add = get_ema_multi_avg_fn(self.decay)

    def update(self) -> None:
        """Add the present values, after a training step. It can be captured as a CUDA graph."""
        self._add(self._sums, self.parameters, 0)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[nn.Parameter], updates: int) -> None:
        """Set parameters to the average over a number of ``updates``, 1 or more."""
        weight = 1 - self.decay**updates
        for parameter, total in zip(parameters, self._sums, strict=True):
            parameter.copy_(total / weight)

    def state_dict(self) -> dict[str, Any]:
        """The state, see :meth:`load_state_dict`."""
        return {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError or RuntimeError: it is one of other parameters.
        """
        for total, saved in zip(self._sums, state["sums"], strict=True):
            total.copy_(saved)


@torch.no_grad()
def estimate_batch_statistics(model: Classifier, batches: Iterable[Batch], generator: Generator) -> None:
    """Set a model's running means and variances to their mean over batches; other layers do not change.

    Layers that do not learn keep theirs.

    The statistics of training lag behind its weights, and belong to none of their averages (Izmailov et al.,
    "Averaging weights leads to wider optima", 2018, section 3.2). The model is left in evaluation mode.
    """
    model.eval()
    norms = (layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)))
    layers = [layer for layer in norms if layer.weight.requires_grad]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
        layer.train()
    for batch in batches if layers else ():
        model(batch.images, batch.question, generator)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
