"""The time until the validation error stays below a bound, of our recipe and of the tutorial's loop."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import Values, timed
from benchmarks.table import Table
from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import Batch
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.train import make_trainer

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
    torch.manual_seed(experiment.seed)  # of the tutorial's dropout
    images = experiment.trainer.images_per_epoch or len(raw.labels)
    loops = ours(experiment, train, valid), tutorials(bench, raw, valid, images // tutorial.BATCH)
    curves = zip(*zip_longest(*loops), strict=True)
    rows = [
        row(name, [point for point in curve if point])
        for name, curve in zip(("ours", "the tutorial's"), curves, strict=True)
    ]
    note = (
        "One run each, with the same validation digits; seconds are of training alone. A bound is reached "
        "after the first epoch from which on every epoch is below it."
    )
    return [Table("time_to_error", f"Time to a validation error on `{config['data']['name']}`", rows, note)]


def ours(experiment: Experiment, train: TrainingSet, valid: Batch) -> Iterator[Point]:
    """Our loop, epoch by epoch."""
    trainer = make_trainer(experiment, train)
    seconds = 0.0
    while trainer.epoch <= experiment.trainer.epochs:
        seconds += timed(lambda _: trainer.run_epoch() and None, experiment.device)
        trainer.next_epoch()
        images = trainer.step * experiment.trainer.batch_size
        yield Point(seconds, images, evaluate(trainer.model, valid)["error"])


def tutorials(bench: Bench, raw: Digits, valid: Batch, steps: int) -> Iterator[Point]:
    """The tutorial's loop, epoch by epoch of so many steps."""
    model = tutorial.wrapped(0, bench.device)
    network: tutorial.TutorialNet = model.network  # type: ignore[assignment]
    optimizer, loader = tutorial.optimizer(network), tutorial.batches(raw, bench.workers)
    seconds = 0.0
    for epoch in range(1, bench.epochs + 1):
        seconds += timed(
            lambda _: tutorial.train(network, optimizer, loader.passes(steps), bench.device), bench.device
        )
        yield Point(seconds, epoch * steps * tutorial.BATCH, evaluate(model, valid)["error"])


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
