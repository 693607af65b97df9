"""Writing records to the ledger. Each method is one transaction: all of its records, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import uuid4

from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, insert, literal, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from materials.crystals.serialization import plain
from materials.records import (
    Calculation,
    Candidate,
    Failure,
    Prediction,
    RankedCandidate,
    Selection,
    Stability,
    WrittenCalculation,
    WrittenCandidate,
    content_hash,
)
from materials.store import schema
from materials.store.rows import (
    calculation_row,
    candidate_row,
    chunks,
    proposal_row,
    ranking_row,
    record_row,
    write_calculation,
    write_candidate,
)
from materials.store.transactions import persistent, writing

_PUBLISHED = 2_000  # rows of the table that are compared at once
_ANALYZE_FROM = 1_000  # rows that a publication changed


class Recording:
    """The writing half of the ledger. Telling it twice is telling it once."""

    engine: Engine
    # What makes two rankings of one material differ; the key itself does not.
    _REPLACED: ClassVar[list[str]] = [column.name for column in schema.rankings.columns if "_id" not in column.name]

    def add_campaign(self, name: str, config: Mapping[str, Any]) -> str:
        """Keep a resolved campaign; return its `campaign_id`, equal for equal name and config."""
        config_hash = content_hash(plain(config))
        row = {
            "campaign_id": f"{name}-{config_hash[:8]}",
            "name": name,
            "config_hash": config_hash,
            "config": config,
            "created_at": _now(),
        }
        self._keep(schema.campaigns, [row])
        return str(row["campaign_id"])

    def start_run(
        self,
        campaign_id: str,
        *,
        versions: Mapping[str, str],
        weights_hash: str | None,
        config: Mapping[str, Any],
        budget: int | None = None,
    ) -> str:
        """Note that a run began, with what; return its `run_id`. Its state is `running` until `end_run`.

        A run that was killed stays `running`: the ledger knows no better.
        """
        row = {
            "run_id": uuid4().hex,
            "campaign_id": campaign_id,
            "started_at": _now(),
            "ended_at": None,
            "state": "running",
            "versions": versions,
            "weights_hash": weights_hash,
            "config": config,
            "budget": budget,
        }
        self._keep(schema.runs, [row])
        return str(row["run_id"])

    @persistent
    def end_run(self, run_id: str, state: str) -> None:
        """Note how a run ended: `finished`, `stopped`, `failed`."""
        with writing(self.engine) as connection:
            ended = update(schema.runs).where(schema.runs.c.run_id == run_id)
            connection.execute(ended.values(ended_at=_now(), state=state))

    @persistent
    def add_candidates(self, campaign_id: str, candidates: Iterable[Candidate | WrittenCandidate]) -> None:
        """Keep proposals. The structure of a `material_id` is the first one told; parents are joined on reading.

        Args:
            campaign_id: Whose.
            candidates: They are gone through again where the database goes away meanwhile: no iterator.
        """
        written = (write_candidate(c) if isinstance(c, Candidate) else c for c in candidates)
        with writing(self.engine, alone_on="candidates") as connection:
            for chunk in chunks(written):
                _insert(connection, schema.candidates, [candidate_row(candidate) for candidate in chunk])
                _insert(connection, schema.proposals, [proposal_row(campaign_id, candidate) for candidate in chunk])

    def add_equivalences(self, campaign_id: str, equivalences: Mapping[str, str], stage: str) -> None:
        """Keep duplicates: `material_id` -> the material that stands for it, found at `stage`."""
        rows = [
            {"campaign_id": campaign_id, "material_id": duplicate, "duplicate_of": kept, "stage": stage}
            for duplicate, kept in equivalences.items()
        ]
        self._keep(schema.equivalences, rows)

    @persistent
    def add_calculations(self, calculations: Iterable[Calculation | WrittenCalculation]) -> None:
        """Keep calculations, for all campaigns.

        The first converged answer to a question stays for good. Before it, each answer that differs from the last
        one is kept as one more `attempt`.
        """
        now = _now()
        written = (write_calculation(c) if isinstance(c, Calculation) else c for c in calculations)
        with writing(self.engine, alone_on="calculations") as connection:
            for chunk in chunks(written):
                _insert(connection, schema.calculations, _attempts(connection, chunk, now))

    @persistent
    def add_stabilities(self, campaign_id: str, stabilities: Sequence[Stability]) -> None:
        """Keep hull distances; one that says what the latest of its material and level says already is left out."""
        columns = ("energy_above_hull", "decomposition_energy_per_atom", "reference_version")
        key = ("material_id", "fidelity", "level_of_theory")
        table = schema.stabilities
        with writing(self.engine, alone_on=campaign_id) as connection:
            for chunk in chunks(stabilities):
                ids = [stability.material_id for stability in chunk]
                known = select(table).where(table.c.campaign_id == campaign_id, table.c.material_id.in_(ids))
                latest = {
                    tuple(row[k] for k in key): [row[c] for c in columns]
                    for row in connection.execute(known.order_by(table.c.sequence)).mappings()
                }
                rows = [record_row(campaign_id, stability) for stability in chunk]
                news = [row for row in rows if latest.get(tuple(row[k] for k in key)) != [row[c] for c in columns]]
                _insert(connection, table, news)

    def add_predictions(self, campaign_id: str, predictions: Sequence[Prediction]) -> None:
        """Keep what the surrogate believed; what it said first of a round stays."""
        self._add(schema.predictions, campaign_id, predictions)

    def add_selections(self, campaign_id: str, selections: Sequence[Selection]) -> None:
        """Keep a batch; a material is selected once in a campaign, and its first round stays."""
        self._add(schema.selections, campaign_id, selections)

    def add_failures(self, campaign_id: str, failures: Sequence[Failure]) -> None:
        """Keep failures."""
        self._add(schema.failures, campaign_id, failures)

    @persistent
    def publish(self, campaign_id: str, rows: Iterable[RankedCandidate]) -> int:
        """Make these rows the campaign's table; return how many of them were new, changed or gone.

        Readers see the old table or the new one, nothing between. Rows that say what they said are not written.
        A few thousand rows are in memory at once.

        Args:
            campaign_id: Whose.
            rows: By rank. They are gone through again where the database goes away meanwhile: no iterator.
        """
        table = schema.rankings
        mine = table.c.campaign_id == campaign_id
        changes = 0
        with writing(self.engine, alone_on=campaign_id) as connection:
            gone = set(connection.execute(select(table.c.material_id).where(mine)).scalars())
            for chunk in chunks(rows, _PUBLISHED):
                told = [row.material_id for row in chunk if row.material_id in gone]
                known = connection.execute(select(table).where(mine, table.c.material_id.in_(told))) if told else ()
                old = {row.material_id: dict(row._mapping) for row in known}
                new = [ranking_row(campaign_id, row) for row in chunk]
                changed = [row for row in new if old.get(row["material_id"]) != row]
                _insert(connection, table, changed, replace=self._REPLACED)
                gone.difference_update(told)
                changes += len(changed)
            for ids in chunks(gone):
                connection.execute(delete(table).where(mine, table.c.material_id.in_(ids)))
            changes += len(gone)
            # Always: a process of version 1 that was still running may have published without.
            _count_systems(connection, campaign_id)
            if changes > _ANALYZE_FROM:
                connection.execute(text("ANALYZE rankings"))  # or the planner thinks the table as it was, or empty
        return changes

    @persistent
    def _keep(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        with writing(self.engine) as connection:
            _insert(connection, table, rows)

    @persistent
    def _add(self, table: Table, campaign_id: str, records: Sequence[Any]) -> None:
        with writing(self.engine) as connection:
            for chunk in chunks(records):
                _insert(connection, table, [record_row(campaign_id, record) for record in chunk])


def _count_systems(connection: Connection, campaign_id: str) -> None:
    table, mine = schema.systems, schema.rankings.c.campaign_id == campaign_id
    connection.execute(delete(table).where(table.c.campaign_id == campaign_id))
    system = schema.rankings.c.chemsys
    counted = select(literal(campaign_id), system, func.count()).where(mine).group_by(system)
    connection.execute(insert(table).from_select(["campaign_id", "chemsys", "n_rows"], counted))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _insert(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, replace: Sequence[str] = ()
) -> None:
    """Insert; rows whose key is there already are left alone, or have their columns `replace` replaced."""
    if not rows:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values({name: bindparam(name) for name in rows[0]})
    if replace:
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_={name: statement.excluded[name] for name in replace},
        )
    else:
        statement = statement.on_conflict_do_nothing()
    connection.execute(statement, list(rows))


def _attempts(connection: Connection, calculations: Sequence[WrittenCalculation], now: str) -> list[dict[str, Any]]:
    table = schema.calculations
    ids = [calculation.calculation_id for calculation in calculations]
    columns = [table.c.calculation_id, table.c.attempt, table.c.status, table.c.content_hash]
    known = connection.execute(select(*columns).where(table.c.calculation_id.in_(ids)).order_by(table.c.attempt))
    latest = {row.calculation_id: (row.attempt, row.status, row.content_hash) for row in known}
    rows = []
    for calculation in calculations:
        attempt, status, digest = latest.get(calculation.calculation_id, (0, "", ""))
        if status == "converged" or digest == calculation.content_hash:
            continue
        latest[calculation.calculation_id] = (attempt + 1, calculation.status, calculation.content_hash)
        rows.append(calculation_row(calculation, attempt + 1, now))
    return rows
