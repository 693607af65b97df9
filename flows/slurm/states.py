"""States of Slurm jobs, as squeue and sacct write them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Fate = Literal[
    "waiting", "running", "ending", "ended", "timeout", "memory", "node", "preempted", "cancelled", "unknown"
]

STATES: Mapping[str, Fate] = {
    "PENDING": "waiting",
    "CONFIGURING": "waiting",
    "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting",
    "SPECIAL_EXIT": "waiting",
    "RESV_DEL_HOLD": "waiting",
    "COMPLETING": "ending",
    "COMPLETED": "ended",
    "FAILED": "ended",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "memory",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "PREEMPTED": "preempted",
    "CANCELLED": "cancelled",
    "REVOKED": "unknown",
}
# Reasons for which a job waits for ever.
NEVER_STARTS = frozenset(
    {
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSNotAllowed",
    }
)
# Columns of squeue with their widths: a name or a node list is never cut where it matters.
FIELDS = {"JobID": 24, "Name": 96, "State": 24, "exit_code": 12, "Reason": 64, "NodeList": 64}
# Columns of sacct.
ACCOUNTED = ("JobID", "JobName", "State", "ExitCode", "NodeList")


@dataclass(frozen=True, kw_only=True)
class JobState:
    """A job in the queue or in the accounts."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, ...
    reason: str = ""  # why it waits
    exit_code: int | None = None
    had_node: bool = False

    @property
    def fate(self) -> Fate:
        """What the state means; one that a newer Slurm has added is waited out."""
        return STATES.get(self.state, "running")

    @property
    def alive(self) -> bool:
        """Whether it waits or runs."""
        return self.fate in ("waiting", "running", "ending")

    def __str__(self) -> str:
        """Write it for a person: "job 12, PENDING, Resources"."""
        reason = "" if self.reason in ("", "None") else f", {self.reason}"
        return f"job {self.id}, {self.state}{reason}"


def read_squeue(text: str) -> list[JobState]:
    """Parse what squeue prints with the columns of `FIELDS`."""
    jobs = []
    for line in text.splitlines():
        number, name, state, code, reason, nodes = _columns(line)
        code_or_none = _exit_code(code)
        jobs.append(
            JobState(id=number, name=name, state=state, reason=reason, exit_code=code_or_none, had_node=bool(nodes))
        )
    return jobs


def read_sacct(text: str) -> list[JobState]:
    """Parse what sacct prints with the columns of `ACCOUNTED`."""
    jobs = []
    for line in text.splitlines():
        number, name, state, code, nodes = line.split("|")
        status, _, by_signal = code.partition(":")
        exit_code = -int(by_signal) if int(by_signal or 0) else int(status)
        had_node = nodes not in ("", "None assigned")
        # "CANCELLED by 1000"
        jobs.append(JobState(id=number, name=name, state=state.split()[0], exit_code=exit_code, had_node=had_node))
    return jobs


def _columns(line: str) -> list[str]:
    columns, start = [], 0
    for width in FIELDS.values():
        columns.append(line[start : start + width].strip())
        start += width
    return columns


def _exit_code(status: str) -> int | None:
    # Slurm has numbers of its own for jobs that could not be launched.
    if status.isdigit() and (int(status) & 0xFF == 0 or int(status) & 0xFF < signal.NSIG):
        return os.waitstatus_to_exitcode(int(status))
    return None
