"""What a run shows of itself: lines in the terminal, TensorBoard, and panels in its folder."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from PIL import Image

from stn_experiments.common.files import write_atomically
from stn_experiments.data.batch import Batch
from stn_experiments.data.splits import Splits, one_of_each_class
from stn_experiments.evaluation.evaluate import mistakes, predict
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import Experiment
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.learning import Learning, learning_frames
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_animation, save_picture
from stn_experiments.tracking.tensorboard import TensorBoard
from stn_experiments.training.health import epoch_warning

logger = logging.getLogger(__name__)

History = list[dict[str, Any]]
"""The metrics of each epoch."""


class RunLog:
    """Shows the epochs and the test of a run.

    Args:
        experiment: what the run's config describes.
        splits: the data.
        folder: the run's folder, which exists.
        first_epoch: the first one that will be shown; TensorBoard hides what an interrupted process has
            written from there on.
    """

    def __init__(self, experiment: Experiment, splits: Splits, folder: RunFolder, first_epoch: int) -> None:
        self.experiment, self.splits, self.folder = experiment, splits, folder
        self.board = TensorBoard(folder.folder, first_epoch)
        self.board.hyperparameters(experiment.config)

    def panel(self, model: Classifier, epoch: int, caption: str) -> None:
        """Draw the panel of validation digits after an epoch into a file, and into TensorBoard."""
        image = self._draw(model, self.splits.valid, caption)
        save_picture(image, self.folder.panel(epoch))
        self.board.panel(image, epoch)

    def epoch(self, model: Classifier, history: History) -> None:
        """Show the last epoch of a history."""
        metrics, epochs = history[-1], self.experiment.trainer.epochs
        print(epoch_line(metrics, epochs))
        if warning := epoch_warning(history):
            logger.warning(warning)
        self.board.epoch(metrics)
        if metrics["epoch"] in self.experiment.run.panel_epochs(epochs):
            caption = f"epoch {metrics['epoch']} of {epochs}, validation error {metrics['val_error']:.2f} %"
            self.panel(model, metrics["epoch"], caption)
        write_atomically(self.folder.history_file, "".join(json.dumps(line) + "\n" for line in history))

    def test(self, model: Classifier, scores: Mapping[str, Any], history: History) -> None:
        """Draw panels of test images and of mistakes among them, and the animation of all panels before.

        ``scores`` are those of ``evaluate_test``.
        """
        epochs, error = len(history), scores["test_error"]
        panel = self._draw(
            model, self.splits.test, f"test images after epoch {epochs}, test error {error:.2f} %"
        )
        save_picture(panel, self.folder.test_panel)
        if (wrong := mistakes(self.splits.test, scores)) is not None:
            image = self._draw(model, wrong, mistakes_caption(wrong, self.splits.test))
            save_picture(image, self.folder.mistakes)
            self.board.panel(image, epochs, "panel/mistakes")
        errors = {line["epoch"]: line["val_error"] for line in history}
        learning = Learning(self.folder.folder.name, self.folder.panels(), errors)
        try:
            frames = learning_frames([learning])
        except (OSError, SyntaxError) as damage:  # Pillow raises either for a damaged PNG
            logger.warning("warning: there is no animation, for a panel cannot be read: %s", damage)
        else:
            save_animation(frames, self.folder.animation)
        self.board.final(error, history[-1]["val_error"], panel, epochs)

    def figure(self, figure: Image.Image, epoch: int) -> None:
        """Write the figure of a mixture of distortions into a file, and into TensorBoard."""
        save_picture(figure, self.folder.figure)
        self.board.panel(figure, epoch, "panel/figure")

    def close(self) -> None:
        """Write what is pending for TensorBoard."""
        self.board.close()

    def _draw(self, model: Classifier, batch: Batch, caption: str) -> Image.Image:
        """The panel of an image of each class."""
        images = one_of_each_class(batch)
        return draw_panel(
            images, predict(model, images), caption, class_names=self.experiment.data.class_names
        )


def mistakes_caption(wrong: Batch, test: Batch) -> str:
    """What a panel of mistakes shows."""
    return f"mistakes: {len(wrong.labels):,} of {len(test.labels):,} test images"


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One epoch in one line."""
    return (
        f"epoch {metrics['epoch']:{len(str(epochs))}}/{epochs}  train loss {metrics['train_loss']:.4f}  "
        f"train error {metrics['train_error']:5.2f} %  val error {metrics['val_error']:5.2f} %  "
        f"{metrics['images'] / metrics['seconds']:,.0f} images/s"
    )
