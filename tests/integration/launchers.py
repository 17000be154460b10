"""Real launchers of parallel jobs: which are installed here, and SLURM on one node."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SLURM_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo")
_SLURM_CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def found(*programs: str) -> str | None:
    """The first of the programs that is installed."""
    folders = f"{os.environ['PATH']}:/usr/sbin"
    return next(filter(None, (shutil.which(each, path=folders) for each in programs)), None)


def mpirun(kind: str) -> str | None:
    """The `mpirun` of "Open MPI" or of "HYDRA", MPICH's launcher."""
    for name in ("mpirun.openmpi", "mpirun.mpich", "mpirun"):
        program = shutil.which(name)
        if program and kind in subprocess.run([program, "--version"], capture_output=True,
                                              text=True, check=False).stdout:  # fmt: skip
            return program
    return None


def why_no_slurm() -> str | None:
    """Why SLURM cannot be started here; None if it can."""
    missing = [program for program in SLURM_PROGRAMS if found(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return None if os.getuid() == 0 else "the daemons of SLURM need root"


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """SLURM on this machine as its only node; yields the variables by which commands find it."""
    host = socket.gethostname().partition(".")[0]
    for each in ("spool", "state"):
        (folder / each).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(
        _SLURM_CONF.format(host=host, folder=folder, ports=_free_ports(), cpus=os.cpu_count())
    )
    environ = {**os.environ, "SLURM_CONF": str(conf)}
    own = ("socket", "key", "log", "pid", "seed")
    options = (f"--{a}-file={folder}/{a if a == 'key' else f'munge.{a}'}" for a in own[1:])
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *options],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    )
    with ExitStack() as daemons, (folder / "daemons.log").open("w") as log:
        for name, *arguments in commands:
            daemon = subprocess.Popen(
                [str(found(name)), *arguments], env=environ, stdout=log, stderr=log
            )
            daemons.callback(_end, daemon)
            if name == "munged":
                _wait_for((folder / "munge.socket").exists)
        _wait_for(lambda: _is_idle(environ))
        yield {"SLURM_CONF": str(conf)}


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]


def _is_idle(environ: dict[str, str]) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], env=environ, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() == "idle"


def _wait_for(condition, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "a daemon does not answer; see its log"
        time.sleep(0.05)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait(60.0)
