"""CIF syntax: text to blocks of names and values, every block, nothing dropped.

pymatgen's own reading keeps of two blocks of one name the last, and drops every letter beyond ASCII, a minus sign too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from materials.sources.files.usable import StructureTrouble

MISSING = (".", "?")

# A quoted string ends at a quote before a blank; what follows # is a comment; all else is a word.
_TOKEN = re.compile(r"'(?:[^']|'(?=\S))*'(?=\s|$)|\"(?:[^\"]|\"(?=\S))*\"(?=\s|$)|#.*|\S+")
_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")  # hyphens, dashes, minus
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060"), None)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)(?:\([0-9.,]*\)?)?")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One data block.

    Attributes:
        name: As the file writes it.
        values: Tag in small letters, `.` written as `_` -> its values: one, or those of its loop.
        unclear: Tag -> what is wrong with it: it is there twice, or its loop has a row that is not whole.
        trouble: Why nobody can tell where it ends; None where it has an end.
    """

    name: str
    values: dict[str, list[str]] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)
    trouble: StructureTrouble | None = None

    def column(self, tag: str) -> list[str] | None:
        """Values of a tag; None where there is none.

        Raises:
            StructureTrouble: It cannot be told what they are.
        """
        if tag in self.unclear:
            raise StructureTrouble("UnreadableStructure", f"{self.unclear[tag]} ({tag})")
        return self.values.get(tag)

    def first(self, *tags: str) -> str | None:
        """Give the value of the first tag that has one; None where none has."""
        for tag in tags:
            found = self.column(tag)
            if found and found[0] not in MISSING and found[0].strip():
                return found[0]
        return None

    def _set(self, tag: str, values: list[str]) -> None:
        held = self.values.get(tag)
        if held is None or not any(word not in ("", *MISSING) for word in held):  # '' as the AMCSD writes beside it
            self.values[tag] = values
        elif held != values and any(word not in ("", *MISSING) for word in values):
            self.unclear[tag] = "says the same thing twice in one block, and differently"


def blocks_of(text: str) -> list[Block]:
    """Read the data blocks of a CIF, in order.

    Raises:
        StructureTrouble: A text that is never closed stands before all of them.
    """
    found: list[Block] = []
    try:
        _read_into(found, text)
    except StructureTrouble as trouble:
        if not found:
            raise
        found[-1] = replace(found[-1], trouble=trouble)
    return found


def _read_into(found: list[Block], text: str) -> None:
    pending: str | None = None  # a tag that waits for its value
    loop: list[str] | None = None  # tags of the loop that is being read
    rows: list[str] = []

    def end_loop() -> None:
        nonlocal loop, rows
        if loop and found:
            whole = len(rows) % len(loop) == 0
            for n, tag in enumerate(loop):
                found[-1]._set(tag, rows[n :: len(loop)])
                if not whole:
                    found[-1].unclear[tag] = f"has a loop of {len(loop)} columns and {len(rows)} values"
        loop, rows = None, []

    for word, quoted in _words(text):
        lower = word.lower()
        if not quoted and lower.startswith("data_"):
            end_loop()
            found.append(Block(name=word[5:]))
            pending = None
        elif not quoted and (lower in ("loop_", "global_", "stop_") or lower.startswith("save_")):
            end_loop()
            loop = [] if lower == "loop_" else None
            pending = None
        elif not quoted and word.startswith("_"):
            tag = lower.replace(".", "_")
            if loop is not None and not rows:
                loop.append(tag)
            else:
                end_loop()
                pending = tag
        elif pending is not None:
            if found:
                found[-1]._set(pending, [word])
            pending = None
        elif loop:
            rows.append(word)
    end_loop()


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Split a CIF into words, each with whether it was quoted; comments are left out.

    Raises:
        StructureTrouble: A text is opened by a semicolon and never closed, so that all after it would be lost.
    """
    lines = enumerate(re.split(r"\r\n|\r|\n", text.translate(_INVISIBLE)), 1)
    tag = "no name"
    for n, line in lines:
        if line.startswith(";"):
            parts = [line[1:]]
            for _, following in lines:
                if following.startswith(";"):
                    line = following[1:]
                    break
                parts.append(following)
            else:
                if "".join(parts).strip():
                    raise StructureTrouble(
                        "UnreadableStructure",
                        f"has a text ({tag}) that the ; in line {n} opens and nothing closes, so that it would take in"
                        f"{_swallowed(parts)} all to the end of the file; write a ; at the start of the line after it",
                    )
                return
            yield "\n".join(parts).strip(), True
        for match in _TOKEN.finditer(line):
            word = match.group()
            if word.startswith("#"):
                continue
            quoted = len(word) > 1 and word[0] in "'\"" and word[-1] == word[0]
            tag = word if word.startswith("_") else tag
            yield (word[1:-1].strip() if quoted else word), quoted


def _swallowed(lines: Sequence[str]) -> str:
    """Name the blocks that begin within a text that is never closed."""
    names = [line.split()[0] for line in lines if line.lower().startswith("data_")]
    return f" {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}," if names else ""


def plain(word: str) -> str:
    """Write every dash as a minus sign."""
    return word.translate(_MINUS)


def number(word: str, what: str) -> float:
    """Read a number: with its uncertainty in brackets, with a decimal comma, with a dash of any kind as minus.

    Raises:
        StructureTrouble: It is none; `what` says of what.
    """
    match = _NUMBER.fullmatch(plain(word).strip())
    if match is None:
        said = "nothing" if word in MISSING else f"{word!r}"
        raise StructureTrouble("UnreadableStructure", f"gives {said} as {what}, which is no number")
    return float(match.group(1).replace(",", "."))
