"""The settings of training."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import torch

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Count, Fraction, Range

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class TrainerConfig:
    """How long and how to train.

    Args:
        epochs: number of epochs. Validation and a checkpoint follow each, a panel most (``run.panels``).
        batch_size: images per step.
        images_per_epoch: images per epoch, at most the training set; null is all of it. Images that do not
            fill a batch are skipped, different ones in each epoch.
        localisation_lr: factor on the learning rate of the localisation network.
        localisation_clip: largest norm of the localisation network's gradient; null does not clip.
        averaging: time constant of the exponential moving average of the weights, which are evaluated, as a
            fraction of all training steps; 0 evaluates the last weights.
        precision: of convolutions and matrix products while training. ``auto`` is bfloat16 where the device
            has instructions for it. Weights, theta and evaluation are always float32.
        deterministic: on CUDA, use only kernels that give the same bits every time. A CPU always does.
        cuda_graph: on CUDA, capture a step as a graph, if the optimizer is a fused one. This is many times
            faster, but fails for networks that wait for the device.
        device: ``auto`` takes CUDA or MPS if there is one.
    """

    epochs: Count
    batch_size: Annotated[int, Range(2)]  # batch normalisation needs two values or more
    images_per_epoch: Count | None = None
    localisation_lr: Annotated[float, Range(0, 1000)] = 1.0
    localisation_clip: Annotated[float, Range(1e-6)] | None = None
    averaging: Fraction = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    deterministic: bool = False
    cuda_graph: bool = True
    device: Device = "auto"

    def resolved_precision(self, device: torch.device) -> Literal["float32", "bfloat16"]:
        """The precision of convolutions and matrix products while training on a device."""
        if self.precision == "auto":
            return "bfloat16" if has_bfloat16(device) else "float32"
        return self.precision

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which a network computes with ``precision``."""
        return torch.autocast(device.type, torch.bfloat16, self.resolved_precision(device) == "bfloat16")

    def steps_per_epoch(self, train_size: int) -> int:
        """Whole batches in an epoch.

        Raises:
            UserError: there is none.
        """
        images = min(self.images_per_epoch or train_size, train_size)
        if images < self.batch_size:
            raise UserError(
                f"batch_size must be at most the {images} training images of an epoch, got {self.batch_size}"
            )
        return images // self.batch_size


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; emulation is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # since torch 2.10
        return any(bool(value) for name, value in torch.cpu.get_capabilities().items() if "bf16" in name)
    return False
