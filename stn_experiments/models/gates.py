"""Gates: soft attention that weights the channels or the places of a map, after stages of a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.models.backbones import Backbone, as_list

Reduction = Annotated[int, Range(1, 512)]
Kernel = Annotated[int, Range(1, 31)]


class Gated(NamedTuple):
    """A map (B, C, H, W) after a gate, and the weights of its channels (B, C) and of its places (B, H, W)."""

    output: Tensor
    channels: Tensor | None = None
    mask: Tensor | None = None


class SE(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, section 3): channel weights sigmoid(W₂ ReLU(W₁ mean)).

    ``reduction`` is the ratio of ``channels`` to hidden units.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.excite = _bottleneck(channels, reduction, bias=True)

    def forward(self, features: Tensor) -> Gated:
        """Weight the channels of a map (B, C, H, W)."""
        channels = self.excite(features.mean((2, 3))).sigmoid()
        return Gated(features * channels[:, :, None, None], channels)


class CBAM(nn.Module):
    """Convolutional block attention module (Woo et al. 2018): equations 2 and 3, in this order.

    ``reduction`` is the ratio of ``channels`` to hidden units, ``kernel`` the side of the convolution that
    weights places.
    """

    def __init__(self, channels: int, reduction: int = 4, kernel: int = 7) -> None:
        super().__init__()
        _require_odd(kernel)
        self.excite = _bottleneck(channels, reduction, bias=False)
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, features: Tensor) -> Gated:
        """Weight the channels, then the places of a map (B, C, H, W)."""
        means, maxima = features.mean((2, 3)), features.amax((2, 3))
        channels = (self.excite(means) + self.excite(maxima)).sigmoid()
        features = features * channels[:, :, None, None]
        pooled = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        mask = self.spatial(pooled).sigmoid()
        return Gated(features * mask, channels, mask[:, 0])


class Mask(nn.Module):
    """A soft mask from one convolution of the map: the simplest spatial attention."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        _require_odd(kernel)
        self.spatial = nn.Conv2d(channels, 1, kernel, padding=kernel // 2)

    def forward(self, features: Tensor) -> Gated:
        """Weight the places of a map (B, C, H, W)."""
        mask = self.spatial(features).sigmoid()
        return Gated(features * mask, None, mask[:, 0])


@dataclass(frozen=True, kw_only=True)
class GateConfig(ABC):
    """The settings of all gates.

    Args:
        at: the backbone's stage whose output is gated, or a list of stages; null: every stage whose output is
            a map.
    """

    at: str | Sequence[str] | None = None

    @abstractmethod
    def gate(self, channels: int) -> nn.Module:
        """A gate from maps (B, C, H, W) of ``channels`` channels to :class:`Gated`."""

    def build(self, backbone: Backbone) -> dict[str, nn.Module]:
        """The gates by the stage of a backbone whose output they weight.

        Raises:
            UserError: the backbone has no such stage, or its output is not a map.
        """
        maps = {name: shape[0] for name, shape in backbone.output_shapes.items() if len(shape) == 3}
        if not maps:
            name = type(self).__name__.removesuffix("Config").lower()
            raise UserError(f"name must not be {name} for a backbone without a stage whose output is a map")
        stages = list(maps) if self.at is None else as_list(self.at)
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(maps):
            raise UserError(
                f"at must name different stages among {', '.join(maps)}, at least one, got {self.at}"
            )
        return {name: self.gate(maps[name]) for name in stages}


@dataclass(frozen=True, kw_only=True)
class SEConfig(GateConfig):
    """The settings of :class:`SE` gates."""

    reduction: Reduction = 4

    def gate(self, channels: int) -> nn.Module:
        return SE(channels, self.reduction)


@dataclass(frozen=True, kw_only=True)
class CBAMConfig(GateConfig):
    """The settings of :class:`CBAM` gates."""

    reduction: Reduction = 4
    kernel: Kernel = 7

    def gate(self, channels: int) -> nn.Module:
        return CBAM(channels, self.reduction, self.kernel)


@dataclass(frozen=True, kw_only=True)
class MaskConfig(GateConfig):
    """The settings of :class:`Mask` gates."""

    kernel: Kernel = 3

    def gate(self, channels: int) -> nn.Module:
        return Mask(channels, self.kernel)


def _bottleneck(channels: int, reduction: int, bias: bool) -> nn.Sequential:
    hidden = max(channels // reduction, 1)
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
    )


def _require_odd(kernel: int) -> None:
    if kernel % 2 == 0:
        raise UserError(f"kernel must be odd, got {kernel}")
