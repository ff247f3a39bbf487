"""The files in ``configs/``, read without Hydra: which groups, choices and settings there are."""

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


def _read(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, and in those that it includes by ``- /file@_here_``."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            name = entry.removesuffix("@_here_")
            folder = CONFIGS if name.startswith("/") else file.parent  # /mnist is in configs, default beside
            settings |= _read(folder / f"{name.removeprefix('/')}.yaml")
    return settings | content
