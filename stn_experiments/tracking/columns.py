"""What TensorBoard is told to show: columns of its HParams page, charts of its Custom Scalars page."""

from typing import Any

SHOWN = ("data", "backbone", "stn", "attention", "seed")
"""Settings that are shown before anybody ticks a box; TensorBoard's page takes five."""

SETTINGS = (
    *SHOWN,
    *("attention.at", "attention.blind", "attention.copies", "attention.glimpses"),
    *("attention.kernel", "attention.reduction", "attention.mode", "attention.scales"),
    *("attention.size", "attention.std", "attention.width"),
    *("backbone.filters", "backbone.parameters", "backbone.pool", "backbone.width", "backbone.widths"),
    *("data.distortion.angle", "data.distortion.bend", "data.distortion.blur"),
    *("data.distortion.blur_angle", "data.distortion.canvas", "data.distortion.clutter"),
    *("data.distortion.clutter_size", "data.distortion.contrast", "data.distortion.corners"),
    *("data.distortion.digits", "data.distortion.side"),
    *("data.distortion.noise", "data.distortion.place", "data.distortion.scale"),
    *("data.distortion.shear", "data.file", "data.online", "data.image_size", "data.seed"),
    *("data.training", "data.valid_size", "trainer.epochs", "optimizer.lr", "optimizer.momentum"),
    *("optimizer.weight_decay", "scheduler.end", "scheduler.factor", "scheduler.start"),
    *("scheduler.steps", "scheduler.warmup", "stn.antialias", "stn.at", "stn.count"),
    *("stn.family.control_points", "stn.family.window", "stn.interpolation", "stn.localisation"),
    *("stn.output_size", "stn.padding", "stn.steps", "stn.width", "trainer.batch_size"),
    *("trainer.deterministic", "trainer.images_per_epoch", "trainer.localisation_clip"),
    *("trainer.localisation_lr", "trainer.precision", "trainer.cuda_graph"),
)
"""Settings that have a column.

TensorBoard shows the columns that the first run declares and no others, so every run declares them all: what
only later runs have would never appear.
"""

METRICS = (
    *("final/test_error", "final/val_error", "attention/iou_mean", "attention/ink_inside"),
    *("pose/residual_rotation_deg", "speed/images_per_second"),
)
"""Tags that have a column beside them."""

CHARTS = {
    "overview": {
        "validation error, %": ["error/val"],
        "is attention on the digit? IoU": ["attention/iou_mean"],
        "is the digit in its box? share of the ink": ["attention/ink_inside"],
        "does it come out upright? degrees of rotation left": ["pose/residual_rotation_deg"],
        "does the transformer move? spread of theta": ["transformer/theta_spread"],
        "does it learn? gradient of the localisation network": ["transformer/localisation_gradient"],
        "has it left the image? share of its grid outside": ["transformer/outside_share"],
    }
}
"""Charts on one page: their tags."""


def layout() -> dict[str, dict[str, list[Any]]]:
    """``CHARTS`` as ``SummaryWriter.add_custom_scalars`` takes them."""
    return {
        page: {title: ["Multiline", tags] for title, tags in some.items()} for page, some in CHARTS.items()
    }
