"""Candidates -> relaxed by the potential, over Dask, each with its own end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from flows.cluster import open_client
from flows.context import Run
from flows.export import write_trajectory
from flows.progress import Counter
from materials.errors import AssayError, ClusterError
from materials.records import Calculation, Candidate, Failure

if TYPE_CHECKING:
    from distributed import Client, Future
    from pymatgen.core import Structure

    from models.relaxation import Frame

Chunk = dict[str, "Structure"]  # by material_id

CHUNK_S = 4.0  # of a worker's time in a chunk: what is lost when it dies, and long beside what sending one costs
FIRST_CHUNK_SITES = 240  # before anything is measured
LEAST_SITES = 40  # of the last chunks, which are small so that the workers end together
MOST_STRUCTURES = 2000  # in a chunk, however quick they are: a GPU wants many, a message not too many
SUSPECTS = 8  # structures that fail one after the other, with no success before
CHUNKS_IN_FLIGHT = 2  # a worker: one that runs and one that waits, so that 10^5 candidates never lie in memory at once


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
    with open_client(run.cluster.workers) as client:
        n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        title = f"Screening with {identity.method} on {n_workers} workers"
        with run.progress.counting(title, len(missing), "structures") as counter:
            screening = _Screening(run, client, counter, n_workers)
            try:
                screening.work(_Chunks(run, missing))
            finally:
                relaxing = screening.busy_s / n_workers
                run.progress.spend("relaxation", relaxing)
                run.progress.spend("waiting for workers", max(time.perf_counter() - start - relaxing, 0.0))
    return len(missing)


def _missing(run: Run) -> dict[str, int]:
    """Count the sites of each material without an answer, the largest first, so that the last chunks are quick ones."""
    identity = run.potential_identity
    with run.progress.timed("ledger"):
        done = set(run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash))
        energies = run.ledger.calculations(
            campaign_id=run.campaign_id, fidelity="dft", level_of_theory=identity.level_of_theory
        )
        competing = set(run.ledger.candidate_ids(run.campaign_id, "competing"))
        done |= {failure.material_id for failure in run.ledger.failures(run.campaign_id, "propose")}
        # A competing phase with a database's energy of the same level needs no estimate.
        ids = [
            material_id
            for material_id in run.ledger.candidate_ids(run.campaign_id)
            if material_id not in done and not (material_id in energies and material_id in competing)
        ]
        sizes = run.ledger.candidate_sizes(run.campaign_id)
    return {m: sizes[m] for m in sorted(ids, key=lambda material_id: (-sizes[material_id], material_id))}


class _Chunks:
    """Cuts chunks of about equal cost, by the pace that was measured so far; the last ones are smaller."""

    def __init__(self, run: Run, sizes: Mapping[str, int]) -> None:
        self._candidates = run.ledger.iter_candidates(run.campaign_id, material_ids=list(sizes))
        self._left = sum(sizes.values())  # sites
        self._next: Candidate | None = next(self._candidates, None)
        self.s_per_site: float | None = None

    def measured(self, sites: int, busy_s: float) -> None:
        """Take note of what a chunk took; crystals come in the order of their size, so that the latest counts most."""
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
            size = len(self._next.structure)
            if chunk and sites + size > room:
                break
            chunk[self._next.material_id] = self._next.structure
            sites += size
            self._next = next(self._candidates, None)
        self._left -= sites
        return chunk or None


class _Screening:
    """Keeps every worker busy, writes what comes back, and finds the structure that kills."""

    def __init__(self, run: Run, client: Client, counter: Counter, n_workers: int) -> None:
        self.run, self.client, self.counter, self.n_workers = run, client, counter, n_workers
        self.busy_s = 0.0  # of all workers, in the potential
        self.alone: deque[Chunk] = deque()  # of chunks that killed their worker, one by one
        self.flying: dict[Future, Chunk] = {}
        self.suspect: list[tuple[Chunk, str, str]] = []  # failed before anything succeeded: theirs, or our fault?
        self.succeeded = False

    def work(self, chunks: _Chunks) -> None:
        from distributed import as_completed

        stream = as_completed(loop=self.client.loop)
        self._fill(stream, chunks)
        while self.flying:
            future = next(stream)
            self._land(future, self.flying.pop(future), chunks)
            self.run.check_stop()
            self._fill(stream, chunks)
        self._judge_suspects(at_end=True)

    def _fill(self, stream: object, chunks: _Chunks) -> None:
        from models.screening import relax_chunk

        while len(self.flying) < CHUNKS_IN_FLIGHT * self.n_workers:
            chunk = self.alone.popleft() if self.alone else chunks.cut(self.n_workers)
            if chunk is None:
                return
            future = self.client.submit(
                relax_chunk, self.run.potential, self.run.relaxation, chunk, pure=False, key=_key(chunk)
            )
            self.flying[future] = chunk
            stream.add(future)  # type: ignore[attr-defined]

    def _land(self, future: Future, chunk: Chunk, chunks: _Chunks) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if error is None:
            answers = future.result()
            self._keep(answers.calculations, answers.trajectories)
            took = sum(calculation.wall_time_s for calculation in answers.calculations)
            chunks.measured(sum(map(len, chunk.values())), took)
            self.busy_s += took
            self.succeeded = True
            self._judge_suspects()
        elif isinstance(error, AssayError):
            raise error
        elif len(chunk) > 1:
            self.alone.extend({material_id: structure} for material_id, structure in chunk.items())
        else:
            killed = isinstance(error, KilledWorker)
            what = "its worker process died each time it was tried (memory, or a crash)" if killed else repr(error)
            self.suspect.append((chunk, "KilledWorker" if killed else type(error).__name__, what))
            self._judge_suspects()
        future.release()

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

    def _keep(self, calculations: Sequence[Calculation], trajectories: Mapping[str, Sequence[Frame]]) -> None:
        ledger, campaign_id = self.run.ledger, self.run.campaign_id
        for material_id, frames in trajectories.items():  # before the ledger knows: what it knows is not computed again
            write_trajectory(self.run.folder / "trajectories" / self.run.campaign_id, material_id, frames)
        ledger.add_calculations(calculations)
        ledger.add_failures(
            campaign_id, [_failure(c) for c in calculations if c.status not in ("converged", "max_steps")]
        )
        self.counter.advance(len(calculations))


def _failure(calculation: Calculation) -> Failure:
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
