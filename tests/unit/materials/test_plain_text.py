"""What stands in a file stays text, on a page and on a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from materials.plain_text import code, in_markdown, out_of_markdown, paragraphs_in_markdown, printable

MARKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "[x]: http://evil.example",
    "<http://evil.example>",
    "&lt;script&gt;",
    "# heading",
    "> quoted",
    "- item",
    "+ item",
    "1. item",
    "2026) item",
    "---",
    "===",
    "```\ncode",
    "~~~\ncode",
    "    code",
    "`code`",
    "*e* **e** _e_ __e__ ~~e~~",
    "a | b",
    "\\<script>",
    "\\\\<script>",
    "$\\href{javascript:x}{y}$",
    "a\n\n<script>\n\n# b",
    "file_names_stay.extxyz",
    "LiMgP-eb5041739d: half-Heusler, Li on 4a",
]

ADDRESSES = [
    "http://evil.example/x",
    "see HTTPS://evil.example, or (ftp://evil.example)",
    "www.evil.example",
    "*WWW.evil.example*",
    "a@b.example",
    "a_@b.example and c@_d.example",
    "mailto:a@b.example",
    "xmpp:a.b@c.example/d",
    "a\\@b.example",
    "a<!-- -->@b.example",
    "http\\://evil.example",
]


class Text(HTMLParser):
    """The text and the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.elements = "", set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(markdown: str) -> Text:
    """As a page that believes all of Markdown, HTML and tables too, shows it."""
    return Text(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(markdown))


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))


@given(
    st.one_of(
        st.sampled_from(MARKS + ADDRESSES), st.text(st.sampled_from("<>&[]()`*_~#|\\!$-+=1.) \nab:/@w\x1b\u202e"))
    )
)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    shown = rendered(f"- {in_markdown(text)}")
    assert shown.elements <= {"ul", "li"}
    assert shown.text.strip() == one_line(text)
    alone = rendered(in_markdown(text))
    assert alone.elements <= {"p"}
    assert alone.text.strip() == one_line(text)
    table = rendered(f"| a | b |\n|---|---|\n| {in_markdown(text)} | {code('x' + text)} |")
    assert table.elements == {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert out_of_markdown(in_markdown(text)) == one_line(text)


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_text_and_no_link(text: str) -> None:
    written = in_markdown(text)
    # What GitHub and Prefect's page look for; GitHub finds the last one behind escapes and entities, too.
    assert not re.search(r"(?i)(https?|ftp)://|www\.|[\w.!?'/=+-]\\?@\S+\.", written)
    shown = rendered(f"- {written}")
    assert shown.elements <= {"ul", "li"}
    assert shown.text.strip() == text
    assert out_of_markdown(written) == text


@pytest.mark.parametrize("text", ["Li@4a, 300 K @ 1.5 GPa", "a: b // c", "CO2@MOF 1.0", "wwwx"])
def test_what_is_no_address_is_written_as_it_is(text: str) -> None:
    assert in_markdown(text) == text


def test_paragraphs_stay_apart() -> None:
    shown = rendered(paragraphs_in_markdown("one\nline\n \n<script>\n\n- three"))
    assert shown.elements == {"p"}
    assert shown.text.split("\n") == ["one line", "<script>", "- three", ""]


def test_a_name_does_not_end_its_code() -> None:
    assert rendered(code("a` <script> `b")).elements == {"p", "code"}


@pytest.mark.parametrize("order", ["\x1b[2J", "\x1b]0;title\x07", "\r", "\x9b31m", "\u202e", "\udcff", "\x00"])
def test_a_terminal_is_given_no_orders(order: str) -> None:
    shown = printable(f"a{order}b\n\tc")
    assert shown.encode().startswith(b"a")
    assert not any(c in shown for c in "\x1b\r\x9b\u202e\udcff\x00\x07")
    assert shown.endswith("b\n\tc")
