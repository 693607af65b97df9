"""What the ledger gives back: records, for the stages that go on from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Table, select

from materials.records import (
    Calculation,
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
from materials.store import tables
from materials.store.rows import (
    chunks,
    read_calculation,
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
    def candidate_ids(self, campaign_id: str, role: Role | None = None) -> list[str]:
        """List the materials of a campaign in the order in which they were first proposed."""
        table = tables.proposals
        query = select(table.c.material_id, table.c.role).where(table.c.campaign_id == campaign_id)
        with reading(self.engine) as connection:
            proposals = connection.execute(query.order_by(table.c.sequence)).all()
        candidates = {row.material_id for row in proposals if row.role == "candidate"}
        ids = dict.fromkeys(row.material_id for row in proposals)
        return [name for name in ids if role is None or (name in candidates) == (role == "candidate")]

    @persistent
    def candidate_sizes(self, campaign_id: str) -> dict[str, int]:
        """Say how many sites each material of a campaign has; no structure is built for it."""
        crystals, proposals = tables.candidates, tables.proposals
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        query = select(crystals.c.material_id, crystals.c.n_sites).where(crystals.c.material_id.in_(mine))
        with reading(self.engine) as connection:
            return {row.material_id: row.n_sites for row in connection.execute(query)}

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

    @persistent
    def proposed(self, campaign_id: str) -> list[Proposed]:
        """Read the materials of a campaign without their structures, in the order of their first proposal."""
        crystals, proposals = tables.candidates, tables.proposals
        mine = proposals.c.campaign_id == campaign_id
        told: dict[str, list[Any]] = {}
        with reading(self.engine) as connection:
            for row in connection.execute(select(proposals).where(mine).order_by(proposals.c.sequence)).mappings():
                told.setdefault(row["material_id"], []).append(row)
            query = select(crystals).where(crystals.c.material_id.in_(select(proposals.c.material_id).where(mine)))
            rows = connection.execute(query).mappings()
            found = {row["material_id"]: read_proposed(row, told[row["material_id"]]) for row in rows}
        return [found[material_id] for material_id in told]

    @persistent
    def _candidates(self, campaign_id: str, material_ids: Sequence[str]) -> list[Candidate]:
        crystals, proposals = tables.candidates, tables.proposals
        told = select(proposals).where(proposals.c.campaign_id == campaign_id)
        told = told.where(proposals.c.material_id.in_(material_ids)).order_by(proposals.c.sequence)
        with reading(self.engine) as connection:
            rows = connection.execute(select(crystals).where(crystals.c.material_id.in_(material_ids))).mappings()
            crystal_of = {row["material_id"]: row for row in rows}
            proposals_of: dict[str, list[Any]] = {material_id: [] for material_id in material_ids}
            for row in connection.execute(told).mappings():
                proposals_of[row["material_id"]].append(row)
        return [read_candidate(crystal_of[material_id], proposals_of[material_id]) for material_id in material_ids]

    @persistent
    def computed(
        self, method: str, level_of_theory: str, settings_hash: str, *, statuses: Iterable[str] | None = None
    ) -> dict[str, str]:
        """Say which materials a method has answered for: `material_id` -> status of its best attempt.

        Args:
            method: As in `Calculation`, with the two below.
            level_of_theory: What its energies mean.
            settings_hash: Of the settings it ran with.
            statuses: Only these count as answered; None counts all.
        """
        table = tables.calculations
        query = select(table.c.material_id, table.c.status).where(
            table.c.method == method,
            table.c.level_of_theory == level_of_theory,
            table.c.settings_hash == settings_hash,
        )
        wanted = None if statuses is None else set(statuses)
        with reading(self.engine) as connection:
            best = {row.material_id: row.status for row in connection.execute(query.order_by(table.c.attempt))}
        return {name: status for name, status in best.items() if wanted is None or status in wanted}

    @persistent
    def calculations(
        self,
        material_ids: Collection[str] | None = None,
        *,
        campaign_id: str | None = None,
        fidelity: Fidelity | None = None,
        method: str | None = None,
        level_of_theory: str | None = None,
        settings_hash: str | None = None,
        not_by: str | None = None,
    ) -> dict[str, Calculation]:
        """Read the best calculation of each material: a converged one before any other, then the latest.

        Give `material_ids`, or a `campaign_id` for all of its materials, or neither for every material there is;
        `not_by` leaves out what a code, such as "vasp", has computed in any version.
        """
        wanted = {
            "fidelity": fidelity,
            "method": method,
            "level_of_theory": level_of_theory,
            "settings_hash": settings_hash,
        }
        table = tables.calculations
        query = select(table).order_by(table.c.created_at, table.c.attempt)
        for name, value in wanted.items():
            if value is not None:
                query = query.where(table.c[name] == value)
        if not_by is not None:
            query = query.where(table.c.method.not_like(f"{not_by}-%"))
        if campaign_id is not None:
            of_campaign = select(tables.proposals.c.material_id).where(tables.proposals.c.campaign_id == campaign_id)
            query = query.where(table.c.material_id.in_(of_campaign))
        best: dict[str, Any] = {}
        with reading(self.engine) as connection:
            for row in _rows(connection, query, table, material_ids):
                held = best.get(row.material_id)
                if held is None or row.status == "converged" or held.status != "converged":
                    best[row.material_id] = row
        return {material_id: read_calculation(row._mapping) for material_id, row in best.items()}

    @persistent
    def calculations_by_id(self, calculation_ids: Collection[str]) -> dict[str, Calculation]:
        """Read the best attempt at each calculation that there is: `calculation_id` -> `Calculation`."""
        table = tables.calculations
        best: dict[str, Any] = {}
        with reading(self.engine) as connection:
            for ids in chunks(dict.fromkeys(calculation_ids)):
                query = select(table).where(table.c.calculation_id.in_(ids)).order_by(table.c.attempt)
                best.update({row.calculation_id: row for row in connection.execute(query)})
        return {calculation_id: read_calculation(row._mapping) for calculation_id, row in best.items()}

    def stabilities(
        self, campaign_id: str, fidelity: Fidelity | None = None, level_of_theory: str | None = None
    ) -> dict[str, Stability]:
        """Read the latest stability of each material; with no fidelity given, DFT's goes before the potential's."""
        table = tables.stabilities
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
        table = tables.predictions
        query = select(table).where(table.c.campaign_id == campaign_id)
        if round is not None:
            query = query.where(table.c.round == round)
        found: dict[str, dict[str, Prediction]] = {}
        with reading(self.engine) as connection:
            for row in connection.execute(query.order_by(table.c.round)).mappings():
                found.setdefault(row["material_id"], {})[row["target"]] = read_record(Prediction, row)
        return found

    @persistent
    def selections(self, campaign_id: str, round: int | None = None) -> list[Selection]:
        """Read what was chosen, by round and rank within it."""
        table = tables.selections
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.round, table.c.rank)
        if round is not None:
            query = query.where(table.c.round == round)
        with reading(self.engine) as connection:
            return [read_record(Selection, row) for row in connection.execute(query).mappings()]

    @persistent
    def failures(self, campaign_id: str, stage: str | None = None) -> list[Failure]:
        """Read all failures in the order in which they came."""
        table = tables.failures
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.sequence)
        if stage is not None:
            query = query.where(table.c.stage == stage)
        with reading(self.engine) as connection:
            return [read_record(Failure, row) for row in connection.execute(query).mappings()]

    @persistent
    def equivalences(self, campaign_id: str, stage: str | None = None) -> dict[str, str]:
        """Read duplicate -> the material that stands for it in the end (chains are followed to their end)."""
        table = tables.equivalences
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
        table = tables.rankings
        query = select(table).where(table.c.campaign_id == campaign_id).order_by(table.c.rank)
        with reading(self.engine) as connection:
            return [read_ranking(row) for row in connection.execute(query).mappings()]

    @persistent
    def _latest(self, kind: type[Stability], query: Select[Any]) -> dict[str, Stability]:
        with reading(self.engine) as connection:
            rows = {row["material_id"]: row for row in connection.execute(query).mappings()}
        return {material_id: read_record(kind, row) for material_id, row in rows.items()}


def _rows(
    connection: Connection, query: Select[Any], table: Table, material_ids: Iterable[str] | None
) -> Iterator[Row[Any]]:
    if material_ids is None:
        yield from connection.execute(query)
        return
    for ids in chunks(dict.fromkeys(material_ids)):
        yield from connection.execute(query.where(table.c.material_id.in_(ids)))


def _end_of_chain(material_id: str, kept: dict[str, str]) -> str:
    path = [material_id]
    while (following := kept.get(path[-1])) is not None:
        if following in path:
            # They stand for each other: the first in the alphabet does.
            return min(path[path.index(following) :])
        path.append(following)
    return path[-1]
