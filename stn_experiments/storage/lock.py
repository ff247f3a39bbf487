"""One process at a time in a run's folder, on all hosts that share it."""

import errno
import fcntl
import itertools
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import RunLocked, UserError

logger = logging.getLogger(__name__)

BEAT = 5.0  # seconds between two heartbeats
PATIENCE = 30.0  # seconds without one after which a holder that the kernel cannot speak for counts as dead
TRIES = 100  # in a row that fail because another process ended meanwhile; more mean something else

# What flock says where the file system has none (Lustre, by default: ENOSYS), or its server is away (ENOLCK).
NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
LENGTH = 300  # of the line in the file
KEYS = {"host", "boot", "pid", "since", "id", "beat"}

Holder = dict[str, Any]


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder, made where it is missing, against all other processes.

    The file ``lock`` in it names the holder. Within a host the kernel guards it, and frees it when the holder
    dies, however it does. A holder on another host may have to be watched, for up to ``PATIENCE`` seconds: it
    lives if its heartbeat changes the file. At the end the file goes, and the folder if nothing is left in
    it; parents stay. Who clears the folder in between must spare the file.

    Raises:
        RunHeld: another process holds it.
        UserError: the folder or the file cannot be written.
    """
    path, me = folder / "lock", _myself()
    try:
        fd = _acquire(path, me)
    except OSError as error:
        raise UserError(f"run.root must be a folder that can be written to: {error}") from error
    finally:
        _remove_if_empty(folder)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(fd, path, me, stop), name="lock heartbeat", daemon=True)
    try:
        heart.start()
        yield
    finally:
        stop.set()
        if heart.ident:  # it could be started
            heart.join()  # or it could write to the next file that gets the descriptor's number
        with suppress(OSError):
            if _is_at(fd, path) and not _usurper(path, me):
                path.unlink()
        with suppress(OSError):
            os.close(fd)
        _remove_if_empty(folder)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder, or did until ``PATIENCE`` seconds ago and was killed."""
    try:
        return time.time() - (folder / "lock").stat().st_mtime < PATIENCE
    except OSError:
        return False


def _acquire(path: Path, me: Holder) -> int:
    """The descriptor of the lock file, held; ``RunHeld``, or ``OSError`` where there can be no file."""
    failure: Exception = _refusal(path, {})
    for _ in range(TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        # The last holder removed the folder between two steps of this; or a file is in the way, each time.
        except (FileNotFoundError, FileExistsError) as error:
            failure = error
            continue
        try:
            if _take(fd, path, me):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    raise failure


def _take(fd: int, path: Path, me: Holder) -> bool:
    """Make the open file name ``me``; false if it has gone meanwhile. ``RunHeld`` if another holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        guarded = True
    except BlockingIOError:
        raise _refusal(path, _holder(_read(path))) from None
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        guarded = False
    content = _read(path) or b""
    # The holder unlinks the file before it lets go: this one may have lost its name, or that be another's.
    if not _is_at(fd, path):
        return False
    holder = _holder(content)
    # Over network file systems flock may hold within each host alone: it says nothing of another's process.
    if guarded and holder and any(holder[key] != me[key] for key in ("host", "boot")):
        guarded = False
    if not guarded and content and not _outwaited(path, content):
        return False
    try:
        _write(fd, me, beat=0)
    except OSError:
        path.unlink()
        raise
    if not guarded:
        # Of several that got here together the last to write has it, so each looks again when all have
        # written (Fischer's algorithm). Until then none beats, which would undo what another wrote.
        time.sleep(PATIENCE / 15)
        if (found := _holder(_read(path))).get("id") != me["id"]:
            raise _refusal(path, found)
    return True


def _outwaited(path: Path, content: bytes) -> bool:
    """Whether the content stays for ``PATIENCE``; false if the file goes. ``RunHeld`` if it changes.

    No clock of the day and no file's time is asked: they jump, and differ between hosts.
    """
    who = _name(_holder(content))
    logger.warning("%s names %s: waiting up to %g seconds to see whether it lives", path, who, PATIENCE)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(PATIENCE / 60)
        found = _read(path)
        if found is None:
            return False
        if found != content:
            raise _refusal(path, _holder(found))
    print(f"{path.parent} is taken over: {who} gave no sign of life")
    return True


def _beat(fd: int, path: Path, me: Holder, stop: threading.Event) -> None:
    """Change the file every ``BEAT`` seconds, whatever fails, until ``stop`` or until another has it."""
    for beat in itertools.count(1):
        if stop.wait(BEAT):
            return
        if usurper := _usurper(path, me):
            # This process was stopped for longer than others are patient, or cut off from the file.
            logger.error("%s was taken over by %s: two processes train it now", path.parent, _name(usurper))
            return
        with suppress(OSError):
            _write(fd, me, beat)


def _myself() -> Holder:
    """Who holds it: ``boot`` tells machines of one name apart, ``id`` processes of one number."""
    boot = b""
    with suppress(OSError):  # only Linux has it
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    return {
        "host": platform.node(),
        "boot": boot.decode().strip(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "id": secrets.token_hex(8),
    }


def _usurper(path: Path, me: Holder) -> Holder:
    """The process that the file names, if it is another; damage is not."""
    holder = _holder(_read(path))
    return holder if holder and holder["id"] != me["id"] else {}


def _holder(content: bytes | None) -> Holder:
    """The process that a lock file's content names; empty if that cannot be made out."""
    try:
        holder = json.loads((content or b"").split(b"\n")[0])
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) and holder.keys() >= KEYS else {}


def _name(holder: Holder) -> str:
    return f"process {holder['pid']} on {holder['host']}" if holder else "another process"


def _refusal(path: Path, holder: Holder) -> RunLocked:
    since = f" since {holder['since']}" if holder else ""
    return RunLocked(f"{path.parent} is held by {_name(holder)}{since}: wait for it or stop it")


def _read(path: Path) -> bytes | None:
    """The file's content, if it can be read; opened by name, when a network file system asks its server."""
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return None


def _write(fd: int, me: Holder, beat: int) -> None:
    # All are of one length, or one that covers another's could be cut where that one ends.
    line = json.dumps({**me, "beat": beat}).ljust(LENGTH).encode() + b"\n"
    os.pwrite(fd, line, 0)
    os.ftruncate(fd, len(line))
    os.fsync(fd)  # so that it leaves this host


def _is_at(fd: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
