"""Reading calculations from the ledger: of several attempts and several calculations, the best."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, Table, Text, cast, select

from materials.records import Calculation, Fidelity, WrittenCalculation
from materials.store import schema
from materials.store.rows import chunks, read_calculation
from materials.store.transactions import persistent, reading


class ReadingCalculations:
    """The half of reading that is about calculations."""

    engine: Engine

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
        table = schema.calculations
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
        table = schema.calculations
        wanted = _of_kind(select(table), campaign_id, fidelity, method, level_of_theory, settings_hash, not_by)
        best: dict[str, Any] = {}
        with reading(self.engine) as connection:
            for row in _rows(connection, wanted, table, material_ids):
                held = best.get(row.material_id)
                if held is None or row.status == "converged" or held.status != "converged":
                    best[row.material_id] = row
        return {material_id: read_calculation(row._mapping) for material_id, row in best.items()}

    @persistent
    def best_calculations(
        self,
        campaign_id: str,
        *,
        fidelity: Fidelity | None = None,
        method: str | None = None,
        level_of_theory: str | None = None,
        settings_hash: str | None = None,
        not_by: str | None = None,
    ) -> dict[str, str]:
        """Say which calculation `calculations` gives of each material: `material_id` -> `calculation_id`."""
        table = schema.calculations
        columns = select(table.c.material_id, table.c.calculation_id, table.c.status)
        wanted = _of_kind(columns, campaign_id, fidelity, method, level_of_theory, settings_hash, not_by)
        best: dict[str, str] = {}
        converged = set()
        with reading(self.engine) as connection:
            for material_id, calculation_id, status in connection.execute(wanted):
                if status == "converged":
                    converged.add(material_id)
                elif material_id in converged:
                    continue
                best[material_id] = calculation_id
        return best

    def written_calculations(
        self, calculation_ids: Iterable[str], *, chunk: int = 1_000
    ) -> Iterator[WrittenCalculation]:
        """Yield the best attempt at each calculation as it is written, in the order asked for; unknown ones are not."""
        for ids in chunks(calculation_ids, chunk):
            best = self._written_calculations(ids)
            yield from (best[name] for name in ids if name in best)

    @persistent
    def _written_calculations(self, calculation_ids: Sequence[str]) -> dict[str, WrittenCalculation]:
        table = schema.calculations
        # As text: nobody may want to know what all those numbers are.
        columns = [
            cast(table.c.properties, Text).label(name) if name == "properties" else table.c[name]
            for name in WrittenCalculation.__dataclass_fields__
        ]
        query = select(*columns).where(table.c.calculation_id.in_(calculation_ids)).order_by(table.c.attempt)
        with reading(self.engine) as connection:
            rows = connection.execute(query).mappings()
            return {row["calculation_id"]: WrittenCalculation(**row) for row in rows}

    @persistent
    def calculations_by_id(self, calculation_ids: Collection[str]) -> dict[str, Calculation]:
        """Read the best attempt at each calculation that there is: `calculation_id` -> `Calculation`."""
        table = schema.calculations
        best: dict[str, Any] = {}
        with reading(self.engine) as connection:
            for ids in chunks(dict.fromkeys(calculation_ids)):
                query = select(table).where(table.c.calculation_id.in_(ids)).order_by(table.c.attempt)
                best.update({row.calculation_id: row for row in connection.execute(query)})
        return {calculation_id: read_calculation(row._mapping) for calculation_id, row in best.items()}


def _of_kind(
    query: Select[Any],
    campaign_id: str | None,
    fidelity: str | None,
    method: str | None,
    level_of_theory: str | None,
    settings_hash: str | None,
    not_by: str | None,
) -> Select[Any]:
    """Restrict a query of calculations; the last that it gives of a kind holds."""
    table, proposals = schema.calculations, schema.proposals
    wanted = {
        "fidelity": fidelity,
        "method": method,
        "level_of_theory": level_of_theory,
        "settings_hash": settings_hash,
    }
    for name, value in wanted.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    if not_by is not None:
        query = query.where(table.c.method.not_like(f"{not_by}-%"))
    if campaign_id is not None:
        mine = select(proposals.c.material_id).where(proposals.c.campaign_id == campaign_id)
        query = query.where(table.c.material_id.in_(mine))
    return query.order_by(table.c.created_at, table.c.attempt)


def _rows(
    connection: Connection, query: Select[Any], table: Table, material_ids: Iterable[str] | None
) -> Iterator[Row[Any]]:
    if material_ids is None:
        yield from connection.execute(query)
        return
    for ids in chunks(dict.fromkeys(material_ids)):
        yield from connection.execute(query.where(table.c.material_id.in_(ids)))
