"""States of Slurm jobs, and the task states that they mean here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flows.dft.attempts import LOG
from flows.dft.executor import ALIVE, Seen, Task, Word
from models.dft.base import last_lines

STATES: Mapping[str, Word] = {
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
# Why a job waits that will wait for ever.
HOPELESS = frozenset(
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
# Without cgroups a memory kill is only told of in the job's log; Slurm calls it FAILED by signal 9.
KILLED_FOR_MEMORY = "exceeded memory limit"
# Of squeue, with widths: a name or a node list is never cut where it matters.
FIELDS = {"JobID": 24, "Name": 96, "State": 24, "exit_code": 12, "Reason": 64, "NodeList": 64}
# Of sacct.
ACCOUNTED = ("JobName", "State", "ExitCode", "NodeList")


class Row(NamedTuple):
    """What Slurm says of a job."""

    state: str
    reason: str
    exit_code: int | None
    had_node: bool


def from_squeue(lines: Iterable[str]) -> dict[str, Row]:
    """Read its lines, the oldest job first; of several jobs of a name the one that lives counts, else the youngest."""
    rows: dict[str, Row] = {}
    for line in lines:
        _, name, state, code, reason, nodes = _columns(line)
        if name not in rows or not is_alive(rows[name]):
            rows[name] = Row(state, reason, _exit_code(code), bool(nodes))
    return rows


def from_sacct(lines: Iterable[str], names: Iterable[str]) -> dict[str, Row]:
    """Read its lines for jobs of these names that have ended: one that runs only there was lost by slurmctld."""
    wanted = set(names)
    rows: dict[str, Row] = {}
    for line in lines:
        name, state, code, nodes = line.split("|")
        number, _, by_signal = code.partition(":")
        exit_code = -int(by_signal) if int(by_signal or 0) else int(number)
        # "CANCELLED by 1000"
        row = Row(state.split()[0], "", exit_code, nodes not in ("", "None assigned"))
        if name in wanted and not is_alive(row):
            rows[name] = row
    return rows


def is_alive(row: Row) -> bool:
    """Whether a job may still run; a state that a newer Slurm has made up is waited out."""
    return STATES.get(row.state, "running") in ALIVE


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


def seen(task: Task, row: Row) -> Seen:
    """Say what a row means for a task."""
    word = STATES.get(row.state, "running")
    how = f"Slurm says {row.state}"
    if row.reason not in ("", "None", "NonZeroExitCode"):
        how += f" ({row.reason})"
    if word in ("waiting", "ended") and row.reason in HOPELESS:
        word = "refused"
    if word == "ended" and row.exit_code != 0:
        how += f", exit code {row.exit_code}" if (row.exit_code or 0) > 0 else ""
        if KILLED_FOR_MEMORY in last_lines([task.folder / LOG], 20):
            word = "memory"
    return Seen(word=word, how=how, exit_code=row.exit_code, had_node=row.had_node)
