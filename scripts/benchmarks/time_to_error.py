"""The time until the validation error stays below a bound, of our recipe and of the tutorial's loop."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import Job, Values, timed
from benchmarks.table import Table
from benchmarks.training import our_loop
from stn_experiments.common.errors import UserError
from stn_experiments.data.distortions import Distortion
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import build_experiment

BOUNDS = (2.0, 1.0, 0.7)


class Loop(NamedTuple):
    """Steps of training, the model that they train, and images in a batch."""

    job: Job
    model: Classifier
    batch: int


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
    loader = tutorial.batches(raw, bench.workers)
    torch.manual_seed(experiment.seed)  # of the tutorial's dropout
    images = experiment.trainer.images_per_epoch or len(raw.labels)
    loops = {
        "ours": Loop(our_loop(experiment, train), experiment.model, experiment.trainer.batch_size),
        "the tutorial's": Loop(
            tutorial.loop(wrapped.network, loader, bench.device), cast(Classifier, wrapped), tutorial.BATCH
        ),
    }
    curves: dict[str, list[Point]] = {name: [] for name in loops}
    seconds = dict.fromkeys(loops, 0.0)
    for epoch in range(1, experiment.trainer.epochs + 1):
        for name, (job, model, batch) in loops.items():
            steps = images // batch
            seconds[name] += timed(job, bench.device, units=steps)
            error = evaluate(model, valid)["error"]
            curves[name].append(Point(seconds[name], epoch * steps * batch, error))
    note = (
        "One run each, with the same validation digits; seconds are of training alone. A bound is reached "
        "after the first epoch from which on every epoch is below it."
    )
    rows = [row(name, curve) for name, curve in curves.items()]
    return [Table("time_to_error", f"Time to a validation error on `{config['data']['name']}`", rows, note)]


def reached(curve: Sequence[Point], bound: float) -> Point | None:
    """The first point from which on all errors are below the bound."""
    above = [place for place, point in enumerate(curve) if point.error >= bound]
    after = above[-1] + 1 if above else 0
    return curve[after] if after < len(curve) else None


def row(name: str, curve: Sequence[Point]) -> dict[str, Values]:
    """Seconds and images to each bound, and the last error, the time and the number of epochs."""
    last, best = curve[-1], min(point.error for point in curve)
    cells: dict[str, Values] = {"loop": name}
    for bound in BOUNDS:
        point = reached(curve, bound)
        reason = f"not reached in {len(curve)} epochs: at best {best:.2f} %, last {last.error:.2f} %"
        cells[f"seconds to {bound} %"] = (point.seconds,) if point else reason
        cells[f"images to {bound} %"] = (point.images,) if point else reason
    ends: dict[str, Values] = {
        "last error, %": (last.error,),
        "seconds in all": (last.seconds,),
        "epochs": (len(curve),),
    }
    return {**cells, **ends}
