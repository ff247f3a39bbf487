"""Evaluation of a model on a fixed set: is it right, is its transformer sound, and is it on the digit?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.data.distortions import Batch, Pose, index_batch
from stn_experiments.evaluation import localisation_scores as attention
from stn_experiments.evaluation.metrics import outside_share, theta_spread
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.prediction import Prediction

CHUNK = 250
FOUND = 0.5
"""A digit is found where the IoU is above this (Jaderberg et al. 2015, co-localisation)."""


@torch.no_grad()
def predict(model: Classifier, batch: Batch) -> Prediction:
    """The prediction for a batch in evaluation mode; the model's own mode is kept."""
    training = model.training
    model.eval()
    prediction = model(batch.images, batch.question)
    model.train(training)
    return prediction


def evaluate(model: Classifier, batch: Batch) -> dict[str, float]:
    """Cross-entropy ``loss`` and ``error`` in percent over a whole set, on whose device the model is.

    With a transformer also ``theta_spread`` and ``outside_share`` (see ``metrics``). Where the digits are
    known, the scores of any attention with a place in space (see :func:`attention_scores`), and for one
    transformer and one digit those of :func:`pose_scores`.
    """
    parts = []
    for start in range(0, len(batch.labels), CHUNK):
        part = index_batch(batch, slice(start, start + CHUNK))
        parts.append(per_image(predict(model, part), part))
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    scores = {name: value.mean() for name, value in whole.items() if name not in ("theta", "outline")}
    scores["error"] = whole["error"].sum()
    if "theta" in whole:
        scores["theta_spread"] = theta_spread(whole["theta"])
    if "outline" in whole:
        scores |= pose_scores(whole["outline"], batch.pose, tuple(batch.images.shape[-2:]))
    # The host waits for the device here, once.
    values = dict(zip(scores, torch.stack(list(scores.values())).tolist(), strict=True))
    return values | {"error": values["error"] * 100 / len(batch.labels)}


def of_test(scores: dict[str, float]) -> dict[str, float]:
    """The scores of a test set under the names that they have in ``result.json``."""
    return {f"test_{name}" if name in ("error", "loss") else name: value for name, value in scores.items()}


def per_image(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """What is found out image by image: a row for each."""
    logits, views = prediction.logits, prediction.views
    digits = batch.pose.box.shape[1]
    found = {
        "loss": F.cross_entropy(logits, batch.labels, reduction="none"),
        "error": (logits.argmax(1) != batch.labels).float(),
    }
    transforms = [view.transform for view in views if view.transform is not None]
    if transforms:
        found["theta"] = torch.cat([transform.theta for transform in transforms], 1)
        outside = [outside_share(transform.grid) for transform in transforms]
        found["outside_share"] = torch.stack(outside, 1).mean(1)
    turned = [view.outline for view in views if view.transform is not None and view.outline is not None]
    if digits == len(turned) == 1:
        found["outline"] = turned[0]
    outlines = [view.outline for view in views if view.outline is not None]
    if digits and outlines:
        found |= attention_scores(outlines, batch.pose)
    return found


def attention_scores(outlines: Sequence[Tensor], pose: Pose) -> dict[str, Tensor]:
    """``iou_mean``, ``iou_above_half``, ``ink_inside``, ``elsewhere``, ``touching`` (B,): see ``score``.

    Of outlines (B, K, 2), each with a K of its own.
    """
    score = attention.score(attention.together(outlines), pose.box, pose.ink)
    return {
        "iou_mean": score["iou"],
        "iou_above_half": (score["iou"] > FOUND).float(),
        "ink_inside": score["ink_inside"],
        "off_target": score["off_target"],
        "hit_rate": score["hit_rate"],
    }


def pose_scores(outline: Tensor, pose: Pose, size: tuple[int, ...]) -> dict[str, Tensor]:
    """How much rotation, scale and translation is left in V, and how much went in, as spreads over a set.

    Of one outline (N, K, 2) and one digit an image; see ``attention.spread``.
    """
    height, width = size
    left = attention.spread(attention.residual_pose(outline, pose.matrix[:, 0], (height, width)))
    put_in = attention.spread(attention.input_pose(pose.matrix[:, 0], (height, width)))
    return {
        f"{name}_{key}{unit}": value[key]
        for name, value in (("residual", left), ("input", put_in))
        for key, unit in (("rotation", "_deg"), ("scale", ""), ("translation", "_px"))
    }
