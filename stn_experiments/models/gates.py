"""Soft attention: gates that weigh the channels or the places of a map, behind the stages of a backbone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.models.backbones import Backbone
from stn_experiments.models.precision import to_float32
from stn_experiments.models.view import Heat, View, densest_region

Reduction = Annotated[int, Range(1, 512)]
Scale2d = tuple[float, float]


class Gated(NamedTuple):
    """A map (B, C, H, W) after a gate, and its weights: of ``channels`` (B, C), of places (B, H, W)."""

    output: Tensor
    channels: Tensor | None = None
    mask: Tensor | None = None


@runtime_checkable
class GateKind(Protocol):
    """The settings of a gate."""

    def gate(self, channels: int) -> nn.Module:
        """A gate for maps of so many channels, from (B, C, H, W) to :class:`Gated`."""


@dataclass(frozen=True)
class SE:
    """Squeeze and excitation (Hu et al. 2018): a weight for each channel, from the means of all.

    Args:
        reduction: the hidden layer has one unit for so many channels.
    """

    reduction: Reduction = 4

    def gate(self, channels: int) -> nn.Module:
        """See :meth:`GateKind.gate`."""
        return SEGate(channels, self.reduction)


@dataclass(frozen=True)
class CBAM:
    """Convolutional block attention module (Woo et al. 2018): weighs the channels, then the places.

    Args:
        reduction: the hidden layer has one unit for so many channels.
        kernel: side of the convolution that weighs places.
    """

    reduction: Reduction = 4
    kernel: Annotated[int, Range(1, 31)] = 7

    def __post_init__(self) -> None:
        _require_odd(self.kernel)

    def gate(self, channels: int) -> nn.Module:
        """See :meth:`GateKind.gate`."""
        return CBAMGate(channels, self.reduction, self.kernel)


@dataclass(frozen=True)
class Mask:
    """A soft mask: a weight for each place, from a convolution of the map; the plainest spatial attention.

    Args:
        kernel: side of the convolution.
    """

    kernel: Annotated[int, Range(1, 31)] = 3

    def __post_init__(self) -> None:
        _require_odd(self.kernel)

    def gate(self, channels: int) -> nn.Module:
        """See :meth:`GateKind.gate`."""
        return MaskGate(channels, self.kernel)


@dataclass(frozen=True)
class GateConfig:
    """Which gates stand where.

    Args:
        kind: the kind of gate.
        at: the stage of the backbone behind which one stands, or a list of them; null: each that gives a map.
    """

    kind: GateKind
    at: str | Sequence[str] | None = None

    def behind(self, backbone: Backbone) -> dict[str, nn.Module]:
        """The gates behind a backbone's stages.

        Raises:
            UserError: it has no such stage, or one that gives no map.
        """
        maps = {name: shape[0] for name, shape in backbone.output_shapes.items() if len(shape) == 3}
        if not maps:
            name = type(self.kind).__name__.lower()
            raise UserError(f"name must be none for a backbone none of whose stages gives a map, got {name}")
        wanted = list(maps) if self.at is None else [self.at] if isinstance(self.at, str) else list(self.at)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(maps):
            raise UserError(
                f"at must name different stages among {', '.join(maps)}, at least one, got {self.at}"
            )
        return {name: self.kind.gate(maps[name]) for name in wanted}


class SEGate(nn.Module):
    """See :class:`SE`: sigmoid(W₂ ReLU(W₁ mean)), section 3 of the paper."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.excite = _bottleneck(channels, reduction, bias=True)

    def forward(self, features: Tensor) -> Gated:
        """A map (B, C, H, W) with its channels weighed."""
        channels = self.excite(features.mean((2, 3))).sigmoid()
        return Gated(features * channels[:, :, None, None], channels)


class CBAMGate(nn.Module):
    """See :class:`CBAM`: equations 2 and 3 of the paper, in this order."""

    def __init__(self, channels: int, reduction: int, kernel: int) -> None:
        super().__init__()
        self.excite = _bottleneck(channels, reduction, bias=False)
        self.places = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, features: Tensor) -> Gated:
        """A map (B, C, H, W) with its channels, then its places weighed."""
        means, peaks = features.mean((2, 3)), features.amax((2, 3))
        channels = (self.excite(means) + self.excite(peaks)).sigmoid()
        features = features * channels[:, :, None, None]
        seen = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        mask = self.places(seen).sigmoid()
        return Gated(features * mask, channels, mask[:, 0])


class MaskGate(nn.Module):
    """See :class:`Mask`."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.places = nn.Conv2d(channels, 1, kernel, padding=kernel // 2)

    def forward(self, features: Tensor) -> Gated:
        """A map (B, C, H, W) with its places weighed."""
        mask = self.places(features).sigmoid()
        return Gated(features * mask, None, mask[:, 0])


def seen_through(gated: Sequence[tuple[Gated, Scale2d]]) -> View:
    """What gates one behind the other do together, on a map at or before the first.

    Each comes with how far its own map reaches on that one, as a factor on x and on y. A place counts as far
    as every mask lets it pass, so the heat is the product of the masks, at the resolution of the first.
    """
    output = to_float32(gated[-1][0].output)
    channels = [to_float32(one.channels) for one, _ in gated if one.channels is not None]
    masks = [
        (to_float32(one.mask), receptive_scale) for one, receptive_scale in gated if one.mask is not None
    ]
    view = View(output, gates=torch.cat(channels, 1) if channels else None)
    if not masks:
        return view
    heat, receptive_scale = masks[0]
    height, width = heat.shape[1:]
    cells = geometry.pixel_centres(height, width, heat.device).to(heat.dtype).view(1, height, width, 2)
    places = (cells * geometry.constant(receptive_scale, cells)).expand(len(heat), -1, -1, -1)
    for mask, other in masks[1:]:
        grid = places / geometry.constant(other, places)
        heat = heat * F.grid_sample(mask[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    outline = densest_region(heat) * geometry.constant(receptive_scale, heat)
    return view._replace(outline=outline, heat=Heat(heat, places))


def _bottleneck(channels: int, reduction: int, bias: bool) -> nn.Sequential:
    hidden = max(channels // reduction, 1)
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias)
    )


def _require_odd(kernel: int) -> None:
    if kernel % 2 == 0:
        raise UserError(f"kernel must be odd, got {kernel}")
