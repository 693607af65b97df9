"""Names, messages and times as plain text: never markup of a page, nor escape sequences of a terminal."""

from __future__ import annotations

import re

# Control characters but line feed and tab, which move the cursor or colour what follows; what turns the direction of
# writing; halves of characters, which no file takes.
_ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What means something in a line of Markdown, GitHub's too, wherever it stands; an underscore inside of a word does not.
_MARKS = re.compile(r"[\\`*\[\]<>&#~|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# Where GitHub, or Prefect's page, would begin a link.
_ADDRESS = re.compile(r"(?<=[a-z]):(?=//)|(?<=www)\.|(?<=\S)@(?=\S{0,300}\.\S)", re.IGNORECASE)
_APART = "<!-- -->"  # shows nowhere; GitHub links a name at a host whatever escapes or entities are in it
_BEGINNING = re.compile(r"^([-+=]|\d+(?=[.)]))")  # of a list, a number in it, or a line below a heading


def printable(text: str) -> str:
    """Show what would be an order to a terminal as a mark that something is there."""
    return _ORDERS.sub("\ufffd", text)


def in_markdown(text: str) -> str:
    """Write a text so that Markdown shows it as it is, in one line, its addresses as text as well."""
    line = _MARKS.sub(r"\\\g<0>", printable(" ".join(text.split())))
    line = _ADDRESS.sub(lambda found: f"{_APART}@" if found[0] == "@" else f"\\{found[0]}", line)
    found = _BEGINNING.match(line)
    if found is None:
        return line
    first = found[1]
    return f"{first}\\{line[len(first) :]}" if first[0].isdigit() else f"\\{line}"


def paragraphs_in_markdown(text: str) -> str:
    """Likewise, with its paragraphs kept apart."""
    return "\n\n".join(in_markdown(part) for part in re.split(r"\n\s*\n", text.strip()))


def code(text: str) -> str:
    """Write a name as Markdown's code."""
    return "`" + printable(" ".join(text.split())).replace("`", "'").replace("|", "/") + "`"


def out_of_markdown(text: str) -> str:
    """Give back the text that `in_markdown` was given, for a terminal."""
    return re.sub(_APART + r"|\\([!-/:-@\[-`{-~])", r"\1", text)


def duration(seconds: float) -> str:
    """Write seconds as a person would: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
