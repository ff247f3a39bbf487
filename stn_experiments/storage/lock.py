"""One process at a time in a run's folder, on all hosts that share it."""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from stn_experiments.common.errors import RunLocked, UserError

logger = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds without a heartbeat after which a holder on another host counts as dead."""
POLL = 0.5
"""Seconds between two looks at a holder on another host."""
ATTEMPTS, RETRY = 20, 0.005
"""How often, and after how many seconds, to try again where holders come and go."""


def lock_file(folder: Path) -> Path:
    """The file that names the process which holds a folder. It is beside the folder, which may be deleted."""
    return folder.with_name(f"{folder.name}.lock")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is created if needed, against all other processes.

    The lock file names the holder, whose heartbeat changes the file's time. A dead holder on this host is
    replaced at once, one on another host after ``LEASE`` seconds without a heartbeat. At the end the file is
    removed, and the folder if it is empty.

    Raises:
        RunLocked: another process holds the folder.
        UserError: the folder or the file cannot be written.
    """
    lease = SoftFileLease(lock_file(folder), lease_duration=LEASE, on_compromise=_report_loss)
    try:
        _acquire(lease, folder)
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            lease.release()
            raise
    except OSError as error:
        raise UserError(f"run.root must be a folder that can be written to: {error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
        lease.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder, or did so less than ``LEASE`` seconds ago."""
    return time.time() - _modified(folder) < LEASE


def _acquire(lease: SoftFileLease, folder: Path) -> None:
    for _ in range(ATTEMPTS):
        with suppress(Timeout):
            lease.acquire(timeout=0)
            return
        if lease.owner is not None:
            break
        time.sleep(RETRY)  # a holder has just ended, or is about to write its name
    _take_over(lease, folder)


def _take_over(lease: SoftFileLease, folder: Path) -> None:
    """Wait for a heartbeat of a holder on another host, and take over without one.

    Raises:
        RunLocked: there is one, or the holder is on this host, where a dead one would have been replaced.
    """
    holder, modified = lease.owner, _modified(folder)
    is_here = holder is not None and holder.hostname.partition("?")[0] == socket.gethostname()
    if is_here or not modified:  # without a file, other processes come and go
        raise _refusal(lease, folder)
    name = _name(lease)
    logger.warning("%s names %s: waiting up to %g seconds for a heartbeat", lease.lock_file, name, LEASE)
    try:
        lease.acquire(
            timeout=LEASE + 4 * POLL,
            poll_interval=POLL,
            cancel_check=lambda: _modified(folder) not in (modified, 0.0),
        )
    except Timeout:
        if holder is not None or _modified(folder) != modified:
            raise _refusal(lease, folder) from None
        lease.force_break()  # the file is empty: its process was killed before it wrote its name
        try:
            lease.acquire(timeout=0)
        except Timeout:
            raise _refusal(lease, folder) from None
    else:
        if holder is None:  # it has written its name, and ended
            return
    print(f"{folder} is taken over: {name} had no heartbeat")


def _modified(folder: Path) -> float:
    try:
        return lock_file(folder).stat().st_mtime
    except OSError:
        return 0.0


def _report_loss(loss: LeaseCompromise) -> None:
    """Called when another process took the lock over, because this one was suspended or cut off."""
    logger.error("%s was taken over by another process: two processes train it now", loss.lock_file)


def _name(lease: SoftFileLease) -> str:
    holder = lease.owner
    return f"process {holder.pid} on {holder.hostname}" if holder else "another process"


def _refusal(lease: SoftFileLease, folder: Path) -> RunLocked:
    return RunLocked(f"{folder} is held by {_name(lease)}: wait for it or stop it")
