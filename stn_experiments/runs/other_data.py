"""The config of other data on which a trained run is evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose, to_plain


def split_choices(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides per data set: ``data=a,b`` becomes two lists, with ``data=a`` and ``data=b``."""
    choices: list[list[str]] = [[]]
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",") if key == "data" else [value]
        choices = [[*words, f"{key}={one}"] for words in choices for one in values]
    return choices


def other_data(own: Mapping[str, Any], overrides: Sequence[str], configs: Path) -> dict[str, Any]:
    """A run's data config with overrides.

    ``data=NAME`` selects another data set. It is drawn on the run's own canvas, whose size the network needs.

    Args:
        own: the run's data config.
        overrides: ``data=NAME`` and ``data.a.b=VALUE``; none keeps ``own``.
        configs: the folder of ``train.yaml``.

    Raises:
        UserError: an override is invalid, or concerns something else than data.
    """
    for override in overrides:
        if not override.startswith(("data=", "data.")):
            raise UserError(f"only data can be changed, by data=... or data.a.b=..., got {override}")
    if not any(override.startswith("data=") for override in overrides):
        data: dict[str, Any] = to_plain(OmegaConf.merge({"data": own}, OmegaConf.from_dotlist([*overrides])))[
            "data"
        ]
        return data
    if "distortion" in own and "data=npz" not in overrides:
        canvas = f"data.distortion.canvas={own['distortion']['canvas']}".replace(" ", "")
        overrides = [canvas, *overrides]
    data = compose(configs, overrides)["data"]
    return {**data, "root": data["root"] or own.get("root")} if "root" in data else data
