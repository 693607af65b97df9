"""Snapshots come back as they went, whole or not at all."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from materials.errors import InputError
from materials.records import Failure
from materials.sources.databases.snapshot import (
    KnownEnergy,
    KnownStructure,
    Snapshot,
    frozen_versions,
    load,
    load_frozen,
    page_folder,
    save,
)

NUMBER = st.floats(-1e3, 1e3, allow_nan=False)
SYMBOL = st.sampled_from(["H", "Li", "O", "Fe", "U", "Cl"])


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    lattice = Lattice.from_parameters(
        *draw(st.tuples(*[st.floats(2, 20)] * 3)), *draw(st.tuples(*[st.floats(75, 105)] * 3))
    )
    species = draw(st.lists(SYMBOL, min_size=1, max_size=5))
    coords = draw(st.lists(st.tuples(*[st.floats(-1, 2)] * 3), min_size=len(species), max_size=len(species)))
    return Structure(lattice, species, coords)


NAME = st.text("abcdefghij-0123456789:é∂", min_size=1, max_size=12)
SNAPSHOTS = st.builds(
    Snapshot,
    source=st.sampled_from(["materials_project", "optimade"]),
    database_version=st.from_regex(r"[0-9][0-9a-f.+]{0,12}", fullmatch=True),
    query=st.dictionaries(
        NAME, st.one_of(st.integers(), st.text(max_size=5), st.lists(NUMBER, max_size=2)), max_size=3
    ),
    structures=st.lists(st.builds(KnownStructure, id=NAME, structure=structures()), max_size=3).map(tuple),
    hull_entries=st.lists(
        st.builds(KnownEnergy, entry_id=NAME, structure=structures(), energy=NUMBER, level_of_theory=NAME, method=NAME),
        max_size=3,
    ).map(tuple),
    failures=st.lists(
        st.builds(Failure, material_id=NAME, stage=st.just("propose"), error=NAME, message=NAME), max_size=2
    ).map(tuple),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(snapshot=SNAPSHOTS)
def test_a_snapshot_comes_back_bit_by_bit(tmp_path: Path, snapshot: Snapshot) -> None:
    path = save(snapshot, tmp_path)
    first = path.read_bytes()
    found = load_frozen(tmp_path, snapshot.source, snapshot.database_version, snapshot.query)
    for one, other in zip(snapshot.structures, found.structures, strict=True):
        assert (one.structure.lattice.matrix == other.structure.lattice.matrix).all()
        assert (one.structure.frac_coords == other.structure.frac_coords).all()
        assert one.structure.species == other.structure.species
    assert found.hull_entries == snapshot.hull_entries
    assert found.failures == snapshot.failures
    assert found == snapshot
    assert save(found, tmp_path).read_bytes() == first
    assert snapshot.database_version in frozen_versions(tmp_path, snapshot.source, snapshot.query)


def a_snapshot() -> Snapshot:
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    return Snapshot(
        source="materials_project",
        database_version="2026.10.01",
        query={"chemsys": ["Cu"]},
        structures=(KnownStructure(id="mp-30", structure=copper),),
    )


def test_candidates_carry_where_they_are_from() -> None:
    (candidate,) = a_snapshot().candidates()
    assert (candidate.formula, candidate.chemsys, candidate.source) == ("Cu", "Cu", "materials_project")
    assert candidate.source_version == "2026.10.01"
    assert candidate.parents == candidate.known_as == ("mp-30",)


def test_a_damaged_or_newer_file_says_so(tmp_path: Path) -> None:
    path = save(a_snapshot(), tmp_path)
    whole = path.read_bytes()
    for damage in (whole[:-20], b"nothing", gzip.compress(b"{"), whole[:30] + b"\xff\xff" + whole[32:]):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="damaged"):
            load(path)
    content = json.loads(gzip.decompress(whole)) | {"format": 99}
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(InputError, match="format 99"):
        load(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(a_snapshot(), tmp_path)
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("materials.files.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(a_snapshot(), tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_pages_are_kept_and_forgotten(tmp_path: Path) -> None:
    pages = page_folder(tmp_path, "optimade", "1.0", {"filter": "x"})
    assert pages.load("http://a/?_skip=0") is None
    pages.keep("http://a/?_skip=0", b"one")
    pages.keep("http://a/?_skip=2", b"two")
    assert (pages.load("http://a/?_skip=0"), pages.count()) == (b"one", 2)
    next(pages.folder.iterdir()).write_bytes(b"damaged")
    assert {pages.load("http://a/?_skip=0"), pages.load("http://a/?_skip=2")} & {b"one", b"two"}
    assert None in (pages.load("http://a/?_skip=0"), pages.load("http://a/?_skip=2"))
    pages.clear()
    assert pages.count() == 0
    assert frozen_versions(tmp_path, "optimade", {"filter": "x"}) == []
