"""Queries behind `assay table`, `show`, `status` and `export`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Connection,
    Engine,
    Float,
    Integer,
    Select,
    func,
    or_,
    select,
)

from materials.crystals.serialization import structure_from_json
from materials.errors import LedgerError, QueryError
from materials.query import ColumnKind, Expression, SortKey, nearest
from materials.records import READ, Failure
from materials.secrets import mask
from materials.store import schema
from materials.store.rows import chunks
from materials.store.sql_query import planned
from materials.store.transactions import persistent, reading

if TYPE_CHECKING:
    from pymatgen.core import Structure

_EVIDENCE = {
    "proposals": schema.proposals,
    "equivalences": schema.equivalences,
    "calculations": schema.calculations,
    "stabilities": schema.stabilities,
    "predictions": schema.predictions,
    "selections": schema.selections,
    "failures": schema.failures,
    "rankings": schema.rankings,
}


def columns() -> dict[str, ColumnKind]:
    """Name the columns of the ranked table that a query may speak of, and what they hold."""
    return {
        column.name: _kind(column.type) for column in schema.ranked_candidates.columns if column.name != "predicted"
    }


class Answering:
    """The part of the ledger that people ask."""

    engine: Engine

    @persistent
    def campaigns(self) -> list[dict[str, Any]]:
        """List the campaigns, oldest first: `campaign_id`, `name`, `config`, `config_hash`, `created_at`, `runs`.

        Raises:
            LedgerError: What one was asked, or a run noted, is not of the kind that is written there.
        """
        table, runs = schema.campaigns, schema.runs
        with reading(self.engine) as connection:
            found = _dicts(connection, select(table).order_by(table.c.created_at, table.c.campaign_id))
            told = _dicts(connection, select(runs).order_by(runs.c.started_at))
        for where, values, kind in (
            ("campaigns.config", [campaign["config"] for campaign in found], dict),
            ("runs.versions", [run["versions"] for run in told], dict),
            ("runs.budget", [run["budget"] for run in told], int | None),
        ):
            for value in values:
                if not isinstance(value, kind):
                    raise LedgerError(
                        f"The ledger at {mask(self.engine.url)} is damaged: {where} holds {str(value)[:40]!r};"
                        " go back to a copy of it"
                    )
        return [
            {**campaign, "runs": [run for run in told if run["campaign_id"] == campaign["campaign_id"]]}
            for campaign in found
        ]

    @persistent
    def find_campaign(self, name: str | None = None) -> str:
        """Say the `campaign_id` that a name, an id or a beginning of one means; None is the latest that was run.

        Of campaigns of one name the latest is meant.

        Raises:
            QueryError: there is none; the nearest name is given.
        """
        table = schema.campaigns
        with reading(self.engine) as connection:
            query = select(table.c.campaign_id, table.c.name).order_by(table.c.created_at.desc())
            found = connection.execute(query).all()
            run = set(connection.execute(select(schema.runs.c.campaign_id)).scalars())
        if name is None:  # what a replay screens is a campaign that nobody ran
            found = [row for row in found if row.campaign_id in run] or found
        for row in found:
            if name is None or name in (row.campaign_id, row.name):
                return str(row.campaign_id)
        beginning = [row.campaign_id for row in found if name and row.campaign_id.startswith(name)]
        if len(beginning) == 1:
            return str(beginning[0])
        if not found:
            raise QueryError("The ledger holds no campaign yet: `assay run CAMPAIGN.yaml` makes one")
        names = sorted({row.name for row in found})
        hint = nearest(str(name), [*names, *[row.campaign_id for row in found]])
        raise QueryError(f"The ledger holds no campaign {name!r}{hint}. It holds: {', '.join(names)}")

    @persistent
    def status(self, campaign_id: str) -> dict[str, dict[str, int]]:
        """Count what is there, by stage.

        Returns:
            `proposed` by role, `duplicates` by stage, `mlip` and `dft` by status of the best attempt, `assessed` by
            fidelity, `selected` by round, `failed` by `stage: error`, `ranked` by status.
        """
        counts = {}
        with reading(self.engine) as connection:
            for name, table, key in (
                ("duplicates", schema.equivalences, schema.equivalences.c.stage),
                ("assessed", schema.stabilities, schema.stabilities.c.fidelity),
                ("selected", schema.selections, schema.selections.c.round),
                ("failed", schema.failures, schema.failures.c.stage + ": " + schema.failures.c.error),
                ("ranked", schema.rankings, schema.rankings.c.status),
            ):
                number = func.count(table.c.material_id.distinct())
                query = select(key, number).where(table.c.campaign_id == campaign_id).group_by(key).order_by(key)
                counts[name] = {str(kind): int(count) for kind, count in connection.execute(query)}
            counts["proposed"] = _proposed(connection, campaign_id)
            counts["mlip"] = _statuses(connection, campaign_id, "mlip")
            counts["dft"] = _statuses(connection, campaign_id, "dft")
        return counts

    @persistent
    def missing(self, campaign_id: str, code: str) -> dict[str, int]:
        """Count what a campaign would do when it is run again.

        Args:
            campaign_id: Whose.
            code: That validates, as its method begins.

        Returns:
            `screened`: materials without an answer of a potential, but for those that were refused when they were
            proposed and competing phases that a database has energies of. `validated`: chosen ones without an answer
            of DFT. What came from outside, or from a person who cancelled it, is no answer.
        """
        table, proposals, failures = schema.calculations, schema.proposals, schema.failures
        columns = [table.c.material_id, table.c.status, table.c.properties, table.c.method]
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        answers = select(*columns[:2]).where(table.c.material_id.in_(mine), table.c.fidelity == "mlip")
        by_dft = select(*columns).where(table.c.material_id.in_(mine), table.c.fidelity == "dft")
        chosen = select(schema.selections.c.material_id).where(schema.selections.c.campaign_id == campaign_id)
        refused = select(failures.c.material_id).where(
            failures.c.campaign_id == campaign_id, failures.c.stage == "propose"
        )
        with reading(self.engine) as connection:
            roles: dict[str, str] = {}
            for material_id, role in connection.execute(
                select(proposals.c.material_id, proposals.c.role).where(proposals.c.campaign_id == campaign_id)
            ):
                roles[material_id] = min(role, roles.get(material_id, role))
            done = set(connection.execute(refused).scalars())
            done |= {row.material_id for row in connection.execute(answers) if row.status != "crashed"}
            validated = set()
            for row in connection.execute(by_dft):
                if not row.method.startswith(f"{code}-"):
                    done |= {row.material_id} if roles[row.material_id] == "competing" else set()
                elif row.status != "cancelled" and not (row.properties or {}).get("from_outside"):
                    validated.add(row.material_id)
            picks = set(connection.execute(chosen).scalars())
        return {"screened": len(roles.keys() - done), "validated": len(picks - validated)}

    @persistent
    def rows(
        self,
        campaign_id: str | None = None,
        where: Expression | None = None,
        sort: Sequence[SortKey] = (),
        limit: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Answer a query of the ranked table; rows without a value in a sorted column come last.

        Args:
            campaign_id: Of one campaign; None is all.
            where: As `materials.query.parse` gave it.
            sort: As `materials.query.parse_sort` gave it; then, or without it, by rank.
            limit: At most so many rows.
            columns: Only these; None is all.
        """
        view = schema.ranked_candidates
        shown = [view.c[name] for name in columns] if columns is not None else list(view.columns)
        query = select(*shown)
        if campaign_id is not None:
            query = query.where(view.c.campaign_id == campaign_id)
        with reading(self.engine) as connection:
            if where is not None:
                query = query.where(*planned(connection, campaign_id, where))
            if not sort:
                return _dicts(connection, query.order_by(view.c.rank, view.c.material_id).limit(limit))
            # Those that have a value, then those that have none: so that an index gives the first few in order.
            first = view.c[sort[0].column]
            found = _dicts(
                connection, _ordered(query.where(first.is_not(None)), sort, first_has_values=True).limit(limit)
            )
            if limit is None or len(found) < limit:
                left = None if limit is None else limit - len(found)
                found += _dicts(connection, _ordered(query.where(first.is_(None)), sort[1:]).limit(left))
            return found

    @persistent
    def best_structures(self, material_ids: Collection[str]) -> dict[str, Structure]:
        """Give the best structure known of each: of a converged DFT calculation, of a potential's, or as proposed."""
        calculations, candidates = schema.calculations, schema.candidates
        best: dict[str, str] = {}
        with reading(self.engine) as connection:
            for ids in chunks(dict.fromkeys(material_ids)):
                proposed = select(candidates.c.material_id, candidates.c.structure)
                computed = select(calculations.c.material_id, calculations.c.structure).where(
                    calculations.c.status == "converged",
                    calculations.c.structure.is_not(None),
                    calculations.c.material_id.in_(ids),
                )
                # "mlip" comes after "dft" in the alphabet, and the last one read holds.
                computed = computed.order_by(calculations.c.fidelity.desc(), calculations.c.created_at)
                for query in (proposed.where(candidates.c.material_id.in_(ids)), computed):
                    best.update({row.material_id: row.structure for row in connection.execute(query)})
        return {material_id: structure_from_json(text) for material_id, text in best.items()}

    @persistent
    def resolve(self, name: str) -> str:
        """Say the `material_id` that a name means: an id, a unique beginning of one, a parent, or a known name.

        Raises:
            QueryError: it means none, or several.
        """
        with reading(self.engine) as connection:
            return _resolve(connection, name)

    @persistent
    def unread(self, campaign_id: str | None = None) -> list[Failure]:
        """Give what could not be read, in the order in which it came, without what has been read since.

        Args:
            campaign_id: Of one campaign; None: of all.
        """
        table, proposals = schema.failures, schema.proposals
        query = select(table).where(table.c.stage == READ).order_by(table.c.sequence)
        told = select(proposals.c.parents)
        if campaign_id is not None:
            query, told = (
                query.where(table.c.campaign_id == campaign_id),
                told.where(proposals.c.campaign_id == campaign_id),
            )
        with reading(self.engine) as connection:
            found = {
                row.material_id: Failure(
                    material_id=row.material_id, stage=row.stage, error=row.error, message=row.message
                )
                for row in connection.execute(query)
            }
            if found:
                for (parents,) in connection.execute(told):
                    for parent in parents:
                        found.pop(parent, None)
        return list(found.values())

    @persistent
    def evidence(self, name: str) -> dict[str, Any]:
        """Give every record behind a material, for all campaigns, in the order in which they came.

        Args:
            name: As `resolve` takes it.

        Returns:
            `material_id`, `candidate` (a dict), and lists of dicts: `proposals`, `equivalences` (as the duplicate
            and as the one that stands for others), `calculations`, `stabilities`, `predictions`, `selections`,
            `failures`, `rankings`. Structures are left as JSON text (`materials.crystals.serialization`).

        Raises:
            QueryError: the name means no material, or several.
        """
        with reading(self.engine) as connection:
            material_id = _resolve(connection, name)
            crystal = select(schema.candidates).where(schema.candidates.c.material_id == material_id)
            found: dict[str, Any] = {"material_id": material_id, "candidate": _dicts(connection, crystal)[0]}
            for kind, table in _EVIDENCE.items():
                about = table.c.material_id == material_id
                if kind == "equivalences":
                    about = or_(about, table.c.duplicate_of == material_id)
                query = select(table).where(about).order_by(*table.primary_key.columns)
                if kind == "calculations":
                    query = select(table).where(about).order_by(table.c.created_at, table.c.attempt)
                found[kind] = _dicts(connection, query)
        return found


def _ordered(query: Select[Any], sort: Sequence[SortKey], *, first_has_values: bool = False) -> Select[Any]:
    view = schema.ranked_candidates
    for number, key in enumerate(sort):
        column = view.c[key.column].desc() if key.descending else view.c[key.column].asc()
        query = query.order_by(column if first_has_values and number == 0 else column.nulls_last())
    return query.order_by(view.c.rank, view.c.material_id)


def _kind(kind: Any) -> ColumnKind:
    if isinstance(kind, Boolean):
        return "boolean"
    return "number" if isinstance(kind, (Float, Integer)) else "text"


def _dicts(connection: Connection, query: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _proposed(connection: Connection, campaign_id: str) -> dict[str, int]:
    table = schema.proposals
    query = select(table.c.material_id, func.min(table.c.role)).where(table.c.campaign_id == campaign_id)
    # "candidate" comes before "competing" in the alphabet: who is both counts as a candidate.
    roles = [role for _, role in connection.execute(query.group_by(table.c.material_id))]
    return {role: roles.count(role) for role in sorted(set(roles))}


def _statuses(connection: Connection, campaign_id: str, fidelity: str) -> dict[str, int]:
    table, proposals = schema.calculations, schema.proposals
    mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
    query = select(table.c.calculation_id, table.c.status).where(table.c.fidelity == fidelity)
    query = query.where(table.c.material_id.in_(mine)).order_by(table.c.attempt)
    best = {row.calculation_id: row.status for row in connection.execute(query)}
    statuses = list(best.values())
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def _resolve(connection: Connection, name: str) -> str:
    ids, proposals = schema.candidates.c.material_id, schema.proposals
    if connection.execute(select(ids).where(ids == name)).first() is not None:
        return name
    beginning = select(ids).where(ids.startswith(name, autoescape=True)).order_by(ids).limit(6)
    found = [row.material_id for row in connection.execute(beginning)] if name else []
    if not found:
        told = select(proposals.c.material_id, proposals.c.parents, proposals.c.known_as)
        rows = connection.execute(told.order_by(proposals.c.sequence))
        found = list(dict.fromkeys(row.material_id for row in rows if name in [*row.parents, *row.known_as]))
    if len(found) == 1:
        return str(found[0])
    if found:
        raise QueryError(f"{name!r} means several materials: {', '.join(found)}. Say which")
    every: Mapping[str, None] = dict.fromkeys(row.material_id for row in connection.execute(select(ids)))
    raise QueryError(f"The ledger holds no material {name!r}{nearest(name, every)}: `assay table` lists what it holds")
