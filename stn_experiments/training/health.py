"""Known failures of a spatial transformer, found in an epoch's metrics, each with a remedy."""

from collections.abc import Mapping, Sequence
from typing import Any

SMALLEST_SPREAD = 1e-5
"""Below this standard deviation theta is the same for all images."""
LARGEST_OUTSIDE_SHARE = 0.5
"""A grid with a larger share of its points outside the image has left it."""

REMEDIES = {
    "no gradient": (
        "the localisation network has no gradient, so the transformer does not move; theta must not pass "
        "through a function that saturates, and stn.interpolation must not be nearest"
    ),
    "outside": (
        "most of the sampling grid is outside the image, where it gets no gradient; a lower "
        "trainer.localisation_lr or trainer.localisation_clip=1 and a new start usually help"
    ),
    "still": (
        "theta is the same for every image, so the transformer ignores its input; another "
        "trainer.localisation_lr or stn.localisation usually helps"
    ),
}
FIRST_STEP_WARNING = f"warning: step 1: {REMEDIES['no gradient']}"


def diagnose(metrics: Mapping[str, Any]) -> str | None:
    """The failure that an epoch's metrics show, a key of ``REMEDIES``, or ``None``."""
    if metrics.get("localisation_gradient", 1) == 0:
        return "no gradient"
    if metrics.get("val_outside_share", 0) > LARGEST_OUTSIDE_SHARE:
        return "outside"
    if metrics.get("val_theta_spread", 1) < SMALLEST_SPREAD:
        return "still"
    return None


def epoch_warning(history: Sequence[Mapping[str, Any]]) -> str | None:
    """The warning about a history's last epoch, unless an earlier epoch or the first step gave it already."""
    *earlier, last = map(diagnose, history)
    # Without a gradient in the first epoch, the first step warned already.
    if last is None or last in earlier or (last == "no gradient" and not earlier):
        return None
    return f"warning: epoch {history[-1]['epoch']}: {REMEDIES[last]}"
