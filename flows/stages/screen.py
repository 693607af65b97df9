"""Screen candidates: relax each with the potential over Dask, each with its own outcome."""

from __future__ import annotations

import queue
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.cluster.pool import LOOK_S, WorkerPool
from flows.cluster.workers import open_workers
from flows.output.progress import Counter
from flows.run.context import Run
from materials.errors import AssayError, ClusterError
from materials.records import CalculationStatus, Failure, WrittenCalculation
from models.relaxation.trajectory import write_trajectory

if TYPE_CHECKING:
    from distributed import Future

    from models.relaxation.relax import Frame

Chunk = dict[str, str]  # structures by material_id, as the ledger has them: only workers build them

CHUNK_S = 4.0  # of a worker's time in a chunk: what is lost when it dies, and long beside what sending one costs
FIRST_CHUNK_SITES = 240  # before anything is measured
LEAST_SITES = 40  # of the last chunks, which are small so that the workers end together
MOST_STRUCTURES = 2000  # in a chunk, however quick they are: a GPU wants many, a message not too many
SUSPECTS = 8  # structures that fail one after the other, with no success before
PROOFS = 2  # times that a structure kills its workers with nothing else beside it, before it is to blame
# Calculations that are no answer: something from outside ended them.
OUTSIDE: CalculationStatus = "crashed"
# What a potential raised that may have been the machine's fault, by the status that came back.
LACKED: dict[str, type[Exception]] = {"out_of_memory": MemoryError, "crashed": OSError}
LIVES = 3  # workers that may end before a chunk does, by their walltime or by somebody's hand
RESULT_S = 30.0  # to fetch what a worker has done


def screen(run: Run) -> int:
    """Relax all candidates that the ledger has no answer for; return how many those were.

    Raises:
        ClusterError: The workers cannot be had.
        PotentialError: The potential cannot be loaded.
        Interrupted: Somebody asked to stop.
    """
    missing = _missing(run)
    if not missing:
        return 0
    identity = run.potential_identity
    start = time.perf_counter()
    with open_workers(run.cluster.workers, folder=run.folder, say=run.progress.say) as pool:
        title = f"Screening with {identity.method} on {pool.title()}"
        with run.progress.counting(title, len(missing), "structures") as counter:
            screening = _Screening(run, pool, counter)
            try:
                screening.work(_Chunks(run, missing))
            finally:
                relaxing = screening.busy_s / max(pool.mean(), 1.0)
                run.progress.spend("relaxation", relaxing)
                run.progress.spend("waiting for workers", max(time.perf_counter() - start - relaxing, 0.0))
    return len(missing)


def _missing(run: Run) -> dict[str, int]:
    """Count the sites of each material without an answer: elements first, then small cells.

    So a run that is stopped early has the corners of its hulls, and most of its crystals.
    """
    identity = run.potential_identity
    with run.progress.timed("ledger"):
        answered = run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash)
        again = {OUTSIDE, "failed"} if run.retry_failed else {OUTSIDE}
        done = {material_id for material_id, status in answered.items() if status not in again}
        energies = run.ledger.best_calculations(
            run.campaign_id,
            fidelity="dft",
            level_of_theory=identity.level_of_theory,
            not_by=run.campaign.dft.code,
        )
        done |= {failure.material_id for failure in run.ledger.failures(run.campaign_id, "propose")}
        sizes = run.ledger.candidate_sizes(run.campaign_id)
        elements = run.ledger.element_ids(run.campaign_id)
        for material_id in done:
            sizes.pop(material_id, None)
        if energies:  # a competing phase with a database's energy of the same level needs no estimate
            for material_id, role in run.ledger.roles(run.campaign_id).items():
                if role == "competing" and material_id in energies:
                    sizes.pop(material_id, None)
    return dict(sorted(sizes.items(), key=lambda item: (item[0] not in elements, item[1], item[0])))


class _Chunks:
    """Cuts chunks of about equal cost, by the pace that was measured so far; the last ones are smaller."""

    def __init__(self, run: Run, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._structures = run.ledger.written_structures(sizes)
        self._left = sum(sizes.values())  # sites
        self._next = next(self._structures, None)
        self.s_per_site: float | None = None

    def measured(self, chunk: Chunk, busy_s: float) -> None:
        """Take note of what a chunk took; crystals come in the order of their size, so that the latest counts most."""
        sites = sum(self._sizes[material_id] for material_id in chunk)
        if sites and busy_s > 0:
            pace = busy_s / sites
            self.s_per_site = pace if self.s_per_site is None else 0.5 * (self.s_per_site + pace)

    def cut(self, n_workers: int) -> Chunk | None:
        """Give the next chunk, None after the last."""
        room = FIRST_CHUNK_SITES if self.s_per_site is None else CHUNK_S / self.s_per_site
        room = max(min(room, self._left / (2 * n_workers)), LEAST_SITES)
        chunk: Chunk = {}
        sites = 0
        while self._next is not None and len(chunk) < MOST_STRUCTURES:
            material_id, written = self._next
            size = self._sizes[material_id]
            if chunk and sites + size > room:
                break
            chunk[material_id] = written
            sites += size
            self._next = next(self._structures, None)
        self._left -= sites
        return chunk or None


@dataclass(frozen=True, kw_only=True)
class _Suspect:
    """A structure that did not come back, and why.

    Attributes:
        chunk: The structure alone.
        error: A short name.
        message: The same in words.
        final: Whether it is to blame: what came from outside is tried again at the next run.
    """

    chunk: Chunk
    error: str
    message: str
    final: bool


class _Screening:
    """Keeps every worker busy, writes what comes back, and finds the structure that kills.

    A chunk whose worker died is done again one by one; what dies then comes last, with nothing else beside it, for
    others may have been what filled the memory or was killed. What dies there too is tried once more after a structure
    that is known to be sound has come back: so the workers are well, and nobody is about who kills them.
    """

    def __init__(self, run: Run, pool: WorkerPool, counter: Counter) -> None:
        self.run, self.pool, self.counter = run, pool, counter
        self.busy_s = 0.0  # of all workers, in the potential
        self.alone: deque[Chunk] = deque()  # of chunks that killed their worker, one by one
        self.last: deque[Chunk] = deque()  # of those the ones that killed again: others may have done it
        self.flying: dict[Future[Any], Chunk] = {}
        self.landed: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.suspect: list[_Suspect] = []  # failed before anything succeeded: theirs, or our fault?
        self.succeeded = False
        self.proving = False  # the last ones, with no other beside them
        self.deaths: Counts[str] = Counts()  # of those, by material_id
        self.sound: Chunk = {}  # a structure that came back
        self.asked: dict[str, bool] = {}  # those for whose sake it was sent once more -> whether it came back
        self.asking = ""  # for whose sake it is under way now

    def work(self, chunks: _Chunks) -> None:
        self._fill(chunks)
        while self.flying:
            self.run.check_stop()
            self.pool.check()
            self._recall_short_lived()
            with suppress(queue.Empty):
                future = self.landed.get(timeout=LOOK_S)
                if future in self.flying:
                    self._land(future, chunks)
            self._fill(chunks)  # there may be more workers than before, too
        self._judge_suspects(at_end=True)

    def _fill(self, chunks: _Chunks) -> None:
        from models.relaxation.worker import relax_chunk

        while len(self.flying) < self.pool.window and (chunk := self._next(chunks)) is not None:
            future = self.pool.client.submit(
                relax_chunk, self.run.potential, self.run.relaxation, chunk, pure=False, key=_key(chunk)
            )
            self.flying[future] = chunk
            future.add_done_callback(self.landed.put)

    def _next(self, chunks: _Chunks) -> Chunk | None:
        if self.alone:
            return self.alone.popleft()
        chunk = chunks.cut(self.pool.most)
        if chunk is None and self.last and not self.flying:
            self.proving = True
            (material_id,) = self.last[0]
            if self.deaths[material_id] and material_id not in self.asked and (sound := self._sound()):
                self.asking = material_id
                return sound
            return self.last.popleft()
        return chunk

    def _sound(self) -> Chunk:
        """Give a structure that a worker has brought back, in this run or an earlier one; empty where there is none."""
        if not self.sound:
            ledger, identity = self.run.ledger, self.run.potential_identity
            answered = ledger.computed(
                identity.method, identity.level_of_theory, self.run.screening_hash, statuses=["converged"]
            )
            sizes = ledger.candidate_sizes(self.run.campaign_id)
            known = sorted((m for m in answered if m in sizes), key=lambda m: (sizes[m], m))
            self.sound = dict(ledger.written_structures(known[:1]))
        return self.sound

    def _land(self, future: Future, chunks: _Chunks) -> None:
        if future.cancelled():
            self.pool.check(at_once=True)
            raise ClusterError(
                "The Dask scheduler has dropped what it was sent: it was restarted. What had ended is in the ledger; "
                "the same command goes on from there."
            )
        try:
            error = future.exception(timeout=RESULT_S)
            answers = future.result(timeout=RESULT_S) if error is None else None
        except TimeoutError:  # the worker that had it is gone, and it is being done again
            future.add_done_callback(self.landed.put)
            return
        if self.asking:
            came = answers is not None and answers.calculations[0].status not in LACKED
            self.asked[self.asking], self.asking = came, ""
            self.succeeded = self.succeeded or came
        elif answers is not None:
            whole = [c for c in answers.calculations if c.status not in LACKED]
            self._keep(whole, answers.trajectories)
            took = sum(calculation.wall_time_s or 0.0 for calculation in answers.calculations)
            chunks.measured(self.flying[future], took)
            self.busy_s += took
            chunk = self.flying[future]
            if whole:
                self.succeeded, material_id = True, whole[0].material_id
                self.sound = self.sound or {material_id: chunk[material_id]}
            self._judge_suspects()
            for lost in answers.calculations:
                if lost.status in LACKED:
                    self._doubt({lost.material_id: chunk[lost.material_id]}, LACKED[lost.status](lost.message))
        elif isinstance(error, AssayError):
            raise error
        elif error is not None:
            self._doubt(self.flying[future], error)
        self._end(future)

    def _end(self, future: Future) -> None:
        del self.flying[future]
        self.pool.forget(future.key)
        future.release()

    def _doubt(self, chunk: Chunk, error: BaseException) -> None:
        """Find the culprit in a chunk that did not come back."""
        if len(chunk) > 1:
            self.alone.extend({material_id: written} for material_id, written in chunk.items())
            return
        (material_id,) = chunk
        may_be_others = _may_be_others(error)
        if may_be_others and not self.proving:
            self.last.append(chunk)
        elif may_be_others and not isinstance(error, OSError) and self.deaths[material_id] + 1 < PROOFS:
            self.deaths[material_id] += 1
            self.last.appendleft(chunk)
        else:
            name, message = _in_words(error)
            final = not may_be_others or (self.asked.get(material_id, False) and not isinstance(error, OSError))
            self.suspect.append(_Suspect(chunk=chunk, error=name, message=message, final=final))
        self._judge_suspects(error)

    def _recall_short_lived(self) -> None:
        """Take back what outlives one worker after the other: Dask would try it for ever."""
        for future, chunk in list(self.flying.items()):
            if self.pool.lives(future.key) > LIVES:
                future.cancel()
                self._end(future)
                if self.asking:
                    self.asked[self.asking], self.asking = False, ""
                else:
                    told = f"{LIVES} workers ended before it did: its relaxation takes too long"
                    self._doubt(chunk, _ShortLived(told))

    def _judge_suspects(self, error: BaseException | None = None, *, at_end: bool = False) -> None:
        """Record what failed; but where nothing works at all, it is not the structures' fault."""
        doubtful = len(self.suspect) + (len(self.last) if self.pool.ours_alone else 0)
        if not self.succeeded and (doubtful >= SUSPECTS or (at_end and doubtful > 1)):
            name, message = _in_words(error) if error else (self.suspect[-1].error, self.suspect[-1].message)
            raise ClusterError(
                f"No worker brought back a single structure; the last one ended with {name}: {message}."
                " Nothing of it was recorded: `assay doctor` tells what is wrong with the potential or the workers."
            )
        if self.succeeded or at_end:
            for suspect in self.suspect:
                self._give_up(suspect)
            self.suspect.clear()

    def _give_up(self, suspect: _Suspect) -> None:
        from models.relaxation.worker import failed_calculations

        run = self.run
        status: CalculationStatus = "failed" if suspect.final else OUTSIDE
        message = f"{suspect.error}: {suspect.message}"
        if not suspect.final:
            message += "; it is tried again at the next `assay run`"
        identity, hashed = run.potential_identity, run.screening_hash
        self._keep(failed_calculations(identity, hashed, suspect.chunk, message, status), {})

    def _keep(self, calculations: Sequence[WrittenCalculation], trajectories: Mapping[str, Sequence[Frame]]) -> None:
        ledger, campaign_id = self.run.ledger, self.run.campaign_id
        for material_id, frames in trajectories.items():  # before the ledger knows: what it knows is not computed again
            write_trajectory(self.run.folder / "trajectories" / self.run.campaign_id, material_id, frames)
        ledger.add_calculations(calculations)
        ledger.add_failures(
            campaign_id, [_failure(c) for c in calculations if c.status not in ("converged", "max_steps")]
        )
        self.counter.advance(len(calculations))


class _ShortLived(Exception):
    """Workers ended, each before its chunk did."""


def _may_be_others(error: BaseException) -> bool:
    """Whether something else than the structure may have done it: a kill, a memory that others filled, a disk."""
    from distributed import KilledWorker

    named = type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)  # torch's
    return named or isinstance(error, KilledWorker | _ShortLived | MemoryError | OSError)


def _in_words(error: BaseException) -> tuple[str, str]:
    """Name an error, and say what happened."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return "KilledWorker", "its worker process died each time it was tried (memory, or a crash)"
    if isinstance(error, _ShortLived):
        return "KilledWorker", str(error)
    if type(error) in LACKED.values():
        return type(error).__name__, str(error) or "the machine refused it"
    return type(error).__name__, repr(error)


def _failure(calculation: WrittenCalculation) -> Failure:
    return Failure(
        material_id=calculation.material_id,
        stage="screen",
        error=calculation.status,
        message=calculation.message,
    )


def _key(chunk: Chunk) -> str:
    first = next(iter(chunk))
    # Of its own: two campaigns on one scheduler may relax the same candidates otherwise.
    return f"relax-{first}-{len(chunk)}-{uuid4().hex[:12]}"
