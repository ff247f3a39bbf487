"""Poses and outlines that the tests of scores share."""

import math

import torch

from stn_experiments.common import geometry

SIZES = [(28, 28), (61, 33)]
CANVAS = geometry.boundary_points(8)[None]


def similarities(seed, size, count=20):
    """Random poses, rotated, scaled and shifted, on canvases of ``size``."""
    generator = torch.Generator().manual_seed(seed)
    angle, scale, *shift = torch.rand(4, count, generator=generator) * 2 - 1
    matrix = geometry.similarity(angle * math.pi, 1 + 0.6 * scale, 10 * torch.stack(shift, 1))
    return geometry.normalised(matrix, (28, 28), size)


def turned(degrees, size=(28, 28), scale=1.0, shift=(0.0, 0.0)):
    """One pose for each angle."""
    angle = torch.tensor(degrees).deg2rad()
    matrix = geometry.similarity(angle, torch.full_like(angle, scale), torch.tensor([shift] * len(degrees)))
    return geometry.normalised(matrix, (28, 28), size)


def outline(matrix):
    return geometry.transform(matrix, CANVAS[0])
