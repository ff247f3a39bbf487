"""Networks of a given size: a backbone's widths, scaled to a number of parameters, so that models compare."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import MAX_WIDTH

CLOSE = 0.05
"""How far, as a share, the number of parameters may be from the one that is asked for."""
FACTORS = [1.01**power for power in range(-600, 601)]
"""What widths can be multiplied by: from 1/400 to 400, in steps finer than those of most layers' widths."""

Node = Mapping[str, Any]


def scaled_to(target: int, node: Node, setting: str, count: Callable[[Node], int]) -> Node:
    """A backbone's config node, its widths multiplied so that the network has about ``target`` parameters.

    Args:
        target: the number of parameters of the whole network.
        node: the backbone's config node.
        setting: its setting that holds a width, or a list of them.
        count: the number of parameters of the network with such a node; no less for wider ones.

    Raises:
        UserError: no width comes within 5 % of it.
    """

    def size(factor: float) -> int:
        return count(scaled(node, setting, factor))

    above = bisect_left(FACTORS, target, key=size)
    around = FACTORS[max(above - 1, 0) : above + 1]
    best = min(around, key=lambda factor: abs(size(factor) - target))
    if abs(size(best) - target) > CLOSE * target:
        raise UserError(
            f"backbone.parameters must be a number that the network comes within 5 % of, as {size(best)}, "
            f"got {target}"
        )
    return scaled(node, setting, best)


def scaled(node: Node, setting: str, factor: float) -> Node:
    """The node with each width multiplied, but no narrower than 1 and no wider than can be."""

    def one(width: int) -> int:
        return min(max(round(factor * width), 1), MAX_WIDTH)

    widths = node[setting]
    return {**node, setting: [one(width) for width in widths] if isinstance(widths, list) else one(widths)}
