"""The settings of a search, and the values that it may try."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Count, Range

NUMBERS = {"integer": (int,), "log": (int, float), "uniform": (int, float)}
"""The types of both ends of each kind of range."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched, and how long.

    Args:
        trials: number of runs, including failed and pruned ones and those of earlier commands.
        space: the values of each setting: ``log: [0.01, 10]``, ``uniform: [0, 1]``, ``integer: [8, 64]`` or
            ``choice: [16, 32]``.
        prune: stop a run after an epoch, from the fourth run on, if it is not among this best percentage of
            all runs after as many epochs; null stops none.
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
    """Check the values of a setting.

    Raises:
        UserError: they are not of one of the four kinds.
    """
    known = isinstance(values, Mapping) and len(values) == 1
    ((kind, ends),) = values.items() if known else (("", None),)
    if kind in NUMBERS and isinstance(ends, list) and len(ends) == 2:
        low, high = ends
        are_numbers = all(type(end) in NUMBERS[kind] and isfinite(end) for end in ends)
        if are_numbers and low < high and (kind != "log" or low > 0):
            return
    if not (kind == "choice" and isinstance(ends, list) and ends):
        raise UserError(
            f"space.{name} must be one of choice: [...], log, uniform or integer: [lowest, highest], "
            f"got {values}"
        )


def check_own_value(name: str, values: Mapping[str, Any], own: Any) -> None:
    """Check that the config's own value, which is tried first, is among those of the search.

    Raises:
        UserError: it is not.
    """
    ((kind, ends),) = values.items()
    is_one = own in ends if kind == "choice" else type(own) in NUMBERS[kind] and ends[0] <= own <= ends[1]
    if not is_one:
        raise UserError(f"{name} must hold the config's own value, which is tried first: {own}")
