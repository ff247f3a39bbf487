"""Backbones whose class scores do not change when the image is rotated: the rivals of a transformer.

Between the stages of two of them there is a map for each of N rotations, (B, N, C, H, W); the third has a
single stage, on a polar grid. So no gate follows a stage, and no transformer precedes an inner one: neither
knows what a rotation does to these maps. The last stage takes the maximum over the rotations, or the mean
over the polar grid, which gives the same vector for the rotated image.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.ranges import Range
from stn_experiments.models.backbones import Backbone, Side, Stage, Width, compact_stages, norm_relu
from stn_experiments.models.deterministic import AveragePool
from stn_experiments.models.localisation import cell_centres, expected_positions, pad_to_cells
from stn_experiments.models.polar import RingConv2d, log_polar_points
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.sampler import Sampler

QUARTERS = 4
"""The rotations of the group p4: by multiples of 90°."""


class GCNN(Backbone):
    """A group convolutional network over p4, in the stages of the compact one (Cohen and Welling 2016).

    Its maps follow a rotation of a square image by 90° exactly, up to rounding. The last convolution covers
    the whole map, so the maximum over the rotations loses no position in it.

    Args:
        width: channels of the first two convolutions for each rotation; the last two have twice as many.
        pool: side to which the maps are averaged before the last convolution, for every canvas size.
        standardise: see :class:`Backbone`.
    """

    width_setting = "width"

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        width: Width = 20,
        pool: Side = 3,
        standardise: bool = False,
    ) -> None:
        stem = P4Convolution(shape[0], width, 5, padding=2, rotations=1)
        layer1 = P4Convolution(width, width, 3, padding=1)
        layer2 = P4Convolution(width, 2 * width, 3, padding=1)
        layer3 = P4Convolution(2 * width, 2 * width, pool, padding=0)
        stages = {
            "stem": [nn.Unflatten(1, (1, -1)), stem, AsChannels(HalvingMaxPool()), P4NormRelu(width)],
            "layer1": [layer1, AsChannels(HalvingMaxPool()), P4NormRelu(width)],
            "layer2": [layer2, P4NormRelu(2 * width)],
            "layer3": [
                AsChannels(AveragePool(pool)),
                layer3,
                P4NormRelu(2 * width),
                MaxOverRotations(),
            ],
        }
        built = {name: Stage(nn.Sequential(*layers)) for name, layers in stages.items()}
        super().__init__(built, shape, classes, standardise=standardise)


class TIPooling(Backbone):
    """The compact network on rotated copies of the image, and the maximum over them (Laptev et al. 2016).

    The copies are rotated about the image's centre by multiples of 360° / ``copies``. What a rotation moves
    off the canvas is lost.

    Class scores are invariant under rotations by 90° if ``copies`` is a multiple of 4, up to rounding, and
    nearly so under others of the copies' rotations, for those interpolate.

    Args:
        copies: number of copies; the first is the image itself.
        width: channels of the first two convolutions; the last two have twice as many.
        pool: side to which the maps are averaged before the last convolution, for every canvas size.
        standardise: see :class:`Backbone`.
    """

    width_setting = "width"

    def __init__(  # noqa: PLR0913 -- settings
        self,
        shape: tuple[int, int, int],
        classes: int,
        copies: Annotated[int, Range(1, 64)] = 8,
        width: Width = 32,
        pool: Side = 4,
        standardise: bool = False,
    ) -> None:
        stages = {}
        for name, stage in compact_stages(shape[0], width, pool).items():
            before = [RotatedCopies(copies, shape[1:])] if name == "stem" else []
            after = [MaxOverRotations()] if name == "layer3" else []
            stages[name] = Stage(nn.Sequential(*before, EachRotation(stage.layers), *after))
        super().__init__(stages, shape, classes, standardise=standardise)


class Polar(Backbone):
    """A small polar transformer network: log-polar samples about a learned centre (Esteves et al. 2018).

    A rotation of the image about that centre shifts the samples along the angle, on which the convolutions
    wrap around, and a scale shifts them along the radius. The mean over both hardly changes then.

    Args:
        width: channels of the first two convolutions; the last two have twice as many.
        standardise: see :class:`Backbone`.
    """

    width_setting = "width"

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: Width = 32, standardise: bool = False
    ) -> None:
        layers = [
            LogPolarSampling(shape),
            *(RingConv2d(shape[0], width, 5, stride=2), *norm_relu(width)),
            *(RingConv2d(width, width, 3), nn.MaxPool2d(2), *norm_relu(width)),
            *(RingConv2d(width, 2 * width, 3), *norm_relu(2 * width)),
            *(RingConv2d(2 * width, 2 * width, 3), *norm_relu(2 * width)),
            *(AveragePool(1), nn.Flatten()),
        ]
        stages = {"polar": Stage(nn.Sequential(*layers), None)}
        super().__init__(stages, shape, classes, standardise=standardise)


class LogPolarSampling(nn.Module):
    """Samples images of ``shape`` (C, H, W) at the crossings of circles and rays about a learned centre.

    The centre is the expected position under a softmax over a heat map, at the start the image's middle.
    There are as many circles as pixels along the shorter side, and at least twice as many rays.
    """

    points: Tensor
    cells: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        side = min(height, width)
        self.heat = nn.Sequential(
            *pad_to_cells((height, width)),
            nn.AvgPool2d(2),
            *(nn.Conv2d(channels, 16, 5, padding=2, bias=False), *norm_relu(16)),
            nn.MaxPool2d(2),
            *(nn.Conv2d(16, 16, 5, padding=2, bias=False), *norm_relu(16)),
            last := nn.Conv2d(16, 1, 1, bias=False),
        )
        nn.init.zeros_(last.weight)
        rays = 16 * -(-side // 8)  # a rotation by 90° is a whole number of cells even after two halvings
        self.register_buffer("points", log_polar_points(side, rays, (height, width)), persistent=False)
        self.register_buffer("cells", cell_centres((height, width)), persistent=False)
        self.sampler = Sampler()

    def forward(self, images: Tensor) -> Tensor:
        """Samples (B, C, circles, rays) of images (B, C, H, W), from the inside out and clockwise."""
        heat = self.heat(images)
        with autocast_disabled(images):
            centre = expected_positions(to_float32(heat), self.cells)
            return self.sampler(to_float32(images), centre[:, :, None] + self.points)


class P4Convolution(nn.Conv2d):
    """A convolution over p4, whose filters are used in four rotations (Cohen and Welling 2016).

    A filter has weights for each rotation of its input. Rotating it by 90° rotates these in the plane, and
    moves them on to the next rotation.

    Args:
        inputs: channels of each of the maps (B, ``rotations``, C, H, W) that it reads.
        outputs: channels of each of the maps (B, 4, C', H, W) that it makes.
        side: side of the filters.
        padding: pixels of zeros around the maps.
        rotations: 4, or 1 for an image.
    """

    def __init__(self, inputs: int, outputs: int, side: int, padding: int, rotations: int = QUARTERS) -> None:
        super().__init__(rotations * inputs, outputs, side, padding=padding, bias=False)
        self.rotations = rotations

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, 4, C', H, W) of maps (B, N, C, H, W)."""
        weight = self.weight.unflatten(1, (self.rotations, -1))
        filters = torch.cat([weight.rot90(quarter, (3, 4)).roll(quarter, 1) for quarter in range(QUARTERS)])
        output = F.conv2d(maps.flatten(1, 2), filters.flatten(1, 2), padding=self.padding)
        # Without this, the maps of an image of one channel are not channels last, and pooling them is slow.
        output = output.contiguous(memory_format=torch.channels_last)
        return output.unflatten(1, (QUARTERS, -1))


class AsChannels(nn.Sequential):
    """Layers without weights, applied to maps (B, N, C, H, W) as to N · C channels."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, N, C, H', W') of maps (B, N, C, H, W)."""
        return super().forward(maps.flatten(1, 2)).unflatten(1, (maps.shape[1], -1))


class P4NormRelu(nn.BatchNorm2d):
    """Batch normalisation, the same for each of N rotations, then ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, N, C, H, W) of the same shape."""
        # With the rotations side by side along the width, nothing is copied where channels are last.
        wide = F.relu(super().forward(input.movedim(1, -1).flatten(3)), inplace=True)
        return wide.unflatten(3, (-1, input.shape[1])).movedim(-1, 1)


class EachRotation(nn.Sequential):
    """Layers for maps (B, C, H, W), applied to maps (B, N, C, H, W): the same for each of N rotations."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, N, C', H', W') of maps (B, N, C, H, W)."""
        return super().forward(maps.flatten(0, 1)).unflatten(0, (-1, maps.shape[1]))


class HalvingMaxPool(nn.Module):
    """Maximum pooling by 2 that commutes with rotations by 90°: its windows are 3 wide along an odd side."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, ⌈H / 2⌉, ⌈W / 2⌉)."""
        odd = [side % 2 for side in maps.shape[2:]]
        return F.max_pool2d(maps, [2 + one for one in odd], 2, odd)


class RotatedCopies(nn.Module):
    """Copies of images of ``size`` (height, width), rotated about the centre by multiples of 360° / N."""

    grid: Tensor

    def __init__(self, copies: int, size: tuple[int, int]) -> None:
        super().__init__()
        angles = torch.arange(copies, dtype=torch.double) * (2 * math.pi / copies)
        matrix = geometry.similarity(angles, torch.ones_like(angles), angles.new_zeros(copies, 2))
        grid = geometry.affine(
            geometry.normalised(matrix, size, size), geometry.pixel_centres(*size).double()
        )
        self.sampler = Sampler()
        self.register_buffer("grid", grid.unflatten(1, size).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Copies (B, N, C, H, W) of images (B, C, H, W)."""
        # All images of one rotation are channels, so that the sampler computes its weights once.
        source = images.flatten(0, 1).expand(len(self.grid), -1, -1, -1)
        return self.sampler(source, self.grid).unflatten(1, images.shape[:2]).transpose(0, 1)


class MaxOverRotations(nn.Module):
    """The maximum over N rotations, as a vector."""

    def forward(self, maps: Tensor) -> Tensor:
        """Features (B, C H W) of maps (B, N, C, H, W)."""
        return maps.amax(1).flatten(1)
