"""Candidates -> relaxed by the potential, over Dask, each with its own end."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.cluster import open_workers
from flows.context import Run
from flows.export import write_trajectory
from flows.progress import Counter
from flows.worker_pool import LOOK_S, WorkerPool
from materials.errors import AssayError, ClusterError
from materials.records import Failure, WrittenCalculation

if TYPE_CHECKING:
    from distributed import Future

    from models.relaxation import Frame

Chunk = dict[str, str]  # structures by material_id, as the ledger has them: only workers build them

CHUNK_S = 4.0  # of a worker's time in a chunk: what is lost when it dies, and long beside what sending one costs
FIRST_CHUNK_SITES = 240  # before anything is measured
LEAST_SITES = 40  # of the last chunks, which are small so that the workers end together
MOST_STRUCTURES = 2000  # in a chunk, however quick they are: a GPU wants many, a message not too many
SUSPECTS = 8  # structures that fail one after the other, with no success before
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
    """Count the sites of each material without an answer, the largest first, so that the last chunks are quick ones."""
    identity = run.potential_identity
    with run.progress.timed("ledger"):
        done = set(run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash))
        energies = run.ledger.best_calculations(
            run.campaign_id,
            fidelity="dft",
            level_of_theory=identity.level_of_theory,
            not_by=run.campaign.dft.code,
        )
        done |= {failure.material_id for failure in run.ledger.failures(run.campaign_id, "propose")}
        sizes = run.ledger.candidate_sizes(run.campaign_id)
        for material_id in done:
            sizes.pop(material_id, None)
        if energies:  # a competing phase with a database's energy of the same level needs no estimate
            for material_id, role in run.ledger.roles(run.campaign_id).items():
                if role == "competing" and material_id in energies:
                    sizes.pop(material_id, None)
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


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


class _Screening:
    """Keeps every worker busy, writes what comes back, and finds the structure that kills."""

    def __init__(self, run: Run, pool: WorkerPool, counter: Counter) -> None:
        self.run, self.pool, self.counter = run, pool, counter
        self.busy_s = 0.0  # of all workers, in the potential
        self.alone: deque[Chunk] = deque()  # of chunks that killed their worker, one by one
        self.last: deque[Chunk] = deque()  # of those the ones that killed again: others may have done it
        self.flying: dict[Future[Any], Chunk] = {}
        self.landed: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.suspect: list[tuple[Chunk, str, str]] = []  # failed before anything succeeded: theirs, or our fault?
        self.succeeded = False
        self.proving = False  # the last ones, with no other beside them

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
        from models.screening import relax_chunk

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
            chunk = self.last.popleft()
        return chunk

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
        if answers is not None:
            self._keep(answers.calculations, answers.trajectories)
            took = sum(calculation.wall_time_s or 0.0 for calculation in answers.calculations)
            chunks.measured(self.flying[future], took)
            self.busy_s += took
            self.succeeded = True
            self._judge_suspects()
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
        from distributed import KilledWorker

        killed = isinstance(error, KilledWorker | _ShortLived)
        if len(chunk) > 1:
            self.alone.extend({material_id: written} for material_id, written in chunk.items())
        elif killed and not self.proving and (self.succeeded or not self.pool.ours_alone):
            self.last.append(chunk)
        else:
            name = "KilledWorker" if killed else type(error).__name__
            what = "its worker process died each time it was tried (memory, or a crash)"
            if isinstance(error, _ShortLived) or not killed:
                what = str(error) if killed else repr(error)
            self.suspect.append((chunk, name, what))
            self._judge_suspects()

    def _recall_short_lived(self) -> None:
        """Take back what outlives one worker after the other: Dask would try it for ever."""
        for future, chunk in list(self.flying.items()):
            if self.pool.lives(future.key) > LIVES:
                future.cancel()
                self._end(future)
                self._doubt(chunk, _ShortLived(f"{LIVES} workers ended before it did: its relaxation takes too long"))

    def _judge_suspects(self, *, at_end: bool = False) -> None:
        """Record what failed; but where nothing works at all, it is not the structures' fault."""
        if not self.succeeded and (len(self.suspect) >= SUSPECTS or (at_end and len(self.suspect) > 1)):
            _, error, message = self.suspect[-1]
            raise ClusterError(
                f"No worker brought back a single structure; the last one ended with {error}: {message}."
                " Nothing of it was recorded: `assay doctor` tells what is wrong with the potential or the workers."
            )
        if self.succeeded or at_end:
            for chunk, error, message in self.suspect:
                self._give_up(chunk, error, message)
            self.suspect.clear()

    def _give_up(self, chunk: Chunk, error: str, message: str) -> None:
        from models.screening import failed_calculations

        run = self.run
        self._keep(failed_calculations(run.potential_identity, run.screening_hash, chunk, f"{error}: {message}"), {})

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
