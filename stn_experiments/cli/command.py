"""How a command ends: a user's mistake is one line on stderr and an exit code, never a traceback."""

import argparse
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from stn_experiments.cli.signals import Stopped, StopSignals
from stn_experiments.common.errors import UserError

INTERRUPTED = 130
_HYDRAS_RETURN_VALUE: property = vars(JobReturn)["return_value"]


class Failure(NamedTuple):
    """What a run of a sweep returns instead of raising: its overrides, the error and its exit code."""

    run: str
    message: str
    exit_code: int


_failed: list[Failure] = []


def run_command(main: Callable[[], Any]) -> None:
    """Call ``main`` and leave the program as its errors ask for."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra is to hand errors on, not to print them
    setattr(argparse.ArgumentParser, "error", refuse)  # noqa: B010 -- so that Hydra's own parser obeys too
    threading.excepthook = _tell_of_a_thread
    _failed.clear()
    setattr(JobReturn, "return_value", property(_return_value, _HYDRAS_RETURN_VALUE.fset))  # noqa: B010
    try:
        with StopSignals() as signals, signals.at_once():  # training stops more gently, see train_run
            main()
        for failure in _failed[:-1]:
            print(f"error: {failure.run}: {failure.message}", file=sys.stderr)
        for failure in _failed[-1:]:
            head = f"{failure.run}: " if failure.run else ""
            leave(head + failure.message, _failed[0].exit_code)
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


def attempt(job: Callable[[], None], name: str | None = None) -> Failure | None:
    """Do one of several jobs; a ``UserError`` is returned, so that the others are done as well.

    That of a sweep comes back through Hydra, whose launchers may run it in another process or on another
    machine, and :func:`run_command` tells of it at the end, as of all that was handed to :func:`note`.

    Args:
        job: what is to be done.
        name: what it is called then; by default a sweep's overrides.
    """
    try:
        job()
    except UserError as error:
        if name is None:
            is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            name = " ".join(HydraConfig.get().overrides.task) if is_sweep else ""
        return Failure(name, " ".join(str(error).split()), error.exit_code)
    return None


def note(failure: Failure | None) -> None:
    """Keep a failure, if it is one, for the end of the command."""
    if failure is not None and not any(failure is known for known in _failed):
        _failed.append(failure)


def _return_value(returned: JobReturn) -> Any:
    """What a run returned, as each of Hydra's sweepers asks for it; a failure is noted for the end."""
    value = _HYDRAS_RETURN_VALUE.__get__(returned)
    note(value if isinstance(value, Failure) else None)
    return value


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


def _tell_of_a_thread(failure: threading.ExceptHookArgs) -> None:
    """In one line what went wrong in a thread, unless it keeps that for others, as TensorBoard's does."""
    if getattr(failure.thread, "exception", None) is failure.exc_value:
        return
    name = failure.thread.name if failure.thread else "a thread"
    print(f"warning: {name}: {failure.exc_type.__name__}: {failure.exc_value}", file=sys.stderr)


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether none of our code was at work: Hydra says of some command lines what it should not."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not any(name.startswith("stn_experiments.") and name != __name__ for name in modules)


def in_one_line(error: Exception) -> str:
    """What Hydra or OmegaConf say, in one line, without the advice that does not hold here."""
    text = re.split(r"Config search path|See https", " ".join(str(error).split()))[0].strip()
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return f"{unknown[1]} is not a setting; --cfg job shows them all"
    no_plugin = r"(?:(?:find|load) 'hydra/launcher/|locating target 'hydra_plugins\.hydra_)(joblib|submitit)"
    if missing := re.search(no_plugin, text):
        return f"this hydra/launcher needs {missing[1]}, which is not installed: pip install '.[sweep]'"
    return text


def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """What argparse says of a bad command line, without the usage that it would print around it."""
    raise UserError(f"{message}; --help tells what there is")


def leave(message: str, exit_code: int, head: str = "error: ") -> NoReturn:
    """Print one line and end the program."""
    print(head + " ".join(message.split()), file=sys.stderr)
    sys.exit(exit_code)
