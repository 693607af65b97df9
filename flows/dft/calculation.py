"""A DFT calculation in progress: its job, its folder and the attempts at it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.dft import attempts as book
from flows.dft import job_script, outcomes
from flows.dft.attempts import Attempt
from flows.dft.executor import Task
from models.dft.base import DFTCode, DFTSettings, Limits, last_lines

if TYPE_CHECKING:
    from pymatgen.core import Structure

LOG_LINES = 20
# Which limit an attempt ran into that ended so.
LACKED = {end.name: end.more for end in outcomes.ENDS if end.more}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A calculation to be done. `flows.dft.run.job_for` makes one.

    Attributes:
        calculation_id: Its key in the ledger, and its folder's name.
        material_id: What is computed.
        structure: Its crystal.
        settings: How.
        before: The same by the settings of an earlier version, where those had another hash
            (`models.dft.presets.asked_before`).
    """

    calculation_id: str
    material_id: str
    structure: Structure
    settings: DFTSettings
    before: Job | None = None


@dataclass(kw_only=True, eq=False)
class Entry:
    """A calculation under way, and the attempts at it, the last of which counts.

    Attributes:
        job: What is asked.
        folder: Where it lies.
        attempts: As the folder has them.
        sent: Whether the last one is known to have been sent, by us or by an earlier run.
        is_new: Whether the last one is only in our mind, and not in the folder.
        missed_since: When its job was first seen to have ended without a result.
        anew: Whether a result that stands in the folder, and is none that converged, is to be had once more.
        earlier: Attempts of earlier runs, which don't count any more where it is had once more.
    """

    job: Job
    folder: Path
    attempts: list[Attempt] = field(default_factory=list)
    sent: bool = False
    is_new: bool = False
    missed_since: float | None = None
    anew: bool = False
    earlier: int = 0

    @property
    def attempt(self) -> Attempt:
        """The last one."""
        return self.attempts[-1]

    @property
    def name(self) -> str:
        """Of its job."""
        return self.attempt.name(self.job.calculation_id)

    def is_open(self) -> bool:
        """Whether the last attempt may still wait or run."""
        return bool(self.attempts) and not self.attempt.end

    def read(self) -> None:
        """Read the attempts as the folder has them now."""
        self.attempts = book.read(self.folder)

    def begin(self, retry: bool) -> None:
        """Read the attempts of earlier runs; what ended from outside is tried once more, or all if that is asked for.

        Args:
            retry: Whether what ended for good is tried once more, too.
        """
        self.read()
        if not self.is_open() and (retry or (self.attempts and self.attempt.end in outcomes.OUTSIDE)):
            self.anew, self.earlier = True, len(self.attempts)

    def write(self) -> None:
        """Write them there."""
        book.write(self.folder, self.attempts)
        self.is_new = False

    def prepare(self, kind: str, limits: Limits, most: Limits) -> None:
        """Find out which attempt it is now; whoever asks is alone with the folder."""
        number = self.attempt.number if self.is_new else 0
        self.read()
        self.is_new = not self.is_open()
        if self.is_new:
            self.attempts.append(_next(self.attempts, kind, limits, most))
            self.attempt.number = max(self.attempt.number, number)

    def task(self, limits: Limits) -> Task:
        """The attempt as an executor takes it, with its own time and memory."""
        own = replace(limits, walltime_s=self.attempt.walltime_s, memory_gib=self.attempt.memory_gib)
        return Task(name=self.name, folder=self.folder, limits=own, sent_at=self.attempt.sent_at)

    def began(self) -> bool:
        """Whether the attempt's script has run."""
        return job_script.began(self.name, self.folder / book.LOG)

    def found(self, code: DFTCode, limits: Limits, *, crowded: bool) -> outcomes.Found:
        """Look at what the folder says of an attempt that has ended; `limits` are its own.

        Args:
            code: It reads the folder.
            limits: Its own.
            crowded: Whether other calculations ran on its machine.
        """
        os.listdir(self.folder)  # network file systems look again at what is in it
        result = code.parse(self.folder)
        return outcomes.Found(
            result=result if code.finished(self.folder, limits) else None,
            without=result.status,
            log=last_lines([self.folder / book.LOG], LOG_LINES),
            began=self.began(),
            occupied=code.worker(self.folder) is not None,
            taken_back=self.attempt.taken_back,
            crowded=crowded,
        )

    def count(self, end: outcomes.End) -> int:
        """How many of the attempts that count have ended so."""
        return sum(attempt.end == end.name for attempt in self.attempts[self.earlier :])

    def is_spent(self, end: outcomes.End, most: Limits) -> bool:
        """Whether this was the last attempt that may end so."""
        if end.more == "time":
            return self.attempt.walltime_s >= most.walltime_s
        if end.more == "memory":
            return self.attempt.memory_gib >= most.memory_gib
        return end.most is not None and self.count(end) + 1 >= end.most

    def close(self, end: outcomes.End, how: str) -> None:
        """Write down how the last attempt ended."""
        self.attempt.end, self.attempt.how, self.missed_since = end.name, how, None
        self.write()


def _next(attempts: Sequence[Attempt], kind: str, limits: Limits, most: Limits) -> Attempt:
    """Another attempt, with twice of what the last one lacked, and never less than it had."""
    last = attempts[-1] if attempts else Attempt(number=0, kind="", walltime_s=0.0, memory_gib=0.0)
    time_s = last.walltime_s * (2 if LACKED.get(last.end) == "time" else 1)
    memory_gib = last.memory_gib * (2 if LACKED.get(last.end) == "memory" else 1)
    return Attempt(
        number=last.number + 1,
        kind=kind,
        walltime_s=min(max(time_s, limits.walltime_s), most.walltime_s),
        memory_gib=min(max(memory_gib, limits.memory_gib), most.memory_gib),
    )
