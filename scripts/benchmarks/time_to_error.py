"""The time until the validation error stays below a bound, of our recipe and of the tutorial's loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import wait
from benchmarks.table import Cell, Table, label, missing, number
from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import Batch
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.train import make_trainer

BOUNDS = (2.0, 1.0, 0.7)
OURS, TUTORIAL = "ours", "the tutorial's"


class Point(NamedTuple):
    """Seconds of training, images and the validation error in percent after an epoch."""

    seconds: float
    images: int
    error: float


def tables(bench: Bench) -> list[Table]:
    """Seconds and images to each bound; the two loops take turns, an epoch each."""
    config = bench.configs("data", ["rotated"])[0]
    experiment = build_experiment(config)
    task = task_of(experiment)
    if task != Distortion(angle=tutorial.ANGLE):
        raise UserError("data must be rotated for time_to_error, because the tutorial's loop trains on that")
    raw, train, valid = bench.held_out(task, config["data"]["valid_size"])
    torch.manual_seed(experiment.seed)  # of the tutorial's dropout
    curves: dict[str, list[Point]] = {OURS: [], TUTORIAL: []}
    runs = {OURS: ours(experiment, train, valid), TUTORIAL: tutorials(bench, raw, valid)}
    while runs:
        for name in list(runs):
            if (point := next(runs[name], None)) is None:
                del runs[name]
            else:
                curves[name].append(point)
    rows = [
        [label(name), *(cell for bound in BOUNDS for cell in cells(curve, bound)), *last(curve)]
        for name, curve in curves.items()
    ]
    heads = [head for bound in BOUNDS for head in (f"seconds to {bound} %", f"images to {bound} %")]
    note = (
        "One run each, with the same validation digits; seconds are of training alone. A bound is reached "
        "after the first epoch from which on every epoch is below it."
    )
    title = f"Time to a validation error on `{config['data']['name']}`"
    columns = ["loop", *heads, "last error, %", "seconds in all", "epochs"]
    return [Table("time_to_error", title, columns, rows, note)]


def ours(experiment: Experiment, train: TrainingSet, valid: Batch) -> Iterator[Point]:
    """Our loop, epoch by epoch."""
    trainer = make_trainer(experiment, train)
    seconds, images = 0.0, 0
    while trainer.epoch <= experiment.trainer.epochs:
        trainer.run_epoch()
        metrics = trainer.epoch_metrics()
        seconds, images = seconds + metrics["seconds"], images + int(metrics["images"])
        trainer.next_epoch()
        yield Point(seconds, images, evaluate(trainer.model, valid)["error"])


def tutorials(bench: Bench, raw: Digits, valid: Batch) -> Iterator[Point]:
    """The tutorial's loop, epoch by epoch."""
    model = tutorial.wrapped(0, bench.device)
    network: tutorial.TutorialNet = model.network  # type: ignore[assignment]
    optimizer, loader = tutorial.optimizer(network), tutorial.batches(raw, bench.workers)
    steps = len(raw.labels) // tutorial.BATCH
    seconds = 0.0
    for epoch in range(1, bench.epochs + 1):
        seconds += timed(
            lambda: tutorial.train(network, optimizer, loader.passes(steps), bench.device), bench
        )
        yield Point(seconds, epoch * steps * tutorial.BATCH, evaluate(model, valid)["error"])


def timed(work: Callable[[], None], bench: Bench) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    wait(bench.device)
    return time.perf_counter() - start


def reached(curve: Sequence[Point], bound: float) -> Point | None:
    """The first point from which on all errors are below the bound."""
    above = [place for place, point in enumerate(curve) if point.error >= bound]
    after = above[-1] + 1 if above else 0
    return curve[after] if after < len(curve) else None


def cells(curve: Sequence[Point], bound: float) -> list[Cell]:
    """Seconds and images to a bound."""
    point = reached(curve, bound)
    if point is None:
        best = min(one.error for one in curve)
        reason = f"not reached in {len(curve)} epochs: at best {best:.2f} %, last {curve[-1].error:.2f} %"
        return [missing(reason)] * 2
    return [number((point.seconds,)), number((point.images,))]


def last(curve: Sequence[Point]) -> list[Cell]:
    """The last error, the time and the number of epochs."""
    return [number((value,)) for value in (curve[-1].error, curve[-1].seconds, len(curve))]
