"""One step of a run, repeated to see what happened in it."""

import math

from torch import Tensor

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import writing_to
from stn_experiments.config.tree import OWN_DATA
from stn_experiments.data.batch import Batch, index_batch
from stn_experiments.evaluation.evaluate import outside_share, predict
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.load import load_config
from stn_experiments.runs.train import load_state, make_trainer, set_up_torch
from stn_experiments.runs.translate_errors import translate_errors
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder, run_digest
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.loop import StepMetrics, Trainer

SHOWN = 10
"""Images in the panel, and gradients in the text."""


def replay(folder: RunFolder, step: int) -> str:
    """Describe a step of a run, counted from 1: its batch, loss, theta and gradients.

    The config is that in the run's folder. Training resumes from the last checkpoint before that step, or
    starts again, and its result is discarded. A panel of the batch's first images, as the network saw them
    before the step, goes to the run's folder.

    Raises:
        UserError: there is no such run or step, or the run's data file is another now.
    """
    config = load_config(folder)
    experiment = build_experiment(config)
    own = next((config["data"][key] for key in OWN_DATA if key in config["data"]), None)
    if own is not None and run_digest(config) != folder.digest:
        raise UserError(
            f"{own} has changed since {folder.folder} was trained on it, so no step can be repeated"
        )
    with translate_errors(experiment, folder):
        set_up_torch(experiment.trainer, experiment.device)
        trainer = make_trainer(experiment, experiment.data.load(experiment.device).train)
        last = experiment.trainer.epochs * trainer.steps_per_epoch
        if not 1 <= step <= last:
            raise UserError(f"--step must be a step of the run, from 1 to {last}, got {step}")
        if state := checkpoints.newest(folder, before=step):
            load_state(trainer, state, folder)
        while trainer.run_epoch(until_step=step - 1):
            trainer.next_epoch()  # the step is in a later epoch
        trainer.cuda_graphs.enabled = False
        batch = next(trainer.batches(with_pose=True))
        picture = folder.folder / "replays" / f"step-{step:06d}.png"
        first = index_batch(batch, slice(0, SHOWN))
        prediction, caption = predict(trainer.model, first), f"step {step:,}, before the update"
        panel = draw_panel(first, prediction, caption, class_names=experiment.data.class_names)
        with writing_to(picture.parent):
            picture.parent.mkdir(exist_ok=True)
        save_picture(panel, picture)
        return f"{describe_step(trainer, batch)}\npanel       {picture}"


def describe_step(trainer: Trainer, batch: Batch) -> str:
    """Take the next step, on ``batch``, and describe it; gradients are shown as they were clipped."""
    step, epoch, number = trainer.step + 1, trainer.epoch, trainer.steps_done + 1
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
