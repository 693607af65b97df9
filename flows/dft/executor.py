"""Executor protocol of DFT jobs, which local processes and Slurm implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from models.dft.base import Limits

Word = Literal[
    "waiting",  # in a queue
    "running",
    "ending",  # it is over, but its processes may not be gone yet
    "ended",  # by itself, well or badly
    "timeout",
    "memory",
    "node",  # the machine under it failed
    "preempted",
    "cancelled",
    "refused",  # it waits for what it will never get
    "unknown",  # never heard of, or forgotten
]
ALIVE = ("waiting", "running", "ending")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One attempt of a calculation.

    Attributes:
        name: Of the job, `dft-<key>-a<attempt>`.
        folder: Its inputs lie there.
        limits: What it may use.
        sent_at: When it was sent, seconds since the epoch; None if it was not, as far as we know.
    """

    name: str
    folder: Path
    limits: Limits
    sent_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an executor says of a task.

    Attributes:
        word: What became of it.
        how: The same in its own words, for a person.
        exit_code: Of one that ended by itself, negative for a signal; None where nobody knows.
        had_node: Whether it ever had a place to run.
    """

    word: Word
    how: str = ""
    exit_code: int | None = None
    had_node: bool = True


class Executor(Protocol):
    """Takes tasks and tells of them.

    Attributes:
        kind: As the cluster file has it.
        pause_s: Seconds between two looks: right after something happened, and when nothing does.
        late_s: How long what a job has written may take to show here.
        leaves_jobs: Whether jobs go on when the flow ends by an error of its own.
    """

    kind: str
    pause_s: tuple[float, float]
    late_s: float
    leaves_jobs: bool

    def submit(self, task: Task, lock: int) -> None:
        """Send a task whose inputs lie in its folder.

        Args:
            task: What to send.
            lock: A file descriptor that has to stay open until it is sent, should this process die.

        Raises:
            SchedulerUnreachable: Nobody answers; it may have been sent.
            JobRefused: It is not taken.
            OSError: The folder cannot be written, or a command is missing.
        """
        ...

    def look(self, tasks: Sequence[Task]) -> Mapping[str, Seen]:
        """Say what became of tasks, all in one query, by their names; those of other processes of ours too.

        Raises:
            SchedulerUnreachable: Nobody answers.
        """
        ...

    def cancel(self, tasks: Sequence[Task]) -> None:
        """End tasks; they are told to stop first, so that they may go on from their checkpoints.

        Raises:
            SchedulerUnreachable: Nobody answers.
        """
        ...
