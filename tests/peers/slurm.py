"""A real Slurm with several nodes on this host: no systemd, no accounting database, in a folder of its own.

As root (each node's daemon starts the jobs), on ports that nobody else has, so that several may run side by side.
What Debian's `slurm-wlm` brings is enough. A test hands `slurm.environment` to whatever calls Slurm's commands:

    with slurm.running() as cluster:
        subprocess.run(["sbatch", ...], env={**os.environ, **cluster.environment})
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

START_S = 20.0
# What a job is in while it still holds, or waits for, a place.
ALIVE = frozenset({"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STAGE_OUT", "REQUEUED"})
# Stand in for GPUs: nothing opens them.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")
COLUMNS = ("id", "name", "state", "node", "reason", "minutes", "cpus", "memory")
FORMAT = "%i|%j|%T|%N|%r|%l|%C|%m"

SLURM_CONF = """
ClusterName=assay
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Memory is held by whom a job's processes belong to, once a second; without cgroups there is no other way.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
ReturnToService=2
SlurmdTimeout=30
# Seconds from SIGTERM to SIGKILL, and before a job past its walltime is ended.
KillWait=2
OverTimeLimit=0
MessageTimeout=5
MinJobAge={keep_s}
{gres}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A line of squeue."""

    id: int
    name: str
    state: str
    node: str
    reason: str
    minutes: str  # Slurm writes it "1:00" or "1-00:00:00"
    cpus: int
    memory: str


class Slurm:
    """A cluster, and the hands that break it."""

    def __init__(self, folder: Path, nodes: int, cpus: int, memory_mib: int, gpus: int, keep_s: int) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        ports = _free_ports(nodes + 1)
        host = socket.gethostname().split(".")[0]
        here = f"NodeHostname={host} NodeAddr=127.0.0.1"
        has = f"CPUs={cpus} RealMemory={memory_mib}" + (f" Gres=gpu:{gpus}" if gpus else "")
        lines = [f"NodeName={name} {here} Port={port} {has}" for name, port in zip(self.nodes, ports[1:], strict=True)]
        text = SLURM_CONF.format(
            host=host,
            ports=ports,
            folder=folder,
            keep_s=keep_s,
            gres="GresTypes=gpu" if gpus else "",
            nodes="\n".join(lines),
        )
        (folder / "slurm.conf").write_text(text)
        if gpus:
            (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in DEVICES[:gpus]))
        (folder / "state").mkdir(exist_ok=True)

    # Start and end

    def start(self) -> None:
        """Start all daemons, and wait until each node takes jobs."""
        self.start_controller(wait=False)
        for node in self.nodes:
            self._start(node, "slurmd", "-D", "-N", node)
        self.wait(lambda: self.node_states() == dict.fromkeys(self.nodes, "idle"), START_S)

    def close(self) -> None:
        """End the daemons and whatever they left running."""
        for name in list(self._daemons):
            self._end(name)
        _kill(self._processes())

    # What a user does

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run one of Slurm's commands, and give back what it said."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=120
        )
        assert code is None or done.returncode == code, f"{command}\n{done.stdout}{done.stderr}\n{self.told()}"
        return done.stdout

    def jobs(self, name: str | None = None) -> list[Job]:
        """List the jobs that slurmctld knows, ended ones too, the oldest first."""
        rows = self.run("squeue", "--states=all", "--noheader", "--sort=i", f"--format={FORMAT}").splitlines()
        found = [dict(zip(COLUMNS, row.split("|"), strict=True)) for row in rows]
        jobs = [Job(**{**row, "id": int(row["id"]), "cpus": int(row["cpus"])}) for row in found]  # type: ignore[arg-type]
        return [job for job in jobs if name is None or job.name == name]

    def job(self, name: str) -> Job | None:
        """Give the youngest job of a name, if there is one."""
        found = self.jobs(name)
        return found[-1] if found else None

    def cancel(self, name: str) -> None:
        """Do as a person does who no longer wants a job."""
        self.run("scancel", "--name", name)

    def let_time_run_out(self, name: str) -> None:
        """Move the end of a running job to now: slurmctld, who looks every 30 s, ends it at its next look."""
        job = self.job(name)
        assert job is not None
        self.run("scontrol", "update", f"JobId={job.id}", "EndTime=now+1")

    def freeze(self, name: str) -> None:
        """Stop a running job's processes: it stays as it is until Slurm ends it."""
        for process in self._processes(job=name):
            if process.name() != "slurmstepd":
                process.suspend()

    def accounted(self) -> list[dict[str, str]]:
        """Read what jobcomp wrote: each job that has ended, whether or not slurmctld still knows it."""
        path = self.folder / "jobcomp"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines]

    def wait(self, until: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.told()
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            assert not dead, f"{dead} ended\n{self.told()}"
            time.sleep(0.1)

    def wait_for(self, name: str, *states: str, seconds: float = 60.0) -> Job:
        """Wait until the youngest job of a name is in one of these states; without any, until it has ended."""

        def there() -> bool:
            job = self.job(name)
            return job is not None and (job.state in states if states else job.state not in ALIVE)

        self.wait(there, seconds)
        job = self.job(name)
        assert job is not None
        return job

    def node_states(self) -> dict[str, str]:
        """Say what state each node is in: idle, allocated, mixed, down, with Slurm's marks."""
        said = self.run("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %T", code=None)
        return dict(line.split() for line in said.splitlines())

    # What breaks

    def kill_controller(self) -> None:
        """Kill slurmctld with -9: what it had not saved yet is lost."""
        self._end("slurmctld")

    def start_controller(self, *, wait: bool = True) -> None:
        """Start slurmctld, from what it had saved."""
        self._start("slurmctld", "slurmctld", "-D")
        if wait:
            self.wait(lambda: "UP" in self.run("scontrol", "ping", code=None), START_S)

    def take_down(self, node: str) -> None:
        """Let a node die, with all that runs there, and slurmctld know it at once."""
        self._end(node)
        _kill(self._processes(node))
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def bring_back(self, node: str) -> None:
        """Start a node's daemon again, and let it take jobs."""
        self._start(node, "slurmd", "-D", "-N", node)
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.wait(lambda: self.node_states().get(node) in ("idle", "mixed", "allocated"), START_S)

    def told(self) -> str:
        """Give the end of each daemon's log, for a failing test to show."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [_daemon(command[0]) or command[0], *command[1:]],
                env={**_bare_environment(), **self.environment},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _processes(self, node: str | None = None, job: str | None = None) -> list[psutil.Process]:
        """Find what the daemons started: job scripts, what these started, and their keepers (slurmstepd)."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                ours = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                there = node in (None, environment.get("SLURMD_NODENAME"))
                if ours and there and "SLURMD_NODENAME" in environment and job in (None, environment["SLURM_JOB_NAME"]):
                    found += [process, *(p for p in process.parents() if p.name() == "slurmstepd")]
        return found


@contextmanager
def running(
    *, nodes: int = 3, cpus: int = 2, memory_mib: int = 4000, gpus: int = 0, keep_s: int = 300
) -> Iterator[Slurm]:
    """Start a Slurm and end it; skip the test where there is none.

    Args:
        nodes: n1, n2, …, each a daemon on this host.
        cpus: Of each node, whatever the host has.
        memory_mib: Of each node.
        gpus: Of each node, at most four, devices that only Slurm believes in.
        keep_s: How long slurmctld remembers a job that has ended; it looks about twice a minute.
    """
    missing = [name for name in ("slurmctld", "slurmd") if _daemon(name) is None]
    if missing:
        pytest.skip(f"no Slurm here: {' and '.join(missing)} missing (apt-get install slurm-wlm)")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons start jobs as their owners: this needs root")
    if not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("no /sys here, from which slurmd learns what its node has")
    with TemporaryDirectory(prefix="assay-slurm-", dir="/tmp") as name:
        cluster = Slurm(Path(name), nodes, cpus, memory_mib, gpus, keep_s)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()


def _daemon(name: str) -> str | None:
    # Where Debian has them, which is not on the path of everybody.
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _bare_environment() -> dict[str, str]:
    """What daemons of a cluster have: nothing of the user's."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on, below those that the system hands out to whoever connects."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
