"""One step of a run, done again to see what happened in it."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.data.distortions import Batch, index_batch
from stn_experiments.evaluation.evaluate import predict
from stn_experiments.evaluation.metrics import outside_share
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.saving import newest_checkpoint, restore
from stn_experiments.runs.train import prepare, set_up_torch, told_to_people
from stn_experiments.storage.run_folder import RunFolder, run_name
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.cuda_graphs import Recorder
from stn_experiments.training.loop import TrainerConfig, Training, epoch_batches, train_epoch, train_step

SHOWN = 10


class Reached(Exception):
    """Training has come to the step that is wanted."""


def replay_step(config: Mapping[str, Any]) -> str:
    """What happened in step ``run.replay`` of a run: its batch, loss, theta and gradients, for a person.

    Training goes on from the last checkpoint before that step, or from the start, and is thrown away. A panel
    of the batch's first images, as the network saw them before the step, goes to the run's folder.

    Raises:
        UserError: there is no such run or no such step, or the config cannot work.
    """
    experiment = build_experiment(config)
    run = RunFolder(Path(experiment.run.root) / run_name(config))
    wanted = experiment.run.replay
    assert wanted is not None
    if not os.path.exists(run.config_file):  # noqa: PTH110 (Path.exists may raise)
        raise UserError(f"run.replay shows a step of a run that was trained, but there is no {run.folder}")
    with told_to_people(run, experiment.trainer):
        return show_step(experiment, run, wanted)


def show_step(experiment: Experiment, run: RunFolder, wanted: int) -> str:
    """:func:`replay_step` of a run that there is."""
    splits = experiment.data.load(experiment.device)
    set_up_torch(experiment.trainer)
    training = prepare(experiment, splits.train.size)
    last = experiment.trainer.epochs * training.progress.steps.shape[1]
    if wanted > last:
        raise UserError(f"run.replay must be a step of the run, from 1 to {last}, got {wanted}")
    if state := newest_checkpoint(run, before=wanted):
        restore(training, state, run)

    def stop_before_it() -> None:
        if training.progress.step == wanted - 1:
            raise Reached

    with suppress(Reached):
        stop_before_it()
        while True:
            train_epoch(training, splits.train, experiment.trainer, stop_before_it)
            training.progress.next_epoch()
    if training.progress.done == training.progress.steps.shape[1]:
        training.progress.next_epoch()
    posed = TrainingSet(splits.train.size, partial(splits.train.draw, posed=True))
    training = training._replace(recorder=Recorder(training.generator, on=False))
    batch = next(epoch_batches(training, posed, experiment.trainer.batch_size))
    picture = run.folder / "replays" / f"step-{wanted:06d}.png"
    picture.parent.mkdir(exist_ok=True)
    first = index_batch(batch, slice(0, SHOWN))
    save_picture(draw_panel(first, predict(training.model, first), f"step {wanted:,}, before it"), picture)
    return f"{describe_step(training, batch, experiment.trainer)}\npanel       {picture}"


def describe_step(training: Training, batch: Batch, trainer: TrainerConfig) -> str:
    """Take the next step, on ``batch``, and tell what it was like; the gradients as they were clipped."""
    progress = training.progress
    step = progress.step + 1
    views = predict(training.model, batch).views
    localisation = training.model.localisation_parameters()
    loss, wrong, localisation_norm, norm = train_step(training, batch, trainer).tolist()
    lines = {
        f"step {step:,}": f"epoch {progress.epoch}, batch {progress.done + 1} of {progress.steps.shape[1]}",
        "loss": f"{loss:.6g}",
        "error": f"{100 * wrong:.2f} %",
        "images": between(batch.images),
        "gradient": f"network {norm:.4g}"
        + (f", localisation {localisation_norm:.4g}" if localisation else ""),
    }
    transforms = [view.transform for view in views if view.transform is not None]
    for number, transform in enumerate(transforms, 1):
        outside = 100 * outside_share(transform.grid).mean().item()
        lines[f"theta {number}"] = (
            f"{between(transform.theta)}, {outside:.1f} % of the grid outside the image"
        )
    named = training.model.named_parameters()
    norms = {name: value.grad.norm().item() for name, value in named if value.grad is not None}
    # Those that are not finite first, in the network's order, then the largest.
    ranked = sorted(norms, key=lambda name: -norms[name] if math.isfinite(norms[name]) else -math.inf)
    for name in ranked[:SHOWN]:
        lines[f"gradient of {name}"] = f"{norms[name]:.4g}"
    width = max(map(len, lines))
    return "\n".join(f"{head:{width}}  {text}" for head, text in lines.items())


def between(values: Tensor) -> str:
    """The range of values."""
    return f"from {values.min().item():.4g} to {values.max().item():.4g}"
