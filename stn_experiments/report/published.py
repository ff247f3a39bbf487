"""Test errors that Jaderberg et al. (2015) published, from ``published.yaml``, for comparison."""

from importlib.resources import files
from typing import NamedTuple

import yaml

from stn_experiments.report.groups import Group

DATA = yaml.safe_load((files("stn_experiments.report") / "published.yaml").read_text(encoding="utf-8"))
SOURCE: str = DATA["source"]
SURENESS = ", ".join(f"{letter} {meaning}" for letter, meaning in DATA["sureness"].items())
"""What the letters mean."""
NETWORKS = {"fcn": "FCN", "cnn": "CNN", "compact": "CNN"}
FAMILIES = {"affine": "affine", "projective": "projective", "tps": "TPS"}
COUNTS = {1: "one transformer, at best", 2: "two transformers, at best"}


class Published(NamedTuple):
    """A figure of the paper.

    Args:
        error: in %.
        model: the paper's name of the model.
        column: the paper's name of the data.
        sureness: one of the letters in ``published.yaml``.
        compared: whether our model is only compared with that of the paper.
    """

    error: float
    model: str
    column: str
    sureness: str
    compared: bool

    def __str__(self) -> str:
        relation = "compared with " if self.compared else ""
        return f"{self.error:.1f} ({relation}{self.model}, {self.column}; {self.sureness})"


def published(group: Group) -> Published | None:
    """The paper's figure for a group, if it has one.

    The compact network is not in the paper, so it is compared with the paper's CNN.
    """
    backbone, stn, attention = group.names
    if backbone not in NETWORKS or attention != "none":
        return None
    network, compared = NETWORKS[backbone], backbone == "compact"
    config = group.runs[0].config
    if group.data == "addition":
        model = network if stn == "none" else COUNTS.get(config["stn"].get("count", 1))
        return Published(DATA["addition"][model], model, "MNIST addition", "A", compared) if model else None
    model = network if stn == "none" else f"ST-{network} {FAMILIES.get(stn)}"
    column = DATA["columns"].get(group.data)
    distortion = {k: v for k, v in (config["data"].get("distortion") or {}).items() if k != "_target_"}
    if model not in DATA["models"] or column is None or column["distortion"] != distortion:
        return None
    figure = DATA["models"][model][list(DATA["columns"]).index(group.data)]
    if figure is None:
        return None
    error, sureness = figure.split()
    return Published(float(error), model, column["name"], sureness, compared)
