"""Candidates -> relaxed by the potential, over Dask, each with its own end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from flows.cluster import open_client
from flows.context import Run
from flows.progress import Counter
from materials.errors import AssayError, ClusterError
from materials.records import Calculation, Failure

if TYPE_CHECKING:
    from distributed import Client, Future
    from pymatgen.core import Structure

Chunk = dict[str, "Structure"]  # by material_id

CHUNK_STRUCTURES = 48
CHUNK_SITES = 480  # a few seconds of work: what is lost when a worker dies
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
    with run.progress.timed("relaxation"), open_client(run.cluster.workers) as client:
        title = f"Screening with {identity.method} on {len(client.scheduler_info(n_workers=-1)['workers'])} workers"
        with run.progress.counting(title, len(missing), "structures") as counter:
            _Screening(run, client, counter).work(_chunks(run, missing))
    return len(missing)


def _missing(run: Run) -> list[str]:
    """List materials without an answer, largest first, so that the last chunks are quick ones."""
    identity = run.potential_identity
    with run.progress.timed("ledger"):
        done = run.ledger.computed(identity.method, identity.level_of_theory, run.screening_hash)
        energies = run.ledger.calculations(
            campaign_id=run.campaign_id, fidelity="dft", level_of_theory=identity.level_of_theory
        )
        competing = set(run.ledger.candidate_ids(run.campaign_id, "competing"))
        # A competing phase with a database's energy of the same level needs no estimate.
        ids = [
            material_id
            for material_id in run.ledger.candidate_ids(run.campaign_id)
            if material_id not in done and not (material_id in energies and material_id in competing)
        ]
        sizes = run.ledger.candidate_sizes(run.campaign_id)
    return sorted(ids, key=lambda material_id: (-sizes[material_id], material_id))


def _chunks(run: Run, ids: Sequence[str]) -> Iterator[Chunk]:
    chunk: Chunk = {}
    sites = 0
    for candidate in run.ledger.iter_candidates(run.campaign_id, material_ids=ids):
        size = len(candidate.structure)
        if chunk and (len(chunk) >= CHUNK_STRUCTURES or sites + size > CHUNK_SITES):
            yield chunk
            chunk, sites = {}, 0
        chunk[candidate.material_id] = candidate.structure
        sites += size
    if chunk:
        yield chunk


class _Screening:
    """Keeps every worker busy, writes what comes back, and finds the structure that kills."""

    def __init__(self, run: Run, client: Client, counter: Counter) -> None:
        self.run, self.client, self.counter = run, client, counter
        self.alone: deque[Chunk] = deque()  # of chunks that killed their worker, one by one
        self.flying: dict[Future, Chunk] = {}
        self.suspect: list[tuple[Chunk, str, str]] = []  # failed before anything succeeded: theirs, or our fault?
        self.succeeded = False

    def work(self, chunks: Iterator[Chunk]) -> None:
        from distributed import as_completed

        stream = as_completed(loop=self.client.loop)
        slots = CHUNKS_IN_FLIGHT * max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        self._fill(stream, chunks, slots)
        while self.flying:
            future = next(stream)
            self._land(future, self.flying.pop(future))
            self.run.check_stop()
            self._fill(stream, chunks, slots)
        self._judge_suspects(at_end=True)

    def _fill(self, stream: object, chunks: Iterator[Chunk], slots: int) -> None:
        from models.screening import relax_chunk

        while len(self.flying) < slots:
            chunk = self.alone.popleft() if self.alone else next(chunks, None)
            if chunk is None:
                return
            future = self.client.submit(
                relax_chunk, self.run.potential, self.run.relaxation, chunk, pure=False, key=_key(chunk)
            )
            self.flying[future] = chunk
            stream.add(future)  # type: ignore[attr-defined]

    def _land(self, future: Future, chunk: Chunk) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if error is None:
            self._keep(future.result())
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

        self._keep(failed_calculations(self.run.potential_identity, self.run.relaxation, chunk, f"{error}: {message}"))

    def _keep(self, calculations: Sequence[Calculation]) -> None:
        ledger, campaign_id = self.run.ledger, self.run.campaign_id
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
    return f"relax-{first}-{len(chunk)}"
