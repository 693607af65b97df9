"""DFT calculations: sent, watched, continued and taken up again; on this machine or in a queue.

A calculation is a folder named by its content key, and the folder is the truth: whatever died, what has a result is
taken from there, what still waits or runs is waited for, and only the rest is sent. `attempts.json` in the folder says
what was sent, with which limits. What each end means, and what is done, is the table in `flows/dft/ends.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cluster_file import DFTJobs
from flows.dft.entry import Entry, Job
from flows.dft.executor import Executor, open_executor
from flows.dft.watch import Watch
from models.cost import relative_cost
from models.dft.contract import DFTCode, DFTResult, DFTSettings, Limits
from models.dft.presets import asked_before
from models.dft.record import calculation_id, method_of

if TYPE_CHECKING:
    from pymatgen.core import Structure


def job_for(material_id: str, structure: Structure, settings: DFTSettings, code: DFTCode) -> Job:
    """Name a calculation by its content.

    Raises:
        CodeNotInstalled: The code is not on this machine.
    """
    key, before = calculation_id(material_id, method_of(code), settings), asked_before(settings, structure)
    return Job(
        calculation_id=key,
        material_id=material_id,
        structure=structure,
        settings=settings,
        before=job_for(material_id, structure, before, code) if before else None,
    )


def folder_of(runs_dir: Path, key: str) -> Path:
    """Where a calculation lies."""
    return runs_dir / "dft" / key


def run_jobs(
    jobs: Sequence[Job],
    code: DFTCode,
    *,
    runs_dir: Path,
    concurrent: int,
    limits: Limits,
    on_result: Callable[[Job, DFTResult], None],
    stop: threading.Event,
    most: Limits | None = None,
    executor: Executor | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Run the calculations, the most expensive first, and deliver each result as it comes.

    Args:
        jobs: What is to be done; the same calculation twice is done once.
        code: Which code.
        runs_dir: Folders are `runs_dir/dft/<calculation_id>`.
        concurrent: Calculations at once, those that wait in a queue too.
        limits: Of the first attempt at each.
        on_result: Called in this thread, once for each calculation.
        stop: Once set, what waits or runs is taken back, and this returns; it goes on next time.
        most: What a calculation that needs more may be given at most; None: no more than `limits`.
        executor: Who runs them; None: processes of this machine.
        say: Told what a person should know, once.

    Raises:
        DFTError: No more can be sent, and why. What runs is left running.
        CodeNotInstalled: The code is not on this machine.
    """
    watch = Watch(
        code=code,
        executor=executor or open_executor(DFTJobs(), code),
        limits=limits,
        most=most or limits,
        on_result=on_result,
        stop=stop,
        say=say,
    )
    once = {job.calculation_id: job for job in sorted(jobs, key=lambda j: -relative_cost(j.structure, j.settings))}
    watch.run([Entry(job=job, folder=folder_of(runs_dir, key)) for key, job in once.items()], concurrent)
