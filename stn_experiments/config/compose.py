"""Compose a config from YAML files and overrides, as plain values, with errors of one line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from stn_experiments.common.errors import UserError


def compose(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config that ``folder/train.yaml`` and overrides such as ``data=rts`` or ``seed=1`` make.

    Raises:
        UserError: an override is invalid, or a value is missing.
    """
    with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        try:
            return to_plain(hydra.compose("train", list(overrides)))
        except HydraException as error:
            raise UserError(error_line(error)) from error


def to_plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """A composed config as dicts and values, with all interpolations resolved.

    Raises:
        UserError: a value is missing, or an interpolation refers to nothing.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing: give it a value") from None
    except OmegaConfBaseException as error:
        raise UserError(error_line(error)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def error_line(error: Exception) -> str:
    """The message of Hydra or OmegaConf in one line, without advice that does not apply here."""
    text = re.split(r"Config search path|See https", " ".join(str(error).split()))[0].strip()
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"{unknown[1]} is not a setting; --cfg job shows them all"
    no_plugin = r"(?:(?:find|load) 'hydra/launcher/|locating target 'hydra_plugins\.hydra_)(joblib|submitit)"
    if missing := re.search(no_plugin, text):
        return f"this hydra/launcher needs {missing[1]}, which is not installed: pip install '.[sweep]'"
    return text
