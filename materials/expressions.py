"""The syntax tree of a query of the ranked table: what `--where` and `--sort` mean, whatever they look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ColumnKind = Literal["number", "text", "boolean"]
Value = float | str | bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`column operator value`; the operator is one of `= != < <= > >=`."""

    column: str
    operator: str
    value: Value


@dataclass(frozen=True, kw_only=True)
class Membership:
    """`column in (values)`."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class IsNull:
    """`column is null`."""

    column: str


@dataclass(frozen=True, kw_only=True)
class Has:
    """The material holds the element."""

    element: str


@dataclass(frozen=True, kw_only=True)
class ElementsIn:
    """The material holds no element but these."""

    elements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Not:
    """The term is false."""

    term: Expression


@dataclass(frozen=True, kw_only=True)
class Both:
    """All terms are true."""

    terms: tuple[Expression, ...]


@dataclass(frozen=True, kw_only=True)
class Either:
    """One of the terms is true."""

    terms: tuple[Expression, ...]


Expression = Comparison | Membership | IsNull | Has | ElementsIn | Not | Both | Either


@dataclass(frozen=True, kw_only=True)
class SortKey:
    """One column to sort by; rows without a value come last in both directions."""

    column: str
    descending: bool
