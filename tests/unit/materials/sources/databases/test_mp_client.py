"""What the Materials Project's documents may hold; a whole server of them: tests/integration."""

from __future__ import annotations

from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import IncompleteAnswer
from materials.sources.databases.materials_project import (
    THERMO_TYPE,
    _no_version,
    find_hull_entries,
    find_structures,
    page_check,
)

CRYSTAL = Structure(Lattice.cubic(3), ["Li"], [[0, 0, 0]]).as_dict()


class Answering:
    """A client, and its resters, that answer every search with the same documents."""

    page_size = 10
    version = "2025.1.1"

    def __init__(self, *documents: Any) -> None:
        self.documents = list(documents)

    def rester(self, kind: type) -> Answering:
        return self

    def search(self, **criteria: Any) -> list[Any]:
        return self.documents


def thermo(**changes: Any) -> dict[str, Any]:
    entry = {"structure": CRYSTAL, "energy": -1.0, "correction": 0.0}
    document = {"material_id": "mp-1", "thermo_type": THERMO_TYPE, "energy_type": "GGA", "energy_per_atom": -1.0}
    return {**document, "entries": {"GGA": entry}, **changes}


@pytest.mark.parametrize("name", ["mp-\ud800", "mp-1\0", "x" * 1000])
def test_an_id_that_cannot_be_written_is_a_failure(name: str) -> None:
    client = Answering({"material_id": "mp-2", "structure": CRYSTAL}, {"material_id": name, "structure": CRYSTAL})
    known, failed = find_structures(client, {"elements": ["Li"]})  # type: ignore[arg-type]
    assert [structure.id for structure in known] == ["mp-2"]
    assert [failure.error for failure in failed] == ["UnreadableId"]
    assert (failed[0].material_id + failed[0].message).isprintable()


def test_an_id_that_is_no_text_is_an_incomplete_answer() -> None:
    client = Answering({"material_id": [1], "structure": CRYSTAL})
    with pytest.raises(IncompleteAnswer, match="1 documents with 0 different ids"):
        find_structures(client, {"elements": ["Li"]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"material_id": "mp-\ud800"},
        {"thermo_type": "\ud800"},
        {"entries": [1]},
        {"energy_type": [1]},
        {"energy_per_atom": "a"},
        {"entries": {"GGA": {"structure": CRYSTAL, "correction": 0.0}}},
        {"entries": {"GGA": {"structure": CRYSTAL, "energy": -1.0, "correction": "\ud800"}}},
        {"entries": {"GGA": {"structure": {"lattice": "\ud800", "sites": [1]}, "energy": -1.0}}},
    ],
)
def test_a_thermo_document_of_nonsense_is_an_incomplete_answer(changes: dict[str, Any]) -> None:
    with pytest.raises(IncompleteAnswer, match="the Materials Project: ") as caught:
        find_hull_entries(Answering(thermo(**changes)), ["Li"])  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


def test_a_sound_thermo_document_is_read() -> None:
    entries = find_hull_entries(Answering(thermo()), ["Li"])  # type: ignore[arg-type]
    assert [entry.energy for entry in entries] == [-1.0]


@pytest.mark.parametrize("page", [{"data": [], "meta": [1]}, {"data": [1], "meta": {"total_doc": 1}}, {"data": {}}])
def test_a_page_of_nonsense_is_objected_to(page: dict[str, Any]) -> None:
    assert page_check()("https://it/summary?_skip=0&_limit=10", page)


@pytest.mark.parametrize("version", ["../../x", "", None, {"a": 1}, "1\ud800", "9" * 1000])
def test_a_version_that_is_no_file_name_is_objected_to(version: object) -> None:
    assert _no_version("https://it/heartbeat", {"db_version": version})
    assert _no_version("https://it/heartbeat", {"db_version": "2025.09.25"}) is None
