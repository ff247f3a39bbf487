"""One step of a run, repeated to see what happened in it."""

import math
import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import Batch, index_batch
from stn_experiments.evaluation.evaluate import predict
from stn_experiments.evaluation.metrics import outside_share
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import load_state, make_trainer, set_up_torch
from stn_experiments.runs.translate_errors import translate_errors
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.loop import StepMetrics, Trainer

SHOWN = 10
"""Images in the panel, and gradients in the text."""


def replay(config: Mapping[str, Any]) -> str:
    """Describe step ``run.replay`` of a run: its batch, loss, theta and gradients.

    Training resumes from the last checkpoint before that step, or starts again, and its result is discarded.
    A panel of the batch's first images, as the network saw them before the step, goes to the run's folder.

    Raises:
        UserError: there is no such run or step, or the config cannot work.
    """
    experiment = build_experiment(config)
    folder = RunFolder.of(config)
    if not os.path.exists(folder.config_file):  # noqa: PTH110 (Path.exists may raise)
        raise UserError(f"run.replay shows a step of a run that was trained, but there is no {folder.folder}")
    wanted = experiment.run.replay
    assert wanted is not None
    with translate_errors(experiment, folder):
        set_up_torch(experiment.trainer, experiment.device)
        trainer = make_trainer(experiment, experiment.data.load(experiment.device).train)
        last = experiment.trainer.epochs * trainer.steps_per_epoch
        if wanted > last:
            raise UserError(f"run.replay must be a step of the run, from 1 to {last}, got {wanted}")
        if state := checkpoints.newest(folder, before=wanted):
            load_state(trainer, state, folder)
        while trainer.run_epoch(until_step=wanted - 1):
            trainer.next_epoch()  # the step is in a later epoch
        trainer.cuda_graphs.enabled = False
        batch = next(trainer.batches(with_pose=True))
        picture = folder.folder / "replays" / f"step-{wanted:06d}.png"
        picture.parent.mkdir(exist_ok=True)
        first = index_batch(batch, slice(0, SHOWN))
        panel = draw_panel(first, predict(trainer.model, first), f"step {wanted:,}, before the update")
        save_picture(panel, picture)
        return f"{describe_step(trainer, batch)}\npanel       {picture}"


def describe_step(trainer: Trainer, batch: Batch) -> str:
    """Take the next step, on ``batch``, and describe it; gradients are shown as they were clipped."""
    step, epoch, number = trainer.step + 1, trainer.epoch, trainer.done + 1
    views = predict(trainer.model, batch).views
    metrics = StepMetrics(*trainer.train_step(batch).tolist())
    gradient = f"network {metrics.gradient:.4g}"
    if trainer.model.localisation_parameters():
        gradient += f", localisation {metrics.localisation_gradient:.4g}"
    lines = {
        f"step {step:,}": f"epoch {epoch}, batch {number} of {trainer.steps_per_epoch}",
        "loss": f"{metrics.loss:.6g}",
        "error": f"{100 * metrics.error:.2f} %",
        "images": value_range(batch.images),
        "gradient": gradient,
    }
    transforms = [view.transform for view in views if view.transform is not None]
    for number, transform in enumerate(transforms, 1):
        outside = 100 * outside_share(transform.grid).mean().item()
        lines[f"theta {number}"] = (
            f"{value_range(transform.theta)}, {outside:.1f} % of the grid outside the image"
        )
    named = trainer.model.named_parameters()
    norms = {name: value.grad.norm().item() for name, value in named if value.grad is not None}
    # Those that are not finite come first, in the network's order, then the largest.
    ranked = sorted(norms, key=lambda name: -norms[name] if math.isfinite(norms[name]) else -math.inf)
    for name in ranked[:SHOWN]:
        lines[f"gradient of {name}"] = f"{norms[name]:.4g}"
    width = max(map(len, lines))
    return "\n".join(f"{head:{width}}  {text}" for head, text in lines.items())


def value_range(values: Tensor) -> str:
    """The smallest and the largest value."""
    return f"from {values.min().item():.4g} to {values.max().item():.4g}"
