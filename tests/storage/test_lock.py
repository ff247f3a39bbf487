"""Who may train in a run's folder: processes of this host, and what a lock file shows of other hosts."""

import errno
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stn_experiments.common.errors import RunLocked, UserError
from stn_experiments.storage import lock
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from stn_experiments.storage import lock

lock.BEAT = 0.02
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# Each call is late by up to 2 ms, so that all orders of them happen. Between holders the folder is away.
RACER = """
import fcntl, os, random, sys, time
from pathlib import Path
from stn_experiments.common import errors
from stn_experiments.storage import lock

def late(call):
    def wait_and_call(*arguments, **settings):
        time.sleep(random.random() * 0.002)
        return call(*arguments, **settings)
    return wait_and_call

fcntl.flock = late(fcntl.flock)
for name in ("open", "close", "mkdir", "unlink", "rmdir"):
    setattr(os, name, late(getattr(os, name)))
folder, marker = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.read()
held, end = 0, time.monotonic() + 2
while time.monotonic() < end:
    try:
        with lock.held(folder):
            marker.touch(exist_ok=False)
            time.sleep(0.001)
            marker.unlink()
            held += 1
    except errors.RunHeld:
        pass
print(held)
"""

DAMAGED = (
    b"",
    b'{"host": "off_target", "pi',
    b"{}",
    b'{"pid": 1}',
    b"[1]",
    b"12",
    b"\0" * 300,
    b"\xff\xfe{",
    b"[" * 4096,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "run"


@pytest.fixture
def start():
    """Start a script in a process of its own, which ends with the test."""
    started = []

    def run(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        with process:  # closes its pipes
            pass


class Clock:
    """Stands for the module ``time``: to sleep makes planned things happen. The time of the day jumps."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self.now = 0.0
        self.day = 1e9
        self.plan = {}

    def monotonic(self):
        return self.now

    def time(self):
        self.day += 1e6 if self.day < 1e9 + 5e6 else -9e6
        return self.day

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 100
        for moment in [moment for moment in self.plan if moment <= self.now]:
            self.plan.pop(moment)()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lock, "time", clock)
    return clock


@pytest.fixture
def no_flock(monkeypatch):
    """The file system has no flock."""

    def refuse(code=errno.ENOLCK):
        def flock(fd, operation):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)

    return refuse


def leave(folder, content=None, **changes):
    """Write a lock file: ``content``, or that of a process of this host, changed."""
    holder = {"pid": 77, "since": "2001-02-03 04:05:06", "beat": 0, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").write_bytes(content or json.dumps({**lock._myself(), "id": "left", **holder}).encode())


def descriptors():
    return len(list(Path("/dev/fd").iterdir()))


def holder_of(folder):
    return json.loads((folder / "lock").read_text())


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_free(folder):
    assert not folder.exists()
    assert folder.parent.exists()


def test_another_process_is_refused_until_the_first_ends(folder, start):
    process = start(HOLDER, folder)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunLocked) as refused, lock.run_lock(folder):
        pass
    words = f"{folder} is held by process {process.pid} on {platform.node()} since "
    assert str(refused.value).startswith(words)
    rest = str(refused.value)[len(words) :]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: wait for it or stop it", rest)
    assert refused.value.exit_code == 5
    assert isinstance(refused.value, UserError)
    assert holder_of(folder)["pid"] == process.pid
    assert process.communicate("") == ("", "")
    assert_free(folder)
    with lock.run_lock(folder):
        assert holder_of(folder)["pid"] == os.getpid()


def test_the_same_process_cannot_hold_it_twice(folder):
    with lock.run_lock(folder):
        with pytest.raises(RunLocked, match=f"held by process {os.getpid()} on"), lock.run_lock(folder):
            pass
        assert holder_of(folder)["pid"] == os.getpid()
    assert_free(folder)


def test_a_killed_holder_leaves_it_free_at_once(folder, start, clock):
    process = start(HOLDER, folder)
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    assert holder_of(folder)["pid"] == process.pid
    with lock.run_lock(folder):
        assert holder_of(folder)["pid"] == os.getpid()
    assert clock.now == 0
    assert_free(folder)


def test_many_processes_hold_it_one_at_a_time(folder, start, tmp_path):
    processes = [start(RACER, folder, tmp_path / "marker") for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    for process in processes:
        process.wait()
    assert [process.stderr.read() for process in processes] == [""] * 8
    assert sum(int(process.stdout.read()) for process in processes) > 20
    assert_free(folder)


FAR = [{"host": "off_target"}, {"host": "off_target", "boot": ""}, {"boot": "of a twin"}]


@pytest.mark.parametrize("other", FAR)
def test_a_silent_holder_on_another_host_is_taken_over(folder, clock, caplog, capsys, other):
    leave(folder, **other)
    os.utime(folder / "lock", (2**32, 2**32))  # in 2106
    with lock.run_lock(folder):
        assert holder_of(folder)["pid"] == os.getpid()
        assert 30 <= clock.now < 33
    who = f"process 77 on {other.get('host', platform.node())}"
    assert caplog.messages == [f"{folder}/lock names {who}: waiting up to 30 seconds to see whether it lives"]
    assert capsys.readouterr().out == f"{folder} is taken over: {who} gave no sign of life\n"
    assert_free(folder)


@pytest.mark.parametrize("other", FAR)
def test_a_holder_on_another_host_that_beats_is_not(folder, clock, capsys, other):
    leave(folder, **other)
    clock.plan[29] = lambda: leave(folder, **other, beat=1)
    with (
        pytest.raises(RunLocked, match=r"held by process 77 on .* since 2001-02-03 04:05:06"),
        lock.run_lock(folder),
    ):
        pass
    assert 29 <= clock.now < 30
    assert holder_of(folder)["beat"] == 1
    assert capsys.readouterr().out == ""


def test_a_holder_that_ends_while_it_is_watched_leaves_it_free(folder, clock):
    leave(folder, host="off_target")
    clock.plan[10] = lambda: (folder / "lock").unlink()
    with lock.run_lock(folder):
        assert 10 <= clock.now < 11
        assert holder_of(folder)["pid"] == os.getpid()


def test_of_two_that_take_it_over_together_one_has_it(folder, clock):
    leave(folder, host="off_target")
    clock.plan[30.1] = lambda: leave(folder, host="third", id="third")
    with pytest.raises(RunLocked, match="held by process 77 on third"), lock.run_lock(folder):
        pass
    assert holder_of(folder)["host"] == "third"


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_holds_nobody_up(folder, clock, content):
    leave(folder, host="off_target")
    (folder / "lock").write_bytes(content)
    with lock.run_lock(folder):
        assert holder_of(folder)["pid"] == os.getpid()
    assert clock.now == 0
    assert_free(folder)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_holder_may_be_unknown(folder, content):
    leave(folder)
    with (folder / "lock").open("wb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(content)
        with pytest.raises(RunLocked) as refused, lock.run_lock(folder):
            pass
    assert str(refused.value) == f"{folder} is held by another process: wait for it or stop it"
    assert (folder / "lock").read_bytes() == content


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_without_flock_a_free_folder_is_had_soon(folder, clock, no_flock, code):
    no_flock(code)
    with lock.run_lock(folder):
        assert holder_of(folder)["pid"] == os.getpid()
        assert 0 < clock.now < 3
    assert_free(folder)


@pytest.mark.parametrize("content", [None, *filter(None, DAMAGED)])
def test_without_flock_any_holder_is_watched(folder, clock, no_flock, content):
    no_flock()
    leave(folder, content)
    clock.plan[29] = lambda: leave(folder, host="somewhere", beat=1)
    with pytest.raises(RunLocked, match="on somewhere"), lock.run_lock(folder):
        pass
    leave(folder, content)
    with lock.run_lock(folder):
        assert 59 < clock.now < 62
        assert holder_of(folder)["pid"] == os.getpid()
    assert_free(folder)


def test_without_flock_of_two_that_start_together_one_has_it(folder, clock, no_flock):
    no_flock()
    clock.plan[0.1] = lambda: leave(folder, host="second", id="second")
    with pytest.raises(RunLocked, match="on second"), lock.run_lock(folder):
        pass
    assert holder_of(folder)["host"] == "second"


def test_a_living_process_is_known_by_its_heartbeat(folder, start, no_flock):
    process = start(HOLDER, folder)
    assert process.stdout.readline() == "held\n"
    no_flock()
    with pytest.raises(RunLocked, match=f"held by process {process.pid} on"), lock.run_lock(folder):
        pass
    assert process.communicate("") == ("", "")
    assert_free(folder)


def test_the_heart_outlives_errors_and_stops_at_once(folder, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    failures = []
    pwrite = os.pwrite

    def full(*arguments):
        failures.append(OSError(errno.ENOSPC, "No space left on device"))
        raise failures[-1]

    with lock.run_lock(folder):
        wait_until(lambda: holder_of(folder)["beat"] > 1)
        monkeypatch.setattr(os, "pwrite", full)
        wait_until(lambda: len(failures) > 1)
        monkeypatch.setattr(os, "pwrite", pwrite)
        beat = holder_of(folder)["beat"]
        wait_until(lambda: holder_of(folder)["beat"] > beat)
        (folder / "lock").write_bytes(b"damage, longer than a line of ours" * 20)
        wait_until(lambda: (folder / "lock").read_bytes().startswith(b"{"))
        monkeypatch.setattr(lock, "BEAT", 1000)
        time.sleep(0.03)
    assert "lock heartbeat" not in [thread.name for thread in threading.enumerate()]
    assert_free(folder)


def test_the_last_beat_is_over_before_the_descriptor_is_closed(folder, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    began, ended = [], []
    fsync = os.fsync

    def slow(fd):
        began.append(fd)
        fsync(fd)
        time.sleep(0.1)
        ended.append(fd)

    with lock.run_lock(folder):
        monkeypatch.setattr(os, "fsync", slow)
        wait_until(lambda: began)
    assert began == ended


def test_who_was_taken_over_leaves_the_new_holder_the_file(folder):
    with lock.run_lock(folder):
        leave(folder, host="off_target")
    assert holder_of(folder)["host"] == "off_target"


def test_the_heart_of_who_was_taken_over_stops(folder, caplog):
    class Stop(threading.Event):
        waits = 0

        def wait(self, timeout=None):
            self.waits += 1
            return self.waits > 2

    leave(folder, host="off_target")
    stop = Stop()
    with (folder / "lock").open("r+b") as file:
        lock._beat(file.fileno(), folder / "lock", lock._myself(), stop)
    assert stop.waits == 1
    assert caplog.messages == [
        f"{folder} was taken over by process 77 on elsewhere: two processes train it now"
    ]
    assert (holder_of(folder)["host"], holder_of(folder)["beat"]) == ("off_target", 0)


def test_an_error_inside_frees_it(folder):
    def fail(call):
        call()
        raise OSError("the body's own")

    with pytest.raises(OSError, match="the body's own"), lock.run_lock(folder):
        fail(list)
    assert_free(folder)
    with pytest.raises(OSError, match="the body's own"), lock.run_lock(folder):
        fail((folder / "result.json").touch)
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_a_folder_or_file_that_the_last_holder_removes_is_made_again(folder, monkeypatch):
    opened, flock = os.open, fcntl.flock
    done = []

    def open_without_folder(path, *arguments):
        if path == folder / "lock" and "folder" not in done:
            done.append("folder")
            folder.rmdir()
        return opened(path, *arguments)

    def flock_without_file(*arguments):
        if "file" not in done:
            done.append("file")
            (folder / "lock").unlink()
            leave(folder, b"another's")  # so that it is not the folder that is missing
        return flock(*arguments)

    monkeypatch.setattr(os, "open", open_without_folder)
    monkeypatch.setattr(fcntl, "flock", flock_without_file)
    before = descriptors()
    with lock.run_lock(folder):
        assert done == ["folder", "file"]
        assert descriptors() == before + 1
        assert holder_of(folder)["pid"] == os.getpid()
    assert_free(folder)


def test_the_file_goes_before_the_kernels_lock(folder, monkeypatch):
    close, seen = os.close, []

    def look_and_close(fd):
        seen.append((folder / "lock").exists())
        close(fd)

    with lock.run_lock(folder):
        monkeypatch.setattr(os, "close", look_and_close)
    monkeypatch.undo()
    assert seen == [False]


@pytest.mark.parametrize("way", ["folder", "parent", "lock", "link"])
def test_something_in_the_way_is_one_clear_line(folder, way):
    if way == "lock":
        (folder / "lock").mkdir(parents=True)
    elif way == "link":
        folder.mkdir(parents=True)
        (folder / "lock").symlink_to(folder / "no" / "where")
    else:
        path = folder if way == "folder" else folder.parent
        path.parent.mkdir(exist_ok=True)
        path.touch()
    words = r"^run\.root must be a folder that can be written to: "
    with pytest.raises(UserError, match=words) as refused, lock.run_lock(folder):
        pass
    assert refused.value.exit_code == 2
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync"])
def test_a_file_system_that_refuses_leaves_nothing(folder, monkeypatch, call):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=r"written to: .*Read-only file system"), lock.run_lock(folder):
        pass
    monkeypatch.undo()
    assert_free(folder)


def test_an_error_of_flock_that_says_something_else_is_no_lack_of_it(folder, no_flock):
    no_flock(errno.EIO)
    with pytest.raises(UserError, match="Input/output error"), lock.run_lock(folder):
        pass


def test_no_descriptor_is_left_open(folder, no_flock, clock):
    before = descriptors()
    with lock.run_lock(folder):
        for _ in range(3):
            with pytest.raises(RunLocked), lock.run_lock(folder):
                pass
        assert descriptors() == before + 1
    no_flock(errno.EIO)
    with pytest.raises(UserError), lock.run_lock(folder):
        pass
    assert descriptors() == before
