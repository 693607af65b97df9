"""Ids that stay, and groups that are exactly those of pymatgen's StructureMatcher."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from materials.crystals.composition import reduced_formula
from materials.crystals.crystal import crystal_of
from materials.duplicates import duplicates
from materials.duplicates.duplicates import Merged, group_alike, group_duplicates, mark_known, material_id
from materials.duplicates.tolerances import ALIKE, ROUNDED, Tolerances
from materials.records import Candidate
from materials.sources.prototypes.library import example
from materials.sources.prototypes.source import propose
from materials.store.candidate_spool import CandidateFile
from materials.store.rows import write_candidate

MATCHER = StructureMatcher(ltol=0.2, stol=0.1, angle_tol=5, primitive_cell=True, scale=True)


def candidate(structure: Structure, parent: str, role: str = "candidate", known: tuple[str, ...] = ()) -> Candidate:
    return Candidate(
        material_id=material_id(structure),
        formula=structure.composition.reduced_formula,
        chemsys=structure.chemical_system,
        structure=structure,
        source="test",
        source_version="1",
        parents=(parent,),
        role=role,
        known_as=known,
    )


def shaken(structure: Structure, rng: np.random.Generator, noise: float, strain: float) -> Structure:
    """The same crystal after a rotation, a strain, a shuffle of sites, a shift of the origin and noise (Å)."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    stretch = rng.normal(0, strain, (3, 3))
    matrix = structure.lattice.matrix @ (np.eye(3) + (stretch + stretch.T) / 2) @ (turn * np.sign(np.linalg.det(turn)))
    order = rng.permutation(len(structure))
    moved = Structure(
        Lattice(matrix * rng.uniform(0.95, 1.05)),
        [structure[i].specie for i in order],
        structure.frac_coords[order] + rng.uniform(size=3),
    )
    return moved.perturb(noise) if noise else moved


def as_sets(groups: list[list[int]]) -> list[list[int]]:
    return sorted(sorted(group) for group in groups)


def matcher_groups(structures: list[Structure]) -> list[list[int]]:
    place = {id(s): i for i, s in enumerate(structures)}
    return as_sets([[place[id(s)] for s in group] for group in MATCHER.group_structures(structures)])


def test_id_is_readable_and_the_same_on_every_machine() -> None:
    salt = Structure(Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    # A literal: if this changes, every ledger's ids change.
    assert material_id(salt) == "NaCl-14289b8611"
    assert material_id(salt.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})) == material_id(salt)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(["olivine", "rutile", "half-Heusler", "bixbyite", "MgNi2", "alpha-quartz", "K2NiF4"]),
)
def test_id_survives_order_rotation_and_rounding_noise(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    crystal = example(name)
    order = rng.permutation(len(crystal))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    again = Structure(
        Lattice(crystal.lattice.matrix @ (turn * np.sign(np.linalg.det(turn)))),
        [crystal[i].specie for i in order],
        crystal.frac_coords[order]
        + rng.integers(-2, 3, (len(crystal), 3))
        + rng.uniform(-1e-9, 1e-9, (len(crystal), 3)),
    )
    assert material_id(again) == material_id(crystal)


def test_id_tells_apart_what_differs() -> None:
    base = example("rutile")
    stretched = Structure(base.lattice.matrix * 1.001, base.species, base.frac_coords)
    moved = base.copy().translate_sites([0], [0.001, 0, 0])
    swapped = Structure(base.lattice, ["O" if s.specie.symbol == "Ti" else "Ti" for s in base], base.frac_coords)
    ids = [material_id(s) for s in (base, stretched, moved, swapped)]
    assert len(set(ids)) == 4
    disordered = Structure(base.lattice, [{"Ti": 0.5, "Sn": 0.5}] * 2 + ["O"] * 4, base.frac_coords)
    other = Structure(base.lattice, [{"Ti": 0.6, "Sn": 0.4}] * 2 + ["O"] * 4, base.frac_coords)
    assert material_id(disordered) != material_id(other)


@pytest.mark.parametrize(("noise", "strain"), [(0.0, 0.0), (0.02, 0.01), (0.08, 0.03), (0.15, 0.05)])
def test_groups_are_those_of_the_matcher(noise: float, strain: float) -> None:
    rng = np.random.default_rng(7)
    roles = {"I": ["Li"], "II": ["Zn"], "V": ["P"]}
    found = propose(roles=roles, charges={"I": 1, "II": 2, "V": -3}, decorate="all")
    base = [c.structure for c in found if len(c.structure) <= 12]
    assert len(base) > 15
    pool = list(base)
    for crystal in base:
        twin = shaken(crystal, rng, noise, strain)
        if len(twin) <= 6:
            twin.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]])
        pool.append(twin)
    order = rng.permutation(len(pool))
    pool = [pool[i] for i in order]
    assert as_sets(group_duplicates(pool)) == matcher_groups(pool)


def test_orderings_with_the_same_near_neighbours_are_told_apart() -> None:
    """Bernal stackings on one close-packed lattice: the same near neighbours, another crystal."""
    rng = np.random.default_rng(3)
    lattice = Structure(Lattice.cubic(4.0), ["Cu"] * 4, [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    lattice.make_supercell([1, 1, 3])
    pool = []
    for _ in range(40):
        coloured = lattice.copy()
        for i in rng.permutation(len(lattice))[:6]:
            coloured.replace(int(i), "Au")
        pool.append(coloured)
    groups = group_duplicates(pool)
    assert as_sets(groups) == matcher_groups(pool)
    assert 1 < len(groups) < len(pool)


def test_formulas_are_never_mixed_and_order_is_kept() -> None:
    pool = [example(n) for n in ("rocksalt", "CsCl", "rutile", "anatase", "rocksalt", "pyrite", "marcasite", "rutile")]
    assert group_duplicates(pool) == [[0, 4], [1], [2, 7], [3], [5], [6]]
    assert group_duplicates([]) == []


def test_merge_keeps_the_first_and_the_parents_of_all() -> None:
    salt = example("rocksalt")
    merged = list(
        Merged(
            [
                candidate(salt, "a", role="competing", known=("x-1",)),
                candidate(example("CsCl"), "b"),
                candidate(salt.get_primitive_structure(), "c", known=("x-2", "x-1")),
                candidate(salt, "a"),
            ]
        )
    )
    assert [c.formula for c in merged] == ["NaCl", "CsCl"]
    assert merged[0].parents == ("a", "c")
    assert merged[0].known_as == ("x-1", "x-2")
    assert merged[0].role == "candidate"
    assert merged[0].material_id == material_id(salt)


def test_merge_of_the_merged_changes_nothing() -> None:
    pool = list(propose(roles={"A": ["Na", "K"], "X": ["Cl", "O"]}, charges={"Cl": -1, "O": -2, "A": 1}))
    merged = list(Merged(pool))
    assert list(Merged(merged)) == merged
    assert {p for c in merged for p in c.parents} == {p for c in pool for p in c.parents}


def test_written_candidates_merge_as_built_ones_do_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = list(propose(roles={"A": ["Na", "K"], "X": ["Cl", "O"]}, charges={"Cl": -1, "O": -2, "A": 1}))
    pool += [replace(c, structure=c.structure * (1, 1, 2), parents=("twice",)) for c in pool[::3]]
    merged = [write_candidate(candidate) for candidate in Merged(pool)]
    assert len(merged) < len(pool) - 3
    with closing(CandidateFile()) as file:
        for one in pool:
            file.append(write_candidate(one))
        assert list(file) == [write_candidate(one) for one in pool]
        for block in (1, 7, 5_000):
            monkeypatch.setattr("materials.duplicates.duplicates.BLOCK", block)
            assert list(Merged(file)) == merged


# Before the relaxation


def perovskite(*, ratio: float = 1.0, titanium: tuple[float, float, float] = (0, 0, 0)) -> Structure:
    """BaTiO3 with c/a, and Ti moved (Å)."""
    structure = Structure(
        Lattice.tetragonal(4.0, 4.0 * ratio),
        ["Ba", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    structure.translate_sites([1], structure.lattice.get_fractional_coords(titanium))
    return structure


def antiferroelectric(shift: float) -> Structure:
    """Its Ti in every second cell along c moved to one side (Å), in the others to the other."""
    structure = perovskite() * (1, 1, 2)
    for site, sign in zip((i for i, s in enumerate(structure) if s.specie.symbol == "Ti"), (1, -1), strict=True):
        structure.translate_sites([site], [sign * shift / 4.0, 0, 0])
    return structure


def tilted(degrees: float, axis: int = 2) -> Structure:
    """Octahedra turned in phase about an axis (a0a0c+)."""
    structure = perovskite() * (2, 2, 2)
    coords = 2 * structure.frac_coords
    i, j = (k for k in range(3) if k != axis)
    for atom, site in enumerate(structure):
        here = coords[atom].copy()
        for along, across, sign in ((i, j, 1), (j, i, -1)):
            if site.specie.symbol == "O" and abs(here[along] - round(here[along])) < 1e-6 and here[axis] % 1 > 0.4:
                parity = (-1) ** (round(here[along]) + int(np.floor(here[across] + 1e-6)))
                coords[atom, across] += sign * parity * np.tan(np.deg2rad(degrees)) / 2
    return Structure(structure.lattice, structure.species, coords / 2)


def calcium_chloride(turn: float, strain: float = 0.0) -> Structure:
    """CaCl2: rutile whose chains of octahedra are turned (in fractions of a), and whose a and b differ."""
    x, y = 0.305 + turn, 0.305 - turn
    return Structure(
        Lattice.orthorhombic(6.25 * (1 + strain), 6.25 * (1 - strain), 4.2),
        ["Ca"] * 2 + ["Cl"] * 4,
        [[0, 0, 0], [0.5] * 3, [x, y, 0], [-x, -y, 0], [0.5 - x, 0.5 + y, 0.5], [0.5 + x, 0.5 - y, 0.5]],
    )


def jahn_teller(shift: float) -> Structure:
    """Long and short bonds by turns in the plane (Å)."""
    structure = perovskite() * (2, 2, 1)
    coords = structure.frac_coords * [2, 2, 1]
    for atom, site in enumerate(structure):
        here = coords[atom].copy()
        for along, across, sign in ((0, 1, 1), (1, 0, -1)):
            if site.specie.symbol == "O" and here[2] > 0.4 and abs(here[along] - round(here[along])) < 1e-6:
                coords[atom, along] += sign * (-1) ** (round(here[along]) + int(here[across] + 1e-6)) * shift / 4.0
    return Structure(structure.lattice, structure.species, coords / [2, 2, 1])


DISTORTED = {
    "titanium 0.03 Å off along 001": (perovskite(), perovskite(titanium=(0, 0, 0.03))),
    "titanium 0.10 Å off along 001": (perovskite(), perovskite(ratio=1.01, titanium=(0, 0, 0.1))),
    "off along 001 and along 111": (perovskite(titanium=(0, 0, 0.06)), perovskite(titanium=(0.035, 0.035, 0.035))),
    "c/a 1.01": (perovskite(), perovskite(ratio=1.01)),
    "another volume": (perovskite(), Structure(Lattice.cubic(4.04), perovskite().species, perovskite().frac_coords)),
    "moved by turns": (perovskite(), antiferroelectric(0.03)),
    "all one way and by turns": (perovskite(titanium=(0.05, 0, 0)), antiferroelectric(0.05)),
    "tilted by 1 degree": (perovskite(), tilted(1.0)),
    "tilted by 2 and by 3 degrees": (tilted(2.0), tilted(3.0)),
    "CaCl2 and rutile, turned": (calcium_chloride(0), calcium_chloride(0.005)),
    "CaCl2 and rutile, strained": (calcium_chloride(0), calcium_chloride(0, 0.004)),
    "long and short bonds": (perovskite(), jahn_teller(0.03)),
}


@pytest.mark.parametrize("name", DISTORTED)
def test_what_is_distorted_is_another_crystal_until_it_is_relaxed(name: str) -> None:
    for pair in (DISTORTED[name], DISTORTED[name][::-1]):
        assert [c.parents for c in Merged([candidate(s, str(i)) for i, s in enumerate(pair)])] == [("0",), ("1",)]


def as_told(structure: Structure, rng: np.random.Generator) -> list[Structure]:
    """One crystal as programs write it: cells of all sorts, another origin, orientation and order, rounded."""
    symmetry = SpacegroupAnalyzer(structure, 1e-3)
    conventional, primitive = (
        symmetry.get_conventional_standard_structure(),
        symmetry.get_primitive_standard_structure(),
    )
    told = [structure, conventional, primitive, structure.get_reduced_structure(), shaken(primitive, rng, 0.0, 0.0)]
    told[-1].scale_lattice(structure.volume / len(structure) * len(told[-1]))
    for one, decimals in ((primitive, 3), (conventional, 4)):
        cell = Lattice.from_parameters(*np.round(one.lattice.abc, decimals), *np.round(one.lattice.angles, 2))
        told.append(Structure(cell, one.species, np.round(one.frac_coords, decimals)))
    cif = str(CifWriter(conventional, symprec=1e-3))
    told += CifParser.from_str(cif).parse_structures(primitive=False, on_error="ignore")
    return [*told, primitive * (2, 1, 1)]


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # pymatgen's way to call spglib
@pytest.mark.parametrize(
    "name",
    [
        "rocksalt",
        "rutile",
        "olivine",
        "TiNiSi",
        "K2NiF4",
        "alpha-quartz",
        "delafossite",
        "spinel",
        "tilted",
        "wurtzite",
    ],
)
def test_one_crystal_told_by_several_programs_is_merged(name: str) -> None:
    structure = tilted(2.0) if name == "tilted" else example(name)
    told = as_told(structure, np.random.default_rng(2))
    (merged,) = Merged([candidate(s, str(i)) for i, s in enumerate(told)])
    assert merged.parents == tuple(map(str, range(len(told))))


def test_equal_ids_are_one_without_a_look_at_their_structures(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = list(propose(roles={"A": ["Na", "K"], "X": ["Cl", "O"]}, charges={"Cl": -1, "O": -2, "A": 1}))
    looked: list[int] = []
    cells = duplicates.reduced_cells
    monkeypatch.setattr(
        duplicates,
        "reduced_cells",
        lambda told, **how: looked.append(len(told)) or cells(told, **how),
    )
    once = list(Merged(pool))
    most = sum(looked)
    again = [replace(c, role="competing", parents=(f"source {k}",)) for k in range(130) for c in pool]
    merged = list(Merged([*again, *pool]))
    assert sum(looked) - most == most
    assert [c.material_id for c in merged] == [c.material_id for c in once]
    assert {c.role for c in merged} == {"candidate"}
    assert all(len(c.parents) == 130 + len(old.parents) for c, old in zip(merged, once, strict=True))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("tolerances", [ALIKE, ROUNDED])
def test_a_stop_is_heard_while_crystals_are_compared(tolerances: Tolerances) -> None:
    """Many times a second, also where all are one crystal with many sites: by CPU time, for a machine may be busy."""
    rng = np.random.default_rng(0)
    many = [shaken(example("bixbyite"), rng, 0.0, 0.0) for _ in range(9)]
    many += [shaken(example("rocksalt"), rng, 0.0, 0.0) for _ in range(40)]
    heard = [time.process_time()]

    def group(check_stop: Callable[[], None]) -> None:
        formulas = [reduced_formula(s) for s in many]
        group_alike(formulas, lambda some: [crystal_of(many[i]) for i in some], tolerances, check_stop=check_stop)

    group(lambda: heard.append(time.process_time()))
    assert np.diff(heard).max() < 1.0
    for last in (1, len(many) // 2, len(heard) - 2):
        calls = iter(range(last))

        def stop(calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise Stopped

        with pytest.raises(Stopped):
            group(stop)


def test_known_structures_are_marked() -> None:
    pool = [candidate(example(n), n) for n in ("rutile", "rocksalt", "anatase")]
    twin = shaken(example("anatase"), np.random.default_rng(1), 0.01, 0.005)
    marked = mark_known(
        pool, [("mp-390", twin), ("mp-22862", example("rocksalt") * (2, 1, 1)), ("mp-1", example("fcc"))]
    )
    assert [c.known_as for c in marked] == [(), ("mp-22862",), ("mp-390",)]
    assert mark_known(pool, []) == pool
