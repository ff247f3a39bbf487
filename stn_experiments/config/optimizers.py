"""Ranges of the settings of torch's optimisers, whose signatures have types only."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_origin

from stn_experiments.common.ranges import Fraction, Range

Decay = Annotated[float, Range(0, 0.999999)]  # at 1, a mean would never change
HINTS: Mapping[str, Any] = {
    "lr": Annotated[float, Range(0, 1e30)],
    "weight_decay": Annotated[float, Range(0, 1000)],
    "momentum": Fraction,
    "dampening": Fraction,
    "betas": tuple[Decay, Decay],
    "eps": Fraction,
    "differentiable": Literal[False],  # the trainer's steps change weights that have a gradient
}


def with_ranges(target: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The type hints of a config's target, with ranges if it is one of ``torch.optim``."""
    if not getattr(target, "__module__", "").startswith("torch.optim."):
        return dict(hints)
    ours = {
        name: hint
        for name, hint in HINTS.items()
        if name in hints and (get_origin(hint) is tuple) == (get_origin(hints[name]) is tuple)
    }  # the eps of Adafactor is a pair
    return {**hints, **ours}
