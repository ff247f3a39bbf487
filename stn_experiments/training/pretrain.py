"""Training of the encoder that co-localisation needs, before the first step of a run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator

from stn_experiments.data.batch import Batch
from stn_experiments.models.backbones import Backbone

STEPS, BATCH_SIZE, RATE = 500, 128, 5e-3
"""Number of steps, images in each, and the largest learning rate."""


def pretrain(encoder: Backbone, draw: Callable[..., Batch], size: int, generator: Generator) -> None:
    """Train a backbone as a classifier, then fix it.

    Args:
        encoder: the backbone.
        draw: draws images of labelled digits, as that of a ``TrainingSet`` does.
        size: number of digits.
        generator: the source of everything random.
    """
    encoder.requires_grad_(True).train()
    optimizer = torch.optim.Adam(encoder.parameters(), RATE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for _ in range(STEPS):
        index = torch.randint(size, (BATCH_SIZE,), generator=generator, device=generator.device)
        batch = draw(index, generator)
        optimizer.zero_grad()
        F.cross_entropy(encoder(batch.images), batch.labels).backward()
        optimizer.step()
        scheduler.step()
    encoder.requires_grad_(False).eval()
