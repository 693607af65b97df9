"""Shell script of a DFT job, the same for a local process and for Slurm: `job.sh` of its folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.dft.base import CALCULATION_ENVIRONMENT

if TYPE_CHECKING:
    from flows.config.cluster import DFTJobs
    from flows.dft.executor import Task
    from models.dft.base import DFTCode

FILE = "job.sh"
SET_UP_FAILED = "assay: a set-up line failed"
_FAILED = f"{{ echo {shlex.quote(SET_UP_FAILED)}; exit 1; }}"
BEGINS = "assay: {name} begins"


def write(task: Task, code: DFTCode, hardware: DFTJobs, directives: Sequence[str] = ()) -> Path:
    """Write the script of a task.

    Args:
        task: Its folder is where the script goes.
        code: Makes the command.
        hardware: Its set-up lines come first, as they are: the cluster file's author is the job's owner.
        directives: Options of sbatch, one a line.
    """
    path = task.folder / FILE
    path.write_text(text(task, command(task, code, hardware), hardware.set_up, directives))
    return path


def command(task: Task, code: DFTCode, hardware: DFTJobs) -> list[str]:
    """The command of a task: what computes is inside of the container, what starts its ranks is outside."""
    return code.command(task.folder, (*task.limits.launcher, *hardware.container))


def text(task: Task, words: Sequence[str], set_up: Sequence[str], directives: Sequence[str]) -> str:
    """The script's text."""
    settings = {
        **CALCULATION_ENVIRONMENT,
        "SLURM_EXPORT_ENV": "ALL",  # else srun passes on no more than sbatch was told to
    }
    begins = BEGINS.format(name=task.name)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {directive}" for directive in directives),
        f'echo {shlex.quote(begins)} on "$(hostname)" at "$(date)" "${{SLURM_JOB_ID:+as job $SLURM_JOB_ID}}"',
        *(f"export {name}={shlex.quote(value)}" for name, value in settings.items()),
        *guarded(set_up),
        f"cd {shlex.quote(str(task.folder.resolve()))} || {_FAILED}",
        f"exec {shlex.join(words)}",
    ]
    return "\n".join(lines) + "\n"


def guarded(set_up: Sequence[str]) -> list[str]:
    """Set-up lines, each of which ends the job where it fails."""
    return [f"{{\n{line}\n}} || {_FAILED}" for line in set_up]


def began(name: str, log: Path) -> bool:
    """Whether the script of a task of this name has run, by its log."""
    try:
        with log.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        return False
    return BEGINS.format(name=name).encode() in head
