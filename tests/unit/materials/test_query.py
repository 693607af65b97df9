"""The query language: what it understands, what it says when it does not, and that SQL means the same."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, select

from materials.errors import QueryError
from materials.query import (
    Both,
    Comparison,
    Either,
    ElementsIn,
    Expression,
    Has,
    IsNull,
    Membership,
    Not,
    SortKey,
    nearest,
    parse,
    parse_columns,
    parse_sort,
)
from materials.store.browse import columns
from materials.store.ledger import Ledger
from materials.store.schema import ranked_candidates
from materials.store.sql_query import condition

COLUMNS = {
    "formula": "text",
    "chemsys": "text",
    "status": "text",
    "band_gap": "number",
    "score": "number",
    "rank": "number",
    "meets_targets": "boolean",
}


def test_what_it_understands() -> None:
    assert parse("band_gap > 1 and has Li", COLUMNS) == Both(
        terms=(Comparison(column="band_gap", operator=">", value=1.0), Has(element="Li"))
    )
    assert parse("NOT (status in (validated, 'a b') OR score IS NOT NULL)", COLUMNS) == Not(
        term=Either(
            terms=(
                Membership(column="status", values=("validated", "a b")),
                Not(term=IsNull(column="score")),
            )
        )
    )
    assert parse("elements in (Li, Mg, Sb)", COLUMNS) == ElementsIn(elements=("Li", "Mg", "Sb"))
    assert parse("not has Cd", COLUMNS) == Not(term=Has(element="Cd"))
    assert parse("meets_targets", COLUMNS) == parse("Meets_Targets == TRUE", COLUMNS)
    assert parse("score<>-1e-3", COLUMNS) == Comparison(column="score", operator="!=", value=-0.001)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000 + "has Li" + ")" * 1000,
        "not " * 1000 + "has Li",
        "(has Li or (has Mg and " * 500 + "has P" + "))" * 500,
        "(" * 100_000,
        "rank = 1" + " or rank = 1" * 100_000,
        "formula = " + "x" * 1_000_000 + " and (",
    ],
    ids=lambda text: text[:12],
)
def test_a_filter_beyond_measure_is_a_short_sentence(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text, COLUMNS)
    assert len(str(caught.value)) < 500


def test_and_binds_tighter_than_or() -> None:
    assert parse("rank=1 or rank=2 and rank=3", COLUMNS) == parse("rank=1 or (rank=2 and rank=3)", COLUMNS)
    assert parse("not rank=1 and rank=2", COLUMNS) == parse("(not rank=1) and rank=2", COLUMNS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("formula = 'it''s'", "it's"),
        ('formula = "say ""no"""', 'say "no"'),
        ("formula = LiMgP", "LiMgP"),
        ("chemsys = Li-Mg-P", "Li-Mg-P"),
        ("formula = '2'", "2"),
        ("formula = 2", "2"),
        ("formula = '); DROP TABLE rankings; --'", "); DROP TABLE rankings; --"),
    ],
)
def test_text_values(text: str, value: str) -> None:
    expression = parse(text, COLUMNS)
    assert isinstance(expression, Comparison)
    assert expression.value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("band_gp > 1", r"no column 'band_gp' \(did you mean band_gap\?\)"),
        ("has Xx", r"'Xx' is no element"),
        ("has li", r"'li' is no element \(did you mean Li\?\)"),
        ("elements in (Li, CO)", r"'CO' is no element"),
        ("band_gap > wide", "band_gap is a number, wide is none"),
        ("meets_targets > true", "true or false"),
        ("meets_targets = 3", "true or false, 3 is neither"),
        ("band_gap = null", "band_gap is null"),
        ("band_gap", "expected a comparison"),
        ("band_gap >", "expected a value"),
        ("(band_gap > 1", r"expected `\)`"),
        ("band_gap > 1 has Li", "expected `and`, `or` or the end"),
        ("band_gap not 1", "expected `in`"),
        ("status in ()", "expected a value"),
        ("", "expected a column"),
        ("formula = 'open", "quotation mark"),
        ("band_gap > 1; drop", "means nothing here"),
    ],
)
def test_what_it_says_when_it_does_not_understand(text: str, message: str) -> None:
    with pytest.raises(QueryError, match=message) as caught:
        parse(text, COLUMNS)
    assert caught.value.exit_code == 2


def test_a_slip_is_shown_at_its_place() -> None:
    with pytest.raises(QueryError) as caught:
        parse("rank < 3 and score 2", COLUMNS)
    shown = str(caught.value).splitlines()
    assert shown[1].index("2") == shown[2].index("^")


def test_sort_and_columns() -> None:
    assert parse_sort("score", COLUMNS) == [SortKey(column="score", descending=True)]
    assert parse_sort("score asc, -band_gap, formula", COLUMNS) == [
        SortKey(column="score", descending=False),
        SortKey(column="band_gap", descending=True),
        SortKey(column="formula", descending=False),
    ]
    assert parse_columns("Formula, score,formula", COLUMNS) == ["formula", "score"]
    for wrong in ("scores", "score down", "", "score,", "-score desc"):
        with pytest.raises(QueryError, match=r"score|sort"):
            parse_sort(wrong, COLUMNS)


def test_nearest() -> None:
    assert nearest("quikstart", ["quickstart", "other"]) == " (did you mean quickstart?)"
    assert nearest("zzz", ["quickstart"]) == ""


ROWS: list[dict[str, Any]] = [
    {"formula": f, "chemsys": c, "status": s, "band_gap": g, "score": p, "rank": i, "meets_targets": m}
    for i, (f, c, s, g, p, m) in enumerate(
        [
            ("LiMgP", "Li-Mg-P", "validated", 1.5, 1.0, True),
            ("LiMgSb", "Li-Mg-Sb", "validated", 1.2, 0.0, False),
            ("K3Sb", "K-Sb", "screened", None, 0.3, None),
            ("CO2", "C-O", "screened", None, None, None),
            ("LiCoO2", "Co-Li-O", "failed", 0.0, None, None),
            ("N", "N", "selected", -0.5, 0.5, None),
            ("it's", "Na-Ni", "a b", 2.0, 0.25, True),
        ]
    )
]

numbers = st.sampled_from([-0.5, 0.0, 0.25, 0.3, 1.0, 1.2, 3.0])
texts = st.sampled_from(["validated", "screened", "a b", "it's", "LiMgP", "C-O", ""])
elements = st.sampled_from(["Li", "C", "Co", "O", "N", "Na", "Ni", "Sb", "K"])
operators = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
leaves = st.one_of(
    st.builds(Comparison, column=st.sampled_from(["band_gap", "score", "rank"]), operator=operators, value=numbers),
    st.builds(Comparison, column=st.sampled_from(["formula", "status"]), operator=operators, value=texts),
    st.builds(Comparison, column=st.just("meets_targets"), operator=st.sampled_from(["=", "!="]), value=st.booleans()),
    st.builds(Membership, column=st.just("band_gap"), values=st.lists(numbers, min_size=1, max_size=3).map(tuple)),
    st.builds(Membership, column=st.just("status"), values=st.lists(texts, min_size=1, max_size=3).map(tuple)),
    st.builds(IsNull, column=st.sampled_from(sorted(COLUMNS))),
    st.builds(Has, element=elements),
    st.builds(ElementsIn, elements=st.lists(elements, min_size=1, max_size=5).map(tuple)),
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, term=inner),
        st.builds(Both, terms=st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Either, terms=st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)
COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def truth(e: Expression, row: dict[str, Any]) -> bool | None:
    """Evaluate with three truth values, as the SQL standard says."""
    match e:
        case Comparison():
            return None if row[e.column] is None else bool(COMPARE[e.operator](row[e.column], e.value))
        case Membership():
            return None if row[e.column] is None else row[e.column] in e.values
        case IsNull():
            return row[e.column] is None
        case Has():
            return e.element in row["chemsys"].split("-")
        case ElementsIn():
            return set(row["chemsys"].split("-")) <= set(e.elements)
        case Not():
            inner = truth(e.term, row)
            return None if inner is None else not inner
        case Both():
            answers = [truth(t, row) for t in e.terms]
            return False if False in answers else (None if None in answers else True)
        case Either():
            answers = [truth(t, row) for t in e.terms]
            return True if True in answers else (None if None in answers else False)


def written(e: Expression) -> str:
    """Write an expression in the language again."""

    def value(v: Any) -> str:
        return "'" + v.replace("'", "''") + "'" if isinstance(v, str) else str(v).lower()

    match e:
        case Comparison():
            return f"{e.column} {e.operator} {value(e.value)}"
        case Membership():
            return f"{e.column} in ({', '.join(map(value, e.values))})"
        case IsNull():
            return f"{e.column} is null"
        case Has():
            return f"has {e.element}"
        case ElementsIn():
            return f"elements in ({', '.join(e.elements)})"
        case Not():
            return f"not ({written(e.term)})"
        case Both():
            return " and ".join(f"({written(t)})" for t in e.terms)
        case Either():
            return " or ".join(f"({written(t)})" for t in e.terms)


@pytest.fixture(scope="module")
def connection():
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        ranked_candidates.create(connection)
        connection.execute(insert(ranked_candidates), ROWS)
        yield connection
    engine.dispose()


@given(expression=expressions)
@settings(deadline=None, max_examples=300)
def test_sql_means_what_the_language_means(connection, expression: Expression) -> None:
    parsed = parse(written(expression), COLUMNS)
    assert parsed == expression
    found = connection.execute(select(ranked_candidates.c.rank).where(condition(parsed))).scalars()
    assert sorted(found) == [row["rank"] for row in ROWS if truth(expression, row) is True]


@given(value=st.text(max_size=20))
@settings(deadline=None, max_examples=100)
def test_no_text_escapes_its_quotation_marks(connection, value: str) -> None:
    parsed = parse("formula = '" + value.replace("'", "''") + "'", COLUMNS)
    assert parsed == Comparison(column="formula", operator="=", value=value)
    if "\x00" not in value and value.isprintable():
        found = connection.execute(select(ranked_candidates.c.rank).where(condition(parsed))).scalars().all()
        assert found == [row["rank"] for row in ROWS if row["formula"] == value]


CHAIN = 3000


@pytest.mark.parametrize(
    "text",
    [
        "elements in (" + ", ".join(["Li", "Mg", "P"] * 1000) + ")",
        "has Li" + " or has Li or has Mg" * CHAIN,
        "has Li" + " and has Li" * CHAIN,
        " or ".join(f"rank = {i}" for i in range(CHAIN)),
        " and ".join(f"rank != {-i}" for i in range(1, CHAIN)),
        "rank in (" + ", ".join(map(str, range(CHAIN))) + ")",
        "(" * 30 + "has Li" + ")" * 30,
        "not " * 30 + "has Li",
        "".join(f"(rank > {-i} {'and' if i % 2 else 'or'} not (" for i in range(13)) + "has Li" + "))" * 13,
    ],
    ids=lambda text: text[:12],
)
def test_long_filters_are_answered(connection, text: str) -> None:
    parsed = parse(text, COLUMNS)
    found = connection.execute(select(ranked_candidates.c.rank).where(condition(parsed))).scalars()
    assert sorted(found) == [row["rank"] for row in ROWS if truth(parsed, row) is True]


def test_a_long_filter_goes_through_the_planner() -> None:
    with Ledger.open("sqlite://") as ledger:
        campaign_id = ledger.add_campaign("test", {"name": "test"})
        for joint in ("and", "or"):
            where = f" {joint} ".join(f"rank != {-i}" for i in range(1, CHAIN))
            assert ledger.rows(campaign_id, where=parse(where, columns()), sort=()) == []


def test_a_line_break_does_not_part_a_query_from_its_caret() -> None:
    with pytest.raises(QueryError) as caught:
        parse("band_gap > 1\nand\t> 2", COLUMNS)
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^") :].startswith("> 2")
