"""How a command ends: a user's mistake is one line on stderr and an exit code, never a traceback."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from stn_experiments.errors import UserError
from stn_experiments.signals import Stopped

INTERRUPTED = 130

_failed: list[UserError] = []


def run_command(main: Callable[[], Any]) -> None:
    """Call ``main`` and leave the program as its errors ask for."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra is to hand errors on, not to print them
    setattr(argparse.ArgumentParser, "error", refuse)  # noqa: B010 -- so that Hydra's own parser obeys too
    _failed.clear()
    try:
        main()
        if _failed:
            leave("; ".join(map(str, _failed)), _failed[0].exit_code)
    except UserError as error:
        leave(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        leave(in_one_line(error), UserError.exit_code)
    except Exception as error:
        if not _raised_by_hydra(error):
            raise
        leave(in_one_line(error), UserError.exit_code)
    except Stopped as stopped:
        leave(str(stopped), stopped.exit_code, "")
    except KeyboardInterrupt:
        leave("interrupted", INTERRUPTED, "")
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def one_of_a_sweep() -> Iterator[None]:
    """Keep a job's ``UserError`` until its command ends: Hydra would add lines of its own to it."""
    try:
        yield
    except UserError as error:
        _failed.append(error)


def plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    """A composed config as plain dicts and values, all interpolations resolved.

    Raises:
        UserError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is missing: give it a value") from None
    except OmegaConfBaseException as error:
        raise UserError(in_one_line(error)) from None
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether none of our code was at work: Hydra says of some command lines what it should not."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not any(name.startswith("stn_experiments.") and name != __name__ for name in modules)


def in_one_line(error: Exception) -> str:
    """What Hydra or OmegaConf say, in one line, without the advice that does not hold here."""
    text = re.split(r"Config search path|See https", " ".join(str(error).split()))[0].strip()
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"{unknown[1]} is not a setting; --cfg job shows them all"
    return text


def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """What argparse says of a bad command line, without the usage that it would print around it."""
    raise UserError(f"{message}; --help tells what there is")


def leave(message: str, exit_code: int, head: str = "error: ") -> NoReturn:
    """Print one line and end the program."""
    print(head + " ".join(message.split()), file=sys.stderr)
    sys.exit(exit_code)
