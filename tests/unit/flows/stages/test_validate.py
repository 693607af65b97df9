"""What the ledger holds already is not computed again, unless it lacked what the cluster file gives now."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flows.config.cluster import Cluster, DFTJobs
from flows.dft import attempts
from flows.dft.attempts import Attempt
from flows.dft.calculation import Job
from flows.dft.executor import Seen, Task, Word
from flows.dft.local import Local
from flows.dft.run import folder_of, job_for, take_back
from flows.output.progress import Progress
from flows.run.context import Run
from flows.stages.dft_plan import answers
from flows.stages.validate import _run_missing
from materials.errors import SchedulerUnreachable
from materials.store.ledger import Ledger
from models.dft.base import DFTResult, Limits
from models.dft.calculation_record import calculation_from, is_final, with_limits
from models.dft.presets import settings_for
from tests.peers.quick_dft import SILICON, Calculations, Quick, job


@pytest.mark.parametrize(("status", "name"), [("walltime", "walltime_s"), ("out_of_memory", "memory_gib")])
def test_a_limit_is_final_for_itself(status: str, name: str) -> None:
    asked = job("good")
    had = Limits(walltime_s=60.0, memory_gib=2.0)
    result = with_limits(DFTResult(status=status), had)  # type: ignore[arg-type]
    kept = calculation_from(result, asked.material_id, "quick-1", asked.settings)
    assert kept.properties[name] == getattr(had, name)
    assert is_final(kept, had)
    assert not is_final(kept, Limits(walltime_s=61.0, memory_gib=2.1))
    assert is_final(kept, Limits(walltime_s=1.0, memory_gib=1.0))


def test_other_ends_are_final_whatever_the_limits() -> None:
    asked = job("good")
    for status in ("converged", "crashed", "cancelled", "failed", "scf_not_converged"):
        kept = calculation_from(DFTResult(status=status), asked.material_id, "quick-1", asked.settings)  # type: ignore[arg-type]
        assert is_final(kept, Limits(walltime_s=1e9, memory_gib=1e9))


@contextlib.contextmanager
def opened(folder: Path, said: list[str] | None = None, **limits: float) -> Iterator[Run]:
    """As much of a run as validation needs; `said` is given its lines of progress."""
    with Ledger.open(f"sqlite:///{folder / 'assay.db'}") as ledger:
        run = SimpleNamespace(
            ledger=ledger,
            campaign_id=ledger.add_campaign("c", {}),
            cluster=Cluster(dft=DFTJobs(**limits)),  # type: ignore[arg-type]
            dft_code=SimpleQuick(Calculations(folder).script),
            folder=folder,
            progress=Progress((said if said is not None else []).append),
            stop=threading.Event(),
            check_stop=lambda: None,
            retry_failed=False,
            tried=set[str](),
        )
        yield cast(Run, run)


def test_more_generous_limits_have_it_tried_again_and_the_ledger_keeps_both(tmp_path: Path) -> None:
    def missing(**limits: float) -> int:
        with opened(tmp_path, **limits) as run:
            named = job_for("slow", SILICON, job("slow").settings, run.dft_code)
            return _run_missing(run, [named], "DFT")

    assert missing(walltime_s=0.3, max_walltime_s=0.4) == 1
    assert missing(walltime_s=0.2, max_walltime_s=0.4) == 0
    assert missing(walltime_s=0.3, max_walltime_s=20.0) == 1
    assert missing(walltime_s=0.3, max_walltime_s=99.0) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "assay.db")) as connection:
        kept = connection.execute("select attempt, status from calculations order by attempt").fetchall()
    assert kept == [(1, "walltime"), (2, "converged")]


def test_a_cancelled_one_is_asked_again_once_its_folder_is_gone(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        named = job_for("good", SILICON, job("good").settings, run.dft_code)
        folder = folder_of(tmp_path, named.calculation_id)
        run.dft_code.write_inputs(folder, SILICON, named.settings, Limits())
        run.dft_code.give_up(folder, DFTResult(status="cancelled", message="by a person"))
        assert _run_missing(run, [named], "DFT") == 1
        assert _run_missing(run, [named], "DFT") == 0
        shutil.rmtree(folder)
        assert _run_missing(run, [named], "DFT") == 1
        assert run.ledger.calculations_by_id({named.calculation_id})[named.calculation_id].status == "converged"


def test_what_failed_for_good_is_asked_again_once_a_run_if_somebody_says_so(tmp_path: Path) -> None:
    def asked(kind: str, *, retry: bool) -> list[int]:
        with opened(tmp_path) as run:
            run = cast(Run, SimpleNamespace(**vars(run) | {"retry_failed": retry}))
            named = job_for(kind, SILICON, job(kind).settings, run.dft_code)
            return [_run_missing(run, [named], "DFT") for _ in range(2)]

    assert asked("broken", retry=False) == [1, 0]
    assert asked("broken", retry=False) == [0, 0]
    assert asked("broken", retry=True) == [1, 0]
    assert asked("good", retry=True) == [1, 0]
    assert asked("good", retry=True) == [0, 0]


def test_what_a_kill_ended_is_asked_again_at_the_next_run(tmp_path: Path) -> None:
    for _ in range(2):
        with opened(tmp_path) as run:
            named = job_for("killed", SILICON, job("killed").settings, run.dft_code)
            assert [_run_missing(run, [named], "DFT") for _ in range(2)] == [1, 0]


def asked_now_and_before(run: Run) -> tuple[Job, Job]:
    """A calculation, and the same with the settings of a version whose gaps had one mesh's conduction edge."""
    settings = settings_for("quick", ["Si"], SILICON, code=run.dft_code, geometry="relaxed")
    now = job_for("silicon", SILICON, settings, run.dft_code)
    old = replace(settings, gap_edges="", gap_kpoints=(2, 2, 2))
    before = job_for("silicon", SILICON, old, run.dft_code)
    assert before.before is None
    assert before.calculation_id != now.calculation_id
    return now, before


@pytest.mark.parametrize(
    ("result", "stands"),
    [
        (DFTResult(status="converged", energy=-10.0, structure=SILICON, band_gap=0.0), True),
        (DFTResult(status="scf_not_converged"), True),
        (DFTResult(status="converged", energy=-10.0, structure=SILICON, band_gap=0.6), False),
        (DFTResult(status="walltime", properties={"walltime_s": 1.0}), False),  # there is more time now
    ],
)
def test_what_was_computed_before_stands_unless_its_gap_could_be_narrower(
    tmp_path: Path, result: DFTResult, stands: bool
) -> None:
    said: list[str] = []
    with opened(tmp_path, said) as run:
        now, before = asked_now_and_before(run)
        run.ledger.add_calculations([calculation_from(result, "silicon", "gpaw-quick", before.settings)])
        assert _run_missing(run, [now], "DFT") == (0 if stands else 1)
        (known,) = answers(run, [now]).values()
        assert known.calculation_id == (before if stands else now).calculation_id
        assert _run_missing(run, [now], "DFT") == 0
        kept = run.ledger.calculations_by_id([now.calculation_id, before.calculation_id])
    assert len(kept) == (1 if stands else 2)
    told = [line for line in said if "k-point meshes" in line]
    assert [line.split()[0] for line in told] == (["1"] if result.band_gap else [])


@pytest.mark.parametrize("gap", [0.0, 0.6])
def test_what_was_finished_and_not_written_stands_too(tmp_path: Path, gap: float) -> None:
    with opened(tmp_path) as run:
        now, before = asked_now_and_before(run)
        folder = folder_of(tmp_path, before.calculation_id)
        run.dft_code.write_inputs(folder, SILICON, before.settings, Limits())
        task = json.loads((folder / "task.json").read_text())
        done = {"status": "converged", "energy": -7.0, "band_gap": gap, "wall_time_s": 3.0}
        (folder / "result.json").write_text(
            json.dumps(done | {key: task[key] for key in ("numbers", "cell", "scaled_positions")})
        )
        assert _run_missing(run, [now], "DFT") == (1 if gap else 0)
        (known,) = answers(run, [now]).values()
        assert known.energy == (-10.0 if gap else -7.0)
        assert known.settings_hash == (now if gap else before).settings.settings_hash


@pytest.mark.parametrize("ours", [True, False])
def test_what_an_earlier_version_left_at_work_is_cancelled(tmp_path: Path, ours: bool) -> None:
    said: list[str] = []
    with opened(tmp_path, said) as run:
        now, before = asked_now_and_before(run)
        folder = folder_of(tmp_path, before.calculation_id)
        run.dft_code.write_inputs(folder, SILICON, job("long").settings, Limits())
        attempts.write(folder, [Attempt(number=1, kind="local", walltime_s=60.0, memory_gib=4.0, sent_at=time.time())])
        if ours:  # of this process, or of a run that was killed
            task = Task(name=f"dft-{before.calculation_id}-a1", folder=folder, limits=Limits())
            Local(run.cluster.dft, run.dft_code).submit(task, 0)
            (process,) = [p for (at, _), p in Local._processes.items() if at == str(folder.resolve())]
        else:
            process = subprocess.Popen(run.dft_code.command(folder, ()), start_new_session=True)
        while run.dft_code.worker(folder) is None:
            time.sleep(0.01)
        assert _run_missing(run, [now], "DFT") == 1
        assert process.wait(20) != 0
        assert answers(run, [now])[now.calculation_id].settings_hash == now.settings.settings_hash
        assert _run_missing(run, [now], "DFT") == 0
    (line,) = [line for line in said if "ancelled" in line]
    assert before.calculation_id in line


@pytest.mark.parametrize(
    ("word", "cancelled"), [("waiting", True), ("running", True), ("ended", False), ("unknown", False), (None, False)]
)
def test_what_an_earlier_version_left_in_a_queue_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: Word | None, cancelled: bool
) -> None:
    asked: list[str] = []

    class Queue:
        def look(self, tasks: Sequence[Task]) -> dict[str, Seen]:
            if word is None:
                raise SchedulerUnreachable("no answer")
            return {task.name: Seen(word=word) for task in tasks}

        def cancel(self, tasks: Sequence[Task]) -> None:
            asked.extend(task.name for task in tasks)

    said: list[str] = []
    monkeypatch.setattr("flows.dft.run.open_executor", lambda *_: Queue())
    code = SimpleQuick(tmp_path)
    for key, end in (("old", ""), ("done", "result"), ("finished", "")):
        folder = folder_of(tmp_path, key)
        code.write_inputs(folder, SILICON, job("good").settings, Limits())
        attempts.write(folder, [Attempt(number=2, kind="slurm", walltime_s=60.0, memory_gib=4.0, end=end)])
    code.give_up(folder, DFTResult(status="converged"))
    take_back(["old", "done", "finished", "never"], code, runs_dir=tmp_path, hardware=DFTJobs(), say=said.append)
    assert asked == (["dft-old-a2"] if cancelled else [])
    assert len(said) == (1 if cancelled or word is None else 0)
    assert all("dft-old-a2" in line and "done" not in line and "finished" not in line for line in said)
    assert attempts.read(folder_of(tmp_path, "old"))[0].taken_back == cancelled


class SimpleQuick(Quick):
    """Needs no GPAW to name its version and its potentials."""

    def version(self) -> str:
        return "quick"

    def potentials(self) -> str:
        return "none"
