"""Snapshots of database results: the same campaign gets the same structures next year.

A snapshot is one file, gzipped JSON, named after the database's version and the query. Pages that arrive while it is
being pulled are kept beside it until it is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materials.crystals.serialization import structure_from_json, structure_to_json
from materials.errors import InputError
from materials.files import write_atomically
from materials.records import Candidate, Failure, content_hash
from materials.sources.files.usable import StructureTrouble, printable

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMAT = 1
LONGEST_ID = 255  # characters; a database's key has no room for a novel
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]*")


@dataclass(frozen=True, kw_only=True)
class KnownStructure:
    """A structure as the database has it, under the database's own id."""

    id: str
    structure: Structure


@dataclass(frozen=True, kw_only=True)
class KnownEnergy:
    """A competing phase with the energy that the database computed for it."""

    entry_id: str  # "mp-1265"
    structure: Structure
    energy: float  # eV, total of `structure`, in the convention of `level_of_theory`
    level_of_theory: str  # "PBE+U/MP2020"
    method: str  # who computed it: "materials-project-2025.09.25"

    @property
    def energy_per_atom(self) -> float:
        """Energy in eV/atom."""
        return self.energy / len(self.structure)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One query's whole answer from one version of a database."""

    source: str  # "materials_project", "optimade"
    database_version: str
    query: Mapping[str, Any]
    structures: tuple[KnownStructure, ...]
    hull_entries: tuple[KnownEnergy, ...] = ()
    failures: tuple[Failure, ...] = ()  # documents without a usable structure

    def __iter__(self) -> Iterator[Candidate | Failure]:
        """What a source yields: its candidates, and what it could not use."""
        yield from self.candidates()
        yield from self.failures

    def candidates(self) -> list[Candidate]:
        """The structures as candidates, each with the database's id as its parent and its known name."""
        return [
            candidate(known.structure, source=self.source, source_version=self.database_version, origin=known.id)
            for known in self.structures
        ]


def known_or_failed(name: str, build: Callable[[], Structure]) -> KnownStructure | Failure:
    """Build a structure under the name that a database has for it, or say why it cannot be used.

    Args:
        name: Any text that JSON can hold, half a character too; what cannot be written down is no name.
        build: Builds the structure, or raises StructureTrouble.
    """
    try:
        if not is_name(name):
            raise StructureTrouble("UnreadableId", "has an id that is too long or holds what cannot be printed")
        return KnownStructure(id=name, structure=build())
    except StructureTrouble as trouble:
        shown = shown_name(name)
        # What is wrong is often told in the database's own words.
        message = printable(f"{shown} {trouble}")
        return Failure(material_id=shown, stage="propose", error=trouble.error, message=message)


def is_name(text: str) -> bool:
    """Whether a database's name for something can be written to every file, terminal and ledger."""
    return 0 < len(text) <= LONGEST_ID and text.isprintable()


def shown_name(text: str) -> str:
    """Write what a database calls a name so that it can be shown and kept."""
    return printable(text[:LONGEST_ID])


def is_version(text: Any) -> bool:
    """Whether a database's word for its version may stand in a file name."""
    return isinstance(text, str) and len(text) <= 64 and _VERSION.fullmatch(text) is not None


def candidate(structure: Structure, *, source: str, source_version: str, origin: str) -> Candidate:
    """Make a candidate of a structure that a database knows as `origin`."""
    from materials.duplicates.duplicates import material_id

    return Candidate(
        material_id=material_id(structure),
        formula=structure.composition.reduced_formula,
        chemsys=structure.chemical_system,
        structure=structure,
        source=source,
        source_version=source_version,
        parents=(origin,),
        known_as=(origin,),
    )


def snapshot_path(folder: Path, source: str, version: str, query: Mapping[str, Any]) -> Path:
    """Where the snapshot of a version and a query lies.

    Raises:
        InputError: the version is no word that may stand in a file name.
    """
    if not _VERSION.fullmatch(version):
        raise InputError(f"snapshot: {version!r} is no database version; give one such as 2025.09.25, or 'latest'")
    return folder / f"{source}-{version}-{content_hash(query, 12)}.json.gz"


def frozen_versions(folder: Path, source: str, query: Mapping[str, Any]) -> list[str]:
    """The versions of which this query's answer is at hand, oldest first by name."""
    end = f"-{content_hash(query, 12)}.json.gz"
    return sorted(path.name[len(source) + 1 : -len(end)] for path in folder.glob(f"{source}-*{end}"))


def load_frozen(folder: Path, source: str, version: str, query: Mapping[str, Any]) -> Snapshot:
    """Read the snapshot of one version; the network is not asked.

    Raises:
        InputError: there is none of this version and query; the message names those there are.
    """
    path = snapshot_path(folder, source, version, query)
    if not path.exists():
        here = frozen_versions(folder, source, query)
        there_is = f"there are {', '.join(here)}" if here else "there is none of this query yet"
        raise InputError(
            f"snapshot: no version {version} of this query in {folder}; {there_is}. "
            "Give one of those, or 'latest' to ask the database."
        )
    return load(path)


def save(snapshot: Snapshot, folder: Path) -> Path:
    """Write a snapshot, whole or not at all; equal snapshots give equal bytes."""
    path = snapshot_path(folder, snapshot.source, snapshot.database_version, snapshot.query)
    content = {
        "format": FORMAT,
        "source": snapshot.source,
        "database_version": snapshot.database_version,
        "query": dict(snapshot.query),
        "structures": [{"id": s.id, "structure": _plain(s.structure)} for s in snapshot.structures],
        "hull_entries": [
            {
                "entry_id": e.entry_id,
                "structure": _plain(e.structure),
                "energy": e.energy,
                "level_of_theory": e.level_of_theory,
                "method": e.method,
            }
            for e in snapshot.hull_entries
        ],
        "failures": [
            {"material_id": f.material_id, "stage": f.stage, "error": f.error, "message": f.message}
            for f in snapshot.failures
        ],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    write_atomically(path, gzip.compress(text.encode(), compresslevel=6, mtime=0))
    return path


def load(path: Path) -> Snapshot:
    """Read a snapshot file.

    Raises:
        InputError: the file is damaged, or of a newer format.
    """
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        found = content.get("format")
        snapshot = _snapshot(content) if found == FORMAT else None
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and pull again") from error
    if snapshot is None:
        raise InputError(f"{path} has format {found}, this program reads {FORMAT}; pull again")
    return snapshot


def _snapshot(content: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        source=content["source"],
        database_version=content["database_version"],
        query=content["query"],
        structures=tuple(
            KnownStructure(id=s["id"], structure=_structure(s["structure"])) for s in content["structures"]
        ),
        hull_entries=tuple(
            KnownEnergy(
                entry_id=e["entry_id"],
                structure=_structure(e["structure"]),
                energy=e["energy"],
                level_of_theory=e["level_of_theory"],
                method=e["method"],
            )
            for e in content["hull_entries"]
        ),
        failures=tuple(Failure(**f) for f in content["failures"]),
    )


class PageFolder:
    """The pages of one unfinished pull, a file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, url: str) -> bytes | None:
        """The body kept for an address, or None; a damaged file counts as none."""
        try:
            return gzip.decompress(self._path(url).read_bytes())
        except (OSError, EOFError, zlib.error):
            return None

    def keep(self, url: str, body: bytes) -> None:
        """Keep the body of an address."""
        write_atomically(self._path(url), gzip.compress(body, compresslevel=1, mtime=0))

    def count(self) -> int:
        """How many pages are kept."""
        return len(list(self.folder.glob("*.page.gz")))

    def clear(self) -> None:
        """Forget the pages: the snapshot is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, url: str) -> Path:
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.page.gz"


def page_folder(folder: Path, source: str, version: str, query: Mapping[str, Any]) -> PageFolder:
    """The pages kept for an unfinished snapshot."""
    whole = snapshot_path(folder, source, version, query)
    return PageFolder(whole.with_name(whole.name.removesuffix(".json.gz") + ".pages"))


def _plain(structure: Structure) -> Any:
    return json.loads(structure_to_json(structure))


def _structure(content: Any) -> Structure:
    return structure_from_json(json.dumps(content))
