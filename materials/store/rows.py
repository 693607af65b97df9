"""Records to rows of the ledger's tables, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from materials.crystals.serialization import (
    JsonText,
    dumps,
    plain,
    structure_from_json,
    structure_to_json,
    volume_from_json,
)
from materials.properties import PROPERTIES
from materials.records import (
    Calculation,
    Candidate,
    Failure,
    Prediction,
    Proposed,
    RankedCandidate,
    Role,
    Selection,
    Stability,
    WrittenCalculation,
    WrittenCandidate,
    content_hash,
)
from materials.targets import expected

if TYPE_CHECKING:  # workers write rows, and need no database for it
    from sqlalchemy import RowMapping

Record = TypeVar("Record", Calculation, Failure, Prediction, Selection, Stability)
Item = TypeVar("Item")

CHUNK = 5_000  # ids in one statement: SQLite takes 32,766 values, PostgreSQL 65,535

_PREDICTED_COLUMNS = {one.name: one.prediction for one in PROPERTIES.values() if one.prediction}


def chunks(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def write_candidate(candidate: Candidate) -> WrittenCandidate:
    """Write a candidate's structure.

    Raises:
        ValueError: a coordinate is NaN or infinite.
    """
    return WrittenCandidate(
        material_id=candidate.material_id,
        formula=candidate.formula,
        chemsys=candidate.chemsys,
        n_sites=len(candidate.structure),
        structure=structure_to_json(candidate.structure),
        source=candidate.source,
        source_version=candidate.source_version,
        parents=candidate.parents,
        role=candidate.role,
        known_as=candidate.known_as,
    )


def candidate_row(candidate: WrittenCandidate) -> dict[str, Any]:
    """Write what is true of a crystal whoever proposes it."""
    return {
        "material_id": candidate.material_id,
        "formula": candidate.formula,
        "chemsys": candidate.chemsys,
        "n_sites": candidate.n_sites,
        "structure": candidate.structure,
    }


def proposal_row(campaign_id: str, candidate: WrittenCandidate) -> dict[str, Any]:
    """Write who proposed a crystal, from what."""
    content = {
        "role": candidate.role,
        "source": candidate.source,
        "source_version": candidate.source_version,
        "parents": list(candidate.parents),
        "known_as": list(candidate.known_as),
    }
    row = {"campaign_id": campaign_id, "material_id": candidate.material_id, **content}
    return {**row, "content_hash": content_hash(content)}


def read_candidate(crystal: Mapping[str, Any] | RowMapping, proposals: Sequence[Mapping[str, Any]]) -> Candidate:
    """Merge the proposals of one crystal: the first one's source, everybody's parents.

    A crystal that anybody proposed as a candidate is a candidate, though others need it as a competing phase.
    """
    return Candidate(
        material_id=crystal["material_id"],
        formula=crystal["formula"],
        chemsys=crystal["chemsys"],
        structure=structure_from_json(crystal["structure"]),
        source=proposals[0]["source"],
        source_version=proposals[0]["source_version"],
        parents=_union(row["parents"] for row in proposals),
        role=_role(proposals),
        known_as=_union(row["known_as"] for row in proposals),
    )


def read_proposed(crystal: Mapping[str, Any] | RowMapping, proposals: Sequence[Mapping[str, Any]]) -> Proposed:
    """Merge the proposals of one crystal as `read_candidate` does, and leave its structure unread."""
    return Proposed(
        material_id=crystal["material_id"],
        formula=crystal["formula"],
        chemsys=crystal["chemsys"],
        n_sites=crystal["n_sites"],
        volume_per_atom=volume_from_json(crystal["structure"]) / crystal["n_sites"],
        parents=_union(row["parents"] for row in proposals),
        role=_role(proposals),
        known_as=_union(row["known_as"] for row in proposals),
    )


def _role(proposals: Sequence[Mapping[str, Any]]) -> Role:
    return "candidate" if any(row["role"] == "candidate" for row in proposals) else "competing"


def _union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def write_calculation(calculation: Calculation) -> WrittenCalculation:
    """Write a calculation; NaN and infinity become None."""
    row = _fields(calculation, leave_out=("structure", "properties", "wall_time_s"))
    row = {key: plain(value) for key, value in row.items()}
    row["structure"] = None if calculation.structure is None else structure_to_json(calculation.structure)
    row["properties"] = plain(calculation.properties)
    # The time it took is left out: the same answer, asked for twice, is one answer.
    digest = content_hash(row)
    return WrittenCalculation(
        **{**row, "properties": dumps(row["properties"])},
        calculation_id=calculation.calculation_id,
        wall_time_s=plain(calculation.wall_time_s),
        content_hash=digest,
    )


def calculation_row(calculation: WrittenCalculation, attempt: int, created_at: str) -> dict[str, Any]:
    """Write a calculation as one of the attempts at an answer."""
    row = _fields(calculation, leave_out=("properties",))
    row.update(properties=JsonText(calculation.properties), attempt=attempt, created_at=created_at)
    return row


def read_calculation(row: Mapping[str, Any] | RowMapping) -> Calculation:
    """Read a calculation; its structure is built anew."""
    values = {name: row[name] for name in _names(Calculation)}
    if values["structure"] is not None:
        values["structure"] = structure_from_json(values["structure"])
    return Calculation(**values)


def record_row(campaign_id: str, record: Record) -> dict[str, Any]:
    """Write a record whose fields are columns of the same names."""
    return {"campaign_id": campaign_id, **{key: plain(value) for key, value in _fields(record).items()}}


def read_record(kind: type[Record], row: Mapping[str, Any] | RowMapping) -> Record:
    """Read a record whose fields are columns of the same names."""
    values: dict[str, Any] = {name: row[name] for name in _names(kind)}
    return kind(**values)


def ranking_row(campaign_id: str, row: RankedCandidate) -> dict[str, Any]:
    """Write a row of the table, its two usual predictions as columns of their own."""
    values = {key: plain(value) for key, value in _fields(row).items()}
    for target, column in _PREDICTED_COLUMNS.items():
        mean, std = row.predicted.get(target, (None, None))
        values[column], values[f"{column}_std"] = plain(None if mean is None else expected(target, mean)), plain(std)
    return {"campaign_id": campaign_id, **values}


def read_ranking(row: Mapping[str, Any] | RowMapping) -> RankedCandidate:
    """Read a row of the table as a record."""
    values = {name: row[name] for name in _names(RankedCandidate)}
    values["predicted"] = {target: _pair(pair) for target, pair in (values["predicted"] or {}).items()}
    return RankedCandidate(**values)


def _pair(pair: Sequence[float | None]) -> tuple[float, float]:
    mean, std = (math.nan if number is None else number for number in pair)
    return mean, std


def _fields(record: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _names(type(record)) if name not in leave_out}


def _names(kind: Any) -> Iterable[str]:
    # dataclasses.fields() builds a tuple at each call, and this is called for each row.
    names: Iterable[str] = kind.__dataclass_fields__
    return names
