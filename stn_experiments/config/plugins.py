"""The packages whose classes and functions a config may build: this one, torch's optimisers and plugins."""

import importlib
from collections.abc import Sequence
from typing import Any

from stn_experiments.common.errors import UserError

OWN = ("stn_experiments.", "torch.optim.")
_plugins: list[str] = []


def use_plugins(names: Any) -> None:
    """Import the packages in the setting ``plugins``, and allow ``build`` to build from them.

    They replace those of the config before, so what a config can build depends on nothing else.

    Raises:
        UserError: ``names`` is not a list of names, or a package cannot be imported.
    """
    _plugins.clear()
    takes = "plugins must be a list of packages that Python can import"
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise UserError(f"{takes}, got {names!r}")
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{takes}, got {name!r}")
        try:
            importlib.import_module(name)
        except Exception as error:  # the package's own code may raise any
            hint = "install it, or add its folder to PYTHONPATH"
            raise UserError(f"{takes}, got {name!r} ({reason(error)}): {hint}") from error
    _plugins.extend(f"{name}." for name in names)


def allowed() -> tuple[str, ...]:
    """The prefixes of the names of everything that may be built."""
    return (*OWN, *_plugins)


def reason(error: Exception) -> str:
    """The type and the message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
