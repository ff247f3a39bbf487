"""Test errors in % that Jaderberg et al. (2015) published, and how sure we are of each."""

from typing import Any, NamedTuple

from stn_experiments.report.cells import Cell
from stn_experiments.report.collect import value_at

SOURCE = "Jaderberg et al. 2015, arXiv 1506.02025"
SURENESS = {"A": "read in the paper", "B": "second-hand", "C": "recalled"}

COLUMNS = {"rotated": "R", "rts": "RTS", "projective": "P", "elastic": "E", "cluttered": "TC"}
DISTORTIONS: dict[str, dict[str, Any]] = {
    "rotated": {"canvas": 28, "angle": 90},
    "rts": {"canvas": 42, "angle": 45, "scale": [0.7, 1.2], "place": "anywhere"},
    "projective": {"canvas": 28, "scale": [0.75, 1.0], "corners": 5.0},
    "elastic": {"canvas": 28, "scale": [0.75, 1.0], "bend": 1.5},
    "cluttered": {"canvas": 60, "place": "anywhere", "clutter": 6, "clutter_size": 6},
}
"""What the data of these columns are; of any others by the same name the paper has no figure."""
ROWS: dict[str, tuple[float | None, ...]] = {
    "FCN": (2.1, 5.2, 3.1, 3.2, 13.2),
    "CNN": (1.2, 0.8, 1.5, 1.4, 3.5),
    "ST-FCN affine": (1.2, 0.8, 1.5, 2.7, 2.0),
    "ST-FCN projective": (1.3, 0.9, 1.4, 2.6, None),
    "ST-FCN TPS": (1.1, 0.8, 1.4, 2.4, None),
    "ST-CNN affine": (0.7, 0.5, 0.8, 1.2, 1.7),
    "ST-CNN projective": (0.8, 0.6, 0.8, 1.3, None),
    "ST-CNN TPS": (0.7, 0.5, 0.8, 1.1, None),
}
ADDITION = {
    "FCN": 47.7,
    "CNN": 14.7,
    "one transformer, at best": 18.5,
    "two transformers, at best": 5.8,
}
ONE, TWO = list(ADDITION)[2:]
COUNTS = {"None": ONE, "1": ONE, "2": TWO}  # runs from before there was a count have one
NETWORKS = {"fcn": "FCN", "cnn": "CNN", "compact": "CNN"}
FAMILIES = {"affine": "affine", "projective": "projective", "tps": "TPS"}


class Published(NamedTuple):
    """A figure of the paper: the error in %, of which model, on which of its data, and how sure it is."""

    error: float
    model: str
    column: str
    sureness: str
    compared: bool

    def __str__(self) -> str:
        kin = "compared with " if self.compared else ""
        return f"{self.error:.1f} ({kin}{self.model}, {self.column}; {self.sureness})"


def published(cell: Cell) -> Published | None:
    """What the paper has for a cell, ``None`` where it has nothing.

    Our compact network is none of the paper's, so it is only compared with its CNN. Of data with special
    settings nothing is known.
    """
    network, stn = NETWORKS.get(cell.backbone), cell.stn
    if network is None or cell.attention != "none":
        return None
    compared = cell.backbone == "compact"
    if cell.data == "addition":
        model = addition_model(cell, network)
        return Published(ADDITION[model], model, "MNIST addition", "A", compared) if model else None
    model = network if stn == "none" else f"ST-{network} {FAMILIES.get(stn)}"
    if model not in ROWS or not is_the_papers(cell):
        return None
    column = COLUMNS[cell.data]
    error = ROWS[model][list(COLUMNS).index(cell.data)]
    return None if error is None else Published(error, model, column, sureness(column, model), compared)


def is_the_papers(cell: Cell) -> bool:
    """Whether a cell's data are a column of the paper's."""
    distortion = value_at(cell.runs[0].config, "data.distortion") or {}
    settings = {key: value for key, value in distortion.items() if key != "_target_"}
    return DISTORTIONS.get(cell.data) == settings


def sureness(column: str, model: str) -> str:
    """A, B or C of ``SURENESS``, for one of the five columns."""
    if column == "TC":
        return "A"
    return "B" if column == "R" or model == "CNN" or model.startswith("ST-CNN") else "C"


def addition_model(cell: Cell, network: str) -> str | None:
    """The paper's model that a cell on two digits is compared with."""
    if cell.stn == "none":
        return network
    return COUNTS.get(str(value_at(cell.runs[0].config, "stn.count")))
