"""Types with a range, for the signatures that settings configure."""

from typing import Annotated, NamedTuple


class Range(NamedTuple):
    """Bounds of a number, both included, in the setting's own unit. ``config.build`` enforces them."""

    low: float
    high: float = float("inf")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"at least {self.low}" if self.high == float("inf") else f"from {self.low} to {self.high}"


Count = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**31 - 1)]
Pixels = Annotated[int, Range(1, 1024)]
Size = Pixels | tuple[Pixels, Pixels]
"""The side of a square in pixels, or (height, width)."""


def height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a size that may be given as one side of a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
