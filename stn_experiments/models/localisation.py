"""Localisation networks: from U to theta (Jaderberg et al. 2015, section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.models.precision import autocast_disabled, to_float32

LocalisationKind = Literal["keypoints", "convolutional", "fully_connected"]
Shape = tuple[int, int, int]
"""(C, H, W) of U."""


class Localisation(nn.Module):
    """Any network whose last linear layer regresses theta, starting at the exact identity.

    That layer has zero weights and the identity as its bias, and nothing that saturates stands behind it: the
    start is exact for every input, and its gradient is not zero.

    Args:
        features: what theta is regressed from.
        identity: the P parameters of the identity transform.
    """

    def __init__(self, features: "Features", identity: Sequence[float]) -> None:
        super().__init__()
        self.features = features
        self.theta = nn.Linear(features.width, len(identity))
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(torch.tensor(identity, dtype=torch.float))

    def forward(self, source: Tensor) -> Tensor:
        """Theta (B, P) for U (B, C, H, W)."""
        features = self.features(source)
        with autocast_disabled(source):
            return self.theta(to_float32(features))


class Features(nn.Sequential):
    """A chain of layers from U (B, C, H, W) to ``width`` features (B, ``width``)."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.width = width


def fully_connected(shape: Shape, width: int = 32) -> Features:
    """The paper's features for ST-FCN: three hidden layers of ``width`` units."""
    inputs = shape[0] * shape[1] * shape[2]
    layers = [_hidden(size, width) for size in (inputs, width, width)]
    return Features(width, nn.Flatten(), *layers)


def convolutional(shape: Shape, width: int = 32, filters: int = 20) -> Features:
    """The paper's features for ST-CNN: two 5×5 convolutions at half size, then ``width`` hidden units.

    Other than in the paper the convolutions are padded, so that any size of U works.
    """
    channels, height, wide = shape
    places = -(-height // 8) * -(-wide // 8)
    return Features(
        width,
        nn.AvgPool2d(2, ceil_mode=True),
        *(nn.Conv2d(channels, filters, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
        *(nn.Conv2d(filters, filters, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
        nn.Flatten(),
        _hidden(filters * places, width),
    )


def keypoints(
    shape: Shape, width: int = 32, filters: tuple[int, int] = (16, 32), count: int = 16
) -> Features:
    """Where ``count`` learned keypoints are, and how much there is of what: our default.

    The paper's flattened maps make the layer behind them learn every place anew. A softmax over the places of
    a map gives a keypoint's expected position instead (Levine et al. 2016, "End-to-end training of deep
    visuomotor policies", section 5.1), which moves along with the digit from the first step.
    """
    first, second = filters
    seen = 2 * count + second
    return Features(
        seen + width,
        nn.AvgPool2d(2, ceil_mode=True),
        *(nn.Conv2d(shape[0], first, 5, padding=2, bias=False), nn.BatchNorm2d(first)),
        *(nn.MaxPool2d(2, ceil_mode=True), nn.ReLU(inplace=True)),
        *(nn.Conv2d(first, second, 5, padding=2, bias=False), nn.BatchNorm2d(second), nn.ReLU(inplace=True)),
        PositionsAndMeans(second, count),
        ConcatSkip(nn.Sequential(nn.Linear(seen, width), nn.Tanh())),
    )


class PositionsAndMeans(nn.Module):
    """From maps (B, ``channels``, H, W): ``count`` positions, then each map's mean, in one row."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.heat = nn.Conv2d(channels, count, 1, bias=False)  # a softmax is blind to a bias

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        heat = self.heat(maps)
        with autocast_disabled(maps):
            positions = expected_positions(to_float32(heat))
        return torch.cat([positions.flatten(1), to_float32(maps.mean((2, 3)))], 1)


class ConcatSkip(nn.Module):
    """What comes in, and beside it what ``module`` makes of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """(B, N) to (B, N + M)."""
        return torch.cat([features, self.module(features)], 1)


def expected_positions(heat: Tensor) -> Tensor:
    """Mean position of each map of ``heat`` (B, K, H, W) under the softmax over its places: (B, K, 2).

    Positions are normalised (x, y).
    """
    height, width = heat.shape[2:]
    places = geometry.pixel_centres(height, width, heat.device).to(heat.dtype)
    # Channels last, as they lie in memory: neither this nor the way back need copy them.
    return heat.movedim(1, -1).flatten(1, 2).softmax(1).mT @ places


def _hidden(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


FEATURES: dict[LocalisationKind, Callable[[Shape, int], Features]] = {
    "keypoints": keypoints,
    "convolutional": convolutional,
    "fully_connected": fully_connected,
}
