"""Labelled structures: rows of a file, or the DFT results of a campaign's candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.config.campaign import Campaign
from flows.config.yaml_file import check
from materials.errors import InputError, LedgerError, QueryError
from materials.properties import learned_as
from materials.query import nearest
from materials.records import Candidate, Failure
from materials.sources.files.unpacking import expanded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from materials.store.ledger import Ledger


Check = Callable[[Mapping[str, "NDArray[np.float64]"]], object]

LEVEL = "level_of_theory"  # column of a table
LARGEST = 1e100  # answers beyond it are a mistake


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Rows as they were given: several may be one and the same structure.

    Attributes:
        candidates: One a row.
        answers: Property -> answers, each of shape (n,), NaN where there is none; for energies above the hull the
            decomposition energies too, if they are there.
        failures: Rows that cannot be read.
        campaign: That they are of; None: of a file.
        levels: Levels of theory of the answers, where they are told.
    """

    candidates: Sequence[Candidate]
    answers: Mapping[str, NDArray[np.float64]]
    failures: Sequence[Failure] = ()
    campaign: Campaign | None = None
    levels: frozenset[str] = frozenset()


@contextmanager
def open_rows(
    table: str, ledger_url: str | None, properties: Sequence[str], check_answers: Check = lambda _: None
) -> Iterator[tuple[Ledger, Labelled]]:
    """Read labelled structures, and open the ledger for what the potential says of them.

    Args:
        table: A file, or the name of a campaign.
        ledger_url: Of the ledger.
        properties: Whose answers are read.
        check_answers: Raises where they are of no use: before there is a ledger.

    Raises:
        InputError: It is no file and no campaign, a column is missing, or no row has a structure and answers.
    """
    from materials.store.ledger import Ledger

    path = expanded(table)
    of_file = _checked(table, _from_file(path, properties), check_answers) if path.exists() else None
    try:
        ledger = Ledger.open(ledger_url, must_exist=of_file is None)
    except LedgerError as error:
        if of_file is not None:
            raise
        raise InputError(f"{table} is no file, and no campaign either: {error}") from None
    with ledger:
        yield ledger, of_file or _checked(table, _from_campaign(ledger, table, properties), check_answers)


def campaign_of(table: str, ledger_url: str | None) -> Campaign | None:
    """Read the campaign whose name a table is; None where there is such a file, or no such campaign."""
    from materials.store.ledger import Ledger

    if expanded(table).exists():
        return None
    try:
        with Ledger.open(ledger_url, must_exist=True) as ledger:
            return _read_campaign(ledger, ledger.find_campaign(table), table)
    except (LedgerError, QueryError):
        return None  # `open_rows` says what is wrong


def _read_campaign(ledger: Ledger, campaign_id: str, name: str) -> Campaign:
    (told,) = [campaign for campaign in ledger.campaigns() if campaign["campaign_id"] == campaign_id]
    # What a run was given: the campaign's own content names a target where the file names none.
    given = next((run["config"] for run in reversed(told["runs"]) if run["config"]), told["config"])
    return check(Campaign, given, f"the campaign {name}")


def _checked(table: str, labelled: Labelled, check_answers: Check) -> Labelled:
    if not labelled.candidates:
        why = f"; the first: {labelled.failures[0].message}" if labelled.failures else ""
        raise InputError(f"{table}: no row has a structure that can be read{why}")
    for name, answers in labelled.answers.items():
        if not np.isfinite(answers).any():
            raise InputError(f"{table}: no row with a structure has a number as {name}")
    check_answers(labelled.answers)
    return labelled


def _from_file(path: Path, properties: Sequence[str]) -> Labelled:
    from materials.sources.files.source import read
    from materials.sources.files.tables import read_table

    table = read_table(path)
    for name in properties:
        if name not in table.columns:
            there = list(map(str, table.columns))
            raise InputError(
                f"{path} has no column {name!r}{nearest(name, there)}; it has {', '.join(there) or 'none'}"
            )
    names = [*properties, *(name for name in map(learned_as, properties) if name in table.columns)]
    told = {name: np.array([_number(value) for value in table[name]], dtype=np.float64) for name in names}
    told = {name: values for name, values in told.items() if name in properties or np.isfinite(values).any()}
    kept, failures, rows = [], [], []
    for row, found in enumerate(read(path=path)):
        if isinstance(found, Failure):
            failures.append(found)
        else:
            kept.append(found)
            rows.append(row)
    levels = frozenset(map(str, table[LEVEL].iloc[rows].dropna())) if LEVEL in table.columns else frozenset()
    return Labelled(candidates=kept, answers={n: v[rows] for n, v in told.items()}, failures=failures, levels=levels)


def _from_campaign(ledger: Ledger, name: str, properties: Sequence[str]) -> Labelled:
    """Read what DFT said of a campaign's candidates, each with the structure that it was proposed with."""
    from models.learning.fit import EXPECTATIONS

    try:
        campaign_id = ledger.find_campaign(name)
    except QueryError as error:
        raise InputError(f"{name} is no file, and no campaign either. {error}") from None
    if missing := [name for name in properties if name not in EXPECTATIONS]:
        raise InputError(f"a campaign has no {missing[0]!r}; it has {', '.join(EXPECTATIONS)}")
    validated = {row.material_id: row for row in ledger.ranked(campaign_id) if row.status == "validated"}
    if not validated:
        raise InputError(f"the campaign {name} has no candidate that DFT has validated: there is nothing to replay")
    candidates = ledger.candidates(campaign_id, material_ids=sorted(validated))
    rows = [validated[candidate.material_id] for candidate in candidates]
    names = dict.fromkeys([*properties, *map(learned_as, properties)])
    return Labelled(
        candidates=candidates,
        answers={n: np.array([_number(getattr(row, n)) for row in rows], dtype=np.float64) for n in names},
        campaign=_read_campaign(ledger, campaign_id, name),
        levels=frozenset(row.level_of_theory for row in rows if row.level_of_theory),
    )


def _number(value: object) -> float:
    """Read a finite number whose square is one, too; all else is no answer."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
    return number if abs(number) < LARGEST else float("nan")
