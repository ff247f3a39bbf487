"""Is a transformer sound? What is known to go wrong with one, told once and with its remedy."""

from collections.abc import Mapping, Sequence
from typing import Any

STILL = 1e-5
"""A theta whose spread over images is below this does the same to all of them."""
LEFT = 0.5
"""A grid with a larger share of its points outside the image has left it."""

REMEDIES = {
    "no gradient": (
        "the localisation network has no gradient, so the transformer does not move; theta must not be "
        "behind a function that saturates, nor the sampler be stn.interpolation=nearest"
    ),
    "outside": (
        "most of the sampling grid is outside the image, where nothing leads it back; a lower "
        "trainer.localisation_lr or trainer.localisation_clip=1 and a new start usually help"
    ),
    "still": (
        "theta is the same for every image, so the transformer attends to nothing; another "
        "trainer.localisation_lr or stn.localisation usually helps"
    ),
}


def diagnose(metrics: Mapping[str, Any]) -> str | None:
    """What is wrong with the transformer, a key of ``REMEDIES``, by an epoch's metrics; or nothing."""
    if metrics.get("localisation_gradient", 1) == 0:
        return "no gradient"
    if metrics.get("val_outside_share", 0) > LEFT:
        return "outside"
    if metrics.get("val_theta_spread", 1) < STILL:
        return "still"
    return None


def first_step_warning(localisation_gradient: float) -> str | None:
    """What to tell a person after the first step, by the norm of the localisation network's gradient."""
    return None if localisation_gradient else f"warning: step 1: {REMEDIES['no gradient']}"


def epoch_warning(history: Sequence[Mapping[str, Any]]) -> str | None:
    """What to tell after the last epoch of a history, unless an epoch before it or the first step told it."""
    *before, last = map(diagnose, history)
    if last is None or last == "no gradient" or last in before:
        return None
    return f"warning: epoch {history[-1]['epoch']}: {REMEDIES[last]}"
