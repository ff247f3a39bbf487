"""Networks of a given size: a backbone's widths, scaled to a number of parameters, so that models compare."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import MAX_WIDTH

TOLERANCE = 0.05
"""Largest relative difference from the number of parameters that is asked for."""
FACTORS = [1.01**power for power in range(-600, 601)]
"""Factors on widths, from 1/400 to 400."""

Node = Mapping[str, Any]


def scale_to(target: int, node: Node, setting: str, count: Callable[[Node], int]) -> Node:
    """Multiply a backbone's widths so that the network has about ``target`` parameters.

    Args:
        target: the number of parameters of the whole network.
        node: the backbone's config node.
        setting: its setting that holds a width, or a list of them.
        count: the number of parameters of the network with a node; it must not fall with the widths.

    Raises:
        UserError: no width comes within 5 % of the target.
    """

    def size(factor: float) -> int:
        return count(scale(node, setting, factor))

    above = bisect_left(FACTORS, target, key=size)
    neighbours = FACTORS[max(above - 1, 0) : above + 1]
    best = min(neighbours, key=lambda factor: abs(size(factor) - target))
    if abs(size(best) - target) > TOLERANCE * target:
        raise UserError(
            f"backbone.parameters must be a number that the network comes within 5 % of, as {size(best)}, "
            f"got {target}"
        )
    return scale(node, setting, best)


def scale(node: Node, setting: str, factor: float) -> Node:
    """The node with each width multiplied and rounded, between 1 and the widest that is allowed."""

    def scale_one(width: int) -> int:
        return min(max(round(factor * width), 1), MAX_WIDTH)

    widths = node[setting]
    scaled = [scale_one(width) for width in widths] if isinstance(widths, list) else scale_one(widths)
    return {**node, setting: scaled}
