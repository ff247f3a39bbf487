"""How a run is asked to stop, and stops without losing anything."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

OBEYED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; what a machine sends when it shuts down; what a cluster sends before it takes a node back."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; ``exit_code`` is 128 and the signal's number, as in a shell.

    Like ``KeyboardInterrupt`` no ``Exception``, so that a sweep does not take it for the failure of one run.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class StopSignals:
    """Within its ``with``, a signal of ``OBEYED`` is kept until :meth:`check` raises it as ``Stopped``.

    What is to be saved is then saved, and :meth:`forward_signal` gives the signal to who obeyed it before. A second
    Ctrl-C raises ``KeyboardInterrupt`` wherever the program is. Outside the main thread, which alone gets
    signals, all is left as it was.
    """

    def __init__(self) -> None:
        self._asked: list[signal.Signals] = []  # those that have come and were not handed on
        self._at_once = False

    def __enter__(self) -> "StopSignals":
        here = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._ask) for number in OBEYED} if here else {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._asked[-1:]:
            raise KeyboardInterrupt
        self._asked.append(signal.Signals(number))
        if self._at_once:
            raise Stopped(number)

    @property
    def pending(self) -> bool:
        """Whether a signal has come."""
        return bool(self._asked)

    def check(self) -> None:
        """Raise ``Stopped`` if a signal has come."""
        if self._asked:
            raise Stopped(self._asked[-1])

    def forward_signal(self) -> None:
        """Give each signal that has come to its handler from before; where it had none, raise ``Stopped``.

        Such a handler is that of a cluster's job, which on SIGUSR2 has the job queued again and ends, but
        makes nothing of SIGTERM. If this returns, the program is to go on.
        """
        while self._asked:
            number = self._asked.pop(0)
            handler = self._before[number]
            if not callable(handler) or handler is signal.default_int_handler:
                raise Stopped(number)
            handler(number, None)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, raise ``Stopped`` as soon as a signal comes: for what may take long and changes nothing."""
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False
