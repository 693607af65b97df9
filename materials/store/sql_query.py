"""Queries of the ranked table as SQL that a database plans well, a million rows long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, Connection, and_, func, literal, literal_column, not_, or_, select
from sqlalchemy.sql import operators

from materials.query import Both, Comparison, Either, ElementsIn, Expression, Has, IsNull, Membership, Not
from materials.store import schema
from materials.store.rows import CHUNK

GROUP = 200
_OPERATORS = {
    "=": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}
_FEW_ROWS = 20_000  # quick to read and sort; more, and the sort's own index meets enough of them soon


def condition(expression: Expression, chemsys: ColumnElement[str] | None = None) -> ColumnElement[bool]:
    """Say the same of a row of the ranked table in SQL.

    Args:
        expression: As `materials.query.parse` gave it.
        chemsys: Where elements are looked up, if not in the ranked table.
    """
    view = schema.ranked_candidates
    system = view.c.chemsys if chemsys is None else chemsys
    match expression:
        case Comparison():
            return _OPERATORS[expression.operator](view.c[expression.column], expression.value)
        case Membership():
            return view.c[expression.column].in_(dict.fromkeys(expression.values))
        case IsNull():
            return view.c[expression.column].is_(None)
        case Has():
            return ("-" + system + "-").contains(f"-{expression.element}-", autoescape=True)
        case ElementsIn():
            # "K-Mg-Sb" -> "-K--Mg--Sb-": take out the allowed ones, and nothing may be left.
            left: ColumnElement[str] = "-" + func.replace(system, "-", "--") + "-"
            for element in dict.fromkeys(expression.elements):
                left = func.replace(left, f"-{element}-", "")
            return left == ""
        case Not():
            return not_(condition(expression.term, chemsys))
        case Both():
            return _joined(and_, [condition(term, chemsys) for term in dict.fromkeys(expression.terms)])
        case Either():
            return _joined(or_, [condition(term, chemsys) for term in dict.fromkeys(expression.terms)])


def _joined(join: Callable[..., ColumnElement[bool]], conditions: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    """Join conditions in groups: to SQLite a chain of n is an expression n deep, and a thousand is its limit.

    SQLAlchemy takes the parentheses off a chain within one of its kind: so all groups true is said as none untrue.
    """
    if len(conditions) <= GROUP:
        return join(*conditions)
    groups = [join(*conditions[start : start + GROUP]) for start in range(0, len(conditions), GROUP)]
    other = or_ if join is and_ else and_
    return not_(_joined(other, [not_(group) for group in groups]))


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
    if not isinstance(term, Comparison) or term.column not in schema.SORTED_BY:
        return None
    view = schema.ranked_candidates
    mine = select(literal(1)).where(view.c.campaign_id == campaign_id, condition(term))
    counted = select(func.count()).select_from(mine.limit(_FEW_ROWS + 1).subquery())
    return "0.9" if connection.execute(counted).scalar_one() > _FEW_ROWS else "0.0001"


def _systems(connection: Connection, campaign_id: str, where: Expression) -> list[ColumnElement[bool]]:
    """Name the chemical systems that a query's elements mean, where their rows are few."""
    view, table = schema.ranked_candidates, schema.systems
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
