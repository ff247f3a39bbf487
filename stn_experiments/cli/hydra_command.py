"""A command whose ``main`` is decorated by ``hydra.main``: one run, or a sweep of many."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from stn_experiments.cli.command import (
    Failure,
    attempt,
    exit_with_failures,
    expand_home,
    refuse_spaces,
    run_command,
)
from stn_experiments.cli.workarounds import raise_usage_errors
from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import as_written, error_line, refuse_lists, refuse_sweeps


def run_hydra_command(main: Callable[[], Any]) -> None:
    """``run_command`` for a function that ``hydra.main`` decorates; Hydra's own errors are one line, too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of printing them
    words = sys.argv[1:]
    sys.argv[1:] = arrange(words)

    def checked() -> None:
        refuse_spaces(words)
        refuse_sweeps(words)
        _translate_errors(main)

    run_command(checked)


def arrange(words: Sequence[str]) -> list[str]:
    """A command line with Hydra's options before the overrides, as argparse needs, and ``=~/`` expanded."""
    return sorted(map(expand_home, words), key=lambda word: "=" in word and not word.startswith("-"))


def run_job(job: Callable[[], None]) -> Failure | None:
    """Run the job of a ``hydra.main`` function.

    A ``UserError`` ends a single run with its exit code. In a sweep it is returned, so that the other runs
    continue; ``sweeps.progress`` records it and reports all failures at the end.
    """
    hydra = HydraConfig.get()
    overrides, is_sweep = as_written(hydra.overrides.task), hydra.mode == RunMode.MULTIRUN

    def checked() -> None:
        refuse_lists(overrides)
        job()

    failure = attempt(checked, " ".join(overrides) if is_sweep else "")
    if failure and not is_sweep:
        exit_with_failures([failure])  # Hydra would print a line of its own about an exception
    return failure


def _translate_errors(main: Callable[[], Any]) -> None:
    try:
        with raise_usage_errors():
            main()
    except (UserError, BrokenPipeError):  # the reader of stdout ends, as in `train.py --help | head`
        raise
    except Exception as error:
        if isinstance(error, HydraException | OmegaConfBaseException) or not _passed_our_code(error):
            raise UserError(error_line(error)) from error
        raise
    finally:
        GlobalHydra.instance().clear()


def _passed_our_code(error: BaseException) -> bool:
    """Whether our code was running; otherwise Hydra raised it, which means an unusable command line."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        name.startswith("stn_experiments.") and not name.startswith("stn_experiments.cli.")
        for name in modules
    )
