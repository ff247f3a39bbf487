"""Co-localisation: what do images have in common, and where is it? (Jaderberg et al. 2015, appendix A.2)

A transformer finds it without labels. A window T_n of image n should look to an encoder e as those of the
other images do, and unlike a window R_n at a random place of the same image.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.models.classifier import INPUT, Classifier
from stn_experiments.models.grids import Translation
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.view import View

JITTER = 0.3
"""Standard deviation of a window's movement along each axis while it learns, in halves of its side.

A digit that is not in the middle would be cut off now and then. Without it, windows settle where all digits
are off centre by as much.
"""


def colocalisation_loss(model: Classifier, view: View, images: Tensor, generator: Generator) -> Tensor:
    """The :func:`triplet_loss` () of a model whose backbone is the encoder.

    Args:
        model: one with a translation at the input.
        view: what its transformer did to the images.
        images: (B, C, H, W).
        generator: source of ``JITTER`` and of the random places.
    """
    (transformer,) = model.transformers_at(INPUT)
    window = cast(Translation, transformer.family).window
    assert view.transform is not None
    with autocast_disabled(images):
        images, theta = to_float32(images), view.transform.theta
        move = torch.randn(theta.shape, generator=generator, device=theta.device) * JITTER * window
        place = torch.rand(theta.shape, generator=generator, device=theta.device) * 2 - 1
        thetas = theta + move, place * max(0.0, 1 - window)
        windows, random = (transformer.warp(images, at).output for at in thetas)
    found, other = (model.backbone.stages(crops).flatten(1).float() for crops in (windows, random))
    return triplet_loss(found, other, model.colocalisation)


def triplet_loss(windows: Tensor, random: Tensor, margin: float) -> Tensor:
    """The mean () of max(0, |e(T_n) - e(T_m)|² - |e(T_n) - e(R_n)|² + margin) over all pairs n ≠ m.

    Before, the mean code of the random windows is subtracted from all codes, and each is divided by its
    length. The paper says nothing of this. Without it, windows on background are closer to each other than
    windows on parts of digits, so windows leave the digits.

    Args:
        windows: codes e(T) (B, N).
        random: codes e(R) (B, N).
        margin: of the hinge.
    """
    mean = random.mean(0)
    found, other = (F.normalize(codes - mean, dim=1) for codes in (windows, random))
    apart = (found - other).square().sum(1)
    with autocast_disabled(windows):
        between = 2 - 2 * found @ found.T
    hinge = (between - apart[:, None] + margin).clamp(min=0)
    count = len(hinge)
    return (hinge.sum() - hinge.diagonal().sum()) / (count * (count - 1))
