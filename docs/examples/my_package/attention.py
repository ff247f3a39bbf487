"""An attention: a gate after stages of the backbone, and its settings."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor, nn

from stn_experiments.common.ranges import Range
from stn_experiments.models.gates import GateConfig, Gated


class Contrast(nn.Module):
    """Weights each place by how much its mean over the channels differs from its neighbours'."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(side, stride=1, padding=side // 2)
        self.weight = nn.Conv2d(1, 1, 1)

    def forward(self, features: Tensor) -> Gated:
        """Weight the places of a map (B, C, H, W)."""
        ink = features.mean(1, keepdim=True)
        mask = self.weight(ink - self.mean(ink)).sigmoid()
        return Gated(features * mask, mask=mask[:, 0])


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(GateConfig):
    """The settings of ``Contrast``; ``radius`` is that of the neighbourhood in pixels of the map."""

    radius: Annotated[int, Range(1, 15)] = 1

    def gate(self, channels: int) -> nn.Module:
        """See ``GateConfig``."""
        return Contrast(2 * self.radius + 1)
