"""The retina against loops over pixels."""

import math

import numpy as np
import pytest
import torch

from stn_experiments.models.retina import Retina


def bilinear(image, x, y):
    """An image (H, W) at a point in pixels, whose centres are at 0.5, 1.5 and so on; black outside."""
    total, left, top = 0.0, math.floor(x - 0.5), math.floor(y - 0.5)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += image[row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return total


def rendered(image, place, size, scale):
    """One patch, pixel by pixel: each the mean of samples one pixel of the map apart."""
    height, width = image.shape
    step = 2**scale
    patch = np.zeros((size, size))
    for row, column in np.ndindex(size, size):
        left = (place[0] + 1) / 2 * width + (column - size / 2) * step
        top = (place[1] + 1) / 2 * height + (row - size / 2) * step
        samples = [bilinear(image, left + i + 0.5, top + j + 0.5) for i, j in np.ndindex(step, step)]
        patch[row, column] = np.mean(samples)
    return patch


def test_patches_agree_with_loops(generator):
    features = torch.rand(3, 2, 24, 31, generator=generator, dtype=torch.double)
    places = torch.tensor([[0.0, 0.0], [0.33, -0.71], [-1.0, 1.0]], dtype=torch.double)
    retina = Retina((2, 24, 31), 5, 3).double()
    patches = retina(retina.blur(features), places)
    assert patches.shape == (3, 3, 2, 5, 5)
    for image, scale, channel in np.ndindex(3, 3, 2):
        expected = rendered(features[image, channel].numpy(), places[image].tolist(), 5, scale)
        np.testing.assert_allclose(patches[image, scale, channel].numpy(), expected, atol=1e-6)


def test_the_outline_is_the_edge_of_the_finest_patch():
    corners = Retina((1, 20, 40), 10, 2).outline(torch.tensor([[0.5, -0.2]]))
    assert corners[0].flatten().tolist() == pytest.approx([0.25, -0.7, 0.75, -0.7, 0.75, 0.3, 0.25, 0.3])
