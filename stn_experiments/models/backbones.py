"""Backbones: networks from images to class scores, as named stages and a linear head, for any canvas size."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.models.deterministic import AveragePool
from stn_experiments.models.localisation import LocalisationKind

WIDEST = 4096
Width = Annotated[int, Range(1, WIDEST)]


class Stage(NamedTuple):
    """A part of a backbone between whose neighbours an attention may stand.

    ``stride`` is how many pixels of the map that it reads lie between two of the one that it gives; ``None``
    where that covers the whole of the other, however many they are.
    """

    layers: nn.Module
    stride: int | None = 1


class Backbone(nn.Module):
    """Stages one after the other, flattened into a linear classifier.

    ``shapes`` holds the shape (C, H, W) of what each stage reads, ``gives`` that of what it gives, ``output``
    that of what the last one gives, and
    ``reach`` how far, as a factor on x and on y, the one reaches on the other: below 1 for unpadded
    convolutions.

    Args:
        stages: the stages by name, in order.
        shape: (C, H, W) of the input.
        classes: number of classes.
        pool: what stands between the last stage and the classifier.

    Raises:
        UserError: the input is too small for the stages.
    """

    localisation: LocalisationKind = "keypoints"
    """The kind of localisation network that fits in front of it."""
    width_setting: str | None = None
    """The setting that holds its widths, if it has one."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        shape: tuple[int, int, int],
        classes: int,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential()
        self.pool = pool or nn.Identity()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.output_shapes: dict[str, tuple[int, ...]] = {}
        self.receptive_scale: dict[str, tuple[float, ...]] = {}
        features = torch.zeros(1, *shape)
        for name, stage in stages.items():
            self.stages.add_module(name, stage.layers)
            self.shapes[name] = tuple(features.shape[1:])
            try:
                with torch.no_grad():
                    features = stage.layers.eval()(features)
            except RuntimeError as error:
                if "memory" in str(error):
                    raise
                raise UserError(
                    f"{type(self).__name__} cannot read an input as small as {shape[1]}×{shape[2]}"
                ) from error
            self.output_shapes[name] = tuple(features.shape[1:])
            ratios = zip(features.shape[:1:-1], self.shapes[name][:0:-1], strict=False)
            stride = stage.stride
            self.receptive_scale[name] = tuple(
                1.0 if stride is None else stride * after / before for after, before in ratios
            )
        self.output = tuple(features.shape[1:])
        self.stages.train()
        self.head: nn.Linear | None = nn.Linear(self.pool(features).numel(), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, classes) of images (B, C, H, W)."""
        return self.classify(self.stages(images))

    def classify(self, features: Tensor) -> Tensor:
        """Class scores (B, classes) of what the last stage gives."""
        if self.head is None:
            raise TypeError("this backbone gives maps to a reader, and no class scores")
        # Channels last, as they lie in memory: neither this nor the way back need copy them.
        return self.head(self.pool(features).movedim(1, -1).flatten(1))


class Bare(Backbone):
    """No stages: a linear classifier of the pixels, or the pixels themselves for a reader."""

    localisation: LocalisationKind = "fully_connected"

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__({}, shape, classes)


class FCN(Backbone):
    """The paper's fully connected network: hidden layers of ``widths`` units with ReLU."""

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
            "conv1": Stage(nn.Sequential(nn.Conv2d(shape[0], first, 9), nn.MaxPool2d(2), nn.ReLU()), 2),
            "conv2": Stage(nn.Sequential(nn.Conv2d(first, second, 7), nn.MaxPool2d(2), nn.ReLU()), 2),
        }
        super().__init__(stages, shape, classes)


class Compact(Backbone):
    """A small batch-normalised network that is fast on a CPU: strided 5×5, then 3×3 convolutions.

    Args:
        width: channels of the first two convolutions; the last two have twice as many.
        pool: side of the map that the last convolution reads and gives, averaged to it whatever the canvas.
    """

    width_setting = "width"

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: Width = 32,
        pool: Annotated[int, Range(1, 64)] = 4,
    ) -> None:
        *layer1, relu = _convolution(width, width, 3)
        stages = {
            "stem": Stage(_normalised(Stem(shape[0], width), width), 2),
            # The maximum first: it is the same, of a quarter of the values.
            "layer1": Stage(nn.Sequential(*layer1, nn.MaxPool2d(2), relu), 2),
            "layer2": Stage(_convolution(width, 2 * width, 3)),
            "layer3": Stage(nn.Sequential(AveragePool(pool), *_convolution(2 * width, 2 * width, 3)), None),
        }
        super().__init__(stages, shape, classes)


class ResNet18(Backbone):
    """torchvision's ResNet-18 (He et al. 2016) with a stem for small images: 3×3, stride 2, no pooling."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        network = torchvision.models.resnet18()
        stages = {
            "stem": Stage(_convolution(shape[0], 64, 3, stride=2), 2),
            "layer1": Stage(network.layer1),
            "layer2": Stage(network.layer2, 2),
            "layer3": Stage(network.layer3, 2),
            "layer4": Stage(network.layer4, 2),
        }
        super().__init__(stages, shape, classes, AveragePool(1))


class Stem(nn.Conv2d):
    """A 5×5 convolution of stride 2, computed as one of 3×3 and stride 1 on 2×2 pixels at a time.

    It is the same function. On a CPU the way back to the few channels of an image, which a transformer's
    gradient takes, is twice as fast.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, stride=2, padding=2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to maps (B, C', H / 2, W / 2), halves rounded up."""
        height, width = images.shape[-2:]
        images = F.pixel_unshuffle(F.pad(images, (0, width % 2, 0, height % 2)), 2)
        weight = F.pixel_unshuffle(F.pad(self.weight, (0, 1, 0, 1)), 2)
        return F.conv2d(images, weight, padding=1)


def _convolution(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
    return _normalised(convolution, outputs)


def _normalised(convolution: nn.Conv2d, outputs: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
