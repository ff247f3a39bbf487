"""How a model responds to one distortion alone, as the same digits are rotated, scaled, moved or spoilt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from stn_experiments.data.batch import Batch, to_device
from stn_experiments.data.canvas import SIDE
from stn_experiments.data.distortions import FixedDistortion
from stn_experiments.data.mnist import Digits
from stn_experiments.evaluation.evaluate import results_per_image
from stn_experiments.evaluation.pose_scores import Residual, circular_mean, relative, residual_pose, spread
from stn_experiments.models.classifier import Classifier

ProbeName = Literal["rotation", "scale", "position", "noise", "clutter"]
PROBES: tuple[ProbeName, ...] = get_args(ProbeName)
DIGITS = 1000
"""About how many test digits a probe shows at each step."""
SEED = 0
MARGIN = 4
"""Pixels between a digit's frame and its ink, as a rule; the frame may be so far outside the canvas."""
STEPS_PER_SIDE = 4
"""Largest number of positions to each side of the centre."""
CROP = 6
"""The side in pixels of crops of clutter, as in Jaderberg et al. 2015."""
UNTOUCHED: dict[ProbeName, Any] = {"rotation": 0, "scale": 1, "position": (0, 0)}
"""The steps at which a transformer has nothing to undo, of the distortions that it can undo."""
SLOPE_LIMIT = 90
"""Degrees up to which the slope counts rotations, because many networks are trained on no more."""


@dataclass(frozen=True)
class Probe:
    """The results at S steps of one distortion.

    The answer of a transformer is the transform that it undoes, relative to what it does to the same digit
    before it is distorted. A transformer that finds each digit again answers the true transform, which gives
    a slope of 1. One that does not react has a slope of 0.

    Args:
        name: of the distortion.
        steps: angles in degrees, factors, offsets (x, y) in pixels of the canvas, standard deviations of
            noise, or numbers of crops.
        error: test errors in percent.
        confidence: mean probabilities of the true class.
        iou: mean IoU of the attended box with the digit's ink box or its frame, the larger of both for each
            digit; ``None`` if the attention has no location.
        answer: mean answers: degrees without a jump at 180°, logarithms of factors, or offsets (x, y) in
            pixels; ``None`` if there is not exactly one transformer, or nothing to undo.
        spread: root mean square deviations of the digits' answers from their mean.
        slope: of the least squares line through the answers by the true transforms; of rotations, of those
            within ±``SLOPE_LIMIT``.
    """

    name: ProbeName
    steps: list[Any]
    error: list[float]
    confidence: list[float]
    iou: list[float] | None = None
    answer: list[Any] | None = None
    spread: list[float] | None = None
    slope: float | None = None


def probe_steps(name: ProbeName, size: tuple[int, int]) -> list[Any]:
    """The steps of a probe on canvases of (height, width), see :class:`Probe`."""
    down, right = map(_offsets, size)
    steps: dict[ProbeName, list[Any]] = {
        "rotation": list(range(-180, 181, 5)),
        "scale": [step / 20 for step in range(10, 33)],
        "position": [(x, y) for y in down for x in right],
        "noise": [step / 20 for step in range(21)],
        "clutter": list(range(17)),
    }
    return steps[name]


def _offsets(side: int) -> list[int]:
    """Whole pixels, evenly spaced, by which a digit moves from the centre of a canvas along one axis."""
    reach = (side - SIDE) // 2 + MARGIN
    step = -(-reach // STEPS_PER_SIDE)
    return [step * number for number in range(-(reach // step), reach // step + 1)]


def true_answers(name: ProbeName, steps: Sequence[Any]) -> np.ndarray:
    """The answers (S,) or (S, 2) of a transformer that undoes exactly what is done at each step."""
    return np.log(steps) if name == "scale" else np.asarray(steps, dtype=float)


def draw_step(name: ProbeName, step: Any, digits: Digits, size: tuple[int, int]) -> Batch:
    """Digits on black canvases of (height, width) under one distortion; always the same images."""
    settings: dict[str, Any] = {
        "rotation": {"angle": step},
        "scale": {"scale": (step, step)},
        "position": {"offset": step},
        "noise": {"noise": step},
        "clutter": {"clutter": step, "clutter_size": CROP},
    }[name]
    index, generator = torch.arange(len(digits.labels)), Generator().manual_seed(SEED)
    return FixedDistortion(size, **settings).draw(digits, index, generator)


def probe(model: Classifier, name: ProbeName, digits: Digits, size: tuple[int, int]) -> Probe:
    """Probe a model on some digits, on canvases of (height, width)."""
    steps = probe_steps(name, size)
    reference = _respond(model, name, UNTOUCHED[name], digits, size)[1] if name in UNTOUCHED else None
    rows = []
    for step in steps:
        row, residual = _respond(model, name, step, digits, size)
        if residual is not None and reference is not None:
            row |= _answer(name, step, relative(residual, reference))
        rows.append({key: value.tolist() for key, value in row.items()})
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]}
    if "answer" not in columns:
        return Probe(name, steps, **columns)
    true = true_answers(name, steps)
    if name == "rotation":  # without jumps of more than 180° between neighbours, in ±180° where it is 0
        continuous = np.unwrap(columns["answer"], period=360)
        turns = np.round(continuous[steps.index(0)] / 360)
        columns["answer"] = (continuous - 360 * turns).tolist()
    counted = np.abs(true) <= (SLOPE_LIMIT if name == "rotation" else np.inf)
    slope, _ = np.polyfit(true[counted], np.asarray(columns["answer"])[counted], 1)
    return Probe(name, steps, **columns, slope=float(slope))


def _respond(
    model: Classifier, name: ProbeName, step: Any, digits: Digits, size: tuple[int, int]
) -> tuple[dict[str, Tensor], Residual | None]:
    """The means over the digits at one step, and the poses in V of the only transformer, if there is one."""
    batch = to_device(draw_step(name, step, digits, size), next(model.parameters()).device)
    results = results_per_image(model, batch)
    means = {"error": 100 * results["error"].mean(), "confidence": results["loss"].neg().exp().mean()}
    if "iou_mean" in results:
        means["iou"] = results["iou_mean"].maximum(results["frame_iou_mean"]).mean()
    if "outline" not in results:
        return means, None
    return means, residual_pose(results["outline"], batch.pose.matrix[:, 0], size)


def _answer(name: ProbeName, step: Any, left: Residual) -> dict[str, Tensor]:
    """The mean and the spread of what is undone, from what is ``left`` of a step."""
    key, mean = {
        "rotation": ("rotation_deg", circular_mean(left.rotation)),
        "scale": ("scale", left.scale.log().mean()),
        "position": ("translation_px", left.translation.mean(0)),
    }[name]
    one_class = torch.ones_like(left.scale, dtype=torch.bool)[:, None]
    return {
        "answer": mean.new_tensor(true_answers(name, step)) - mean,
        "spread": spread(left, one_class)[key],
    }
