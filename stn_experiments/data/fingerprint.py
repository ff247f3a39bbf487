"""A digest of a fixed set, which does not depend on the last bits of its images."""

import hashlib

import torch
import torch.nn.functional as F

from stn_experiments.data.batch import Batch

IMAGES = 25
CELLS = 4


def fingerprint(batch: Batch) -> str:
    """12 hexadecimal digits of a set: of all labels and questions, and of 25 images spread over it.

    An image counts by its mean brightness in 4×4 cells, in steps of 1/50. Another instruction set changes the
    last bits of an image, which would change a digest of all pixels, but hardly ever this one.
    """
    index = torch.linspace(0, len(batch.labels) - 1, IMAGES, device=batch.images.device).long()
    cells = F.adaptive_avg_pool2d(batch.images.index_select(0, index).cpu().double(), CELLS)
    sha256 = hashlib.sha256()
    for values in (batch.labels, batch.question, (cells * 50).round().short()):
        if values is not None:
            sha256.update(repr(tuple(values.shape)).encode() + values.cpu().numpy().tobytes())
    return sha256.hexdigest()[:12]
