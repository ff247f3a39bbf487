"""Digits for the tests of distortions, and the ink in images of them."""

import torch

from stn_experiments.data.mnist import Digits

ALL = torch.arange(40)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def repeat(digits, times):
    return Digits(digits.images.repeat(times, 1, 1), digits.labels.repeat(times))


def grey(count, value, margin=0):
    """Digits that are squares of one grey level, ``margin`` pixels from the edge."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, margin : 28 - margin, margin : 28 - margin] = value
    return Digits(images, torch.zeros(count, dtype=torch.long))


def bounds(image, threshold=0.01):
    """The left, top, right and bottom edge of the ink in an image (H, W), in pixels."""
    rows, columns = ((image > threshold).any(dim).nonzero() for dim in (1, 0))
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_boxes_fit(images, boxes, tolerance, threshold=0.01):
    """The boxes (B, 4, 2) of poses are around the ink of images (B, H, W), up to ``tolerance`` pixels."""
    corners = (boxes + 1) / 2 * torch.tensor(images.shape[:0:-1])
    inks = torch.stack([bounds(image, threshold) for image in images])
    assert (inks - torch.cat([corners.amin(1), corners.amax(1)], 1)).abs().max() <= tolerance
