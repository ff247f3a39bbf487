"""Localisation networks: regress theta from U (Jaderberg et al. 2015, section 3.1)."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.models.grids import Family
from stn_experiments.models.polar import RINGS, SPOKES, PolarSampling, RingConv2d, polar_points
from stn_experiments.models.precision import autocast_disabled, to_float32

LocalisationKind = Literal["polar", "window", "keypoints", "peak", "convolutional", "fully_connected"]
Module = TypeVar("Module", bound=nn.Module)
Shape = tuple[int, int, int]
"""(C, H, W) of U."""
KEYPOINTS = 16
"""Keypoints of a localisation network that has several; their positions are its first features."""
CHANNELS = 32
"""Channels of the maps that keypoints and memories read."""
CELL = 4
"""Pixels along the side of a cell, of which these maps have one pixel."""


class Localisation(nn.Module):
    """A network with a final linear layer that regresses theta and starts at an exact transform.

    That layer has zero weights, the start as its bias, and no activation. So theta starts as the same
    for every input, and the gradient is not zero.

    Args:
        features: the layers before it.
        start: theta (P,) at the start, such as that of the identity.
    """

    def __init__(self, features: "Features", start: Tensor) -> None:
        super().__init__()
        self.features = features
        self.theta = nn.Linear(features.width, len(start))
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(start)

    def forward(self, source: Tensor) -> Tensor:
        """Theta (B, P) for U (B, C, H, W)."""
        features = self.features(source)
        with autocast_disabled(source):
            return self.theta(to_float32(features))

    def centre_on_first_features(self, family: Family) -> None:
        """Add the first two features, a position (x, y), to the translation before training."""
        with torch.no_grad():
            for axis in (0, 1):
                self.theta.weight[family.entries.index((axis, 2)), axis] = 1

    def use_features_as_theta(self) -> None:
        """Fix the last layer to the identity, so that theta is the features; the start must be 0."""
        nn.init.eye_(self.theta.weight)
        self.theta.requires_grad_(False)

    def turn_with_keypoints(self, aspect: float) -> None:
        """Let the first two entries of theta, (cos a, sin a), start as a random sum of the keypoints.

        Keypoints on a polar grid turn with the image, and so does this transform. ``aspect`` is U's width ÷
        height.
        """
        along, across = torch.randn(2, KEYPOINTS)
        with torch.no_grad():
            self.theta.weight[0, : 2 * KEYPOINTS] = torch.stack([along * aspect, -across], 1).flatten()
            self.theta.weight[1, : 2 * KEYPOINTS] = -torch.stack([across * aspect, along], 1).flatten()
            self.theta.bias[:2] = 0


class Features(nn.Sequential):
    """Layers that read U (B, C, H, W), and the number of features that theta is regressed from."""

    def __init__(self, width: int, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.width = width


def fully_connected(shape: Shape, width: int) -> Features:
    """The paper's layers for ST-FCN: three hidden layers of ``width`` units."""
    inputs = shape[0] * shape[1] * shape[2]
    layers = [_hidden(size, width) for size in (inputs, width, width)]
    return Features(width, nn.Flatten(), *layers)


def convolutional(shape: Shape, width: int) -> Features:
    """The paper's layers for ST-CNN: two 5×5 convolutions of 20 filters at half size, then ``width`` units.

    Unlike the paper's, the convolutions are padded, so U may have any size.
    """
    channels, height, wide = shape
    cells = -(-height // 8) * -(-wide // 8)
    return Features(
        width,
        nn.AvgPool2d(2, ceil_mode=True),
        *(nn.Conv2d(channels, 20, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
        *(nn.Conv2d(20, 20, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
        nn.Flatten(),
        _hidden(20 * cells, width),
    )


def keypoints(shape: Shape, width: int) -> Features:
    """The positions of 16 learned keypoints and the means of 32 maps.

    The paper flattens its maps, so the next layer has to learn each position separately. Here a softmax over
    a map gives the expected position of a keypoint (Levine et al. 2016, "End-to-end training of deep
    visuomotor policies", section 5.1), which follows the digit from the first training step.
    """
    return _keypoint_features(map_layers(shape), width, cell_centres(shape[1:]))


def peak(shape: Shape, width: int) -> Features:
    """The position of one keypoint, which is where the window of a translation is; ``width`` has no effect.

    The position depends on the map alone, so windows cannot gather beside the image.
    """
    return Features(2, *map_layers(shape), Positions(CHANNELS, 1, cell_centres(shape[1:])))


def polar(shape: Shape, width: int) -> Features:
    """:func:`keypoints` on a polar grid about the centre: they turn with the image.

    What turns the image only shifts the samples, so the network need not learn each direction separately. The
    softmax is over a grid of half as many rings and rays, and the positions are Cartesian.
    """
    layers = [
        PolarSampling(shape[1:]),
        *(RingConv2d(shape[0], 16, 5), nn.BatchNorm2d(16)),
        *(nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        *(RingConv2d(16, CHANNELS, 5), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)),
    ]
    return _keypoint_features(layers, width, polar_points(RINGS // 2, SPOKES // 2, shape[1:]))


def shared(
    layers: nn.Sequential,
    to_source: Callable[[Tensor], Tensor],
    shape: Shape,
    build: Callable[[Shape, int], Features],
    width: int,
) -> Features:
    """Layers of another network, then others on their maps (Finnveden et al. 2020: STN-SL).

    The layers are :func:`tied`.

    Args:
        layers: the other network's layers.
        to_source: from points (N, 2) of their map to those of U.
        shape: (C, H, W) of their map.
        build: one of ``FEATURES``, for the layers on those maps.
        width: units of its hidden layers.
    """
    features = build(shape, width)
    for layer in features:
        if isinstance(layer, Positions):
            layer.points = to_source(layer.points)
    return Features(features.width, tied(layers), *features)


def tied(module: Module) -> Module:
    """A copy with the module's own parameters and other batch statistics, for it reads other images."""
    return deepcopy(module, {id(weights): weights for weights in module.parameters()})


class Positions(nn.Module):
    """The positions (B, 2 count) of ``count`` keypoints in maps (B, ``channels``, H, W), as (x, y) pairs.

    ``points`` (H * W, 2) are where the maps' cells lie on U.
    """

    points: Tensor

    def __init__(self, channels: int, count: int, points: Tensor) -> None:
        super().__init__()
        self.heat = nn.Conv2d(channels, count, 1, bias=False)  # a bias would not change the softmax
        self.register_buffer("points", points, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """The expected positions under a softmax over each map of heat."""
        heat = self.heat(maps)
        with autocast_disabled(maps):
            return expected_positions(to_float32(heat), self.points).flatten(1)


class PositionsAndMeans(Positions):
    """The positions of ``count`` keypoints, then the means of all maps (B, 2 count + ``channels``)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Positions as (x, y) pairs, then the means."""
        return torch.cat([super().forward(maps), to_float32(maps.mean((2, 3)))], 1)


class ConcatSkip(nn.Module):
    """Concatenates the input and the output of ``module``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, N) to (B, N + M)."""
        return torch.cat([features, self.module(features)], 1)


def expected_positions(heat: Tensor, points: Tensor) -> Tensor:
    """Expected positions (B, K, 2) under a softmax over each map of ``heat`` (B, K, H, W).

    ``points`` (H * W, 2) are where its cells lie.
    """
    # Channels last, as in memory, so neither the forward nor the backward pass copies them.
    return heat.movedim(1, -1).flatten(1, 2).softmax(1).mT @ points.to(heat.dtype)


def map_layers(shape: Shape) -> list[nn.Module]:
    """Two 5×5 convolutions to ``CHANNELS`` maps of an image of ``shape`` (C, H, W), a pixel for each cell."""
    return [
        *pad_to_cells(shape[1:]),
        nn.AvgPool2d(2),
        *(nn.Conv2d(shape[0], 16, 5, padding=2, bias=False), nn.BatchNorm2d(16)),
        *(nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(16, CHANNELS, 5, padding=2, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)),
    ]


def pad_to_cells(size: tuple[int, int]) -> list[nn.Module]:
    """The layer that pads images of ``size`` (H, W) to whole cells of ``CELL`` pixels, if they need one."""
    down, across = (-side % CELL for side in size)
    if not down and not across:
        return []
    return [nn.ZeroPad2d((across // 2, -(-across // 2), down // 2, -(-down // 2)))]


def cell_centres(size: tuple[int, int]) -> Tensor:
    """Where those cells lie on the image (N, 2), row by row; the outer ones may lie partly beside it.

    Their middle is that of the image, also where one pixel more is added behind a side than before it.
    """
    rows, columns = (-(-side // CELL) for side in size)
    points = geometry.pixel_centres(rows, columns)
    return points * geometry.constant((columns * CELL / size[1], rows * CELL / size[0]), points)


def _keypoint_features(layers: Sequence[nn.Module], width: int, points: Tensor) -> Features:
    """Layers to ``CHANNELS`` maps, what :class:`PositionsAndMeans` reads of them, and ``width`` units."""
    descriptors = 2 * KEYPOINTS + CHANNELS
    return Features(
        descriptors + width,
        *layers,
        PositionsAndMeans(CHANNELS, KEYPOINTS, points),
        ConcatSkip(nn.Sequential(nn.Linear(descriptors, width), nn.Tanh())),
    )


def _hidden(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


FEATURES: dict[LocalisationKind, Callable[[Shape, int], Features]] = {
    "polar": polar,
    "window": keypoints,
    "keypoints": keypoints,
    "peak": peak,
    "convolutional": convolutional,
    "fully_connected": fully_connected,
}
