"""Compose a config from YAML files and overrides, as plain values, with errors of one line."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from stn_experiments.common.errors import UserError
from stn_experiments.config.choices import GROUPS, choice_names, owners, setting_names
from stn_experiments.config.names import with_run_name


def compose(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config that ``folder/train.yaml`` and overrides such as ``data=rts`` or ``seed=1`` make.

    Raises:
        UserError: an override is invalid, or a value is missing.
    """
    refuse_lists(overrides, sweeps=False)
    with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        try:
            return with_run_name(to_plain(hydra.compose("train", list(overrides)), overrides), overrides)
        except UserError:
            raise
        except (HydraException, ValueError) as error:
            raise UserError(error_line(error, sweeps=False)) from error


SINGLE = (*GROUPS, "experiment", "sweep", "seed")
"""What has one choice in a run."""


def refuse_sweeps(words: Iterable[str]) -> None:
    """Refuse several choices of ``sweep``: of a sweep over sweeps Hydra would train the default runs.

    Raises:
        UserError: a word of the command line is such a choice.
    """
    for word in words:
        name, _, choice = word.partition("=")
        if name == "sweep" and ("," in choice or "[" in choice):
            raise UserError(f"sweep must be one choice, got {choice}: type one command for each")


def refuse_lists(overrides: Iterable[str], sweeps: bool = True) -> None:
    """Refuse a list of choices for a group, of which Hydra would use the last one, or of seeds.

    Args:
        overrides: words of the command line.
        sweeps: whether the command has ``-m``.

    Raises:
        UserError: an override is such a list.
    """
    for override in overrides:
        group, _, choice = override.partition("=")
        if choice.startswith("[") and choice.endswith("]") and group in SINGLE:
            sweep = f": -m {group}={choice.strip('[]')} trains one after the other" if sweeps else ""
            raise UserError(f"{group} must be one choice, got {choice}{sweep}")


def as_written(overrides: Sequence[str]) -> list[str]:
    """The overrides that Hydra's own config lists, whose interpolations refer to the config of the run."""
    words = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(words, list)
    return words


def refuse_keys(config: Mapping[Any, Any], prefix: str = "") -> None:
    """Refuse settings whose names are not strings, as in ``stn={1: 2}``.

    Raises:
        UserError: there is one.
    """
    for key, value in config.items():
        if not isinstance(key, str):
            raise UserError(f"{prefix or 'the config'} must have names as keys, got {key!r}")
        if isinstance(value, Mapping):
            refuse_keys(value, f"{prefix}.{key}".lstrip("."))


def to_plain(config: DictConfig | ListConfig, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """A composed config as dicts and values, with all interpolations resolved.

    A group without a ``_target_``, such as ``stn=none``, loses the settings that a recipe has for it. Those
    that one of the ``overrides`` gives remain, as a mistake.

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
    refuse_keys(plain)
    given = {
        override.lstrip("+").partition(".")[0] for override in overrides if "." in override.partition("=")[0]
    }
    for name, group in plain.items():
        if name not in given and isinstance(group, dict) and group.get("_target_", group) is None:
            plain[name] = {key: group[key] for key in ("_target_", "name") if key in group}
    return {str(key): value for key, value in plain.items()}


def error_line(error: Exception, sweeps: bool = True) -> str:
    """The message of Hydra or OmegaConf in one line, with advice; ``sweeps``: the command has ``-m``."""
    text = re.split(r"Config search path|See https", " ".join(str(error).split()))[0].strip()
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"{unknown[1]} is not a setting; {_hint(unknown[1])}"
    if "Config group override must be a string" in text:
        return "a group takes one of its choices, as in stn=none or attention=none, not null"
    if choice := re.search(r"Could not find '(\w+)/([^']*)' Available options in '\1':", text):
        known = choice_names(choice[1])
        near = get_close_matches(choice[2], known, 1)
        question = f", did you mean {near[0]}?" if near else ""
        return f"{choice[1]} must be one of {', '.join(known)}, got {choice[2]}{question}"
    if several := re.search(r"Ambiguous value for argument '(.*?)' 1\.", text):
        brackets = "" if several[1].partition("=")[0] in SINGLE else ", or write a list in brackets"
        advice = "add -m to sweep over them" if sweeps else "give one"
        return f"{several[1]} has several values: {advice}{brackets}"
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        word = " ".join(error.override.split())
        return f"{word} is not a setting: write NAME=VALUE without spaces, or in quotes if the value has some"
    if isinstance(error, OverrideParseException):
        name, _, value = (" ".join(part.split()) for part in error.override.partition("="))
        return f"{name}={value} cannot be read: put special characters in quotes, '{name}=\"{value}\"'"
    no_plugin = r"(?:(?:find|load) 'hydra/launcher/|locating target 'hydra_plugins\.hydra_)(joblib|submitit)"
    if missing := re.search(no_plugin, text):
        return f"this hydra/launcher needs {missing[1]}, which is not installed: pip install '.[sweep]'"
    return text


def _hint(name: str) -> str:
    """Which choices have the setting, or which one is meant: it ends like ``name``, or is spelt like it."""
    names = setting_names()
    if name in names:
        return f"only {name.partition('.')[0]}={','.join(owners(name))} has it"
    leaf = name.rpartition(".")[2]
    near = [known for known in names if known.endswith(f".{leaf}")] or get_close_matches(name, names, 1)
    return f"did you mean {' or '.join(near[:3])}?" if near else "--cfg job shows them all"
