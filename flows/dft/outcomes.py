"""Outcomes of DFT jobs and what is done about each: the table that `flows/dft/run.py` follows.

deploy/README.md shows the same table; a test keeps the two equal.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flows.dft.job_script import SET_UP_FAILED

if TYPE_CHECKING:
    from flows.dft.executor import Seen
    from models.dft.base import DFTResult, DFTStatus

# What a calculation did wrong itself gets few chances, what befell it many.
ATTEMPTS = 3
KILLS = 6  # by somebody's hand, or by a machine without memory: each may have cost hours
MANY = 20
# How a disk reads that is full, or gone, from whichever program meets it.
NO_SPACE = (
    *("No space left on device", "Disk quota exceeded", "[Errno 28]", "[Errno 122]"),
    *("Input/output error", "Read-only file system", "Stale file handle", "[Errno 5]", "[Errno 30]", "[Errno 116]"),
)

# How a shell ends that cannot run a command.
NO_COMMAND = (126, 127)
# By which signals a program dies of its own; others are sent to it.
OWN_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}
)
STOPPED_BY_SIGTERM = 20  # the driver's exit code
_PROGRAM_KILLED = re.compile(r"exit code (?:-(?:1|2|9|15)|129|130|137|143)\b")  # as the driver tells of what it started


@dataclass(frozen=True, kw_only=True)
class End:
    """A row of the table.

    Attributes:
        name: As `attempts.json` has it.
        shows: How it shows, for a person.
        then: "deliver" a result for good, send it "again" as a new attempt, "wait", or "stop" sending any.
        more: What the next attempt gets twice of, up to the cluster file's maximum.
        most: Attempts of one calculation that may end so; None for any number.
        status: What is recorded when there is no other attempt; None: what stands in the folder, and where nothing
            does, no more is sent.
        outside: It came from outside of the calculation: what is recorded is not final, and the next run tries again.
        note: What else is worth saying.
        mend: What a person has to do, for those that stop the sending.
    """

    name: str
    shows: str
    then: Literal["deliver", "again", "wait", "stop"]
    more: Literal["", "time", "memory"] = ""
    most: int | None = None
    status: DFTStatus | None = None
    outside: bool = False
    note: str = ""
    mend: str = ""

    def done(self) -> str:
        """Say what is done, as the table has it."""
        said = {
            "deliver": "final" + (f": `{self.status}`" if self.status else ""),
            "again": "again",
            "wait": "wait, change nothing",
            "stop": "stop sending, say so: the campaign ends with an error that names the folder and what to do; "
            "what runs is left running",
        }[self.then]
        last = "stop sending"
        if self.status:
            last = f"`{self.status}`, and again at the next run" if self.outside else f"final: `{self.status}`"
        if self.more:
            limit = {"time": "max_walltime_s", "memory": "max_memory_gib"}[self.more]
            said += f", with twice the {self.more}, up to `{limit}`; then {last}"
        elif self.then == "again":
            said += f", {self.most} times in all; then {last}" if self.most else ", any number of times"
        return said + (f". {self.note}" if self.note else "")


UNREACHABLE = End(
    name="unreachable",
    shows="`squeue` or `sbatch` cannot reach the scheduler",
    then="wait",
    note="It is said once",
)
RESULT = End(
    name="result",
    shows="a result in the folder: `converged`, `max_steps`, `failed`",
    then="deliver",
)
SCF = End(
    name="scf",
    shows="a result in the folder: `scf_not_converged`",
    then="deliver",
    status="scf_not_converged",
    note="The code has climbed its ladder of mixers by then, each rung once for a calculation, whatever the attempts",
)
TIMEOUT = End(
    name="timeout",
    shows="a result in the folder: `walltime`; or Slurm says TIMEOUT or DEADLINE; or a process here has not heard "
    "its own timer",
    then="again",
    more="time",
    status="walltime",
)
MEMORY = End(
    name="memory",
    shows="a result in the folder: `out_of_memory`; or Slurm says OUT_OF_MEMORY, or FAILED with "
    '"exceeded memory limit" in the log; or the log tells of a refused allocation',
    then="again",
    more="memory",
    status="out_of_memory",
)
CROWDED = End(
    name="crowded",
    shows="the log tells of a refused allocation, and other calculations ran on this machine",
    then="again",
    more="memory",
    status="out_of_memory",
    outside=True,
)
NODE = End(
    name="node",
    shows="Slurm says NODE_FAIL or BOOT_FAIL",
    then="again",
    most=MANY,
    status="crashed",
    outside=True,
)
PREEMPTED = End(
    name="preempted",
    shows="Slurm says PREEMPTED",
    then="again",
    most=MANY,
    status="crashed",
    outside=True,
)
UNKNOWN = End(
    name="unknown",
    shows="the scheduler does not know the job, or a process of an earlier run is gone, and the folder holds no result",
    then="again",
    most=MANY,
    status="crashed",
    outside=True,
)
STOPPED = End(
    name="stopped",
    shows="we took it back: Ctrl-C, or the run was cancelled",
    then="again",
    note="That is, when the campaign is run again",
)
OCCUPIED = End(
    name="occupied",
    shows="it found another process at work in its folder",
    then="again",
    note="Once the other is gone, and then only if the other left no result",
)
CANCELLED = End(
    name="cancelled",
    shows="Slurm says CANCELLED, and we did not ask for it: a person did",
    then="deliver",
    status="cancelled",
)
KILLED = End(
    name="killed",
    shows="a signal ended it that is sent to a program: SIGKILL, SIGTERM, SIGHUP, …",
    then="again",
    most=KILLS,
    status="crashed",
    outside=True,
)
CRASH = End(
    name="crash",
    shows="it died of its own without a result, such as by a segmentation fault",
    then="again",
    most=ATTEMPTS,
    status="crashed",
)
REFUSED = End(
    name="refused",
    shows="`sbatch` refuses it, or it waits for what its queue never gives (PartitionTimeLimit, BadConstraints)",
    then="stop",
    mend="See queue, account, options, cores, memory_gib, max_memory_gib, walltime_s and max_walltime_s under dft in "
    "the cluster file.",
)
LAUNCH = End(
    name="launch",
    shows="Slurm gave it a node and says FAILED or CANCELLED, and the first line of its script is not in the log",
    then="again",
    most=ATTEMPTS,
    note="Slurm cancels a job itself that a node cannot start",
    mend="See whether the nodes see that folder.",
)
SET_UP = End(
    name="set-up",
    shows="a set-up line failed, or a command is not there (exit code 126 or 127)",
    then="stop",
    mend="See set_up, container and mpi under dft in the cluster file; job.sh in that folder is what was run.",
)
DISK = End(
    name="disk",
    shows="the log tells of a disk that is full, read-only or gone, or the folder cannot be written from here",
    then="stop",
    mend="Make room, mend the disk, or name another folder for calculations with --folder or ASSAY_RUN_DIR.",
)
NO_RESULT = End(
    name="no result",
    shows="Slurm says COMPLETED, or a process here ended well, and the folder holds no result",
    then="stop",
    mend="See the logs in that folder, and whether this machine and the nodes see the same disk.",
)

ENDS = (
    UNREACHABLE,
    RESULT,
    SCF,
    TIMEOUT,
    MEMORY,
    CROWDED,
    NODE,
    PREEMPTED,
    UNKNOWN,
    STOPPED,
    OCCUPIED,
    CANCELLED,
    KILLED,
    CRASH,
    REFUSED,
    LAUNCH,
    SET_UP,
    DISK,
    NO_RESULT,
)
# What may only seem so while a result is on its way over the network.
WITHOUT_A_RESULT = (KILLED, CRASH, LAUNCH, NO_RESULT)
OUTSIDE = frozenset(end.name for end in ENDS if end.outside)
_BY_WORD = {
    "timeout": TIMEOUT,
    "memory": MEMORY,
    "preempted": PREEMPTED,
    "refused": REFUSED,
}
_BY_STATUS = {"walltime": TIMEOUT, "out_of_memory": MEMORY, "scf_not_converged": SCF}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a folder says of an attempt.

    Attributes:
        result: The result, if there is one.
        without: What the code makes of a folder without one: "crashed", or "out_of_memory" by its log.
        log: The end of the attempt's log, and of the code's own.
        began: Whether the job's script wrote its first line.
        occupied: Whether a process works there now.
        taken_back: Whether a run of ours asked for its end.
        crowded: Whether other calculations ran on its machine.
    """

    result: DFTResult | None
    without: DFTStatus = "crashed"
    log: str = ""
    began: bool = True
    occupied: bool = False
    taken_back: bool = False
    crowded: bool = False


def end_of(seen: Seen, found: Found) -> End:
    """Find the row for an attempt that neither waits nor runs.

    Args:
        seen: The scheduler's word. It comes before the folder's wherever the calculation was told to end, for codes
            write down all sorts of things then.
        found: The folder's.
    """
    result = found.result
    if result is not None and result.status == "converged":
        return RESULT
    if seen.word == "cancelled":
        if found.taken_back:
            return STOPPED
        return LAUNCH if seen.had_node and not found.began else CANCELLED
    if found.taken_back and result is None:
        return STOPPED
    if seen.word in _BY_WORD:
        return _BY_WORD[seen.word]
    if result is not None:
        if result.status == "failed" and lacks_space(result.message):
            return DISK
        return _BY_STATUS.get(result.status, RESULT)
    if seen.word == "node":
        return NODE
    if lacks_space(found.log):
        return DISK
    if found.without == "out_of_memory":
        return CROWDED if found.crowded else MEMORY
    if seen.word == "unknown":
        return UNKNOWN
    if found.occupied:
        return OCCUPIED
    if not found.began:
        return LAUNCH
    if SET_UP_FAILED in found.log or seen.exit_code in NO_COMMAND:
        return SET_UP
    if _is_killed(seen.exit_code, found.log):
        return KILLED
    return NO_RESULT if seen.exit_code == 0 else CRASH


def _is_killed(exit_code: int | None, log: str) -> bool:
    """Whether a signal from outside ended it; shells and MPI's starters tell of one by 128 and its number."""
    if exit_code is None:
        return False
    number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < number < signal.NSIG:
        return number not in OWN_SIGNALS
    return exit_code == STOPPED_BY_SIGTERM or bool(exit_code and _PROGRAM_KILLED.search(log))


def lacks_space(text: str) -> bool:
    """Whether a text tells of a disk that is full, or gone."""
    return any(words in text for words in NO_SPACE)


def as_markdown() -> str:
    """The table, as deploy/README.md has it."""
    rows = [f"| {end.name} | {end.shows} | {end.done()} |" for end in ENDS]
    return "\n".join(["| end | how it shows | what is done |", "|---|---|---|", *rows]) + "\n"
