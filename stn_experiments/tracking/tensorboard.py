"""A run's TensorBoard file: scalars, the panel, and the hyper-parameters beside the final metrics."""

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
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from stn_experiments.tracking.columns import METRICS, SETTINGS, SHOWN, layout

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

logger = logging.getLogger(__name__)

P = ParamSpec("P")


def harmless(method: Callable[P, None]) -> Callable[P, None]:
    """A method of ``TensorBoard`` that in trouble says so, once for all of them, and then does nothing."""

    @wraps(method)
    def tried(*arguments: P.args, **named: P.kwargs) -> None:
        board = cast("TensorBoard", arguments[0])
        if board.broken:
            return
        try:
            method(*arguments, **named)
        except Exception as error:  # of the disk, the file or the writer's thread: a picture is worth no run
            board.broken = True
            logger.warning("warning: TensorBoard cannot be written (%s); the run goes on without it", error)

    return tried


class TensorBoard:
    """Writes to ``folder``; from ``first_step`` on, what an interrupted run left there is hidden.

    It is for looking only, so trouble with it never ends a run.

    Args:
        folder: the run's folder, which is the run's name in TensorBoard.
        first_step: the first epoch that will be written.
    """

    broken = False

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._open(folder, first_step)

    @harmless
    def _open(self, folder: Path, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    @harmless
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write each value under its tag."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Write an epoch's metrics."""
        values = {tag: metrics[name] for name, tag in TAGS.items() if name in metrics}
        values["speed/images_per_second"] = metrics["images"] / metrics["seconds"]
        self.scalars(values, metrics["epoch"])

    @harmless
    def panel(self, image: Image.Image, step: int) -> None:
        """Write the panel under its one tag, so that the step slider plays the learning."""
        self._writer.add_image("panel", np.asarray(image), step, dataformats="HWC")
        self._writer.flush()

    @harmless
    def hyperparameters(self, settings: Mapping[str, Any]) -> None:
        """Declare the run's settings, nested as in the config, and what is to be shown of it and how."""
        # SummaryWriter.add_hparams would open a second run, and declare the columns of this one alone.
        _, start, end = hparams(flatten(settings), dict.fromkeys(METRICS, 0.0))
        for summary in (columns(), start, end):
            self._writer._get_file_writer().add_summary(summary)
        self._writer.add_custom_scalars(layout())

    def final(self, test_error: float, val_error: float, step: int) -> None:
        """Write the final metrics, errors in percent, in the columns that the settings stand beside."""
        self.scalars({"final/test_error": test_error, "final/val_error": val_error}, step)

    @harmless
    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


def columns() -> Summary:
    """The columns of the HParams page, as TensorBoard reads them."""
    summary = hparams_config_pb([HParam(name) for name in SETTINGS], [Metric(tag) for tag in METRICS])
    plugin = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for setting in content.experiment.hparam_infos:
        setting.differs = setting.name in SHOWN  # which are sorted to the front, and ticked if they are few
    plugin.content = content.SerializeToString()
    return summary


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested settings as ``a.b: value``, a group's choice as ``a``, without what no result depends on.

    What is no plain value becomes a text: None would hide the run.
    """
    flat: dict[str, bool | int | float | str] = {}
    for key, value in settings.items():
        if key in ("run", "search") and not prefix:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif key != "_target_":
            name = (prefix + key).removesuffix(".name")
            flat[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
