"""Which kept networks the pages compare with one another."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kept.records import Kept


class Row(NamedTuple):
    """A row of a comparison: its first cells, a file of results, and the file that it is compared with."""

    labels: tuple[str, ...]
    name: str
    reference: str


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
OTHERS = {
    "turning-rts": "RTS",
    "turning-affnist": "affNIST",
    "turning-projective": "projective",
    "turning-sim2mnist": "SIM2MNIST",
}
"""Networks for other distortions."""
MODELS = {"with": "with", "without": "without", "none": "no transformer"}
"""The networks that were tested on them: with consistency, without it, and without a transformer."""


def rows_of(kinds: Mapping[str, str]) -> list[Row]:
    """The rows of ``MODELS`` for each kind of test, by the beginnings of the files' names."""
    return [
        Row((first, model), f"{kind}-{end}", f"{kind}-with")
        for kind, first in kinds.items()
        for end, model in MODELS.items()
    ]


PLACES = [
    Row(("reads and warps the image",), "places-input", "places-input"),
    Row(("reads and warps a feature map",), "places-feature_map", "places-input"),
    Row(("reads a feature map, warps the image",), "places-shared", "places-input"),
    Row(("is not there",), "places-none", "places-input"),
]
ROTATED12K, GCNN = "bench-rotated12k-none", "bench-rotated12k-gcnn"
ROTATED12K_AUGMENTED = "bench-rotated12k-augmented"
SIM2MNIST, SIM2MNIST_NONE = "bench-sim2mnist-both", "bench-sim2mnist-none"
HOMOGRAPHY, HOMOGRAPHY_LONG = "bench-homography-none", "bench-homography-long"
PROJECTIVE = "bench-projective-none"
TRANSLATED = "bench-translated-with"
SEQUENCE = "bench-sequence-recurrent"
WHOLE = "started as the whole image"
BENCHMARKS = [
    Row(("`rotated12k`", "`stn.family.scale=false`"), "bench-rotated12k-with", ROTATED12K),
    Row(("`rotated12k`", "no transformer"), ROTATED12K, ROTATED12K),
    Row(("`rotated12k`", "`backbone=gcnn stn.family.scale=false`"), "bench-rotated12k-both", GCNN),
    Row(("`rotated12k`", "`backbone=gcnn`, no transformer"), GCNN, GCNN),
    Row(
        ("`rotated12k`", "`backbone=gcnn stn.family.scale=false`, augmented"),
        ROTATED12K_AUGMENTED,
        ROTATED12K_AUGMENTED,
    ),
    Row(("`rotated12k`", "`backbone=polar`, no transformer"), "bench-rotated12k-polar", ROTATED12K),
    Row(("`rotated12k`", "`backbone=tipooling`, no transformer"), "bench-rotated12k-tipooling", ROTATED12K),
    Row(("`sim2mnist10k`", "`stn=scale_translation`"), "bench-sim2mnist-window", SIM2MNIST_NONE),
    Row(("`sim2mnist10k`", f"`backbone=gcnn stn=scale_translation`, {WHOLE}"), SIM2MNIST, SIM2MNIST),
    Row(("`sim2mnist10k`", f"`stn=scale_translation`, {WHOLE}"), "bench-sim2mnist-with", SIM2MNIST_NONE),
    Row(("`sim2mnist10k`", "no transformer"), SIM2MNIST_NONE, SIM2MNIST_NONE),
    Row(("`sequence`", "`experiment=sequence`"), SEQUENCE, SEQUENCE),
    Row(("`projective_mnist`", "`stn=projective`"), "bench-projective-with", PROJECTIVE),
    Row(("`projective_mnist`", "no transformer"), PROJECTIVE, PROJECTIVE),
    Row(("`translated_finnveden`", "`stn=affine`"), TRANSLATED, TRANSLATED),
    Row(("`homography_noise`", "`stn=projective stn.steps=2`"), "bench-homography-with", HOMOGRAPHY),
    Row(("`homography_noise`", "no transformer"), HOMOGRAPHY, HOMOGRAPHY),
    Row(
        ("`homography_noise`", "`stn=projective stn.steps=2 backbone.width=48`, 36 epochs"),
        HOMOGRAPHY_LONG,
        HOMOGRAPHY_LONG,
    ),
]
"""Networks on other papers' benchmarks, compared with the same without a transformer, or with themselves.

The rivals that have no transformer are compared with the compact network without one.
"""

AUGMENTED = "`shear=0.15 bend=1 scale=[0.85,1.15]`"
TRIED = {
    "full-rotated": ("R", "`experiment=best_rotated`"),
    "tried-rotated-augmented": ("R", AUGMENTED),
    "tried-rotated-gcnn": ("R", "`backbone=gcnn backbone.width=24`"),
    "tried-rotated-gcnn-small": ("R", "`backbone=gcnn backbone.width=16`"),
    "tried-rotated-gcnn-augmented": ("R", f"`backbone=gcnn backbone.width=24`, {AUGMENTED}"),
    "tried-cluttered": ("TC", "`angle=7 scale=[0.9,1.1] shear=0.15 bend=1`"),
    "tried-cluttered-augmented": ("TC", "`experiment=best_cluttered`"),
    "full-cluttered": ("TC", "the same, other seeds"),
}
"""Recipes that were compared by validation errors: the data, and what differs, most in ``data.training``."""

CHOICES = {
    "rotated as in training": {"the default": "turning-with", "no transformer": "turning-none"},
    "rotated in ±90° for training, in the full circle for the test": {
        "the default": "turning180-with",
        "`stn.consistency.weight=0`": "turning180-without",
    },
    "10,000 for training, rotated in the full circle": {
        "`stn.family.scale=false`": "bench-rotated12k-with",
        "no transformer": ROTATED12K,
    },
    "the same, read by group convolutions": {
        "`backbone=gcnn stn.family.scale=false`": "bench-rotated12k-both",
        "`backbone=gcnn`, no transformer": GCNN,
    },
    "10,000 for training, small, in the full circle, in clutter": {
        "`stn=scale_translation`": "bench-sim2mnist-window",
        "no transformer": SIM2MNIST_NONE,
    },
    "rotated, 1,000 for training": {
        "`stn.consistency.weight=0`": "turning1000-without",
        "the default": "turning1000-with",
    },
    "rotated, without consistency": {
        "`stn.at=input`": "places-input",
        "`stn.at=layer2`": "places-feature_map",
    },
    "rotated, scaled and moved": {"`experiment=best_rts`": "rts-with", "no transformer": "rts-epochs"},
    "moved, in clutter": {
        "`stn=affine`": "cluttered-with",
        "no transformer": "cluttered-epochs",
    },
    "bent": {"`experiment=best_elastic`": "elastic-with", "no transformer": "elastic-epochs"},
    "in perspective": {
        "`experiment=best_projective`": "projective-with",
        "no transformer": "projective-epochs",
    },
}
"""For some images what to take, and instead of what, each with its file of results."""

LETTERS = {"rotated": "R", "rts": "RTS", "projective": "P", "elastic": "E", "cluttered": "TC"}
"""The paper's names of its data."""
TWINS = {"epochs": "equal epochs", "time": "equal time"}
"""The networks without a transformer, and what they have in common with the one that has it."""


def with_twins(kept: Mapping[str, Kept]) -> Iterator[tuple[str, str, list[str]]]:
    """The data that have results with and without a transformer, their letters and their files.

    Where the steps of both take equally long, the twin of equal epochs is that of equal time as well.
    """
    for data, letter in LETTERS.items():
        names = [name for kind in ("with", *TWINS) if (name := f"{data}-{kind}") in kept]
        if {f"{data}-with", f"{data}-epochs"} <= {*names}:
            yield data, letter, names
