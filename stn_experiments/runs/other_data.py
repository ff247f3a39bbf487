"""The config of other data on which a trained run is evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose, to_plain
from stn_experiments.config.tree import flatten

PLUGINS = "plugins="


def split_choices(overrides: Sequence[str]) -> list[list[str]]:
    """One list of overrides per data set: ``data=a,b`` becomes two lists, with ``data=a`` and ``data=b``.

    Raises:
        UserError: there are two words ``data=...``.
    """
    if len(given := [override for override in overrides if override.startswith("data=")]) > 1:
        raise UserError(f"{' '.join(given)}: write one word, as in data=rts,cluttered")
    choices: list[list[str]] = [[]]
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.strip("[]").split(",") if key == "data" else [value]
        choices = [[*words, f"{key}={one}"] for words in choices for one in values]
    return choices


def other_data(
    own: Mapping[str, Any], overrides: Sequence[str], configs: Path, more_configs: Path | None = None
) -> dict[str, Any]:
    """A run's data config with overrides.

    ``data=NAME`` selects another data set. It is drawn on the run's own canvas, whose size the network needs;
    the images of another folder get the size and the channels of the run's own.

    Args:
        own: the run's data config.
        overrides: ``data=NAME`` and ``data.a.b=VALUE``; none keeps ``own``. ``plugins=[...]`` is ignored.
        configs: the folder of ``train.yaml``.
        more_configs: a folder with further choices, such as ``data/NAME.yaml``.

    Raises:
        UserError: an override is invalid, or concerns something else than data.
    """
    overrides = [override for override in overrides if not override.startswith(PLUGINS)]
    for override in overrides:
        if not override.startswith(("data=", "data.")):
            raise UserError(f"only data can be changed, by data=... or data.a.b=..., got {override}")
    if not any(override.startswith("data=") for override in overrides):
        data: dict[str, Any] = to_plain(OmegaConf.merge({"data": own}, *map(_read, overrides)))["data"]
        return data
    if more_configs is not None:
        overrides = [_search_in(more_configs), *overrides]
    data = compose(configs, overrides)["data"]
    kept = flatten({"data": data}).keys() & {"data.distortion.canvas", "data.size", "data.colour"}
    own_settings = flatten({"data": own})
    fitting = [f"{name}={own_settings[name]}".replace(" ", "") for name in kept & own_settings.keys()]
    if fitting:
        data = compose(configs, [*fitting, *overrides])["data"]
    return {**data, "root": data["root"] or own.get("root")} if "root" in data else data


def other_plugins(overrides: Sequence[str]) -> list[str]:
    """The packages that overrides name by ``plugins=[...]``, from which other data are built.

    Raises:
        UserError: what they name is not a list.
    """
    words = [override for override in overrides if override.startswith(PLUGINS)]
    plugins = to_plain(OmegaConf.merge({}, *map(_read, words))).get("plugins", [])
    if not isinstance(plugins, list):
        raise UserError(f"plugins must be a list of packages, as in plugins=[PACKAGE], got {plugins!r}")
    return plugins


def _read(override: str) -> DictConfig:
    """One override as a config.

    Raises:
        UserError: it cannot be parsed.
    """
    try:
        return OmegaConf.from_dotlist([override])
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{override} cannot be read: put special characters in quotes") from error


def _search_in(folder: Path) -> str:
    """The override with which Hydra looks into a further folder of configs.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--config-dir must be a folder with data/NAME.yaml, got {folder}")
    escaped = str(folder.absolute()).replace('"', '\\"')
    return f'hydra.searchpath=["file://{escaped}"]'
