"""A run from config to result: train, choose on validation, test once."""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from stn_experiments.cli.signals import Stopped, StopSignals
from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.common.files import to_json, write_atomically
from stn_experiments.data.datasets import Splits, one_of_each_class
from stn_experiments.data.distortions import Batch
from stn_experiments.evaluation.evaluate import evaluate, of_test, predict
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.saving import Due, History, best_weights, resume, save
from stn_experiments.storage import checkpoints
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder, commit, run_name
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_animation, save_picture
from stn_experiments.tracking.tensorboard import TensorBoard
from stn_experiments.training.cuda_graphs import Recorder
from stn_experiments.training.health import diagnose, epoch_warning
from stn_experiments.training.loop import Progress, TrainerConfig, Training, train_epoch

logger = logging.getLogger(__name__)

NO_MEMORY = (
    "allocate memory|out of memory|ALLOC_FAILED|could not create a (primitive|memory)"  # the last: oneDNN
)

TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_error": "error/train",
    "val_error": "error/val",
    "lr": "lr/network",
    "localisation_lr": "lr/localisation",
    "gradient": "gradient/network",
    "localisation_gradient": "transformer/localisation_gradient",
    "val_theta_spread": "transformer/theta_spread",
    "val_outside_share": "transformer/outside_share",
    "val_iou_mean": "attention/iou_mean",
    "val_iou_above_half": "attention/iou_above_half",
    "val_ink_inside": "attention/ink_inside",
    "val_off_target": "attention/off_target",
    "val_hit_rate": "attention/hit_rate",
    "val_residual_rotation_deg": "pose/residual_rotation_deg",
    "val_residual_scale": "pose/residual_scale",
    "val_residual_translation_px": "pose/residual_translation_px",
}


def train_run(
    config: Mapping[str, Any], after_epoch: Callable[[History], None] = lambda history: None
) -> dict[str, Any]:
    """Train what a config describes, or go on with it, or find it finished: its ``result.json``.

    ``after_epoch`` is called with the metrics of all epochs, and may end the run by what it raises.

    Raises:
        UserError: the config cannot work, or the data cannot be had.
        RunHeld: another process trains it.
        TrainingFailed: the loss or a gradient is not finite, or memory or disk are too small.
        Stopped: a signal asked for it; the run's folder holds all that was done.
    """
    experiment = build_experiment(config)
    run = RunFolder(Path(experiment.run.root) / run_name(config))
    if not experiment.run.force and (result := run.result()) is not None:
        print(f"{run.folder} is finished already; run.force=true trains it again")
        return result
    set_up_torch(experiment.trainer)
    try:
        with told_to_people(run, experiment.trainer):
            splits = experiment.data.load(experiment.device)
            with run_lock(run.folder):
                return train_held(experiment, splits, run, config, after_epoch)
    except TrainingFailed as error:
        run.fail(str(error))
        raise


def train_held(
    experiment: Experiment,
    splits: Splits,
    run: RunFolder,
    config: Mapping[str, Any],
    after_epoch: Callable[[History], None],
) -> dict[str, Any]:
    """:func:`train_run` with its data loaded, in a folder that is this process's alone."""
    if experiment.run.force:
        run.clear()
    elif (result := run.result()) is not None:  # who held the folder until now has finished it
        return result
    run.create(config)
    training = prepare(experiment, splits.train.size)
    history = resume(training, run)
    board = TensorBoard(run.folder, first_step=len(history) + 1 if training.progress.step else 0)
    board.hyperparameters(config)
    try:
        train(training, splits, experiment, run, board, history, after_epoch)
        return finish(experiment, splits, run, board, history, config)
    finally:
        board.close()


def summary(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a run came to, and where to look, for a person."""
    root = config["run"]["root"]
    run = RunFolder(Path(root) / run_name(config))
    return (
        f"\ntest error  {result['test_error']:.2f} %  (best epoch {result['best_epoch']}, "
        f"validation error {result['val_error']:.2f} %, {result['train_seconds']:.0f} s of training)\n"
        f"run         {run.folder}\n"
        f"panel       {run.panel(result['epochs'] + 1)}\n"
        f"look        tensorboard --logdir {root}"
    )


def set_up_torch(trainer: TrainerConfig) -> None:
    """Make torch compute fast and, where it is asked for, the same bits every time."""
    torch.set_flush_denormal(True)  # a CPU computes with denormal numbers many times slower
    if trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(trainer.deterministic)


@contextmanager
def told_to_people(run: RunFolder, trainer: TrainerConfig) -> Iterator[None]:
    """Say in one line what torch and the system say in many: of memory, disks, graphs and determinism.

    Raises:
        TrainingFailed: one of them is too small, or broken.
        UserError: a step cannot be recorded, or a kernel is not deterministic.
    """
    try:
        yield
    except OSError as error:
        what = "its output" if isinstance(error, BrokenPipeError) else str(run.folder)
        raise TrainingFailed(
            f"training stopped: {what} cannot be written to ({error}); what was saved in {run.folder} is "
            "whole, and the same command goes on from it"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            raise TrainingFailed(
                "training stopped: there is too little memory for trainer.batch_size="
                f"{trainer.batch_size}; a smaller one needs less"
            ) from error
        if "captur" in str(error):  # in whatever words CUDA and torch say that a graph cannot hold it
            raise UserError(
                "trainer.cuda_graph must be false for this network, which waits for the device "
                f"({str(error).splitlines()[0]})"
            ) from error
        if "deterministic" in str(error):
            raise UserError(
                f"trainer.deterministic cannot be true here: {str(error).splitlines()[0]}"
            ) from error
        raise


def prepare(experiment: Experiment, train_size: int) -> Training:
    """What training changes, at its start and on its device."""
    count = experiment.trainer.steps_per_epoch(train_size)
    steps = experiment.trainer.epochs * count
    scheduler = LambdaLR(experiment.optimizer, lambda step: experiment.schedule(step / steps))
    recorder = recorder_of(experiment)
    return Training(
        experiment.model.to(experiment.device),
        experiment.optimizer,
        scheduler,
        Progress(torch.zeros(4, count, device=experiment.device)),
        recorder.generator,
        recorder,
        experiment.seed,
    )


def recorder_of(experiment: Experiment) -> Recorder:
    """What records the steps of an experiment, where they can be."""
    is_fused = all(group.get("fused") for group in experiment.optimizer.param_groups)
    recorder = Recorder(torch.Generator(experiment.device), experiment.trainer.cuda_graph and is_fused)
    recorder.adopt(experiment.optimizer)
    return recorder


def train(
    training: Training,
    splits: Splits,
    experiment: Experiment,
    run: RunFolder,
    board: TensorBoard,
    history: History,
    after_epoch: Callable[[History], None],
) -> None:
    """Train to the end, adding to ``history`` and to the run's folder after each epoch."""
    digits, epochs, progress = one_of_each_class(splits.test), experiment.trainer.epochs, training.progress
    due = Due(experiment.run)
    if progress.step == 0:
        record_panel(training.model, digits, run, board, 0, "before training")
    with StopSignals() as signals:

        def after_step() -> None:
            if due():
                save(training, history, run)
            signals.check()

        while progress.epoch <= epochs:
            try:
                metrics = train_epoch(training, splits.train, experiment.trainer, after_step)
                with signals.immediate():
                    valid = evaluate(training.model, splits.valid)
                if not math.isfinite(valid["loss"]):  # of the last steps the loss may still have been
                    raise TrainingFailed(
                        f"training stopped: the validation loss after epoch {progress.epoch} is not finite; "
                        "a lower optimizer.lr or trainer.localisation_lr usually helps"
                    )
                history.append(
                    {"epoch": progress.epoch, **metrics} | {f"val_{k}": v for k, v in valid.items()}
                )
                record_epoch(training.model, digits, run, board, history, epochs)
                progress.next_epoch()
                save(training, history, run)
                after_epoch(history)
                signals.check()  # or it would be forgotten after the last epoch
            except Stopped:
                save(training, history, run)
                print(f"stopped after step {progress.step:,}; the same command goes on from there")
                signals.forward_signal()
                print("it goes on at once: here the signal is no order to end")


def record_epoch(
    model: Classifier, digits: Batch, run: RunFolder, board: TensorBoard, history: History, epochs: int
) -> None:
    """Tell the last epoch of ``history`` to the terminal, TensorBoard and the run's folder; keep the best."""
    metrics = history[-1]
    epoch = metrics["epoch"]
    print(epoch_line(metrics, epochs))
    if warning := epoch_warning(history):
        logger.warning(warning)
    board.scalars(tags(metrics), epoch)
    caption = f"epoch {epoch} of {epochs}, validation error {metrics['val_error']:.2f} %"
    record_panel(model, digits, run, board, epoch, caption)
    write_atomically(run.history_file, "".join(json.dumps(line) + "\n" for line in history))
    if metrics is best_epoch(history):
        checkpoints.save({"run": run.folder.name, "model": model.state_dict(), "epoch": epoch}, run.best)


def finish(
    experiment: Experiment,
    splits: Splits,
    run: RunFolder,
    board: TensorBoard,
    history: History,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate the best epoch on the test set, once; write the last panel, the animation and the result."""
    model, best = experiment.model, best_epoch(history)
    model.load_state_dict(best_weights(run, best["epoch"]))
    test = evaluate(model, splits.test)
    caption = f"best epoch {best['epoch']} of {len(history)}, test error {test['error']:.2f} %"
    record_panel(model, one_of_each_class(splits.test), run, board, len(history) + 1, caption)
    frames = [run.panel(step) for step in range(len(history) + 2)]
    save_animation(frames, run.animation)
    board.final(test["error"], best["val_error"], len(history) + 1)
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
        **{group: config[group]["name"] for group in ("data", "backbone", "stn", "attention")},
        **({"collapsed": diagnose(best)} if "localisation_gradient" in best else {}),
        "device": experiment.device.type,
        "commit": commit(),
        "status": "finished",
    }
    write_atomically(run.result_file, to_json(result))
    return result


def record_panel(
    model: Classifier, digits: Batch, run: RunFolder, board: TensorBoard, step: int, caption: str
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
