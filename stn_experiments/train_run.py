"""A run from config to result: train, choose on validation, test once."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from stn_experiments.data.datasets import Splits, one_of_each_class
from stn_experiments.data.distortions import Batch
from stn_experiments.experiment import Experiment, build_experiment
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs import Run, commit, run_name, to_json, write_atomically
from stn_experiments.tracking.panels import draw_panel, save_animation, save_picture
from stn_experiments.tracking.tensorboard import TensorBoard
from stn_experiments.training import checkpoints
from stn_experiments.training.evaluation import evaluate, of_test, predict
from stn_experiments.training.loop import Trainer, Training, fit

TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_error": "error/train",
    "val_error": "error/val",
    "lr": "lr/network",
    "localisation_lr": "lr/localisation",
    "localisation_gradient": "transformer/localisation_gradient",
    "val_theta_spread": "transformer/theta_spread",
    "val_outside_share": "transformer/outside_share",
    "val_iou_mean": "attention/iou_mean",
    "val_iou_above_half": "attention/iou_above_half",
    "val_ink_inside": "attention/ink_inside",
    "val_elsewhere": "attention/elsewhere",
    "val_residual_rotation_deg": "pose/residual_rotation_deg",
    "val_residual_scale": "pose/residual_scale",
    "val_residual_translation_px": "pose/residual_translation_px",
}

History = list[dict[str, Any]]


def train_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train what a config describes, or go on with it, or find it finished: its ``result.json``.

    Raises:
        UserError: the config cannot work, or the data cannot be had.
        TrainingFailed: the loss is not finite.
    """
    experiment = build_experiment(config)
    run = Run(Path(experiment.run.root) / run_name(config))
    if not experiment.run.force and (result := run.result()) is not None:
        print(f"{run.folder} is finished already; run.force=true trains it again")
        return result
    torch.set_flush_denormal(True)  # a CPU computes with denormal numbers many times slower
    splits = experiment.data.load(experiment.device)
    if experiment.run.force:  # not before all that can be refused has been
        shutil.rmtree(run.folder, ignore_errors=True)
    run.create(config)
    training = prepare(experiment, splits.train.size)
    history = resume(training, run)
    board = TensorBoard(run.folder, first_step=len(history) + 1 if history else 0)
    board.hyperparameters(config)
    train(training, splits, experiment.trainer, run, board, history)
    result = finish(experiment, splits, run, board, history, config)
    board.close()
    return result


def summary(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a run came to, and where to look, for a person."""
    root = config["run"]["root"]
    run = Run(Path(root) / run_name(config))
    return (
        f"\ntest error  {result['test_error']:.2f} %  (best epoch {result['best_epoch']}, "
        f"validation error {result['val_error']:.2f} %, {result['train_seconds']:.0f} s of training)\n"
        f"run         {run.folder}\n"
        f"panel       {run.panel(result['epochs'] + 1)}\n"
        f"look        tensorboard --logdir {root}"
    )


def prepare(experiment: Experiment, train_size: int) -> Training:
    """What training changes, at its start and on its device."""
    steps = experiment.trainer.epochs * experiment.trainer.steps_per_epoch(train_size)
    scheduler = LambdaLR(experiment.optimizer, lambda step: experiment.schedule(step / steps))
    generator = torch.Generator(experiment.device).manual_seed(experiment.seed)
    return Training(experiment.model.to(experiment.device), experiment.optimizer, scheduler, generator)


def resume(training: Training, run: Run) -> History:
    """Put ``training`` where the run's last checkpoint was, and give the history up to there."""
    if not run.last.exists():
        return []
    state = checkpoints.load(run.last)
    training.load(state["training"])
    print(f"{run.folder} goes on after epoch {len(state['history'])}")
    return state["history"]


def train(
    training: Training, splits: Splits, trainer: Trainer, run: Run, board: TensorBoard, history: History
) -> None:
    """Train to the end, adding to ``history`` and to the run's folder after each epoch."""
    digits = one_of_each_class(splits.test)
    if not history:
        record_panel(training.model, digits, run, board, 0, "before training")
    for metrics in fit(training, splits, trainer, len(history) + 1):
        history.append(metrics)
        epoch, val_error = metrics["epoch"], metrics["val_error"]
        print(epoch_line(metrics, trainer.epochs))
        board.scalars(tags(metrics), epoch)
        caption = f"epoch {epoch} of {trainer.epochs}, validation error {val_error:.2f} %"
        record_panel(training.model, digits, run, board, epoch, caption)
        write_atomically(run.history_file, "".join(json.dumps(line) + "\n" for line in history))
        if epoch == best_epoch(history)["epoch"]:
            checkpoints.save({"model": training.model.state_dict(), "epoch": epoch}, run.best)
        checkpoints.save({"training": training.state(), "history": history}, run.last)


def finish(
    experiment: Experiment,
    splits: Splits,
    run: Run,
    board: TensorBoard,
    history: History,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate the best epoch on the test set, once; write the last panel, the animation and the result."""
    model, best = experiment.model, best_epoch(history)
    model.load_state_dict(checkpoints.load(run.best)["model"])
    test = evaluate(model, splits.test)
    caption = f"best epoch {best['epoch']} of {len(history)}, test error {test['error']:.2f} %"
    record_panel(model, one_of_each_class(splits.test), run, board, len(history) + 1, caption)
    frames = [run.panel(step) for step in range(len(history) + 2)]
    save_animation(frames, run.animation)
    board.final(test["error"], best["val_error"], len(history))
    images, seconds = (sum(line[key] for line in history) for key in ("images", "seconds"))
    result = {
        **of_test(test),
        **{name: value for name, value in best.items() if name.startswith("val_")},
        "best_epoch": best["epoch"],
        "epochs": len(history),
        "images_seen": images,
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": experiment.seed,
        **{group: config[group]["name"] for group in ("data", "backbone", "stn")},
        "attention": "none",
        "device": experiment.device.type,
        "commit": commit(),
        "status": "finished",
    }
    write_atomically(run.result_file, to_json(result))
    return result


def record_panel(
    model: Classifier, digits: Batch, run: Run, board: TensorBoard, step: int, caption: str
) -> None:
    """Draw the panel of ``digits`` into the run's folder and into TensorBoard."""
    image = draw_panel(digits, predict(model, digits), caption)
    save_picture(image, run.panel(step))
    board.panel(image, step)


def best_epoch(history: History) -> dict[str, Any]:
    """The first epoch with the lowest validation error."""
    return min(history, key=lambda metrics: metrics["val_error"])


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One epoch in one line."""
    return (
        f"epoch {metrics['epoch']:{len(str(epochs))}}/{epochs}  train loss {metrics['train_loss']:.4f}  "
        f"train error {metrics['train_error']:5.2f} %  val error {metrics['val_error']:5.2f} %  "
        f"{metrics['images'] / metrics['seconds']:,.0f} images/s"
    )


def tags(metrics: Mapping[str, Any]) -> dict[str, float]:
    """An epoch's metrics under their TensorBoard tags, what is looked at together under one head."""
    return {tag: metrics[name] for name, tag in TAGS.items() if name in metrics} | {
        "speed/images_per_second": metrics["images"] / metrics["seconds"]
    }
