"""Files of each kind, good and bad. ASE and pymatgen write them; a round trip through ours must keep the crystal."""

from __future__ import annotations

import gzip
import json
import os
import time
from functools import cache
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pandas
import pytest
from ase.constraints import FixAtoms, FixCartesian, FixScaled
from ase.spacegroup import crystal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Poscar

from materials.crystals.serialization import structure_from_json, structure_to_json
from materials.errors import InputError
from materials.records import Candidate, Failure
from materials.sources.files.parsing import structure_from_atoms
from materials.sources.files.source import read
from materials.sources.files.tables import read_table
from materials.sources.files.usable import StructureTrouble


def lizn_p(a: float = 5.76) -> Structure:
    structure = half_heusler().copy()
    structure.scale_lattice(a**3)
    return structure


@cache
def half_heusler() -> Structure:
    sites = [[0.5, 0.5, 0.5], [0.25, 0.25, 0.25], [0, 0, 0]]
    return Structure.from_spacegroup("F-43m", Lattice.cubic(5.76), ["Li", "Zn", "P"], sites)


def same_sites(one: Structure, other: Structure) -> bool:
    return (
        np.allclose(one.lattice.matrix, other.lattice.matrix, atol=1e-4)
        and [s.symbol for s in one.species] == [s.symbol for s in other.species]
        and np.allclose(one.distance_matrix, other.distance_matrix, atol=2e-3)
    )


def only(path: Path | str, **columns: str) -> Candidate:
    records = list(read(path=path, **columns))
    assert len(records) == 1, records
    assert isinstance(records[0], Candidate), records[0]
    return records[0]


def failure(path: Path) -> Failure:
    records = list(read(path=path))
    assert len(records) == 1, records
    assert isinstance(records[0], Failure), records[0]
    return records[0]


WRITERS = {
    "a.cif": lambda s: s.to(fmt="cif"),
    "a.cif.gz": lambda s: s.to(fmt="cif"),
    "POSCAR": lambda s: s.to(fmt="poscar"),
    "CONTCAR.relaxed": lambda s: s.to(fmt="poscar"),
    "POSCAR_7.gz": lambda s: s.to(fmt="poscar"),
    "a.vasp": lambda s: s.to(fmt="poscar"),
    "a.json": lambda s: s.to(fmt="json"),
    "entry.json": lambda s: json.dumps(ComputedStructureEntry(s, -3.0).as_dict()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_gives_the_crystal_that_was_written(tmp_path: Path, name: str) -> None:
    written = lizn_p()
    data = WRITERS[name](written).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = only(tmp_path / name)
    assert same_sites(found.structure, written)
    assert (found.formula, found.chemsys, found.source, found.parents) == ("LiZnP", "Li-P-Zn", "files", (name,))
    assert len(found.source_version) == 16


@pytest.mark.parametrize("name", ["a.xsf", "a.gen", "a.extxyz", "a.xyz", "b.cif", "POSCAR"])
def test_what_ase_writes_is_read(tmp_path: Path, name: str) -> None:
    atoms = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )
    kind = {"a.extxyz": "extxyz", "a.xyz": "extxyz", "POSCAR": "vasp"}.get(name)
    ase.io.write(tmp_path / name, atoms, format=kind)
    found = only(tmp_path / name)
    # ASE's own reading of the distances is the judge: same formula, same shortest Ti-O distance.
    assert found.formula == "TiO2"
    distances = atoms.get_all_distances(mic=True)
    assert np.isclose(np.min(found.structure.distance_matrix[0, 2:]), np.min(distances[0, 2:]), atol=1e-3)


def test_frames_of_an_extxyz_are_read_each_by_itself(tmp_path: Path) -> None:
    frames = [ase.build.bulk("Cu", "fcc", a) for a in (3.5, 3.6, 3.7)]
    file = tmp_path / "many.extxyz"
    ase.io.write(file, frames, format="extxyz")
    lines = file.read_text().splitlines()
    lines[5] = lines[5].replace("Cu", "Xq")  # the second frame's atom
    file.write_text("\n".join(lines) + "\n")
    first, second, third = read(path=file)
    assert isinstance(first, Candidate)
    assert np.isclose(first.structure.volume, 3.5**3 / 4)
    assert isinstance(second, Failure)
    assert second.material_id == "many.extxyz#2"
    assert isinstance(third, Candidate)
    assert third.parents == ("many.extxyz#3",)


def test_a_cut_extxyz_gives_what_is_whole_and_says_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "cut.extxyz"
    ase.io.write(file, [ase.build.bulk("NaCl", "rocksalt", 5.6)] * 2, format="extxyz")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    first, second = read(path=file)
    assert isinstance(first, Candidate)
    assert isinstance(second, Failure)
    file.write_text("no number here\n")
    assert "line 1" in failure(file).message


def test_molecules_and_slabs_are_refused(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "water.xyz", ase.build.molecule("H2O"), format="xyz")
    assert failure(tmp_path / "water.xyz").error == "NotPeriodic"
    slab = ase.build.fcc111("Al", (1, 1, 3), vacuum=8)
    slab.info.clear()
    ase.io.write(tmp_path / "slab.extxyz", slab, format="extxyz")
    assert failure(tmp_path / "slab.extxyz").error == "NotPeriodic"


def test_disordered_structures_are_refused_by_name(tmp_path: Path) -> None:
    structure = lizn_p()
    structure.replace_species({"Li": {"Li": 0.5, "Na": 0.5}})
    structure.to(filename=str(tmp_path / "mixed.cif"))
    found = failure(tmp_path / "mixed.cif")
    assert (found.error, found.stage, found.material_id) == ("Disordered", "propose", "mixed.cif")
    structure = lizn_p()
    structure.replace_species({"Li": {"Li": 0.9}})
    structure.to(filename=str(tmp_path / "vacant.json"))
    assert failure(tmp_path / "vacant.json").error == "Disordered"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("empty.cif", "", "no crystal"),
        ("prose.cif", "this is no cif", "no crystal"),
        ("POSCAR", "x\n1.0\n1 0 0\n", "POSCAR"),
        ("old.vasp", "comment\n3.6\n.5 .5 0\n.5 0 .5\n0 .5 .5\n1\ndirect\n0 0 0\n", "no elements"),
        ("nan.vasp", "Cu\n3.6\n.5 .5 0\n.5 0 .5\n0 .5 .5\nCu\n1\ndirect\nnan 0 0\n", "finite"),
        ("flat.vasp", "Cu\n3.6\n1 0 0\n0 1 0\n1 1 0\nCu\n1\ndirect\n0 0 0\n", "cell"),
        ("half.json", '{"lattice": {"matr', "broken JSON"),
        ("other.json", '{"answer": 42}', "not a pymatgen structure"),
    ],
)
def test_an_unreadable_file_says_why(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    found = failure(tmp_path / name)
    assert found.error == "UnreadableStructure"
    assert says in found.message
    assert "\n" not in found.message


RUTILE = ["0 0 0", ".5 .5 .5", ".305 .305 0", ".695 .695 0", ".805 .195 .5", ".195 .805 .5"]


def poscar(rows: list[str], head: str = "Ti O\n2 4\nDirect", scale: str = "1.0") -> str:
    return "\n".join(["rutile", scale, "4.594 0 0", "0 4.594 0", "0 0 2.959", head, *rows, ""])


@pytest.mark.parametrize("flags", ["F F F", "T T F", ".TRUE. .FALSE. .TRUE."])
@pytest.mark.parametrize("head", ["2 4\nDirect", "Ti O\n2 4\nDirect"])
def test_flags_that_nothing_announces_are_refused(tmp_path: Path, head: str, flags: str) -> None:
    (tmp_path / "POSCAR").write_text(poscar([f"{row} {flags}" for row in RUTILE], head))
    assert "Selective dynamics" in failure(tmp_path / "POSCAR").message


def test_symbols_behind_the_positions(tmp_path: Path) -> None:
    rows = [f"{row} {symbol}" for row, symbol in zip(RUTILE, ["Mg"] * 2 + ["F"] * 4, strict=True)]
    (tmp_path / "POSCAR").write_text(poscar(rows, "2 4\nDirect"))
    assert only(tmp_path / "POSCAR").formula == "MgF2"


@pytest.mark.parametrize("head", ["Selective dynamics\nDirect", "s\nC"])
def test_sites_that_are_held_stay_held(tmp_path: Path, head: str) -> None:
    flags = ["F F F", "T T T", "T T F", "f f f", ".FALSE. .FALSE. .FALSE.", "T T T"]
    rows = [f"{row} {flag}" for row, flag in zip(RUTILE, flags, strict=True)]
    (tmp_path / "POSCAR").write_text(poscar(rows, f"Ti O\n2 4\n{head}"))
    found = structure_from_json(structure_to_json(only(tmp_path / "POSCAR").structure))
    free = [[False] * 3, [True] * 3, [True, True, False], [False] * 3, [False] * 3, [True] * 3]
    assert found.site_properties["selective_dynamics"] == free
    (tmp_path / "x.json").write_text(found.to_json())
    assert only(tmp_path / "x.json").structure.site_properties["selective_dynamics"] == free
    (tmp_path / "POSCAR").write_text(poscar([f"{row} T T T" for row in RUTILE], f"Ti O\n2 4\n{head}"))
    assert only(tmp_path / "POSCAR").structure.site_properties == {}
    (tmp_path / "POSCAR").write_text(poscar(RUTILE, f"Ti O\n2 4\n{head}"))
    assert "T or F" in failure(tmp_path / "POSCAR").message


def test_sites_that_ase_holds_stay_held(tmp_path: Path) -> None:
    atoms = ase.build.bulk("NaCl", "rocksalt", 5.6)
    atoms.set_constraint(FixAtoms([1]))
    ase.io.write(tmp_path / "x.extxyz", atoms, format="extxyz", columns=["symbols", "positions", "move_mask"])
    held = only(tmp_path / "x.extxyz").structure.site_properties["selective_dynamics"]
    assert held == [[True] * 3, [False] * 3]
    atoms.set_constraint(FixCartesian([1]))
    ase.io.write(tmp_path / "x.extxyz", atoms, format="extxyz", columns=["symbols", "positions", "move_mask"])
    assert "move_mask:L:3" in (tmp_path / "x.extxyz").read_text()
    held = only(tmp_path / "x.extxyz").structure.site_properties["selective_dynamics"]
    assert held == [[True] * 3, [False] * 3]


def test_sites_that_ase_holds_along_some_axes() -> None:
    part = (True, False, False)
    cubic, slanted = ase.build.bulk("NaCl", "rocksalt", 5.6, cubic=True), ase.build.bulk("NaCl", "rocksalt", 5.6)
    cubic.set_constraint([FixCartesian([1], part), FixAtoms([2])])
    held = structure_from_atoms(cubic).site_properties["selective_dynamics"]
    assert held[:4] == [[True] * 3, [False, True, True], [False] * 3, [True] * 3]
    slanted.set_constraint(FixScaled([1], part))
    assert structure_from_atoms(slanted).site_properties["selective_dynamics"][1] == [False, True, True]
    slanted.set_constraint(FixCartesian([1], part))
    with pytest.raises(StructureTrouble, match=r"atom 1 .*move_mask"):
        structure_from_atoms(slanted)


@pytest.mark.parametrize("mode", ["Cartesian", "Direct"])
def test_a_cell_given_by_its_volume(tmp_path: Path, mode: str) -> None:
    at = ".25 .25 .25"
    text = f"ZnS\n-39.6\n0 .5 .5\n.5 0 .5\n.5 .5 0\nZn S\n1 1\n{mode}\n0 0 0\n{at}\n"
    (tmp_path / "POSCAR").write_text(text)
    found = only(tmp_path / "POSCAR").structure
    assert found.volume == pytest.approx(39.6)
    assert found.get_distance(0, 1) == pytest.approx(158.4 ** (1 / 3) * 3**0.5 / 4)


@pytest.mark.parametrize(
    ("rows", "head", "says"),
    [
        (RUTILE[:5], "Ti O\n2 4\nDirect", "fewer"),
        (RUTILE, "Ti O\n2 3\nDirect", "more"),
        (RUTILE, "Ti O\n2 99999999\nDirect", "sites"),
        (RUTILE, "Ti O\n2 4", "Direct or Cartesian"),
        (["0 0 0", "nan 0 0"], "Ti O\n1 1\nDirect", "finite"),
        (["0 0 0", "1e20 0 0"], "Ti O\n1 1\nDirect", "away"),
        (["0 0 0", "0 0 .5"], "Vac O\n1 1\nDirect", "Vac"),
    ],
)
def test_a_poscar_whose_counts_do_not_fit(tmp_path: Path, rows: list[str], head: str, says: str) -> None:
    (tmp_path / "POSCAR").write_text(poscar(rows, head))
    assert says in failure(tmp_path / "POSCAR").message


def test_a_contcar_with_velocities(tmp_path: Path) -> None:
    (tmp_path / "CONTCAR").write_text(poscar(RUTILE) + " \n" + "0.1 0.1 0.1\n" * 6)
    assert only(tmp_path / "CONTCAR").formula == "TiO2"


@pytest.mark.parametrize("count", ["²", "٣", "99999999999", "9" * 5000, "-1", "1e3", "1_0"])
def test_a_count_that_is_none(tmp_path: Path, count: str) -> None:
    (tmp_path / "x.xyz").write_text(f'{count}\nLattice="5 0 0 0 5 0 0 0 5"\nNa 0 0 0\n', encoding="utf-8")
    assert failure(tmp_path / "x.xyz").error == "UnreadableStructure"


def test_columns_that_no_line_has(tmp_path: Path) -> None:
    properties = "Properties=species:S:1:pos:R:3:x:R:999999999"
    (tmp_path / "x.xyz").write_text(f'1\nLattice="5 0 0 0 5 0 0 0 5" {properties}\nNa 0 0 0 1\n')
    assert "columns" in failure(tmp_path / "x.xyz").message


@pytest.mark.parametrize("name", ["occupancy", "occupancies", "Occupancy"])
def test_occupancies_of_an_extxyz(tmp_path: Path, name: str) -> None:
    text = f'2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:{name}:R:1\nNa 0 0 0 %s\nCl 2 2 2 1\n'
    (tmp_path / "x.xyz").write_text(text % "1.0")
    assert only(tmp_path / "x.xyz").formula == "NaCl"
    for value in ("0.5", "0", "nan"):
        (tmp_path / "x.xyz").write_text(text % value)
        assert failure(tmp_path / "x.xyz").error == "Disordered"


def test_occupancies_that_ase_keeps_beside_the_atoms(tmp_path: Path) -> None:
    text = '2\nLattice="4 0 0 0 4 0 0 0 4" occupancy="%s"\nNa 0 0 0\nCl 2 2 2\n'
    for said, error in (
        ("{'0': {'Na': 0.5}}", "Disordered"),
        ("_JSON {'0': {'Na': 0.5}}", "Disordered"),
        ("_JSON {'0': {'Na': 0.5, 'K': 0.5}}", "Disordered"),
        ("all of them", ""),
        ("{'0': {'Na': 1.0}, '1': {'Cl': 1.0}}", ""),
    ):
        (tmp_path / "x.xyz").write_text(text % said.replace("'", '\\"'))
        if error:
            assert failure(tmp_path / "x.xyz").error == error
        else:
            assert only(tmp_path / "x.xyz").formula == "NaCl"


@pytest.mark.parametrize("suffix", ["json", "extxyz", "vasp"])
@pytest.mark.parametrize("far", [1e6, -1e6, 1e9])
def test_a_site_far_away_is_taken_into_the_cell(tmp_path: Path, suffix: str, far: float) -> None:
    written = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [far + 0.5, 0.5, 0.5]])
    file = tmp_path / f"x.{suffix}"
    if suffix == "extxyz":
        ase.io.write(file, AseAtomsAdaptor.get_atoms(written, msonable=False), format="extxyz")
    else:
        file.write_text(written.to(fmt={"vasp": "poscar"}.get(suffix, suffix)))
    found = only(file).structure
    assert np.all((found.frac_coords >= 0) & (found.frac_coords < 1))
    assert found.get_distance(0, 1) == pytest.approx(4 * 3**0.5 / 2, abs=1e-5)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.cif")
    (tmp_path / "b.cif").symlink_to("/dev/zero")
    (tmp_path / "c.cif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "POSCAR")
    records = list(read(path=tmp_path))
    assert len(records) == 4
    assert all(isinstance(record, Failure) for record in records)
    assert sum("not a regular" in record.message for record in records if isinstance(record, Failure)) == 3
    assert len(list(read(path=f"{tmp_path}/*.cif"))) == 3
    assert "not a regular" in failure(tmp_path / "a.cif").message
    os.mkfifo(tmp_path / "t.csv")
    assert "not a regular" in failure(tmp_path / "t.csv").message


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("materials.sources.files.unpacking.LARGEST_FILE", 2**20)
    with (tmp_path / "a.cif").open("wb") as sparse:
        sparse.truncate(2**40)
    (tmp_path / "b.cif.gz").write_bytes(gzip.compress(bytes(2**21)) * 2)
    (tmp_path / "c.cif.gz").write_bytes(gzip.compress(lizn_p().to(fmt="cif").encode()) + b"\0\0")
    large, bomb, padded = read(path=tmp_path)
    assert isinstance(large, Failure)
    assert isinstance(bomb, Failure)
    assert "larger than 1 MiB" in large.message
    assert "larger than 1 MiB" in bomb.message
    assert isinstance(padded, Candidate)


def test_names_that_no_database_takes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff\n.vasp")).write_text(lizn_p().to(fmt="poscar"))
    (tmp_path / "t.json").write_text('[{"id": "x\\ud800\\u0000", "cif": "none"}]')
    bad, good = sorted(read(path=tmp_path), key=lambda record: isinstance(record, Candidate))
    assert isinstance(good, Candidate)
    assert good.parents[0].isprintable()
    assert isinstance(bad, Failure)
    assert bad.message.isprintable()
    assert bad.material_id.isprintable()


def test_a_text_of_windows(tmp_path: Path) -> None:
    (tmp_path / "x.cif").write_text(lizn_p().to(fmt="cif"), encoding="utf-16")
    assert only(tmp_path / "x.cif").formula == "LiZnP"


def test_a_cif_that_lost_atoms_is_refused(tmp_path: Path) -> None:
    text = lizn_p().to(fmt="cif")
    (tmp_path / "cut.cif").write_text(text[: text.rstrip().rindex("\n")])
    (tmp_path / "no-hydrogen.cif").write_text(text.replace("'Li4 Zn4 P4'", "'Li4 Zn4 P4 H4'"))
    assert "add up to its formula" in failure(tmp_path / "cut.cif").message
    assert "H" in failure(tmp_path / "no-hydrogen.cif").message


def test_a_cif_of_two_blocks_gives_two(tmp_path: Path) -> None:
    (tmp_path / "two.cif").write_text(
        lizn_p().to(fmt="cif") + "\n" + lizn_p(6.0).to(fmt="cif").replace("data_", "data_b")
    )
    records = list(read(path=tmp_path / "two.cif"))
    assert [r.parents for r in records if isinstance(r, Candidate)] == [("two.cif#1",), ("two.cif#2",)]


def test_json_is_never_decoded_into_code(tmp_path: Path) -> None:
    content = lizn_p().as_dict()
    marker = tmp_path / "ran"
    content["sites"][0]["properties"] = {
        "x": {"@module": "subprocess", "@callable": "run", "@class": "Popen", "args": ["touch", str(marker)]}
    }
    (tmp_path / "bad.json").write_text(json.dumps(content))
    assert same_sites(only(tmp_path / "bad.json").structure, lizn_p())
    assert not marker.exists()


def test_one_bad_file_in_a_folder_of_a_thousand(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.cif").write_text("never read")
    (folder / "README.txt").write_text("not a structure")
    for n in range(999):
        (folder / ("deep" if n % 2 else "") / f"{n:04d}.vasp").write_text(lizn_p(5 + n / 1000).to(fmt="poscar"))
    (folder / "0500x.vasp").write_text("rubbish")
    start = time.process_time()
    records = list(read(path=folder))
    assert time.process_time() - start < 20  # measured 2 s; the bound only catches something quadratic
    bad = [r for r in records if isinstance(r, Failure)]
    assert [f.material_id for f in bad] == ["set/0500x.vasp"]
    assert len(records) == 1000
    assert len({r.material_id for r in records}) == 1000
    origins = [r.material_id if isinstance(r, Failure) else r.parents[0] for r in records]
    assert origins == sorted(origins)


def test_a_glob_takes_what_it_matches(tmp_path: Path) -> None:
    for name in ("b.cif", "a.cif", "c.vasp"):
        (tmp_path / name).write_text(lizn_p().to(fmt="cif" if name.endswith("cif") else "poscar"))
    found = list(read(path=f"{tmp_path}/*.cif"))
    assert [Path(r.parents[0]).name for r in found if isinstance(r, Candidate)] == ["a.cif", "b.cif"]


@pytest.mark.parametrize("path", ["nowhere.cif", "nowhere/", "no*.cif"])
def test_a_missing_path_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"nowhere|no\*"):
        list(read(path=f"{tmp_path}/{path}"))


def test_a_folder_without_structures_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no structure file"):
        list(read(path=tmp_path))


def table_of(kind: str) -> pandas.DataFrame:
    cells = {
        "cif": lizn_p().to(fmt="cif"),
        "poscar": lizn_p().to(fmt="poscar"),
        "json": lizn_p().to(fmt="json"),
    }
    return pandas.DataFrame(
        {
            "id": ["a", "b", "c"],
            "note": ["one", "two", "three"],
            "cell": [cells[kind], "rubbish", cells[kind]],
            "gap": [1.0, 2.0, 3.0],
        }
    )


def write_table(table: pandas.DataFrame, path: Path) -> None:
    if ".csv" in path.name:
        table.to_csv(path, index=False)
    elif ".parquet" in path.name:
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"])
@pytest.mark.parametrize("kind", ["cif", "poscar", "json"])
def test_a_table_gives_its_rows_and_finds_its_column(tmp_path: Path, name: str, kind: str) -> None:
    write_table(table_of(kind), tmp_path / name)
    first, second, third = read(path=tmp_path / name)
    assert isinstance(first, Candidate)
    assert isinstance(third, Candidate)
    assert first.parents == (f"{name}#a",)
    assert same_sites(first.structure, lizn_p())
    assert isinstance(second, Failure)
    assert second.material_id == f"{name}#b"
    assert list(read_table(tmp_path / name)["gap"]) == [1.0, 2.0, 3.0]


def test_a_json_lines_table_may_hold_structures_as_objects(tmp_path: Path) -> None:
    line = json.dumps({"mp_id": "mp-1", "structure": lizn_p().as_dict()})
    (tmp_path / "t.jsonl").write_text(line + "\n\n")
    assert only(tmp_path / "t.jsonl").parents == ("t.jsonl#mp-1",)


def test_columns_can_be_named_and_a_wrong_name_lists_what_there_is(tmp_path: Path) -> None:
    table = table_of("cif").drop(index=1)
    table["structure"] = "not here"
    write_table(table, tmp_path / "t.csv")
    records = list(read(path=tmp_path / "t.csv", structure_column="cell", id_column="note"))
    assert [r.parents[0] for r in records if isinstance(r, Candidate)] == ["t.csv#one", "t.csv#three"]
    for column in ({"structure_column": "celll"}, {"id_column": "celll"}):
        with pytest.raises(InputError, match=r"celll.*id, note, cell"):
            list(read(path=tmp_path / "t.csv", **column))
    write_table(table[["id", "gap"]], tmp_path / "none.csv")
    with pytest.raises(InputError, match="no column of structures"):
        list(read(path=tmp_path / "none.csv"))


def test_sodium_nitride_is_no_missing_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("formula,gap,flag\nNaN,1.5,True\nLiF,nan,False\nNone,,True\n")
    table = read_table(tmp_path / "t.csv")
    assert list(table["formula"]) == ["NaN", "LiF", "None"]
    assert table["gap"].isna().tolist() == [False, True, True]
    assert table["gap"].dtype == float


@pytest.mark.parametrize("name", ["cut.csv.gz", "bad.parquet", "bad.jsonl"])
def test_a_damaged_table_is_an_input_error(tmp_path: Path, name: str) -> None:
    data = gzip.compress(b"id,structure\n" * 1000)[:40] if name.endswith(".gz") else b"{not a table"
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        list(read(path=tmp_path / name))


def test_a_damaged_gzip_is_one_failure(tmp_path: Path) -> None:
    (tmp_path / "cut.cif.gz").write_bytes(gzip.compress(lizn_p().to(fmt="cif").encode())[:200])
    assert failure(tmp_path / "cut.cif.gz").error == "UnreadableStructure"


def test_the_version_follows_the_content(tmp_path: Path) -> None:
    for name, a in (("a.vasp", 5.0), ("b.vasp", 5.0), ("c.vasp", 5.1)):
        (tmp_path / name).write_text(lizn_p(a).to(fmt="poscar"))
    one, same, other = read(path=tmp_path)
    assert isinstance(one, Candidate)
    assert isinstance(same, Candidate)
    assert isinstance(other, Candidate)
    assert one.source_version == same.source_version != other.source_version


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.tuples(*[st.floats(3, 9)] * 3),
    angles=st.tuples(*[st.floats(70, 110)] * 3),
    sites=st.lists(
        st.tuples(st.sampled_from(["Li", "Mg", "O", "Zn", "P"]), st.tuples(*[st.floats(0, 0.999)] * 3)),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from(["cif", "poscar", "json", "extxyz"]),
)
def test_any_crystal_comes_back_as_it_was_written(tmp_path: Path, lengths, angles, sites, kind) -> None:
    lattice = Lattice.from_parameters(*lengths, *angles)
    species = sorted(symbol for symbol, _ in sites)
    written = Structure(lattice, species, [coords for _, coords in sites])
    if len(written) > 1 and np.min(written.distance_matrix + 9 * np.eye(len(written))) < 0.5:
        return  # CIF readers merge sites that close
    file = tmp_path / f"x.{'vasp' if kind == 'poscar' else kind}"
    if kind == "extxyz":
        ase.io.write(file, AseAtomsAdaptor.get_atoms(written, msonable=False), format="extxyz")
    elif kind == "poscar":
        file.write_text(Poscar(written).get_str(significant_figures=12))
    else:
        file.write_text(written.to(fmt=kind))
    found = only(file)
    assert found.structure.composition == written.composition
    assert np.allclose(found.structure.lattice.abc, written.lattice.abc, atol=1e-4)
    ours, theirs = np.sort(found.structure.distance_matrix, axis=None), np.sort(written.distance_matrix, axis=None)
    assert np.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("POSCAR", "dummy\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa X\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"),
        ("a.xyz", '2\nLattice="4 0 0 0 4 0 0 0 4" pbc="T T T"\nNa 0 0 0\nX 2 2 2\n'),
        (
            "a.json",
            json.dumps(
                {
                    "lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]},
                    "sites": [{"species": [{"element": "Xva", "occu": 1}], "abc": [0, 0, 0]}],
                }
            ),
        ),
    ],
)
def test_a_site_without_an_atom_is_a_failure_of_its_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    half_heusler().to(str(tmp_path / "good.cif"))
    found = {type(record).__name__ for record in read(path=tmp_path)}
    assert found == {"Candidate", "Failure"}


def test_more_elements_than_counts_in_a_poscar(tmp_path: Path) -> None:
    text = "Na Cl K\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl K\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    (tmp_path / "POSCAR").write_text(text)
    assert "names 3 elements and counts the atoms of 2" in failure(tmp_path / "POSCAR").message
    (tmp_path / "POSCAR").write_text(text.replace("Na Cl K\n1 1", "Na Cl ! as delivered\n1 1"))
    assert only(tmp_path / "POSCAR").formula == "NaCl"


@pytest.mark.parametrize("path", ["~nosuchuserhere/x", "a" * 5000])
def test_a_path_that_no_file_can_have(path: str) -> None:
    with pytest.raises(InputError, match=r"no such user|cannot be read"):
        list(read(path=path))
