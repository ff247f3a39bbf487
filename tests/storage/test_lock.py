"""Processes of this host and of others that want the same run's folder."""

import errno
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from stn_experiments.common.errors import RunLocked, UserError
from stn_experiments.storage import lock
from stn_experiments.storage.lock import is_locked, lock_file, run_lock
from tests.conftest import ROOT

HOLDER = """
import sys
from pathlib import Path
from stn_experiments.storage.lock import run_lock

with run_lock(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""

# Calls are late by up to 2 ms, so that all orders of them happen.
RACER = """
import os, random, sys, time
from pathlib import Path
from stn_experiments.common.errors import RunLocked
from stn_experiments.storage.lock import run_lock

def late(call):
    def wait_and_call(*arguments, **settings):
        time.sleep(random.random() * 0.002)
        return call(*arguments, **settings)
    return wait_and_call

for name in ("open", "mkdir", "unlink", "rmdir"):
    setattr(os, name, late(getattr(os, name)))
folder, marker = map(Path, sys.argv[1:])
print("ready", flush=True)
sys.stdin.read()
held, end = 0, time.monotonic() + 2
while time.monotonic() < end:
    try:
        with run_lock(folder):
            marker.touch(exist_ok=False)
            time.sleep(0.001)
            marker.unlink()
            held += 1
    except RunLocked:
        pass
print(held)
"""


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


@pytest.fixture
def fast(monkeypatch):
    """Leases of a second."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    monkeypatch.setattr(lock, "POLL", 0.05)


def write_foreign(folder):
    """A lock file of a process on another host."""
    folder.mkdir(parents=True)
    with SoftFileLease(lock_file(folder), lease_duration=lock.LEASE):
        content = lock_file(folder).read_text()
    host = re.search(r"host=(.*)", content)[1]
    lock_file(folder).write_text(content.replace(f"host={host}", "host=far"))
    return lock_file(folder)


def refusal(folder):
    with pytest.raises(RunLocked) as refused, run_lock(folder):
        pass
    return str(refused.value)


def test_another_process_is_refused_until_the_first_ends(folder, start):
    process = start(HOLDER, folder)
    assert process.stdout.readline() == "holds\n"
    holder = f"process {process.pid} on {socket.gethostname()}"
    assert re.fullmatch(rf"{folder} is held by {holder}\S*: wait for it or stop it", refusal(folder))
    assert RunLocked.exit_code == 5
    assert is_locked(folder)
    assert process.communicate("") == ("", "")
    assert not folder.exists()
    assert folder.parent.exists()
    with run_lock(folder):
        pass


def test_the_same_process_cannot_hold_it_twice(folder):
    with run_lock(folder):
        assert f"held by process {os.getpid()} on" in refusal(folder)
        assert is_locked(folder)
    assert not folder.exists()
    assert not is_locked(folder)


def test_files_of_the_holder_stay(folder):
    with run_lock(folder):
        (folder / "result.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_a_killed_holder_is_replaced_at_once(folder, start):
    process = start(HOLDER, folder)
    assert process.stdout.readline() == "holds\n"
    process.kill()
    process.wait()
    assert lock_file(folder).exists()
    began = time.monotonic()
    with run_lock(folder):
        assert f"pid={os.getpid()}\n" in lock_file(folder).read_text()
    assert time.monotonic() - began < 2
    assert not folder.exists()


@pytest.mark.slow
def test_many_processes_hold_it_one_at_a_time(folder, start, tmp_path):
    processes = [start(RACER, folder, tmp_path / "marker") for _ in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.close()
    for process in processes:
        process.wait()
    errors = "".join(process.stderr.read() for process in processes)
    assert "Error" not in errors, errors  # two holders would create the marker twice
    assert sum(int(process.stdout.read()) for process in processes) > 20
    assert not folder.exists()


def test_a_holder_on_another_host_without_heartbeat_is_replaced(folder, fast, caplog, capsys):
    path = write_foreign(folder)
    began = time.monotonic()
    with run_lock(folder):
        assert 0.9 < time.monotonic() - began < 3
        assert f"pid={os.getpid()}\n" in path.read_text()
    who = f"process {os.getpid()} on far"
    assert f"{path} names {who}: waiting up to 1 seconds for a heartbeat" in caplog.messages
    assert capsys.readouterr().out == f"{folder} is taken over: {who} had no heartbeat\n"
    assert not folder.exists()


def test_a_holder_on_another_host_with_a_heartbeat_is_not_replaced(folder, fast, monkeypatch, capsys):
    path = write_foreign(folder)
    content = path.read_text()
    modified = lock._modified
    looks = []

    def beat(folder):
        looks.append(folder)
        if len(looks) == 5:
            os.utime(path)
        return modified(folder)

    monkeypatch.setattr(lock, "_modified", beat)
    assert "is held by process" in refusal(folder)
    assert 5 <= len(looks) < 9
    assert path.read_text() == content
    assert capsys.readouterr().out == ""


def test_a_holder_on_another_host_that_ends_is_followed(folder, fast, monkeypatch):
    path = write_foreign(folder)
    modified = lock._modified

    def end(folder):
        found = modified(folder)
        path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(lock, "_modified", end)
    with run_lock(folder):
        assert f"pid={os.getpid()}\n" in path.read_text()


@pytest.mark.parametrize("content", [pytest.param(b"", marks=pytest.mark.slow), b"\xff{"])
def test_an_empty_or_damaged_file_is_replaced(folder, fast, monkeypatch, content):
    """An empty one as of a process that was killed between the creation of the file and its first write."""
    if content:
        monkeypatch.setattr(lock, "LEASE", 5.0)  # filelock waits for two seconds
    folder.mkdir(parents=True)
    lock_file(folder).write_bytes(content)
    with run_lock(folder):
        assert f"pid={os.getpid()}\n" in lock_file(folder).read_text()
    assert not folder.exists()


def test_a_takeover_by_another_process_is_reported(folder, fast, caplog):
    """As after this process was suspended for longer than the lease."""
    with run_lock(folder):
        lock_file(folder).rename(folder / "old")
        lock_file(folder).write_text("another's")
        end = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < end:
            time.sleep(0.05)
    assert caplog.messages == [
        f"{lock_file(folder)} was taken over by another process: two processes train it now"
    ]
    assert lock_file(folder).read_text() == "another's"


def test_it_is_locked_until_the_lease_of_a_killed_holder_has_ended(folder):
    folder.mkdir(parents=True)
    lock_file(folder).touch()
    for age, locked in ((0, True), (lock.LEASE - 1, True), (lock.LEASE + 1, False)):
        os.utime(lock_file(folder), (time.time() - age,) * 2)
        assert is_locked(folder) is locked


@pytest.mark.parametrize("trouble", ["a file for the folder", "a folder for the file", "read-only"])
def test_a_folder_that_cannot_be_written_is_one_line(folder, monkeypatch, trouble):
    if trouble == "a file for the folder":
        folder.parent.mkdir()
        folder.write_text("")
    elif trouble == "a folder for the file":
        lock_file(folder).mkdir(parents=True)
    else:

        def refuse(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(UserError, match=r"run\.root must be a folder that can be written to"),
        run_lock(folder),
    ):
        pass
