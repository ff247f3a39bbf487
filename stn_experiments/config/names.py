"""Readable names of runs: the settings that a command line gives and that differ from the defaults."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.config.choices import GROUPS, choices, defaults
from stn_experiments.config.tree import OWN_DATA, WITHOUT_EFFECT, flatten, value_at

LONGEST, LONGEST_PART = 80, 32
"""Characters of a whole name, and of each of its parts."""
UNNAMED = ("sweep", "plugins", "hydra", *WITHOUT_EFFECT)
"""Groups and settings that are never part of a name."""
OWN_PATHS = {f"data.{key}" for key in OWN_DATA}
WITHOUT_SETTINGS = "default"
"""The name of a run of which no setting differs from the defaults."""


def with_run_name(
    config: Mapping[str, Any], overrides: Iterable[str], in_sweep: bool = False
) -> dict[str, Any]:
    """A config whose ``run.name`` is set: by the user, or from the overrides, see :func:`name_of`."""
    run = config.get("run")
    if not isinstance(run, Mapping) or run.get("name") is not None:
        return dict(config)
    return {**config, "run": {**run, "name": name_of(config, overrides, in_sweep)}}


def name_of(config: Mapping[str, Any], overrides: Iterable[str], in_sweep: bool = False) -> str:
    """The name of a run: its overrides in their order, without those that only repeat a default.

    A choice is named alone (``data=rts`` is ``rts``), a setting by the last part of its name
    (``trainer.epochs=3`` is ``epochs3``), and a user's file or folder by its own name.

    Args:
        config: the resolved config.
        overrides: words such as ``data=rts`` or ``seed=1``.
        in_sweep: name defaults, too, because the other runs of the sweep have other values there.

    Returns:
        At most ``LONGEST`` letters, digits and any of ``_.-``.
    """
    words = [override.lstrip("+").partition("=") for override in overrides]
    given = {key: value for key, _, value in words if not key.startswith("~") and not _is_unnamed(key)}
    has_recipe = any(key in ("experiment", "sweep") for key, _, _ in words)
    if not has_recipe and not in_sweep:
        given = {key: value for key, value in given.items() if not _is_default(config, given, key)}
    if given.get("data") in ("npz", "folder") and not OWN_PATHS.isdisjoint(given):
        del given["data"]
    leaves = Counter([*(key.rpartition(".")[2] for key in given if "." in key), *config])
    parts = [_part(config, key, value, leaves) for key, value in given.items()]
    return join_names(parts) or WITHOUT_SETTINGS


def join_names(parts: Iterable[str]) -> str:
    """The parts that are not empty, joined and cut after ``LONGEST`` characters."""
    return "-".join(part for part in parts if part)[:LONGEST].rstrip("-_.")


def _is_unnamed(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in UNNAMED)


def _is_default(config: Mapping[str, Any], given: Mapping[str, str], key: str) -> bool:
    """Whether an override repeats the value of ``train.yaml``, or of the group's choice."""
    main = defaults()
    if key in GROUPS:
        return given[key] == main[key]
    group = key.partition(".")[0]
    known = (
        flatten({group: choices(group).get(given.get(group, main[group]), {})}) if group in GROUPS else main
    )
    return key in known and known[key] == _value(config, key)


def _value(config: Mapping[str, Any], key: str) -> Any:
    try:
        return value_at(config, key)
    except UserError:  # an option of Hydra, for example
        return ""


def _part(config: Mapping[str, Any], key: str, word: str, leaves: Mapping[str, int]) -> str:
    if key in (*GROUPS, "experiment"):
        text = f"no_{key}" if word in ("none", "null") else word.rpartition("/")[2]
        return _safe(text)
    value = _value(config, key)
    if key in OWN_PATHS:
        return _safe(Path(str(value)).stem)
    *groups, leaf = key.split(".")
    name = f"{groups[0]}_{leaf}" if groups and leaves[leaf] > 1 else leaf
    text = _safe(_text(value))
    return _safe(f"{name}{'' if text[:1].isdigit() else '_'}{text}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "_".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("_.")[:LONGEST_PART]
