"""Backbones: image classifiers made of named stages and a linear head, for any canvas size."""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.models.deterministic import AveragePool
from stn_experiments.models.localisation import LocalisationKind

MAX_WIDTH = 4096
Width = Annotated[int, Range(1, MAX_WIDTH)]
Side = Annotated[int, Range(1, 64)]


class Stage(NamedTuple):
    """A part of a backbone; there may be a transformer before it and a gate after it.

    ``stride`` is the distance of neighbouring output pixels in input pixels; ``None`` if the output covers
    the whole input whatever their sizes. ``offset`` is how far the output's top left corner is inside of the
    input's, in input pixels: (k - 1) / 2 for an unpadded k×k convolution, and (1 - s) / 2 for one of stride s
    that is padded by (k - 1) / 2.
    """

    layers: nn.Sequential
    stride: int | None = 1
    offset: float = 0.0


class Placement(NamedTuple):
    """Where a map lies on an earlier one: its point p, normalised (x, y), is scale · p + shift there."""

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def to_earlier(self, points: Tensor) -> Tensor:
        """Points (..., 2) of the map, on the earlier one."""
        return points * geometry.constant(self.scale, points) + geometry.constant(self.shift, points)

    def from_earlier(self, points: Tensor) -> Tensor:
        """Points (..., 2) of the earlier map, on this one."""
        return (points - geometry.constant(self.shift, points)) / geometry.constant(self.scale, points)

    def then(self, earlier: "Placement") -> "Placement":
        """Where the map lies on the one that ``earlier`` leads to."""
        (x, y), (right, down) = self.scale, self.shift
        (wide, high), (left, top) = earlier
        return Placement((x * wide, y * high), (right * wide + left, down * high + top))


class Map(NamedTuple):
    """A map of ``shape`` (C, H, W), and where it lies on the input."""

    shape: tuple[int, int, int]
    placement: Placement


class Backbone(nn.Module):
    """Stages in sequence, then a linear classifier of the flattened last map.

    Attributes:
        input_shapes: shape of each stage's input: (C, H, W) of a map, (N,) of a vector, (N, C, H, W) of one
            map for each of N rotations.
        output_shapes: shape of each stage's output.
        output_shape: shape of the last stage's output.
        placements: where each stage's output map lies on its input, by the centres of what its pixels depend
            on; a vector covers all of it.

    Args:
        stages: the stages by name, in order.
        shape: (C, H, W) of the input.
        classes: number of classes.
        pool: a layer between the last stage and the classifier.
        standardise: bring each image to mean 0 and standard deviation 1 before the first stage.

    Raises:
        UserError: the input is too small for the stages.
    """

    localisation: LocalisationKind = "keypoints"
    """The default kind of localisation network before it."""
    width_setting: str | None = None
    """The name of the setting with its widths, if it has one."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        shape: tuple[int, int, int],
        classes: int,
        pool: nn.Module | None = None,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        self.pool = pool or nn.Identity()
        self.input_shapes: dict[str, tuple[int, ...]] = {}
        self.output_shapes: dict[str, tuple[int, ...]] = {}
        self._stages = dict(stages)
        self.placements: dict[str, Placement] = {}
        features = torch.zeros(1, *shape)
        if standardise:
            next(iter(stages.values())).layers.insert(0, Standardise())
        for name, stage in stages.items():
            self.stages.add_module(name, stage.layers)
            self.input_shapes[name] = tuple(features.shape[1:])
            try:
                with torch.no_grad():
                    features = stage.layers.eval()(features)
            except RuntimeError as error:
                if "memory" in str(error):
                    raise
                raise UserError(
                    f"name must be a network that can read {shape[1]}×{shape[2]} pixels, "
                    f"got {type(self).__name__.lower()}"
                ) from error
            self.output_shapes[name] = tuple(features.shape[1:])
            self.placements[name] = _placement(stage, self.input_shapes[name], features.shape[1:])
        self.output_shape = tuple(features.shape[1:])
        self.stages.train()
        self.head: nn.Module | None = nn.Linear(self.pool(features).numel(), classes)

    def layers_before(self, name: str, shape: tuple[int, int, int]) -> tuple[nn.Sequential, Map]:
        """The stages before one, and the map that they make of an input of ``shape`` (C, H, W)."""
        count = list(self._stages).index(name)
        features, placement = torch.zeros(1, *shape), Placement()
        for stage in list(self._stages.values())[:count]:
            before = features.shape[1:]
            with torch.no_grad():
                features = stage.layers.eval()(features)
            stage.layers.train()
            placement = _placement(stage, before, features.shape[1:]).then(placement)
        channels, height, width = features.shape[1:]
        return self.stages[:count], Map((channels, height, width), placement)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, classes) of images (B, C, H, W)."""
        return self.classify(self.stages(images))

    def classify(self, features: Tensor) -> Tensor:
        """Class scores (B, classes) of the last stage's output."""
        assert self.head is not None, "an attention head replaces the classifier of this backbone"
        # Channels last, as in memory, so neither the forward nor the backward pass copies them.
        return self.head(self.pool(features).movedim(1, -1).flatten(1))


class NoBackbone(Backbone):
    """No stages: a linear classifier of the pixels, or the pixels themselves for an attention head."""

    localisation: LocalisationKind = "fully_connected"

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__({}, shape, classes)


class FCN(Backbone):
    """The paper's fully connected network: two hidden layers of ``widths`` units with ReLU."""

    localisation: LocalisationKind = "fully_connected"
    width_setting = "widths"

    def __init__(
        self, shape: tuple[int, int, int], classes: int, widths: tuple[Width, Width] = (256, 256)
    ) -> None:
        inputs = shape[0] * shape[1] * shape[2]
        first, second = widths
        stages = {
            "hidden1": Stage(nn.Sequential(nn.Flatten(), nn.Linear(inputs, first), nn.ReLU())),
            "hidden2": Stage(nn.Sequential(nn.Linear(first, second), nn.ReLU())),
        }
        super().__init__(stages, shape, classes)


class CNN(Backbone):
    """The paper's convolutional network: unpadded 9×9, then 7×7, each max-pooled by 2, with ReLU."""

    width_setting = "filters"

    def __init__(
        self, shape: tuple[int, int, int], classes: int, filters: tuple[Width, Width] = (32, 64)
    ) -> None:
        first, second = filters
        stages = {
            "conv1": Stage(nn.Sequential(nn.Conv2d(shape[0], first, 9), nn.MaxPool2d(2), nn.ReLU()), 2, 4),
            "conv2": Stage(nn.Sequential(nn.Conv2d(first, second, 7), nn.MaxPool2d(2), nn.ReLU()), 2, 3),
        }
        super().__init__(stages, shape, classes)


class Compact(Backbone):
    """A small batch-normalised network that is fast on a CPU: a strided 5×5, then 3×3 convolutions.

    Args:
        width: channels of the first two convolutions; the last two have twice as many.
        pool: side to which the map is averaged before the last convolution, for every canvas size.
        standardise: see :class:`Backbone`.
    """

    width_setting = "width"

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: Width = 32,
        pool: Side = 4,
        standardise: bool = False,
    ) -> None:
        super().__init__(compact_stages(shape[0], width, pool), shape, classes, standardise=standardise)


class ResNet18(Backbone):
    """torchvision's ResNet-18 (He et al. 2016) with a stem for small images: 3×3, stride 2, no pooling.

    Args:
        standardise: see :class:`Backbone`.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, standardise: bool = False) -> None:
        from torchvision.models import resnet18  # imported here because it is slow and rarely needed

        network = resnet18()
        stages = {
            "stem": Stage(_convolution(shape[0], 64, 3, stride=2), 2, -0.5),
            "layer1": Stage(network.layer1),
            "layer2": Stage(network.layer2, 2, -0.5),
            "layer3": Stage(network.layer3, 2, -0.5),
            "layer4": Stage(network.layer4, 2, -0.5),
        }
        super().__init__(stages, shape, classes, AveragePool(1), standardise)


class Standardise(nn.Module):
    """Brings each image to mean 0 and standard deviation 1 over all its values; a constant one becomes 0."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) of the same shape."""
        variance, mean = torch.var_mean(images, (1, 2, 3), correction=0, keepdim=True)
        return (images - mean) * (variance + 1e-5).rsqrt()


class Stem(nn.Conv2d):
    """A 5×5 convolution of stride 2, computed as a 3×3 convolution of stride 1 on blocks of 2×2 pixels.

    The function is the same. On a CPU the backward pass to an image of few channels, which a transformer's
    gradient needs, is twice as fast.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, stride=2, padding=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to maps (B, C', ⌈H / 2⌉, ⌈W / 2⌉)."""
        height, width = images.shape[-2:]
        images = F.pixel_unshuffle(F.pad(images, (0, width % 2, 0, height % 2)), 2)
        weight = F.pixel_unshuffle(F.pad(self.weight, (0, 1, 0, 1)), 2)
        return F.conv2d(images, weight, padding=1)


def compact_stages(channels: int, width: int, pool: int) -> dict[str, Stage]:
    """The stages of :class:`Compact` for images of ``channels`` channels."""
    *layer1, relu = _convolution(width, width, 3)
    return {
        "stem": Stage(nn.Sequential(Stem(channels, width), *norm_relu(width)), 2, -0.5),
        # ReLU after pooling gives the same result on a quarter of the values.
        "layer1": Stage(nn.Sequential(*layer1, nn.MaxPool2d(2), relu), 2),
        "layer2": Stage(_convolution(width, 2 * width, 3)),
        "layer3": Stage(nn.Sequential(AveragePool(pool), *_convolution(2 * width, 2 * width, 3)), None),
    }


def norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    """The layers that follow a convolution to so many channels."""
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


def as_list(at: str | Sequence[str]) -> list[str]:
    """The stages that a setting ``at`` names, which may be a single one."""
    return [at] if isinstance(at, str) else list(at)


def _placement(stage: Stage, before: Sequence[int], after: Sequence[int]) -> Placement:
    if stage.stride is None or len(before) != 3 or len(after) != 3:
        return Placement()
    x, y = stage.stride * after[2] / before[2], stage.stride * after[1] / before[1]
    return Placement((x, y), (x - 1 + 2 * stage.offset / before[2], y - 1 + 2 * stage.offset / before[1]))


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return nn.Sequential(convolution, *norm_relu(outputs))
