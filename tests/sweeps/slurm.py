"""A real SLURM on this machine, in a folder of its own: controller, node and munge, of Debian's packages.

    python tests/sweeps/slurm.py sinfo

runs a command in it. It needs root and, where the packages are missing, apt-get.
"""

import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60  # seconds, for what takes one or two

# cred_expire: how long a job that is requeued waits. KillWait: how long one that is cancelled may go on.
# config_overrides: the node has two CPUs, however many there are.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={megabytes} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# Stands for the database of jobs that a real cluster has, which submitit asks how a job ended.
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
squeue --noheader --array --states=all --format="%i|%T|%N"
"""


class NoCluster(Exception):
    """There can be no SLURM here; the message says why."""


def install():
    """Have Debian's packages, installed if need be.

    Raises:
        NoCluster: they cannot be had.
    """
    if os.geteuid() != 0:
        raise NoCluster("a SLURM of one's own needs root")
    if all(shutil.which(program, path=SYSTEM) for program in PROGRAMS):
        return
    if not shutil.which("apt-get"):
        raise NoCluster("SLURM is not installed, and there is no apt-get")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", "-qq", *command], capture_output=True, text=True, timeout=300, env=env
            )
        except subprocess.TimeoutExpired:
            raise NoCluster(f"apt-get {command[0]} takes too long") from None
        if done.returncode:
            last = " ".join(done.stderr.split("\n")[-2:]).strip()
            raise NoCluster(f"SLURM is not installed, and apt-get {command[0]} fails: {last}")


@contextmanager
def cluster(folder):
    """A SLURM with one node, this machine: the environment in which its commands reach it.

    Raises:
        NoCluster: it does not come up.
    """
    folder.chmod(0o755)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "bin" / "sacct").write_text(SACCT)
    (folder / "bin" / "sacct").chmod(0o755)
    host = platform.node().partition(".")[0]
    controller, daemon = free_ports(2)
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    values = {"controller": controller, "daemon": daemon, "megabytes": megabytes}
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, **values))
    path = f"{folder / 'bin'}:{os.environ['PATH']}:{SYSTEM}"
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{option}={folder}/munge.{name}" for option, name in munge.items()]
    with ExitStack() as daemons:
        daemons.enter_context(running(["munged", "--foreground", "--force", *files], env, folder))
        wait_until(lambda: (folder / "munge.socket").exists(), "munged does not start")
        daemons.enter_context(running(["slurmctld", "-D", "-i"], env, folder))
        daemons.enter_context(running(["slurmd", "-D"], env, folder))
        wait_until(lambda: ask(env, "sinfo", "-h", "-o", "%T") == "idle\n", "the node does not come up")
        try:
            yield env
        finally:
            ask(env, "scancel", "--user=root")
            wait_until(lambda: not ask(env, "squeue", "-h"), "a job does not end")


@contextmanager
def running(command, env, folder):
    """A daemon, in the foreground of a session of its own, until the end."""
    program = shutil.which(command[0], path=env["PATH"])
    with (folder / f"{command[0]}.out").open("w") as out:
        process = subprocess.Popen([program, *command[1:]], env=env, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(env, *command):
    """What a command of SLURM prints; nothing if it fails."""
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE).stdout


def free_ports(count):
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(condition, otherwise):
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise NoCluster(otherwise)
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        install()
        with tempfile.TemporaryDirectory() as temporary, cluster(Path(temporary)) as environment:
            code = subprocess.run(sys.argv[1:], env=environment).returncode
    except NoCluster as why:
        sys.exit(f"error: {why}")
    sys.exit(code)
