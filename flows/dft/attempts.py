"""Attempts at a calculation, in `attempts.json` of its folder, which outlives every process that reads it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from materials.errors import DFTError
from materials.files import write_atomically

FILE = "attempts.json"
LOG = "driver.log"


@dataclass(kw_only=True)
class Attempt:
    """One time that a calculation is sent.

    Attributes:
        number: From 1.
        kind: Whom it was given to: "local" or "slurm".
        walltime_s: That it has.
        memory_gib: That it has.
        sent_at: Seconds since the epoch; None until it has certainly been sent.
        taken_back: A run of ours asked for its end.
        end: How it ended, by its name in the table of ends; empty while it may still wait or run.
        how: The same in the scheduler's own words.
    """

    number: int
    kind: str
    walltime_s: float
    memory_gib: float
    sent_at: float | None = None
    taken_back: bool = False
    end: str = ""
    how: str = ""

    def name(self, key: str) -> str:
        """The name of its job: nothing else is known for sure, for Slurm may give the id of a lost job again."""
        return f"dft-{key}-a{self.number}"


def read(folder: Path) -> list[Attempt]:
    """Read the attempts so far, the last one last.

    Raises:
        DFTError: The file does not say what we write.
    """
    path = folder / FILE
    try:
        content: list[dict[str, Any]] = json.loads(path.read_text())
        return [Attempt(**attempt) for attempt in content]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError) as error:
        raise DFTError(f"{path}: cannot be read ({error}); remove its folder to have it computed anew") from error


def write(folder: Path, attempts: list[Attempt]) -> None:
    """Write them, whole or not at all."""
    write_atomically(folder / FILE, json.dumps([asdict(attempt) for attempt in attempts], indent=1).encode())


@contextmanager
def sending(folder: Path) -> Iterator[int | None]:
    """Be the only one to send this calculation; None if another is at it.

    What is yielded is a file descriptor to be handed on to the command that sends: if this process is killed, the
    calculation stays locked until that command has ended too, and only then can its job be looked up by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sending.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


def put_log_aside(folder: Path, number: int) -> None:
    """Keep the log of the attempt before, so that each attempt's log tells of itself alone."""
    log = folder / LOG
    if number > 1 and log.exists():
        log.replace(folder / f"driver-{number - 1}.log")
