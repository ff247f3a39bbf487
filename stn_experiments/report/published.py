"""Test errors that others published, from ``published.yaml``, each beside its own data and protocol alone."""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from stn_experiments.report.groups import Group

DATA = yaml.safe_load((files("stn_experiments.report") / "published.yaml").read_text(encoding="utf-8"))
SURENESS = dict(zip(DATA["sureness"], "ᵃᵇᶜ", strict=True))
"""How sure a figure is, and the mark of that."""
NETWORKS = {"fcn": "FCN", "cnn": "CNN", "compact": "CNN", "polar": "PTN", "gcnn": "P4CNN"}
FAMILIES = {"affine": "affine", "projective": "projective", "tps": "TPS"}
COUNTS = {1: "one transformer, at best", 2: "two transformers, at best"}


class Published(NamedTuple):
    """A published error in %, the source's name of the model, and how sure it is, one of ``SURENESS``."""

    error: float
    model: str
    sureness: str
    source: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        digits = 1 if round(self.error, 1) == self.error else 2
        return f"{self.error:.{digits}f}{SURENESS[self.sureness]}"


def published(group: Group) -> Published | None:
    """The published figure for a group, if there is one for its model, data and protocol."""
    figures = {figure.model: figure for figure in reversed(list(of_data(group)))}
    return next((figures[name] for name in model_names(group) if name in figures), None)


def lowest_published(group: Group) -> Published | None:
    """The lowest published figure for a group's data and protocol, of any model."""
    return min(of_data(group), key=lambda figure: figure.error, default=None)


def of_data(group: Group) -> Iterator[Published]:
    """All published figures for a group's data and protocol, in the order of the file."""
    for source in DATA["sources"]:
        column = source["columns"].get(group.config["data"]["name"])
        if column is None or not is_of(column["settings"], group.config["data"]):
            continue
        notes = tuple(part["note"] for part in (source, column) if "note" in part)
        for sureness, errors in column["errors"].items():
            for model, error in errors.items():
                yield Published(error, model, sureness, source["name"], notes)


def model_names(group: Group) -> Iterator[str]:
    """The names that a group's model may have in ``published.yaml``.

    The compact network is in no paper, so it is compared with their CNNs.
    """
    backbone, stn, attention = group.names
    if (backbone, stn, attention) == ("none", "none", "ram"):
        yield f"RAM, {group.config['attention'].get('glimpses')} glimpses"
        yield "RAM"
    if backbone not in NETWORKS or attention != "none":
        return
    network, settings = NETWORKS[backbone], group.config["stn"]
    count = settings.get("count", 1)
    if stn == "none":
        yield network
        return
    if settings.get("recurrent"):
        yield "recurrent STN"
        return
    yield COUNTS.get(count, "")
    if count == 1:
        yield f"ST-{network} {FAMILIES.get(stn)}"
        yield "STN" if network == "CNN" else ""


def is_of(settings: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
    """Whether a run's data config has the settings of a published column."""
    return all(
        completed(value) == completed(data.get(key) or {}) if key == "distortion" else value == data.get(key)
        for key, value in settings.items()
    )


def completed(distortion: Mapping[str, Any]) -> dict[str, Any]:
    """A distortion's settings, and those within it, with those that are missing as for no distortion."""
    given = {
        key: completed(value) if isinstance(value, Mapping) else value
        for key, value in distortion.items()
        if key != "_target_"
    }
    return {**DATA["undistorted"], **given}
