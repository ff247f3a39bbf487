"""A real SLURM on this machine, in a temporary folder: controller, node and munge.

    python tests/sweeps/slurm_cluster.py sinfo

runs a command in it, as root. ``make slurm`` installs the programs.
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

PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT = 60  # seconds

# cred_expire is the delay of a requeued job, KillWait that between SIGTERM and SIGKILL of a cancelled one.
# config_overrides lets the node have two CPUs on every machine.
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
GresTypes=gpu,shard
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={megabytes} Gres=gpu:1,shard:2 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# A device that is no GPU stands for one; two jobs share it.
GRES = """
Name=gpu File=/dev/null
Name=shard Count=2
"""

# Replaces the accounting database, which submitit asks for the state of a job.
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
squeue --noheader --array --states=all --format="%i|%T|%N"
"""


class NoCluster(Exception):
    """No SLURM can run here; the message says why."""


@contextmanager
def cluster(folder):
    """Run a SLURM with one node, this machine; yield the environment for its commands.

    Raises:
        NoCluster: it is not installed or does not start.
    """
    if os.geteuid() != 0:
        raise NoCluster("SLURM needs root")
    if not all(shutil.which(program, path=SYSTEM) for program in PROGRAMS):
        raise NoCluster("SLURM is not installed; make slurm installs it")
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
    (folder / "gres.conf").write_text(GRES)
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
    """Run a daemon within the ``with``."""
    program = shutil.which(command[0], path=env["PATH"])
    with (folder / f"{command[0]}.out").open("w") as out:
        process = subprocess.Popen([program, *command[1:]], env=env, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(env, *command):
    """The output of a SLURM command; empty if it fails."""
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT).stdout


def free_ports(count):
    """Unused ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(condition, problem):
    """Wait until a condition holds.

    Raises:
        NoCluster: it does not, with ``problem``.
    """
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            raise NoCluster(problem)
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory() as temporary, cluster(Path(temporary)) as environment:
            code = subprocess.run(sys.argv[1:], env=environment).returncode
    except NoCluster as error:
        sys.exit(f"error: {error}")
    sys.exit(code)
