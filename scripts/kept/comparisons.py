"""Which kept networks the pages compare with one another."""

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """A row of a comparison: its first cells, a file of results, and the file that it is compared with."""

    labels: tuple[str, ...]
    name: str
    reference: str


class Choice(NamedTuple):
    """What to take for some ``images`` and ``instead`` of what, with a file of results of both."""

    images: str
    take: str
    taken: str
    instead: str
    other: str


TURNED = {"turning": "±90°", "turning120": "±120°", "turning180": "the full circle"}
"""The rotations that networks trained on ±90° were tested on, by the beginnings of the files' names."""
LESS = {
    "turning45": "±45°, tested on ±45°",
    "turning45at90": "±45°, tested on ±90°",
    "turning45at180": "±45°, tested on the full circle",
    "turning1000": "±90°, 1,000 digits",
    "turning5000": "±90°, 5,000 digits",
}
"""Networks that were trained on less: smaller rotations, or fewer digits."""
OTHERS = {"turning-rts": "RTS", "turning-affnist": "affNIST", "turning-projective": "projective"}
"""Networks for other distortions."""
MODELS = {"with": "with", "without": "without", "none": "no transformer"}
"""The networks that were tested on them."""


def rows_of(kinds: Mapping[str, str]) -> list[Row]:
    """The rows of networks with consistency, without it, and without a transformer.

    Args:
        kinds: the first column, by the beginnings of the files' names.
    """
    return [
        Row((first, model), f"{kind}-{end}", f"{kind}-with")
        for kind, first in kinds.items()
        for end, model in MODELS.items()
    ]


PLACES = [
    Row((label,), f"places-{name}", "places-input")
    for name, label in {
        "input": "reads and warps the image",
        "feature_map": "reads and warps a feature map",
        "shared": "reads a feature map, warps the image",
        "none": "is not there",
    }.items()
]
BENCHMARKS = [
    Row(labels, f"bench-{name}", f"bench-{name.rpartition('-')[0]}-none")
    for name, labels in {
        "rotated12k-with": ("`rotated12k`", "`stn.family.scale=false`"),
        "rotated12k-none": ("`rotated12k`", "no transformer"),
        "homography-with": ("`homography_noise`", "`stn=projective stn.steps=2`"),
        "homography-none": ("`homography_noise`", "no transformer"),
    }.items()
]
"""Networks on other papers' benchmarks, each compared with that without a transformer."""
CHOICES = (
    Choice("rotated as in training", "the default", "turning-with", "no transformer", "turning-none"),
    Choice(
        "rotated in ±90° for training, in the full circle for the test",
        "the default",
        "turning180-with",
        "`stn.consistency.weight=0`",
        "turning180-without",
    ),
    Choice(
        "10,000 for training, rotated in the full circle",
        "`stn.family.scale=false`",
        "bench-rotated12k-with",
        "no transformer",
        "bench-rotated12k-none",
    ),
    Choice(
        "rotated, 1,000 for training",
        "`stn.consistency.weight=0`",
        "turning1000-without",
        "the default",
        "turning1000-with",
    ),
    Choice(
        "rotated, without consistency",
        "`stn.at=input`",
        "places-input",
        "`stn.at=layer2`",
        "places-feature_map",
    ),
    Choice(
        "rotated, scaled and moved",
        "`experiment=best_rts`",
        "rts-with",
        "no transformer",
        "rts-epochs",
    ),
)
