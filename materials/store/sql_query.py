"""Saying a query of the ranked table so that the database's planner finds the quick way through a million rows."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, func, literal, literal_column, select

from materials.expressions import Both, Comparison, Either, ElementsIn, Expression, Has, Not
from materials.store import schema as tables
from materials.store.rows import CHUNK
from materials.store.sql_conditions import GROUP, condition

_FEW_ROWS = 20_000  # quick to read and sort; more, and the sort's own index meets enough of them soon


def planned(connection: Connection, campaign_id: str | None, where: Expression) -> list[ColumnElement[bool]]:
    """Say a query in SQL so that the planner finds the quick way.

    What few rows meet is looked up by its own index; what many meet is left to be met on the way along the sort's.
    """
    terms = _terms(where)
    if len(terms) > GROUP:  # of a program's making: to ask about each term would take longer than any plan saves
        return [condition(where)]
    conditions = [condition(term) for term in terms]
    if campaign_id is None:
        return conditions
    if connection.dialect.name == "sqlite":  # whose planner takes any range for a narrow one
        conditions = [
            said if share is None else func.likelihood(said, literal_column(share))
            for term, said in zip(terms, conditions, strict=True)
            for share in [_share(connection, campaign_id, term)]
        ]
    return [*conditions, *_systems(connection, campaign_id, where)]


def _share(connection: Connection, campaign_id: str, term: Expression) -> str | None:
    """Say roughly which part of the rows meets a comparison that has an index; None where it has none."""
    if not isinstance(term, Comparison) or term.column not in tables.SORTED_BY:
        return None
    view = tables.ranked_candidates
    mine = select(literal(1)).where(view.c.campaign_id == campaign_id, condition(term))
    counted = select(func.count()).select_from(mine.limit(_FEW_ROWS + 1).subquery())
    return "0.9" if connection.execute(counted).scalar_one() > _FEW_ROWS else "0.0001"


def _systems(connection: Connection, campaign_id: str, where: Expression) -> list[ColumnElement[bool]]:
    """Name the chemical systems that a query's elements mean, where their rows are few."""
    view, table = tables.ranked_candidates, tables.systems
    asked = [term for term in _terms(where) if _is_of_elements(term)]
    if not asked:
        return []
    mine = select(table.c.chemsys, table.c.n_rows).where(table.c.campaign_id == campaign_id)
    meant = mine.where(*[condition(term, table.c.chemsys) for term in asked]).limit(CHUNK + 1)
    found = connection.execute(meant).all()
    if len(found) > CHUNK or sum(row.n_rows for row in found) > _FEW_ROWS:
        return []
    return [view.c.chemsys.in_([row.chemsys for row in found])]


def _terms(where: Expression) -> Sequence[Expression]:
    return [inner for term in where.terms for inner in _terms(term)] if isinstance(where, Both) else [where]


def _is_of_elements(term: Expression) -> bool:
    match term:
        case Has() | ElementsIn():
            return True
        case Not():
            return _is_of_elements(term.term)
        case Both() | Either():
            return all(map(_is_of_elements, term.terms))
        case _:
            return False
