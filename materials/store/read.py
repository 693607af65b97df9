"""Reading records from the ledger, for the stages that go on from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, Select, func, select

from materials.records import (
    Candidate,
    Failure,
    Fidelity,
    Prediction,
    Proposed,
    RankedCandidate,
    Role,
    Selection,
    Stability,
)
from materials.store import schema
from materials.store.rows import (
    chunks,
    read_candidate,
    read_proposed,
    read_ranking,
    read_record,
)
from materials.store.transactions import persistent, reading


class Reading:
    """The reading half of the ledger."""

    engine: Engine

    @persistent
    def roles(self, campaign_id: str) -> dict[str, Role]:
        """Say what each material of a campaign is there for, in the order in which they were first proposed.

        Who is proposed as both is a candidate.
        """
        table = schema.proposals
        query = select(table.c.material_id, table.c.role).where(table.c.campaign_id == campaign_id)
        found: dict[str, Role] = {}
        with reading(self.engine) as connection:
            for material_id, role in connection.execute(query.order_by(table.c.sequence)):
                if found.get(material_id) != "candidate":
                    found[material_id] = "candidate" if role == "candidate" else "competing"
        return found

    def candidate_ids(self, campaign_id: str, role: Role | None = None) -> list[str]:
        """List the materials of a campaign in the order in which they were first proposed."""
        return [name for name, its_role in self.roles(campaign_id).items() if role in (None, its_role)]

    @persistent
    def candidate_sizes(self, campaign_id: str) -> dict[str, int]:
        """Say how many sites each material of a campaign has; no structure is built for it."""
        crystals, proposals = schema.candidates, schema.proposals
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        query = select(crystals.c.material_id, crystals.c.n_sites).where(crystals.c.material_id.in_(mine))
        with reading(self.engine) as connection:
            return {row.material_id: row.n_sites for row in connection.execute(query)}

    @persistent
    def element_ids(self, campaign_id: str) -> set[str]:
        """Name the materials of a campaign that are elements."""
        crystals, proposals = schema.candidates, schema.proposals
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        query = select(crystals.c.material_id).where(
            crystals.c.material_id.in_(mine), crystals.c.chemsys.not_like("%-%")
        )
        with reading(self.engine) as connection:
            return set(connection.execute(query).scalars())

    @persistent
    def chemical_systems(self, campaign_id: str, role: Role | None = None) -> dict[str, int]:
        """Count the materials of each chemical system, those left alone that were refused when they were proposed."""
        crystals, proposals, failures = schema.candidates, schema.proposals, schema.failures
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        refused = select(failures.c.material_id).where(
            failures.c.campaign_id == campaign_id, failures.c.stage == "propose"
        )
        if role is not None:
            mine = mine.where(proposals.c.role == role)
        query = (
            select(crystals.c.chemsys, func.count().label("n"))
            .where(crystals.c.material_id.in_(mine), crystals.c.material_id.not_in(refused))
            .group_by(crystals.c.chemsys)
        )
        with reading(self.engine) as connection:
            return {row.chemsys: row.n for row in connection.execute(query)}

    def iter_candidates(
        self,
        campaign_id: str,
        role: Role | None = None,
        material_ids: Iterable[str] | None = None,
        *,
        chunk: int = 500,
    ) -> Iterator[Candidate]:
        """Yield candidates, in the order of their proposal or of `material_ids`, `chunk` of them in memory at once."""
        ids = self.candidate_ids(campaign_id, role)
        if material_ids is not None:
            known = set(ids)
            ids = [material_id for material_id in material_ids if material_id in known]
        for part in chunks(ids, chunk):
            yield from self._candidates(campaign_id, part)

    def candidates(
        self, campaign_id: str, role: Role | None = None, material_ids: Iterable[str] | None = None
    ) -> list[Candidate]:
        """Read candidates, merged over their proposals, in the order of their first proposal."""
        return list(self.iter_candidates(campaign_id, role, material_ids))

    def proposed(self, campaign_id: str, material_ids: Iterable[str] | None = None) -> list[Proposed]:
        """Read materials of a campaign without their structures, in the order of their proposal or of `material_ids`.

        What the campaign does not know is left out.
        """
        ids = self.candidate_ids(campaign_id) if material_ids is None else dict.fromkeys(material_ids)
        return [
            read_proposed(crystal, proposals)
            for part in chunks(ids)
            for crystal, proposals in self._told(campaign_id, part)
        ]

    def written_structures(self, material_ids: Iterable[str], *, chunk: int = 500) -> Iterator[tuple[str, str]]:
        """Yield `material_id` and structure, as `structure_to_json` wrote it, in the order asked for."""
        for ids in chunks(material_ids, chunk):
            found = self._written_structures(ids)
            yield from ((material_id, found[material_id]) for material_id in ids)

    @persistent
    def _written_structures(self, material_ids: Sequence[str]) -> dict[str, str]:
        table = schema.candidates
        query = select(table.c.material_id, table.c.structure).where(table.c.material_id.in_(material_ids))
        with reading(self.engine) as connection:
            return {row.material_id: row.structure for row in connection.execute(query)}

    def _candidates(self, campaign_id: str, material_ids: Sequence[str]) -> list[Candidate]:
        return [read_candidate(crystal, proposals) for crystal, proposals in self._told(campaign_id, material_ids)]

    @persistent
    def _told(self, campaign_id: str, material_ids: Sequence[str]) -> list[tuple[Any, list[Any]]]:
        """Read the rows of crystals and of their proposals, in the order asked for."""
        crystals, proposals = schema.candidates, schema.proposals
        told = select(proposals).where(proposals.c.campaign_id == campaign_id)
        told = told.where(proposals.c.material_id.in_(material_ids)).order_by(proposals.c.sequence)
        proposals_of: dict[str, list[Any]] = {}
        with reading(self.engine) as connection:
            for row in connection.execute(told).mappings():
                proposals_of.setdefault(row["material_id"], []).append(row)
            rows = connection.execute(select(crystals).where(crystals.c.material_id.in_(material_ids))).mappings()
            crystal_of = {row["material_id"]: row for row in rows}
        return [(crystal_of[name], proposals_of[name]) for name in material_ids if name in proposals_of]

    def stabilities(
        self, campaign_id: str, fidelity: Fidelity | None = None, level_of_theory: str | None = None
    ) -> dict[str, Stability]:
        """Read the latest stability of each material; with no fidelity given, DFT's goes before the potential's."""
        table = schema.stabilities
        query = select(table).where(table.c.campaign_id == campaign_id)
        if fidelity is not None:
            query = query.where(table.c.fidelity == fidelity)
        if level_of_theory is not None:
            query = query.where(table.c.level_of_theory == level_of_theory)
        # "mlip" comes after "dft" in the alphabet, and the last one read holds.
        return self._latest(Stability, query.order_by(table.c.fidelity.desc(), table.c.sequence))

    @persistent
    def predictions(self, campaign_id: str, round: int | None = None) -> dict[str, dict[str, Prediction]]:
        """Read `material_id` -> target -> the latest prediction, or that of one round."""
        table = schema.predictions
        query = select(table).where(table.c.campaign_id == campaign_id)
        if round is not None:
            query = query.where(table.c.round == round)
        found: dict[str, dict[str, Prediction]] = {}
        with reading(self.engine) as connection:
            for row in connection.execute(query.order_by(table.c.round)).mappings():
                found.setdefault(row["material_id"], {})[row["target"]] = read_record(Prediction, row)
        return found

    @persistent
    def selections(self, campaign_id: str, until: int | None = None) -> list[Selection]:
        """Read what was chosen, all or until a round, by round and rank within it."""
        table = schema.selections
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.round, table.c.rank)
        if until is not None:
            query = query.where(table.c.round <= until)
        with reading(self.engine) as connection:
            return [read_record(Selection, row) for row in connection.execute(query).mappings()]

    @persistent
    def failures(self, campaign_id: str, stage: str | None = None) -> list[Failure]:
        """Read all failures in the order in which they came."""
        table = schema.failures
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.sequence)
        if stage is not None:
            query = query.where(table.c.stage == stage)
        with reading(self.engine) as connection:
            return [read_record(Failure, row) for row in connection.execute(query).mappings()]

    @persistent
    def equivalences(self, campaign_id: str, stage: str | None = None) -> dict[str, str]:
        """Read duplicate -> the material that stands for it in the end (chains are followed to their end)."""
        table = schema.equivalences
        query = select(table.c.material_id, table.c.duplicate_of).where(table.c.campaign_id == campaign_id)
        if stage is not None:
            query = query.where(table.c.stage == stage)
        with reading(self.engine) as connection:
            rows = connection.execute(query.order_by(table.c.sequence)).all()
        kept = {row.material_id: row.duplicate_of for row in rows}
        return {duplicate: last for duplicate in kept if (last := _end_of_chain(duplicate, kept)) != duplicate}

    @persistent
    def ranked(self, campaign_id: str) -> list[RankedCandidate]:
        """Read the published table as records, first rank first."""
        table = schema.rankings
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.rank)
        with reading(self.engine) as connection:
            return [read_ranking(row) for row in connection.execute(query).mappings()]

    @persistent
    def _latest(self, kind: type[Stability], query: Select[Any]) -> dict[str, Stability]:
        with reading(self.engine) as connection:
            rows = {row["material_id"]: row for row in connection.execute(query).mappings()}
        # An upgrade has emptied what nobody could work out again.
        return {
            m: read_record(kind, row) for m, row in rows.items() if row["decomposition_energy_per_atom"] is not None
        }


def _end_of_chain(material_id: str, kept: dict[str, str]) -> str:
    path = [material_id]
    while (following := kept.get(path[-1])) is not None:
        if following in path:
            # They stand for each other: the first in the alphabet does.
            return min(path[path.index(following) :])
        path.append(following)
    return path[-1]
