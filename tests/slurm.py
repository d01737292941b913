"""A Slurm of one node on this machine's loopback, for the time of a test."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel")

CONFIG = """\
ClusterName=sing
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=64000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no Slurm can be started here; nothing if one can."""
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        return f"no Slurm here ({', '.join(missing)} missing; apt-get install slurm-wlm munge)"
    return "" if os.getuid() == 0 else "Slurm's daemons need root to start jobs"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def slurm(folder: Path, cores: int = 2, patience: float = 30) -> Iterator[dict[str, str]]:
    """Start munged, slurmctld and slurmd in a folder; gives what to add to the environment.

    All of them, and what they started, end with the block.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIG.format(
        host=host, ports=_free_ports(2), folder=folder, cores=cores))
    # Snakemake takes SLURM_CONF from a job's srun, which elsewhere finds its Slurm in /etc/slurm.
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_program("srun")} "$@"\n')
    srun.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    added = {
        "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{srun.parent}:{os.environ['PATH']}"}
    env, started = os.environ | added, []
    munge = [f"--{name}={folder / file}" for name, file in (
        ("socket", "munge.socket"), ("key-file", "munge.key"), ("log-file", "munge.log"),
        ("pid-file", "munge.pid"), ("seed-file", "munge.seed"))]
    try:
        for name, *options in (
            ("munged", "--foreground", "--force", *munge), ("slurmctld", "-D"),
            ("slurmd", "-D", "-N", host),
        ):
            with (folder / f"{name}.out").open("w") as log:
                started.append(subprocess.Popen(
                    [_program(name), *options], env=env, stdout=log, stderr=log))
            time.sleep(0.5)
        end = time.monotonic() + patience
        while "idle" not in subprocess.run(
            ["sinfo", "--noheader", "--format=%t"], env=env, capture_output=True, text=True
        ).stdout:
            if time.monotonic() > end:
                said = "\n".join(log.read_text()[-800:] for log in folder.glob("slurm*.out"))
                raise RuntimeError(f"no idle node after {patience} s:\n{said}")
            time.sleep(0.5)
        yield added
    finally:
        if len(started) == 3:
            subprocess.run(["scancel", "--user=root"], env=env, timeout=30, check=False)
            # Its jobs end by slurmd's hand, which therefore ends after them.
            end = time.monotonic() + patience
            while time.monotonic() < end and subprocess.run(
                ["squeue", "--noheader"], env=env, capture_output=True, text=True
            ).stdout.strip():
                time.sleep(0.5)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
