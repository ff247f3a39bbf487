"""The files in ``configs/``, read without Hydra: which groups, choices and settings there are."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from stn_experiments.config.tree import flatten

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = ("data", "backbone", "stn", "attention", "optimizer", "scheduler", "trainer")
"""The groups of which every run has one choice."""


def choices(group: str) -> dict[str, dict[str, Any]]:
    """The choices of a group, by name, each with its settings."""
    return {file.stem: _read(file) for file in sorted((CONFIGS / group).glob("*.yaml"))}


def choice_names(group: str) -> list[str]:
    """The names of a group's choices, those in folders below it as ``folder/name``."""
    folder = CONFIGS / group
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def defaults() -> dict[str, Any]:
    """The default choice of each group, and the settings of ``train.yaml`` by their dotted names."""
    main = _read_main()
    chosen = [entry for entry in main["defaults"] if isinstance(entry, dict)]
    settings = flatten({key: value for key, value in main.items() if key not in ("defaults", "hydra")})
    return settings | {group: choice for entry in chosen for group, choice in entry.items()}


def setting_names() -> list[str]:
    """The dotted names of all settings: those of ``train.yaml`` and of each choice of each group."""
    main = _read_main()
    names = flatten({key: value for key, value in main.items() if key not in ("defaults", "hydra")})
    for group in GROUPS:
        for choice in choices(group).values():
            names |= flatten({group: choice})
    return sorted(names)


@cache
def _read_main() -> dict[str, Any]:
    main: dict[str, Any] = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))
    return main


def owners(name: str) -> list[str]:
    """The choices of its group that have a setting, by its dotted name."""
    group = name.partition(".")[0]
    return [choice for choice, settings in choices(group).items() if name in flatten({group: settings})]


@cache
def _read(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, and in those that it includes by ``- /file@package``."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            name, _, package = entry.partition("@")
            folder = CONFIGS if name.startswith("/") else file.parent  # /mnist is in configs, default beside
            included = _read(folder / f"{name.removeprefix('/')}.yaml")
            for key in reversed([key for key in package.split(".") if key not in ("", "_here_")]):
                included = {key: included}
            settings = _merge(settings, included)
    return _merge(settings, content)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with other values for some of them."""
    merged = {**old, **new}
    for key in old.keys() & new.keys():
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            merged[key] = _merge(old[key], new[key])
    return merged
