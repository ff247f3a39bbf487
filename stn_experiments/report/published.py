"""Test errors that Jaderberg et al. (2015) published, from ``published.yaml``, for comparison."""

from importlib.resources import files
from typing import NamedTuple

import yaml

from stn_experiments.report.groups import Group

DATA = yaml.safe_load((files("stn_experiments.report") / "published.yaml").read_text(encoding="utf-8"))
SOURCE: str = DATA["source"]
SURENESS = dict(zip(DATA["sureness"], "ᵃᵇᶜ", strict=True))
"""How sure a figure is, and the mark of that."""
NETWORKS = {"fcn": "FCN", "cnn": "CNN", "compact": "CNN"}
FAMILIES = {"affine": "affine", "projective": "projective", "tps": "TPS"}
COUNTS = {1: "one transformer, at best", 2: "two transformers, at best"}


class Published(NamedTuple):
    """A figure of the paper.

    Args:
        error: in %.
        model: the paper's name of the model.
        sureness: one of ``SURENESS``.
        note: a sentence about the paper's data, or nothing.
    """

    error: float
    model: str
    sureness: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.error:.1f}{SURENESS[self.sureness]}"


def published(group: Group) -> Published | None:
    """The paper's figure for a group, if it has one.

    The compact network is not in the paper, so it is compared with the paper's CNN.
    """
    backbone, stn, attention = group.names
    if backbone not in NETWORKS or attention != "none":
        return None
    network = NETWORKS[backbone]
    config = group.runs[0].config
    if group.data == "addition":
        sums = DATA["addition"]
        model = network if stn == "none" else COUNTS.get(config["stn"].get("count", 1))
        return Published(sums["models"][model], model, sums["sureness"]) if model else None
    model = network if stn == "none" else f"ST-{network} {FAMILIES.get(stn)}"
    column = DATA["columns"].get(group.data)
    distortion = {k: v for k, v in (config["data"].get("distortion") or {}).items() if k != "_target_"}
    if model not in DATA["models"] or column is None or column["distortion"] != distortion:
        return None
    index = list(DATA["columns"]).index(group.data)
    error, sureness = (DATA["models"][model][field][index] for field in ("error", "sureness"))
    return None if error is None else Published(error, model, sureness, column.get("note", ""))
