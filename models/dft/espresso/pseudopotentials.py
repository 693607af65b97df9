"""Pseudopotentials: headers of UPF files, and families of them with their cut-offs."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from materials.records import content_hash

# How UPF files spell a functional: by its name, or by the names of its four parts.
SPELLINGS = {
    "LDA": ("PZ", "LDA", "SLA PZ NOGX NOGC"),
    "PBE": ("PBE", "SLA PW PBX PBC", "SLA PW PBE PBE"),
    "PBEsol": ("PBESOL", "SLA PW PSX PSC"),
    "BLYP": ("BLYP", "SLA LYP B88 BLYP"),
    "TPSS": ("TPSS", "SLA PW TPSS TPSS"),
}
# The header stands near the beginning; some files keep the input of their generator before it.
MOST_BEFORE_HEADER = 200_000


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a UPF file says of itself."""

    element: str
    functional: str  # by `SPELLINGS`, or as the file has it
    valence: float  # electrons


@dataclass(frozen=True, kw_only=True)
class Pseudopotential:
    """The pseudopotential of one element.

    Attributes:
        file: Its name in the family's folder.
        valence: Electrons that it leaves to be computed.
        sha256: Of the file.
        cutoff_ev: Of the plane waves, eV.
        density_cutoff_ev: Of those of the density, eV.
    """

    file: str
    valence: float
    sha256: str
    cutoff_ev: float
    density_cutoff_ev: float


@dataclass(frozen=True, kw_only=True)
class Family:
    """Pseudopotentials that go together: one functional, one origin.

    Attributes:
        name: As the level of theory has it.
        functional: "LDA", "PBE", …
        folder: Where the files are.
        elements: Element -> its pseudopotential.
    """

    name: str
    functional: str
    folder: Path
    elements: Mapping[str, Pseudopotential]

    @functools.cached_property
    def identity(self) -> str:
        """The name, and a hash of all files: other files give other energies."""
        return f"{self.name}-{content_hash({e: p.sha256 for e, p in sorted(self.elements.items())})[:8]}"

    def cutoffs_ev(self, elements: Iterable[str]) -> tuple[float, float]:
        """The largest cut-offs (eV), of plane waves and of the density, that any of the elements asks for.

        Elements that the family lacks have no say; if it has none of them, all that it has do.
        """
        asked = [self.elements[e] for e in elements if e in self.elements] or list(self.elements.values())
        return max(p.cutoff_ev for p in asked), max(p.density_cutoff_ev for p in asked)


def read_header(path: Path) -> Header:
    """Read what a UPF file, of version 1 or 2, says of itself.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is no UPF file; the message says what is missing.
    """
    with open(path, errors="replace") as file:
        text = file.read(MOST_BEFORE_HEADER)
    match = re.search(r"<PP_HEADER(.*?)(/>|</PP_HEADER>)", text, re.DOTALL)
    if match is None:
        raise ValueError("it has no PP_HEADER: not a UPF file")
    header = match[1]
    if "=" in header.split(">")[0]:  # version 2: attributes
        found = {name: value.strip() for name, value in re.findall(r'(\w+)\s*=\s*"([^"]*)"', header)}
        element, functional, valence = found.get("element"), found.get("functional"), found.get("z_valence")
    else:
        element = _line(header, r"(\S+)\s+Element")
        functional = _line(header, r"(\S+ +\S+ +\S+ +\S+)(?: +\S+)? +Exchange-Correlation")
        valence = _line(header, r"(\S+)\s+Z valence")
    if not element or not functional or not valence:
        raise ValueError("its PP_HEADER lacks the element, the functional or the number of valence electrons")
    return Header(element=element, functional=functional_named(functional), valence=float(valence.replace("D", "E")))


def functional_named(words: str) -> str:
    """Name a functional by `SPELLINGS`; one that is not there keeps its words."""
    spelled = " ".join(words.upper().split())
    return next((name for name, known in SPELLINGS.items() if spelled in (name.upper(), *known)), spelled)


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(header: str, pattern: str) -> str | None:
    match = re.search(rf"^\s*{pattern}", header, re.MULTILINE)
    return match[1] if match else None
