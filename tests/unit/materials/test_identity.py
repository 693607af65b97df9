"""Ids that stay, and groups that are exactly those of pymatgen's StructureMatcher."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from materials.candidate_file import CandidateFile
from materials.identity import Merged, group_duplicates, mark_known, material_id
from materials.records import Candidate
from materials.sources.prototypes import propose
from materials.sources.type_library import example
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
            monkeypatch.setattr("materials.identity.BLOCK", block)
            assert list(Merged(file)) == merged


def test_known_structures_are_marked() -> None:
    pool = [candidate(example(n), n) for n in ("rutile", "rocksalt", "anatase")]
    twin = shaken(example("anatase"), np.random.default_rng(1), 0.01, 0.005)
    marked = mark_known(
        pool, [("mp-390", twin), ("mp-22862", example("rocksalt") * (2, 1, 1)), ("mp-1", example("fcc"))]
    )
    assert [c.known_as for c in marked] == [(), ("mp-22862",), ("mp-390",)]
    assert mark_known(pool, []) == pool
