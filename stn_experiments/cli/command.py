"""How a command ends: a user's mistake is one line on stderr and an exit code, never a traceback."""

import argparse
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from stn_experiments.cli.signals import Stopped, StopSignals
from stn_experiments.common.errors import UserError

INTERRUPTED = 130  # exit code after Ctrl-C, as in a shell
OUTPUT_CLOSED = 128 + signal.SIGPIPE  # as of other commands, after `| head -1`


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises ``UserError`` for a bad command line; argparse would print its usage as well."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UserError(f"{message}; --help lists the options")


def expand_home(word: str) -> str:
    """A word of the command line with ``a.b=~/`` expanded.

    A shell expands ``~`` only at the beginning of a word, and Hydra's grammar refuses it.
    """
    return re.sub(r"^([\w./+]+=)~(?=/)", lambda found: f"{found[1]}{Path.home()}", word)


def refuse_spaces(words: Sequence[str]) -> None:
    """Refuse a setting that the shell split at spaces, such as ``trainer.epochs =1`` or ``stn.at=[a, b]``.

    Raises:
        UserError: the line has the words, and how to write them.
    """
    for start, word in enumerate(words):
        joined, end = word, start + 1
        while end < len(words) and _continues(joined, words[end]):
            joined += words[end]
            end += 1
        if end > start + 1:
            raise UserError(f"there is a space in {' '.join(words[start:end])}, write {joined}")


def _continues(setting: str, word: str) -> bool:
    """Whether a word of the command line belongs to the setting before it."""
    if setting.startswith("-"):  # an option, whose value is a word of its own
        return False
    if word.startswith("="):
        return "=" not in setting
    is_value = "=" not in word and re.match(r"-\d|[^-~]", word) is not None
    is_open = setting.endswith(("=", ",")) or setting.count("[") > setting.count("]")
    return is_value and "=" in setting and (is_open or word.startswith(","))


class Failure(NamedTuple):
    """The error of one of several jobs: the job's name (may be empty), the message and the exit code."""

    job: str
    message: str
    exit_code: int


def run_command(main: Callable[[], Any]) -> None:
    """Call ``main``; exit with one line on stderr if it fails, see :func:`attempt`, or a signal stops it."""
    threading.excepthook = _warn_about_thread
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe or a log shows each line at once, too
    try:
        with StopSignals() as signals, signals.immediate():  # training saves its state first, see runs.train
            failure = attempt(main, "")
        exit_with_failures([failure] if failure else [])
    except Stopped as stopped:
        if stopped.exit_code == OUTPUT_CLOSED:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left at exit
        else:
            print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def attempt(job: Callable[[], None], name: str) -> Failure | None:
    """Run one of several jobs; return its ``UserError`` as a failure, so that the others can run as well.

    Raises:
        Stopped: stdout is a closed pipe, so that nothing more can be printed.
    """
    try:
        job()
    except UserError as error:
        return Failure(name, str(error), error.exit_code)
    except BrokenPipeError:
        raise Stopped(signal.SIGPIPE) from None
    return None


def exit_with_failures(failures: Iterable[Failure]) -> None:
    """Print each failure in one line and exit with the code of the first; return if there are no failures."""
    failures = list(failures)
    for job, message, _ in failures:
        print("error:", " ".join(f"{job}: {message}".removeprefix(": ").split()), file=sys.stderr)
    if failures:
        sys.exit(failures[0].exit_code)


def _warn_about_thread(failure: threading.ExceptHookArgs) -> None:
    """Print the error of a thread in one line, unless the thread stores it, as TensorBoard's does."""
    if getattr(failure.thread, "exception", None) is failure.exc_value:
        return
    name = failure.thread.name if failure.thread else "a thread"
    print(f"warning: {name}: {failure.exc_type.__name__}: {failure.exc_value}", file=sys.stderr)
