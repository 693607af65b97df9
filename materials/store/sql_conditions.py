"""A query's syntax tree as a condition in SQL, every value bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, and_, func, not_, or_
from sqlalchemy.sql import operators

from materials.expressions import (
    Both,
    Comparison,
    Either,
    ElementsIn,
    Expression,
    Has,
    IsNull,
    Membership,
    Not,
)
from materials.store import schema as tables

GROUP = 200
_OPERATORS = {
    "=": operators.eq,
    "!=": operators.ne,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def condition(expression: Expression, chemsys: ColumnElement[str] | None = None) -> ColumnElement[bool]:
    """Say the same of a row of the ranked table in SQL.

    Args:
        expression: As `materials.query.parse` gave it.
        chemsys: Where elements are looked up, if not in the ranked table.
    """
    view = tables.ranked_candidates
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
