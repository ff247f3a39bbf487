"""Nested configs by dotted names, and the settings that cannot change a run's result."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError

WITHOUT_EFFECT = ("run", "search", "data.root", "trainer.device")
"""Groups and settings that cannot change a run's result, so they are not part of its identity."""

OPTIONAL_LOSS = "stn.consistency"
"""A group that cannot change a run's result if its weights are 0, or if it transforms nothing."""

OPTIONAL_DISTORTION = "data.training"
"""A group that changes nothing while all settings in it are 0, false or a range from 1 to 1."""

NEUTRAL = {
    "attention.layers": 1,
    "backbone.standardise": False,
    "data.distortion.two_steps": False,
    "stn.colocalisation": 0,
    "stn.share": False,
    "stn.recurrent": False,
    "stn.start": None,
    "stn.family.rotation": True,
    "stn.family.scale": True,
    "stn.family.translation": True,
}
"""Settings of later versions that change nothing at these values."""

OWN_DATA = ("file", "folder")
"""Settings of data that are the path of the user's own images."""

PATHS = ("data.file", "data.folder", "data.root", "run.root")
"""Settings that are the path of a file or folder."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``{"a.b": value}``; ``_target_`` is omitted and ``a.name`` becomes ``a``.

    Lists and empty groups are values.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif key != "_target_":
            flat[(prefix + key).removesuffix(".name")] = value
    return flat


def value_at(config: Mapping[str, Any], name: str) -> Any:
    """The value of a setting by its dotted name.

    Raises:
        UserError: there is no such setting.
    """
    node: Any = config
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise UserError(f"{name} is not a setting; --cfg job shows them all")
        node = node[key]
    return node


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with new values for some settings, by their dotted names."""
    changed: dict[str, Any] = deepcopy(dict(config))
    for name, value in values.items():
        *path, last = name.split(".")
        node = changed
        for key in path:
            node = node[key]
        node[last] = value
    return changed


def with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config whose relative paths are absolute, so that it is the same in any working folder."""
    paths = {name: value for name, value in flatten(config).items() if name in PATHS}
    relative = {n: p for n, p in paths.items() if isinstance(p, str) and p and not p.startswith("~")}
    return with_values(config, {name: str(Path(path).absolute()) for name, path in relative.items()})


def decisive(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a config, or of its group ``prefix``, that can change a run's result."""
    return {
        key: decisive(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if prefix + key not in WITHOUT_EFFECT
        and not (prefix + key == OPTIONAL_LOSS and isinstance(value, Mapping) and _is_off(value))
        and not (prefix + key == OPTIONAL_DISTORTION and _is_neutral(value))
        and not (prefix + key in NEUTRAL and value == NEUTRAL[prefix + key])
    }


def _is_neutral(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_neutral(item) for key, item in value.items() if key != "_target_")
    return value in (0, [1, 1])


def _is_off(loss: Mapping[str, Any]) -> bool:
    """Whether a consistency loss has no weight at any time, or the images are not transformed."""
    is_identity = not loss.get("angle") and loss.get("scale", 1) == 1 and not loss.get("translation")
    return is_identity or not (loss.get("weight") or loss.get("end"))
