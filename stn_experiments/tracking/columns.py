"""The columns of TensorBoard's HParams page and the charts of its Custom Scalars page."""

from collections.abc import Mapping
from typing import Any

from stn_experiments.config.choices import setting_names
from stn_experiments.config.tree import WITHOUT_EFFECT, decisive, flatten

SHOWN = ("data", "backbone", "stn", "attention", "seed")
"""Settings that are visible before any box is ticked; TensorBoard's page has room for five."""

METRICS = (
    *("final/test_error", "final/val_error", "attention/found", "attention/iou_mean"),
    *("attention/ink_inside", "pose/residual_rotation_deg", "speed/images_per_second"),
)
"""Tags that have a column."""

NEVER_MOVES = "(flat line: a box that never moves)"
CHARTS = {
    "validation error, % (the faint line; Smoothing 0 shows it alone)": ["error/val"],
    f"does attention find the digit? fraction of the digits {NEVER_MOVES}": [
        *("attention/found", "attention/found_of_centre_box"),
    ],
    f"does the box fit? IoU {NEVER_MOVES}": ["attention/iou_mean", "attention/iou_mean_of_centre_box"],
    f"is the digit inside the box? fraction of its ink {NEVER_MOVES}": [
        *("attention/ink_inside", "attention/ink_inside_of_centre_box"),
    ],
    "is the output upright? residual rotation, degrees (flat line: the input's)": [
        *("pose/residual_rotation_deg", "pose/input_rotation_deg"),
    ],
    "does the transformer react to its input? spread of theta": ["transformer/theta_spread"],
    "does it learn? gradient of the localisation network": ["transformer/localisation_gradient"],
    "has it left the image? fraction of its grid outside": ["transformer/outside_share"],
}
"""The charts of the page ``overview``, each with the tags in it."""


def setting_columns(config: Mapping[str, Any]) -> list[str]:
    """The settings that have a column: those of a run, and of all choices of the groups in ``configs``.

    TensorBoard shows only the columns that the first run declares. So each run declares all of them, or the
    settings of later runs would never appear. The settings of the single distortions in a mixture, more than
    three levels deep, have none.
    """
    known = (name for name in setting_names() if not name.startswith(WITHOUT_EFFECT))
    names = {*flatten(decisive(config)), *known}
    return [*SHOWN, *sorted(name for name in names - {*SHOWN} if name.count(".") < 3)]


def charts() -> dict[str, dict[str, list[Any]]]:
    """``CHARTS`` in the form of ``SummaryWriter.add_custom_scalars``."""
    return {"overview": {title: ["Multiline", tags] for title, tags in CHARTS.items()}}
