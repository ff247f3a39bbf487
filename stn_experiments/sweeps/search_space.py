"""What a search is told to look for: settings, and the values that they can have."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Count, Range

RANGES = {"integer": (int,), "log": (int, float), "uniform": (int, float)}
"""What the ends of each kind of range can be."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, and how long.

    Args:
        trials: how many runs, failed and pruned ones among them; those of earlier starts count.
        space: for each setting its values, as ``log: [0.01, 10]``, ``uniform: [0, 1]``,
            ``integer: [8, 64]`` or ``choice: [16, 32]``.
        prune: from the fourth run on, one that after some epoch is not among the best so many percent that
            there were after as many is given up; null: none is.
    """

    trials: Count
    space: Mapping[str, Any]
    prune: Annotated[float, Range(0, 100)] | None = 75.0

    def __post_init__(self) -> None:
        if not self.space:
            raise UserError("space must name a setting or more, got none")
        for name, values in self.space.items():
            check_values(name, values)


def check_values(name: str, values: Any) -> None:
    """See whether ``values`` say what a setting can be.

    Raises:
        UserError: they do not.
    """
    known = isinstance(values, Mapping) and len(values) == 1
    ((kind, ends),) = values.items() if known else (("", None),)
    if kind in RANGES and isinstance(ends, list) and len(ends) == 2:
        low, high = ends
        are_numbers = all(type(end) in RANGES[kind] and isfinite(end) for end in ends)
        if are_numbers and low < high and (kind != "log" or low > 0):
            return
    if not (kind == "choice" and isinstance(ends, list) and ends):
        raise UserError(
            f"space.{name} must be one of choice: [...], log, uniform or integer: [lowest, highest], "
            f"got {values}"
        )


def check_own(name: str, values: Mapping[str, Any], own: Any) -> None:
    """See whether the config's own value is one that is searched, as it is the first to be tried.

    Raises:
        UserError: it is not.
    """
    ((kind, ends),) = values.items()
    is_one = own in ends if kind == "choice" else type(own) in RANGES[kind] and ends[0] <= own <= ends[1]
    if not is_one:
        raise UserError(f"search.space.{name} must hold the config's own value, which is tried first: {own}")
