"""Panels of a grey "7", and what is in their cells."""

import numpy as np
import torch

from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits
from stn_experiments.models.grids import Affine, GridGenerator
from stn_experiments.models.prediction import Prediction
from stn_experiments.models.sampler import Sampler
from stn_experiments.models.view import View
from stn_experiments.tracking.panels import BORDER, GAP, draw_panel

CELL = 120
IDENTITY = [1, 0, 0, 0, 1, 0]
OFF_CANVAS = torch.full((1, 1, 4, 2), 50.0)


def make_digits():
    """A grey "7" of 16 rows and 10 columns, so that its ink is neither the paper's white nor symmetric."""
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[:, 6:9, 10:20] = 100
    images[:, 6:22, 17:20] = 150
    return Digits(images, torch.tensor([7, 7]))


def make_batch(canvas=28, count=1, **options):
    index = torch.zeros(count, dtype=torch.long)
    return Distortion(canvas, **options).draw(make_digits(), index, torch.Generator().manual_seed(3))


def make_view(images, theta):
    theta = torch.as_tensor(theta, dtype=torch.float).expand(len(images), -1)
    grids = GridGenerator(Affine(), (28, 28))
    return View(Sampler()(images, grids(theta)), grids.outline(theta), grids.family.marks(theta))


def make_prediction(batch, theta=IDENTITY, **fields):
    """A "7" predicted by one affine transformer, but for other ``fields``."""
    logits = torch.zeros(len(batch.images), 10)
    logits[:, 7] = 3
    return Prediction(logits, [make_view(batch.images, theta)])._replace(**fields)


def cell_of(panel, column, row=0, rows=1):
    left = BORDER + column * (CELL + GAP)
    top = panel.height - BORDER - CELL - (rows - 1 - row) * (CELL + GAP)
    return panel.crop((left, top, left + CELL, top + CELL))


def draw_cell(column, batch, theta=IDENTITY, **fields):
    """A cell of the panel of one image."""
    return cell_of(draw_panel(batch, make_prediction(batch, theta, **fields)), column)


def pixels_of(picture, colour):
    """The (x, y) of the pixels of exactly one colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(-1))
    return np.stack([columns, rows], -1)


def has(picture, colour):
    return len(pixels_of(picture, colour)) > 0
