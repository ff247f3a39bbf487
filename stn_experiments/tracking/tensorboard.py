"""A run's TensorBoard file: scalars, panels, and the settings beside the final metrics."""

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, cast

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams, scalar

from stn_experiments.config.tree import decisive, flatten
from stn_experiments.tracking.columns import METRICS, SHOWN, charts, setting_columns

logger = logging.getLogger(__name__)

P = ParamSpec("P")

TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/val",
    "train_error": "error/train",
    "val_error": "error/val",
    "lr": "lr/network",
    "localisation_lr": "lr/localisation",
    "gradient": "gradient/network",
    "localisation_gradient": "transformer/localisation_gradient",
    "train_consistency": "transformer/consistency",
    "val_theta_spread": "transformer/theta_spread",
    "val_outside_share": "transformer/outside_share",
    "val_found": "attention/found",
    "val_found_of_centre_box": "attention/found_of_centre_box",
    "val_iou_mean": "attention/iou_mean",
    "val_iou_mean_of_centre_box": "attention/iou_mean_of_centre_box",
    "val_iou_above_half": "attention/iou_above_half",
    "val_frame_iou_mean": "attention/frame_iou_mean",
    "val_ink_inside": "attention/ink_inside",
    "val_ink_inside_of_centre_box": "attention/ink_inside_of_centre_box",
    "val_off_target": "attention/off_target",
    "val_hit_rate": "attention/hit_rate",
    "val_residual_rotation_deg": "pose/residual_rotation_deg",
    "val_residual_rotation_within_class_deg": "pose/residual_rotation_within_class_deg",
    "val_input_rotation_deg": "pose/input_rotation_deg",
    "val_mirrored_share": "pose/mirrored_share",
    "val_residual_scale": "pose/residual_scale",
    "val_residual_translation_px": "pose/residual_translation_px",
}
"""The tags of an epoch's metrics."""

SMOOTHED = (
    "The strong line is smoothed, the faint one is not. Smoothing 0, on the right, shows the true values."
)
"""The description of every scalar: TensorBoard smooths all charts by 0.6, which no file can change."""


def never_fails(method: Callable[P, None]) -> Callable[P, None]:
    """A method of ``TensorBoard`` whose first error is a warning, after which all methods do nothing."""

    @wraps(method)
    def tried(*arguments: P.args, **named: P.kwargs) -> None:
        board = cast("TensorBoard", arguments[0])
        if board.broken:
            return
        try:
            method(*arguments, **named)
        except Exception as error:  # of the disk, the file or the writer's thread
            board.broken = True
            logger.warning("warning: TensorBoard cannot be written (%s); the run goes on without it", error)

    return tried


class TensorBoard:
    """Writes to a run's folder. An error never ends the run.

    Args:
        folder: the run's folder, whose name is the run's name in TensorBoard.
        first_step: the first epoch that will be written. TensorBoard hides what an interrupted process has
            written from this epoch on.
    """

    broken = False

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._open(folder, first_step)

    @never_fails
    def _open(self, folder: Path, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    @never_fails
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write each value under its tag, with the description that the chart shows."""
        writer = cast(FileWriter, self._writer.file_writer)
        for tag, value in values.items():
            summary = scalar(tag, value)
            summary.value[0].metadata.summary_description = SMOOTHED
            writer.add_summary(summary, step)
        self._writer.flush()

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an epoch."""
        values = {tag: metrics[name] for name, tag in TAGS.items() if name in metrics}
        values["speed/images_per_second"] = metrics["images"] / metrics["seconds"]
        self.scalars(values, metrics["epoch"])

    @never_fails
    def panel(self, image: Image.Image, step: int, tag: str = "panel/validation") -> None:
        """Write a panel; all epochs have the same tag, so the step slider shows the learning."""
        self._writer.add_image(tag, np.asarray(image), step, dataformats="HWC")
        self._writer.flush()

    @never_fails
    def hyperparameters(self, config: Mapping[str, Any], layout: Mapping[str, Any] | None = None) -> None:
        """Declare the settings of a run, the columns of the HParams page, and the charts, or a ``layout``."""
        # SummaryWriter.add_hparams would create a second run, and declare only this run's columns.
        settings = {name: as_hparam(value) for name, value in flatten(decisive(config)).items()}
        _, start, end = hparams(settings, dict.fromkeys(METRICS, 0.0))
        writer = cast(FileWriter, self._writer.file_writer)
        for summary in (columns(setting_columns(config)), start, end):
            writer.add_summary(summary)
        self._writer.add_custom_scalars(layout or charts())

    def final(self, test_error: float, val_error: float, panel: Image.Image, step: int) -> None:
        """Write the final errors, in percent, and the panel of test digits."""
        self.scalars({"final/test_error": test_error, "final/val_error": val_error}, step)
        self.panel(panel, step, "panel/test")

    @never_fails
    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def columns(settings: list[str]) -> Summary:
    """The columns of the HParams page, as TensorBoard reads them."""
    summary = hparams_config_pb([HParam(name) for name in settings], [Metric(tag) for tag in METRICS])
    plugin = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for setting in content.experiment.hparam_infos:
        setting.differs = setting.name in SHOWN  # these are sorted to the front, and visible at the start
    plugin.content = content.SerializeToString()
    return summary


def as_hparam(value: Any) -> bool | int | float | str:
    """A value that TensorBoard can show; ``None`` and lists become text, or it would hide the run."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
