"""How a run stops at a signal without losing anything."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; a machine that shuts down; a cluster that is about to take a node back."""


class Stopped(KeyboardInterrupt):
    """A signal stopped the program; ``exit_code`` is 128 plus the signal's number, as in a shell.

    It is no ``Exception``, so a sweep does not treat it as the failure of one run.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int]]:
        """Workers of a sweep send it to the process that started them."""
        return type(self), (self.exit_code - 128,)


class StopSignals:
    """Within its ``with``, the ``STOP_SIGNALS`` are collected until :meth:`check` raises ``Stopped``.

    The program then saves its state and calls :meth:`forward_signal`. A second Ctrl-C raises
    ``KeyboardInterrupt`` immediately. Outside the main thread, where Python allows no signal handlers,
    nothing changes.
    """

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []  # and not forwarded yet
        self._immediate = False

    def __enter__(self) -> "StopSignals":
        is_main = threading.current_thread() is threading.main_thread()
        self._previous = {n: signal.signal(n, self._handle) for n in STOP_SIGNALS} if is_main else {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._received[-1:]:
            raise KeyboardInterrupt
        self._received.append(signal.Signals(number))
        if self._immediate:
            raise Stopped(number)

    @property
    def pending(self) -> bool:
        """Whether a signal has been received and not forwarded yet."""
        return bool(self._received)

    def check(self) -> None:
        """Raise ``Stopped`` if a signal has been received."""
        if self._received:
            raise Stopped(self._received[-1])

    def forward_signal(self) -> None:
        """Call the previous handler of each received signal; raise ``Stopped`` if there was no handler.

        In a cluster's job the previous handler of SIGUSR2 puts the job back into the queue and exits; that of
        SIGTERM does nothing. If this method returns, the program should continue.
        """
        while self._received:
            number = self._received.pop(0)
            handler = self._previous[number]
            if not callable(handler) or handler is signal.default_int_handler:
                raise Stopped(number)
            handler(number, None)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Within, raise ``Stopped`` as soon as a signal arrives: for long work that changes no state."""
        self._immediate = True
        try:
            self.check()
            yield
        finally:
            self._immediate = False
