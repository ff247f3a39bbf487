"""A run from its config to its result: train, validate after each epoch, test at the end."""

import logging
import math
import os
import shlex
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from stn_experiments.cli.signals import Stopped, StopSignals
from stn_experiments.common.errors import RunLocked, TrainingFailed, UserError
from stn_experiments.common.files import to_json, write_atomically
from stn_experiments.data.splits import Splits, TrainingSet
from stn_experiments.evaluation.evaluate import evaluate, evaluate_test
from stn_experiments.runs.experiment import NAMED_GROUPS, Experiment, build_experiment, count_parameters
from stn_experiments.runs.figure import draw_figure
from stn_experiments.runs.progress import ProgressLines, outlook
from stn_experiments.runs.run_log import History, RunLog
from stn_experiments.runs.translate_errors import loading, translate_errors
from stn_experiments.storage import checkpoints
from stn_experiments.storage.environment import commit
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.config import TrainerConfig, has_bfloat16
from stn_experiments.training.health import diagnose
from stn_experiments.training.loop import Trainer

logger = logging.getLogger(__name__)


def train(
    config: Mapping[str, Any], folder: RunFolder | None = None, show_progress: bool = False
) -> dict[str, Any]:
    """Train what a config describes, resume it, or find it finished; returns the content of ``result.json``.

    Args:
        config: the resolved config.
        folder: the run's folder; by default the one that belongs to the config.
        show_progress: print what is trained and on which device, and without a terminal how far training is.

    Raises:
        UserError: the config cannot work, or the data cannot be had.
        RunLocked: another process trains this run.
        TrainingFailed: the loss or a gradient is not finite, or there is too little memory or disk.
        Stopped: a signal asked for it; the run's folder holds a checkpoint.
    """
    experiment = build_experiment(config)
    folder = folder or RunFolder.of(config)
    if not experiment.run.force and (result := folder.result()) is not None:
        print(f"{folder.folder} is finished already{_other_code(result)}; run.force=true trains it again")
        return result
    if show_progress:
        print(device_line(experiment))
    with open_folder(experiment, folder) as splits:
        if not experiment.run.force and (result := folder.result()) is not None:
            return result  # the process that held the folder until now has finished the run
        with closing(TrainingRun(experiment, splits, folder)) as run:
            run.progress.enabled &= show_progress
            began = time.monotonic()
            for metrics in run.epochs():
                if show_progress and metrics["epoch"] == 1 < experiment.trainer.epochs:
                    print(outlook(experiment, folder, time.monotonic() - began))
            return run.finish()


def _other_code(result: Mapping[str, Any]) -> str:
    """Which code has made a result, unless it is certainly the present code."""
    made, now = result.get("commit", "unknown"), commit()
    if made == now and not now.endswith("-dirty"):
        return ""
    return f", by the code of commit {made}, which is now {now}"


@contextmanager
def open_folder(experiment: Experiment, folder: RunFolder) -> Iterator[Splits]:
    """Lock the folder of a run that will be trained, and load the data; see :func:`train`."""
    set_up_torch(experiment.trainer, experiment.device)
    try:
        with loading(experiment.config["data"]["name"]):
            splits = experiment.data.load(experiment.device)
        with translate_errors(experiment, folder), run_lock(folder.folder):
            others = [] if folder.config_file.exists() else folder.same_run()
            if others:  # of a command line with other words, started at the same time
                raise RunLocked(f"{others[0].folder} is the same run, and was begun at the same time")
            yield splits
    except TrainingFailed as error:
        folder.mark_failed(str(error))
        raise


class TrainingRun:
    """One run, from the newest checkpoint in its folder on, which holds all that resuming needs.

    Args:
        experiment: what the run's config describes.
        splits: the data, on the training device.
        folder: the run's folder, locked by this process.
    """

    def __init__(self, experiment: Experiment, splits: Splits, folder: RunFolder) -> None:
        self.experiment, self.splits, self.folder = experiment, splits, folder
        self.precision = experiment.trainer.resolved_precision(experiment.device)
        self.trainer = make_trainer(experiment, splits.train)
        self.model = self.trainer.model
        """The network that is evaluated."""
        self.timer = checkpoints.CheckpointTimer(
            experiment.run.checkpoint_seconds, experiment.run.checkpoint_steps
        )
        self.progress = ProgressLines(experiment.trainer.epochs, self.trainer.steps_per_epoch)
        self.history = self._restore()
        first_epoch = len(self.history) + 1 if self.trainer.step else 0
        self.log = RunLog(experiment, splits, folder, first_epoch)

    def epochs(self) -> Generator[dict[str, Any], None, None]:
        """Train epoch by epoch, and yield the metrics of each new epoch."""
        if not self.trainer.step:
            self.log.panel(self.model, 0, "before training")
        with StopSignals() as signals:
            while self.trainer.epoch <= self.experiment.trainer.epochs:
                try:
                    self._train_epoch(signals)
                    with signals.immediate():
                        self.model = self.trainer.averaged_model()
                        valid = evaluate(self.model, self.splits.valid)
                    yield self._end_epoch(valid)
                    signals.check()  # otherwise a signal in the last epoch would be lost
                except Stopped:
                    self._save()
                    print(f"stopped after step {self.trainer.step:,}; the same command resumes from there")
                    signals.forward_signal()
                    print("training continues: the signal's own handler did not end this process")

    def finish(self) -> dict[str, Any]:
        """Test the networks of the last and of the best epoch, and write the result."""
        best, epochs = best_epoch(self.history), len(self.history)
        self.model.load_state_dict(checkpoints.load_weights(self.folder, self.folder.best, best["epoch"]))
        best_error = evaluate(self.model, self.splits.test)["error"]
        self.model.load_state_dict(checkpoints.load_weights(self.folder, self.folder.model, epochs))
        test = evaluate_test(self.model, self.splits.test, self.splits.draw_pairs)
        self.log.test(self.model, test, self.history)
        if self.splits.kinds is not None:
            test["kinds"], figure = draw_figure(self.model, self.splits.kinds, f"after epoch {epochs}")
            self.log.figure(figure, epochs)
        result = self._result(test) | {
            "best_epoch": best["epoch"],
            "best_epoch_val_error": best["val_error"],
            "best_epoch_test_error": best_error,
        }
        write_atomically(self.folder.result_file, to_json(result))
        return result

    def close(self) -> None:
        """Write what is pending for TensorBoard."""
        self.log.close()

    def _restore(self) -> History:
        """Create the folder, or continue from its newest checkpoint; returns the metrics until there."""
        if self.experiment.run.force:
            self.folder.clear()
        self.folder.create(self.experiment.config)
        state = checkpoints.newest(self.folder)
        if not state:
            return []
        load_state(self.trainer, state, self.folder)
        step, epoch = self.trainer.step, self.trainer.epoch
        print(f"{self.folder.folder} resumes after step {step:,} (in epoch {epoch})")
        if (earlier := state.get("precision", self.precision)) != self.precision:
            print(f"its steps until now were in {earlier}, the next ones are in {self.precision}")
        return state["history"]

    def _train_epoch(self, signals: StopSignals) -> None:
        """Train to the end of the epoch, and save a checkpoint whenever one is due."""

        def pause() -> bool:
            self.progress.update(self.trainer.step)
            return self.timer.is_due() or signals.pending

        while not self.trainer.run_epoch(pause=pause):
            signals.check()
            self._save()

    def _end_epoch(self, valid: Mapping[str, float]) -> dict[str, Any]:
        """Log an epoch by its validation scores, and save a checkpoint; returns the epoch's metrics."""
        trainer = self.trainer
        if not math.isfinite(valid["loss"]):  # the last update may not be finite, though the loss before was
            raise TrainingFailed(
                f"training stopped: the validation loss after epoch {trainer.epoch} is not finite; "
                "a lower optimizer.lr or trainer.localisation_lr usually helps"
            )
        metrics = {"epoch": trainer.epoch, **trainer.epoch_metrics()}
        metrics |= {f"val_{name}": value for name, value in valid.items()}
        self.history.append(metrics)
        self.log.epoch(self.model, self.history)
        checkpoints.save_model(self.folder, self.folder.model, self.model, trainer.epoch)
        if metrics is best_epoch(self.history):
            checkpoints.save_model(self.folder, self.folder.best, self.model, trainer.epoch)
        trainer.next_epoch()
        self._save()
        return metrics

    def _save(self) -> None:
        """Write the checkpoint from which the run resumes.

        Raises:
            TrainingFailed: a step before it was not finite, so nothing should resume from it.
        """
        self.trainer.check_finite()
        state = {
            "run": self.folder.folder.name,
            "trainer": self.trainer.state_dict(),
            "history": self.history,
            "precision": self.precision,
        }
        checkpoints.save(state, self.folder.last, keep=self.folder.previous)

    def _result(self, test: Mapping[str, Any]) -> dict[str, Any]:
        experiment, history, last = self.experiment, self.history, self.history[-1]
        images, seconds = (sum(line[key] for line in history) for key in ("images", "seconds"))
        return {
            **test,
            **{name: value for name, value in last.items() if name.startswith("val_")},
            "epochs": len(history),
            "images_seen": images,
            "train_seconds": seconds,
            "images_per_second": images / seconds,
            "parameters": count_parameters(self.trainer.model),
            "seed": experiment.seed,
            **{group: experiment.config[group]["name"] for group in NAMED_GROUPS},
            **({"collapsed": diagnose(last)} if "localisation_gradient" in last else {}),
            "device": experiment.device.type,
            "precision": self.precision,
            "commit": commit(),
            "status": "finished",
        }


def make_trainer(experiment: Experiment, train_set: TrainingSet) -> Trainer:
    """The trainer of an experiment, before its first step."""
    steps = experiment.trainer.epochs * experiment.trainer.steps_per_epoch(train_set.size)
    model = experiment.model.to(experiment.device)
    scheduler = LambdaLR(experiment.optimizer, lambda step: experiment.schedule(step / steps))
    return Trainer(model, scheduler, train_set, experiment.trainer, experiment.seed)


def load_state(trainer: Trainer, state: Mapping[str, Any], folder: RunFolder) -> None:
    """Restore a trainer from a checkpoint.

    Raises:
        UserError: the checkpoint does not fit, for example because the code or a data file has changed.
    """
    try:
        trainer.load_state_dict(state["trainer"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the checkpoint in {folder.last.parent} does not fit this network, its data or this version "
            f"({reason}): {checkpoints.START_AGAIN}"
        ) from error


def set_up_torch(config: TrainerConfig, device: torch.device) -> None:
    """Set torch's global flags: fast, and deterministic if the config asks for it."""
    if config.precision == "bfloat16" and not has_bfloat16(device):
        logger.warning(
            "warning: this %s has no instructions for trainer.precision=bfloat16, so training is many times "
            "slower; auto takes float32 here",
            device.type,
        )
    torch.set_flush_denormal(True)  # a CPU is many times slower with denormal numbers
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first use
    torch.use_deterministic_algorithms(config.deterministic)


def best_epoch(history: History) -> dict[str, Any]:
    """The first epoch with the lowest validation error."""
    return min(history, key=lambda metrics: metrics["val_error"])


def device_line(experiment: Experiment) -> str:
    """The device, the size of the model and the length of training, for the terminal."""
    trainer = experiment.trainer
    precision = trainer.resolved_precision(experiment.device)
    images = trainer.steps_per_epoch(experiment.data.train_size) * trainer.batch_size
    epochs = "1 epoch" if trainer.epochs == 1 else f"{trainer.epochs} epochs"
    return (
        f"on {experiment.device.type} in {precision}: {count_parameters(experiment.model):,} parameters, "
        f"{epochs} of {images:,} images"
    )


def summary(run: RunFolder, result: Mapping[str, Any]) -> str:
    """The result of a run and where to look, for the terminal."""
    found = f"found       {100 * result['found']:.2f} % of the digits\n" if "found" in result else ""
    root = shlex.quote(str(run.folder.parent))
    return (
        f"\ntest error  {result['test_error']:.2f} %  (after epoch {result['epochs']}, "
        f"validation error {result['val_error']:.2f} %, {result['train_seconds']:.0f} s of training)\n"
        f"{found}"
        f"run         {run.folder}\n"
        f"panel       {run.test_panel}\n"
        f"look        tensorboard --logdir {root} --samples_per_plugin images=1000"
    )
