"""Scores of a model on each distortion of a mixture alone, and how much clutter and noise its view holds."""

import torch
from torch import Tensor

from stn_experiments.data.splits import KindSet
from stn_experiments.evaluation.evaluate import CHUNK, canvas_size, results_per_image, summarise
from stn_experiments.evaluation.localisation_scores import bounded, digit_frames, ink_inside
from stn_experiments.evaluation.yardsticks import CENTRE_BOX, EXACT_FRAME, centre_box, named
from stn_experiments.models.classifier import Classifier


def evaluate_kind(model: Classifier, kind: KindSet) -> dict[str, float]:
    """The scores of ``evaluate`` over all test digits under one distortion, without yardsticks.

    A model with one transformer also has ``disturbance_inside``, the :func:`energy_inside` its outlines, if
    there is clutter or noise, beside that of two of the :func:`yardsticks`.
    """
    batch, disturbance = kind
    results = results_per_image(model, batch)
    scores = summarise(results, batch)
    if "outline" in results and disturbance.any():
        outlines = {
            "disturbance_inside": results["outline"],
            named("disturbance_inside", CENTRE_BOX): centre_box(batch.pose, canvas_size(batch)),
            named("disturbance_inside", EXACT_FRAME): digit_frames(batch.pose)[:, 0],
        }
        scores |= {name: energy_inside(outline, disturbance) for name, outline in outlines.items()}
    return scores


def energy_inside(outlines: Tensor, energy: Tensor) -> float:
    """The fraction of the energy (N, h, w) of N images, taken together, inside outlines (N, K, 2)."""
    chunks = zip(outlines.split(CHUNK), energy.split(CHUNK), strict=True)
    inside = torch.cat([ink_inside(bounded(outline), part) for outline, part in chunks])
    total = energy.sum((1, 2))
    return ((inside * total).sum() / total.sum()).item()
