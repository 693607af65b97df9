"""Query language of `--where` and `--sort`: text to a small syntax tree, no SQL.

    expression := term ("or" term)*          term := factor ("and" factor)*
    factor     := "not" factor | "(" expression ")" | "has" Element | "elements" "in" list | test
    test       := column ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
                | column ["not"] "in" list | column "is" ["not"] "null" | boolean_column
    list       := "(" value ("," value)* ")"     value := number | "text" | 'text' | bare_text | true | false

As in SQL, nothing but `is null` is true of a value that is not there: `not (band_gap > 1)` leaves out rows without
a gap. Key words and columns may be written in any case, elements not: `Co` is cobalt, `CO` is nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from materials.crystals.elements import SYMBOLS
from materials.errors import QueryError

ColumnKind = Literal["number", "text", "boolean"]
Value = float | str | bool
Item = TypeVar("Item")
DEEPEST = 40  # parentheses and nots within each other; databases and this parser take somewhat more
LONGEST = 20_000  # words and signs, as many as values that a database takes in one question
SHOWN = 60  # characters of a query before and behind the place that cannot be understood
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.:-]))
    |(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<operator>==|!=|<>|<=|>=|=|<|>|\(|\)|,)
    |(?P<word>[\w.:+/-]+))""",
    re.VERBOSE,
)
_OPERATORS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_ORDERED = ("<", "<=", ">", ">=")


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


def parse(text: str, columns: Mapping[str, ColumnKind]) -> Expression:
    """Understand a `--where`.

    Args:
        text: Such as `energy_above_hull < 0.05 and has Li and not has Cd`.
        columns: The columns there are, and what they hold.

    Raises:
        QueryError: an unknown column or element (the nearest is named), a value of the wrong kind, or a slip of
            syntax (the place is shown).
    """
    parser = _Parser(text, columns)
    expression = parser.either()
    if parser.token.kind != "end":
        raise parser.error("expected `and`, `or` or the end here")
    return expression


def parse_sort(text: str, columns: Mapping[str, ColumnKind]) -> list[SortKey]:
    """Understand a `--sort`: `score`, `-score`, `energy_above_hull desc, formula`.

    `score` alone goes down, for the best comes first; every other column goes up.

    Raises:
        QueryError: an unknown column (the nearest is named), or something that is neither `asc` nor `desc`.
    """
    keys = []
    for part in text.split(","):
        words = part.split()
        minus = bool(words) and words[0].startswith("-")
        if not words or len(words) > 2 or (minus and len(words) > 1):
            raise QueryError(f"Cannot sort by {text!r}: write columns with commas, each with `asc`, `desc` or a minus")
        column = _column(words[0].removeprefix("-"), columns)
        direction = words[1].lower() if len(words) == 2 else ""
        if direction not in ("", "asc", "desc"):
            raise QueryError(f"Cannot sort by {text!r}: {words[1]!r} is neither `asc` nor `desc`")
        descending = minus or direction == "desc" or (column == "score" and not direction)
        keys.append(SortKey(column=column, descending=descending))
    return keys


def parse_columns(text: str, columns: Mapping[str, ColumnKind]) -> list[str]:
    """Understand a list of columns with commas between them, in any case.

    Raises:
        QueryError: an unknown column (the nearest is named).
    """
    return list(dict.fromkeys(_column(word.strip(), columns) for word in text.split(",")))


def nearest(word: str, choices: Iterable[str]) -> str:
    """Say ` (did you mean X?)` for the choice that is most like the word, or nothing."""
    lower = {choice.lower(): choice for choice in choices}
    if len(word) > SHOWN:
        return ""
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def _column(word: str, columns: Mapping[str, ColumnKind]) -> str:
    for column in columns:
        if column.lower() == word.lower():
            return column
    raise QueryError(f"There is no column {word[:SHOWN]!r}{nearest(word, columns)}. There are: {', '.join(columns)}")


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str  # number, quoted, operator, word, end
    text: str
    start: int


class _Parser:
    """A recursive descent through the tokens, one token ahead."""

    def __init__(self, text: str, columns: Mapping[str, ColumnKind]) -> None:
        self.text = text
        self.columns = columns
        self.tokens = self._tokens()
        self.place = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.place]

    def _tokens(self) -> list[_Token]:
        tokens, place = [], 0
        end = len(self.text.rstrip())
        while place < end:
            match = _TOKEN.match(self.text, place)
            if match is None:
                start = place + len(self.text[place:]) - len(self.text[place:].lstrip())
                raise self.error("this character means nothing here, or a quotation mark is left open", start)
            kind = str(match.lastgroup)
            tokens.append(_Token(kind=kind, text=match[kind], start=match.start(kind)))
            place = match.end()
            if len(tokens) > LONGEST:
                raise QueryError(f"--where is too long: it has more than {LONGEST} words and signs")
        return [*tokens, _Token(kind="end", text="", start=end)]

    def error(self, message: str, start: int | None = None) -> QueryError:
        place = self.token.start if start is None else start
        first = max(0, place - SHOWN)
        shown = re.sub(r"\s", " ", self.text[first : place + SHOWN])  # a line break would part it from its caret
        before, behind = "…" * (first > 0), "…" * (len(self.text) > place + SHOWN)
        pointer = " " * (len(before) + place - first)
        return QueryError(f"Cannot understand --where: {message}\n  {before}{shown}{behind}\n  {pointer}^")

    def take(self, *words: str) -> bool:
        """Step over the next token if it is one of these words or signs."""
        if self.token.kind in ("word", "operator") and self.token.text.lower() in words:
            self.place += 1
            return True
        return False

    def expect(self, word: str) -> None:
        if not self.take(word):
            raise self.error(f"expected `{word}` here")

    def either(self) -> Expression:
        terms = [self.both()]
        while self.take("or"):
            terms.append(self.both())
        return terms[0] if len(terms) == 1 else Either(terms=tuple(terms))

    def both(self) -> Expression:
        terms = [self.factor()]
        while self.take("and"):
            terms.append(self.factor())
        return terms[0] if len(terms) == 1 else Both(terms=tuple(terms))

    def factor(self) -> Expression:
        if self.take("not"):
            with self.deeper():
                return Not(term=self.factor())
        if self.take("("):
            with self.deeper():
                expression = self.either()
            self.expect(")")
            return expression
        if self.take("has"):
            return Has(element=self.element())
        if self.take("elements"):
            self.expect("in")
            return ElementsIn(elements=self.listed(self.element))
        return self.test()

    @contextmanager
    def deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error(f"more than {DEEPEST} parentheses and nots within each other")
        yield
        self.depth -= 1

    def test(self) -> Expression:
        if self.token.kind != "word":
            raise self.error("expected a column, `has`, `not` or `(` here")
        column = _column(self.token.text, self.columns)
        self.place += 1
        if self.take("is"):
            negated = self.take("not")
            self.expect("null")
            return Not(term=IsNull(column=column)) if negated else IsNull(column=column)
        negated = self.take("not")
        if self.take("in"):
            member = Membership(column=column, values=self.listed(lambda: self.value(column)))
            return Not(term=member) if negated else member
        if negated:
            raise self.error("expected `in` after `not` here")
        if self.token.kind == "operator" and self.token.text in _OPERATORS:
            return self.comparison(column)
        if self.columns[column] == "boolean":
            return Comparison(column=column, operator="=", value=True)
        raise self.error(f"expected a comparison such as `<`, `in` or `is null` after {column} here")

    def comparison(self, column: str) -> Expression:
        operator = _OPERATORS[self.token.text]
        if operator in _ORDERED and self.columns[column] == "boolean":
            raise self.error(f"{column} is true or false: there is no more or less to it")
        self.place += 1
        return Comparison(column=column, operator=operator, value=self.value(column))

    def listed(self, read: Callable[[], Item]) -> tuple[Item, ...]:
        self.expect("(")
        items = [read()]
        while self.take(","):
            items.append(read())
        self.expect(")")
        return tuple(items)

    def element(self) -> str:
        token = self.token
        if token.kind not in ("word", "quoted"):
            raise self.error("expected the symbol of an element here")
        symbol = token.text.strip("'\"")
        if symbol not in SYMBOLS:
            raise self.error(f"{symbol!r} is no element{nearest(symbol, SYMBOLS)}")
        self.place += 1
        return symbol

    def value(self, column: str) -> Value:
        token, kind = self.token, self.columns[column]
        if token.kind not in ("number", "quoted", "word"):
            raise self.error("expected a value here")
        if token.kind == "word" and token.text.lower() == "null":
            raise self.error(f"write `{column} is null` or `{column} is not null`")
        if kind == "number":
            if token.kind != "number":
                raise self.error(f"{column} is a number, {token.text} is none")
            value: Value = float(token.text)
        elif kind == "boolean":
            if token.text.lower() not in ("true", "false"):
                raise self.error(f"{column} is true or false, {token.text} is neither")
            value = token.text.lower() == "true"
        elif token.kind == "quoted":
            mark = token.text[0]
            value = token.text[1:-1].replace(mark * 2, mark)
        else:
            value = token.text
        self.place += 1
        return value
