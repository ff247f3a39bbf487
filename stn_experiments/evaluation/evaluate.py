"""Evaluation of a model on a fixed set: its error, its transformer's health and where it attends to."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.common.bits import pack_bits, unpack_bits
from stn_experiments.common.geometry import image_size
from stn_experiments.data.batch import Batch, Pose, index_batch
from stn_experiments.data.fingerprint import fingerprint
from stn_experiments.data.splits import KindSet, Pairs
from stn_experiments.evaluation.coordinates import to_input_frame
from stn_experiments.evaluation.localisation_scores import area, bounded, digit_frames, ink_inside, score
from stn_experiments.evaluation.pose_scores import pair_rotation, pose_scores, residual_pose, whole_canvas
from stn_experiments.evaluation.yardsticks import (
    CENTRE_BOX,
    EXACT_FRAME,
    centre_box,
    mean_scores,
    named,
    yardsticks,
)
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.prediction import Prediction

CHUNK = 250
NOT_AVERAGED = ("theta", "outline", "areas")
"""Results of images from which other scores are computed."""
CENTRE_BOX_SCORES = ("iou_mean", "found", "ink_inside")
"""The scores of the centre box that are beside those of each epoch."""


@torch.no_grad()
def predict(model: Classifier, batch: Batch) -> Prediction:
    """The prediction for a batch in evaluation mode, with views in the coordinates of the images.

    The model's own mode is kept.
    """
    training = model.training
    model.eval()
    prediction = to_input_frame(model(batch.images, batch.question), model)
    model.train(training)
    return prediction


def evaluate(model: Classifier, batch: Batch) -> dict[str, float]:
    """Cross-entropy ``loss`` and ``error`` in percent over a set, which is on the model's device.

    On sequences, these count each label, and ``sequence_error`` is the percentage with a wrong label.
    Models with transformers also get ``theta_spread`` and ``outside_share``. If the digits'
    places are known, attention with a location gets those of :func:`score`, beside some of the centre box as
    a yardstick. A model with one transformer, on images of one digit, gets those of :func:`pose_scores`.
    """
    results = results_per_image(model, batch)
    scores = summarise(results, batch)
    if "areas" in results:
        scores |= centre_box_scores(batch.pose, image_size(batch.images))
    return scores


@lru_cache(maxsize=1)  # by the identity of the pose: a run evaluates one set again and again
def centre_box_scores(pose: Pose, size: tuple[int, int]) -> dict[str, float]:
    """The ``CENTRE_BOX_SCORES`` of a set whose canvases are of (height, width)."""
    scores = mean_scores([centre_box(pose, size)], pose)
    return {named(name, CENTRE_BOX): scores[name] for name in CENTRE_BOX_SCORES}


def evaluate_test(
    model: Classifier, batch: Batch, draw_pairs: Callable[[], Pairs] | None = None
) -> dict[str, Any]:
    """What ``result.json`` says of a test set: the scores of :func:`evaluate`, and what they compare with.

    Attention with a location has all :func:`yardsticks`. A model with one transformer, on images of one
    digit, has the :func:`pair_scores` of the images that ``draw_pairs`` draws. ``test_wrong`` tells for each
    of ``test_images`` images, of sequences for each of their labels, whether its prediction is wrong (see
    :func:`pack_bits`), and ``test_digest`` is the :func:`fingerprint` of the set. ``glimpses_seen`` is that
    of an attention head which sees images in glimpses.
    """
    results = results_per_image(model, batch)
    scores = summarise(results, batch)
    if "areas" in results:
        scores |= yardsticks(batch.pose, image_size(batch.images), results["areas"])
    if "outline" in results and draw_pairs is not None:
        scores |= pair_scores(model, draw_pairs())
    seen = None if model.attention_head is None else model.attention_head.glimpses_seen
    return {
        **{f"test_{name}" if name in ("error", "loss") else name: value for name, value in scores.items()},
        **({} if seen is None else {"glimpses_seen": seen}),
        "test_images": batch.labels.numel(),
        "test_digest": fingerprint(batch),
        "test_wrong": pack_bits(results["error"].flatten().bool().cpu().numpy()),
    }


def mistakes(batch: Batch, scores: Mapping[str, Any]) -> Batch | None:
    """The images of a test set that are wrong by the scores of :func:`evaluate_test`; ``None`` if none is.

    Sequences are wrong if one of their labels is.
    """
    wrong = torch.from_numpy(unpack_bits(scores["test_wrong"], scores["test_images"]))
    index = wrong.view(len(batch.labels), -1).any(1).nonzero()[:, 0]
    return index_batch(batch, index.to(batch.labels.device)) if len(index) else None


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
            named("disturbance_inside", CENTRE_BOX): centre_box(batch.pose, image_size(batch.images)),
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


def pair_scores(model: Classifier, pairs: Pairs) -> dict[str, float]:
    """The :func:`pair_rotation` of V (``pair_rotation_deg``) and of the canvas (``input_pair_rotation_deg``).

    For a model with one transformer, and pairs of images of one digit.
    """
    outlines = [results_per_image(model, batch)["outline"] for batch in pairs]
    canvases = [whole_canvas(outline) for outline in outlines]
    scores = {}
    for name, views in (("pair_rotation_deg", outlines), ("input_pair_rotation_deg", canvases)):
        first, second = (
            residual_pose(view, batch.pose.matrix[:, 0], image_size(batch.images)).rotation
            for view, batch in zip(views, pairs, strict=True)
        )
        scores[name] = pair_rotation(first, second).item()
    return scores


def results_per_image(model: Classifier, batch: Batch) -> dict[str, Tensor]:
    """The results of all images, one row an image, see :func:`per_image`."""
    chunks = []
    for start in range(0, len(batch.labels), CHUNK):
        chunk = index_batch(batch, slice(start, start + CHUNK))
        chunks.append(per_image(predict(model, chunk), chunk))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def summarise(whole: dict[str, Tensor], batch: Batch) -> dict[str, float]:
    """The scores of a set from the results of its images, see :func:`evaluate`."""
    scores = {name: value.mean() for name, value in whole.items() if name not in NOT_AVERAGED}
    scores["error"] = whole["error"].sum()
    if "theta" in whole:
        scores["theta_spread"] = theta_spread(whole["theta"])
    if "outline" in whole:
        members = F.one_hot(batch.labels).bool()  # the host waits for the device
        scores |= pose_scores(whole["outline"], batch.pose.matrix[:, 0], members, image_size(batch.images))
    # The host waits for the device here, too.
    values = dict(zip(scores, torch.stack(list(scores.values())).tolist(), strict=True))
    return values | {"error": values["error"] * 100 / batch.labels.numel()}


def per_image(prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
    """The results of each image, one row an image; loss and error of a sequence are of each label (B, T)."""
    logits, views = prediction.logits, prediction.views
    digits = batch.pose.box.shape[1]
    results = {
        "loss": F.cross_entropy(logits, batch.labels, reduction="none"),
        "error": (logits.argmax(1) != batch.labels).float(),
    }
    if batch.labels.ndim > 1:
        results["sequence_error"] = 100 * results["error"].amax(1)
    transforms = [view.transform for view in views if view.transform is not None]
    if transforms:
        results["theta"] = torch.cat([transform.theta for transform in transforms], 1)
        outside = [outside_share(transform.grid) for transform in transforms]
        results["outside_share"] = torch.stack(outside, 1).mean(1)
    outlines = [view.outline for view in views if view.outline is not None]
    of_transformers = [view.outline for view in views if view.transform and view.outline is not None]
    if digits == len(of_transformers) == 1:
        results["outline"] = of_transformers[0]
    if digits and outlines:
        results |= score(outlines, batch.pose)
        results["areas"] = torch.stack([area(bounded(outline)) for outline in outlines], 1)
    return results


def theta_spread(theta: Tensor) -> Tensor:
    """Standard deviation of theta (N, P) over a set, averaged over P: 0 if theta ignores the input."""
    return theta.std(0, correction=0).mean()


def outside_share(grid: Tensor) -> Tensor:
    """Share (B,) of the points of sampling grids (B, H', W', 2) that are outside the image."""
    x, y = grid.unbind(-1)
    return ((x.abs() > 1) | (y.abs() > 1)).float().mean((1, 2))
