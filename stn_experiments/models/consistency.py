"""A loss that asks transformers at the input to follow it: where the image turns, the box must turn with it.

A further transform g of an image x is known, for it is drawn here: (g·x)(p) = x(g(p)). What a transformer T
attends to in x, it should attend to in g·x as well, so T(x) = g ∘ T(g·x). This needs no label and no pose.
Which direction is up does not follow from it: that is the mean direction of the images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.ranges import Fraction, Range
from stn_experiments.models.precision import autocast_disabled
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import View

Weight = Annotated[float, Range(0, 1000)]
SMALLEST_AREA = 1e-3
"""Smaller areas of an outline count as this much, so the loss stays finite; the whole image has area 4."""


@dataclass(frozen=True)
class Consistency:
    """The weight of the loss, and the further transforms of the images.

    Args:
        weight: of the loss at the start of training.
        end: its weight at the end of training, linear in between.
        angle: rotation about the image's centre, uniform in ±angle, degrees.
        scale: largest factor, log-uniform from 1/scale.
        translation: along each axis, uniform in ±translation, as a fraction of the image's side.
    """

    weight: Weight = 0.0
    end: Weight = 0.0
    angle: Annotated[float, Range(0, 180)] = 0.0
    scale: Annotated[float, Range(1, 4)] = 1.0
    translation: Fraction = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the loss has a weight at some time, and the images are transformed."""
        return max(self.weight, self.end) > 0 and (self.angle, self.scale, self.translation) != (0, 1, 0)

    @property
    def has_no_direction(self) -> bool:
        """Whether the loss is on and turns images in a full circle, so that no direction is up."""
        return self.is_on and self.angle == 180

    def weight_at(self, progress: float) -> float:
        """The weight of the loss at a training progress in [0, 1]."""
        return self.weight + (self.end - self.weight) * progress

    def draw(self, images: Tensor, generator: Generator) -> Tensor:
        """A transform g (B, 3, 3), in normalised coordinates, of each of the images (B, C, H, W)."""
        size = geometry.image_size(images)
        random = torch.rand(4, len(images), generator=generator, device=images.device, dtype=images.dtype)
        angle, scale, *shift = 2 * random - 1
        sides = geometry.constant(size[::-1], images)
        matrix = geometry.similarity(
            math.radians(self.angle) * angle,
            (math.log(self.scale) * scale).exp(),
            self.translation * sides * torch.stack(shift, 1),
        )
        return geometry.normalised(matrix, size, size)


def consistency_loss(
    transformers: Sequence[SpatialTransformer], views: Sequence[View], images: Tensor, matrix: Tensor
) -> Tensor:
    """The loss (), mean over images and over transformers at the input.

    Args:
        transformers: those at the input, which read the transformed images as well.
        views: theirs of the images.
        images: (B, C, H, W).
        matrix: a transform g of each image (B, 3, 3), see :meth:`Consistency.draw`.
    """
    size = geometry.image_size(images)
    with autocast_disabled(images):
        grid = geometry.affine(matrix, geometry.pixel_centres(*size, images.device).to(images.dtype))
        padding = transformers[0].sampler.padding
        grid = grid.unflatten(1, size)
        transformed = F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
    thetas = [transformer.regress(transformed) for transformer in transformers]
    losses = []
    with autocast_disabled(images):
        unit = isotropic_unit(images)
        for transformer, theta, view in zip(transformers, thetas, views, strict=True):
            assert view.outline is not None
            expected = geometry.affine(matrix, transformer.grid_generator.outline(theta))
            losses.append(outline_distance(view.outline * unit, expected * unit))
        return torch.stack(losses).mean()


def isotropic_unit(images: Tensor) -> Tensor:
    """Factors (2,) that bring normalised points of images (B, C, H, W) to one unit along both axes.

    In it the area of the whole image is 4, as in normalised coordinates.
    """
    height, width = images.shape[2:]
    return geometry.constant(((width / height) ** 0.5, (height / width) ** 0.5), images)


def tilt_loss(views: Sequence[View], images: Tensor) -> Tensor:
    """Four times the squared mean sine () of the rotations of the boxes on images (B, C, H, W).

    It is the mean over the views, and 0 if the boxes of a batch are upright on average. The product of the
    means of the two halves of the batch has no bias: the rotations themselves may be as large as they like.
    """
    losses = []
    for view in views:
        assert view.outline is not None
        first, second = rotation_sine(view.outline.float() * isotropic_unit(images)).chunk(2)
        losses.append(4 * first.mean() * second.mean())
    return torch.stack(losses).mean()


def rotation_sine(outline: Tensor) -> Tensor:
    """The sines (B,) of the rotations that bring the square closest to outlines (B, K, 2), K = 4 n.

    This is the rotation of the orthogonal Procrustes problem. It is positive clockwise on the screen.
    """
    square = geometry.boundary_points(outline.shape[1] // 4, outline.device).to(outline.dtype)
    cosine = (square * outline).sum((1, 2))
    sine = geometry.cross(square, outline).sum(1)
    return F.normalize(torch.stack([cosine, sine], 1), dim=1)[:, 1]


def outline_distance(one: Tensor, other: Tensor) -> Tensor:
    """The mean squared distance () of the points of outlines (B, K, 2), relative to their areas.

    It is 4 |p - q|² / √(area · area') for points p and q, so it does not depend on the size of the boxes.
    """
    squared = (one - other).square().sum(2).mean(1)
    area, other_area = (geometry.signed_area(line).abs().clamp(min=SMALLEST_AREA) for line in (one, other))
    return (4 * squared / (area * other_area).sqrt()).mean()
