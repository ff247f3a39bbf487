"""The time until the validation error stays below a bound, of our recipe and of the tutorial's loop."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import Row, timed
from benchmarks.table import Table
from benchmarks.training import our_loop
from stn_experiments.common.errors import UserError
from stn_experiments.data.distortions import Distortion
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import build_experiment

BOUNDS = (2.0, 1.0, 0.7)


class Point(NamedTuple):
    """Seconds of training, images and the validation error in percent after an epoch."""

    seconds: float
    images: int
    error: float


def tables(bench: Bench) -> list[Table]:
    """Seconds and images to each bound; the two loops take turns, an epoch each."""
    config = bench.configs("data", ["rotated"])[0]
    experiment, task = build_experiment(config), task_of(config)
    if task != Distortion(angle=tutorial.ANGLE):
        raise UserError("data must be rotated for time_to_error, because the tutorial's loop trains on that")
    raw, train, valid = bench.held_out(task, config["data"]["valid_size"])
    wrapped = tutorial.Wrapped().to(bench.device)
    its_loop = tutorial.loop(wrapped.network, tutorial.batches(raw, bench.workers), bench.device)
    torch.manual_seed(experiment.seed)  # of the tutorial's dropout
    images = experiment.trainer.images_per_epoch or len(raw.labels)
    loops = {
        "ours": (our_loop(experiment, train), experiment.model, experiment.trainer.batch_size),
        "the tutorial's": (its_loop, cast(Classifier, wrapped), tutorial.BATCH),
    }
    curves: dict[str, list[Point]] = {name: [] for name in loops}
    for epoch in range(1, experiment.trainer.epochs + 1):
        for name, (job, model, batch) in loops.items():
            earlier = curves[name][-1].seconds if curves[name] else 0.0
            seconds = earlier + timed(job, bench.device, images // batch)
            curves[name].append(
                Point(seconds, epoch * (images // batch) * batch, evaluate(model, valid)["error"])
            )
    note = (
        "One run each, with the same validation digits; seconds are of training alone. A bound is reached "
        "after the first epoch from which on every epoch is below it."
    )
    rows = [row(name, curve) for name, curve in curves.items()]
    return [Table(f"Time to a validation error on `{config['data']['name']}`", rows, note)]


def row(name: str, curve: Sequence[Point]) -> Row:
    """Seconds and images to each bound, the best and the last error, the time and the number of epochs."""
    cells: Row = {"loop": name}
    for bound in BOUNDS:
        above = [place for place, point in enumerate(curve) if point.error >= bound]
        below = curve[above[-1] + 1 :] if above else curve
        cells[f"seconds to {bound} %"] = tuple(point.seconds for point in below[:1])
        cells[f"images to {bound} %"] = tuple(point.images for point in below[:1])
    best, last = min(point.error for point in curve), curve[-1]
    cells |= {"best error, %": (best,), "last error, %": (last.error,)}
    return cells | {"seconds in all": (last.seconds,), "epochs": (len(curve),)}
