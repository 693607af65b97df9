"""Magnetic orders: those that textbooks know, one of each that symmetry makes, in one supercell."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models.dft.magnetism.given_moments import along_one_axis, given_order
from models.dft.magnetism.moments import magnetism_of
from models.dft.magnetism.orders import (
    MOST_ORDERS,
    MOST_SITES,
    Order,
    Orders,
    _Symmetry,
    antiparallel_orders,
    orders_of,
    supercell_of,
)
from models.dft.presets import SYMPREC, spin_of, symmetrised

ROCK_SALT = [(0, 0, 0), (0.5, 0.5, 0.5)]
CRYSTALS = {
    "NiO": Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["Ni", "O"], ROCK_SALT),
    "MnO, zinc blende": Structure.from_spacegroup("F-43m", Lattice.cubic(4.9), ["Mn", "O"], [(0, 0, 0), (0.25,) * 3]),
    "MnF2": Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.87, 3.31), ["Mn", "F"], [(0, 0, 0), (0.305, 0.305, 0)]
    ),
    "SrMnO3": Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.86), ["Sr", "Mn", "O"], [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0)]
    ),
    "LaMnO3": Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(5.74, 7.69, 5.53),
        ["La", "Mn", "O", "O"],
        [(0.549, 0.25, 0.01), (0, 0, 0.5), (-0.014, 0.25, -0.07), (0.309, 0.039, 0.224)],
    ),
    "Fe2O3": Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.038, 13.772), ["Fe", "O"], [(0, 0, 0.3553), (0.3059, 0, 0.25)]
    ),
    "Fe": Structure.from_spacegroup("Im-3m", Lattice.cubic(2.83), ["Fe"], [(0, 0, 0)]),
    "CuO": Structure.from_spacegroup(
        "C2/c", Lattice.monoclinic(4.684, 3.423, 5.129, 99.54), ["Cu", "O"], [(0.25, 0.25, 0), (0, 0.416, 0.25)]
    ),
    "LiMn2O4": Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(8.24), ["Li", "Mn", "O"], [(0.125,) * 3, (0.5,) * 3, (0.263,) * 3]
    ),
    "KO2": Structure.from_spacegroup(
        "I4/mmm", Lattice.tetragonal(4.03, 6.70), ["K", "O"], [(0, 0, 0), (0, 0, 0.5 - 0.65 / 6.70)]
    ),
    "Fe, Cr": Structure.from_spacegroup("Pm-3m", Lattice.cubic(2.9), ["Fe", "Cr"], ROCK_SALT),
}


def orders(name: str) -> Orders:
    return orders_of(symmetrised(CRYSTALS[name]))


def names(found: Orders) -> list[str]:
    return [name for name, _ in found.tried]


def test_an_fcc_sublattice_has_afm_1_and_afm_2() -> None:
    # The strongest bridge, Ni–O–Ni at 180°, is antiparallel throughout in AFM-II, at L: it comes first.
    found = orders("NiO")
    assert names(found) == ["antiferromagnetic (½ ½ ½)", "antiferromagnetic (0 0 1)", "ferromagnetic"]
    assert abs(round(float(np.linalg.det(found.supercell)))) == 4
    # Without straight bridges the nearest neighbours decide: eight of twelve antiparallel in AFM-I.
    assert names(orders("MnO, zinc blende"))[0] == "antiferromagnetic (0 0 1)"


def neighbours(structure: Structure, moments: tuple[float, ...], distance: float) -> set[tuple[int, int]]:
    """(parallel, antiparallel) neighbours of each magnetic site at a distance."""
    first, second, _, lengths = structure.get_neighbor_list(distance + 0.05)
    counts = {k: [0, 0] for k, moment in enumerate(moments) if moment}
    for a, b, length in zip(first.tolist(), second.tolist(), lengths, strict=True):
        if abs(length - distance) < 0.05 and a in counts and b in counts:
            counts[a][moments[a] * moments[b] < 0] += 1
    return {(parallel, antiparallel) for parallel, antiparallel in counts.values()}


def test_nickel_oxides_neighbours_are_those_of_the_textbook() -> None:
    cell = symmetrised(CRYSTALS["NiO"])
    found = orders("NiO")
    large = supercell_of(cell, found.supercell)
    second, first = dict(found.tried)["antiferromagnetic (½ ½ ½)"], dict(found.tried)["antiferromagnetic (0 0 1)"]
    assert neighbours(large, second, 4.17) == {(0, 6)}
    assert neighbours(large, second, 4.17 / 2**0.5) == {(6, 6)}
    assert neighbours(large, first, 4.17) == {(6, 0)}
    assert neighbours(large, first, 4.17 / 2**0.5) == {(4, 8)}


def test_a_perovskite_has_g_c_and_a() -> None:
    found = orders("SrMnO3")
    cell, tried = symmetrised(CRYSTALS["SrMnO3"]), dict(found.tried)
    large = supercell_of(cell, found.supercell)
    wanted = {"(½ ½ ½)": (0, 6), "(0 ½ ½)": (2, 4), "(0 0 ½)": (4, 2)}  # G, C, A
    for vector, counts in wanted.items():
        assert neighbours(large, tried[f"antiferromagnetic {vector}"], 3.86) == {counts}
    assert names(found)[0] == "antiferromagnetic (½ ½ ½)"
    # In the cell with tilts all three are splittings of the primitive cell.
    large, tried = symmetrised(CRYSTALS["LaMnO3"]), dict(orders("LaMnO3").tried)
    seen = [[neighbours(large, moments, distance) for distance in (3.845, 3.985)] for moments in tried.values()]
    assert seen == [[{(0, 2)}, {(0, 4)}], [{(2, 0)}, {(0, 4)}], [{(0, 2)}, {(4, 0)}], [{(2, 0)}, {(4, 0)}]]


def test_hematite_is_up_down_down_up() -> None:
    cell = symmetrised(CRYSTALS["Fe2O3"])
    name, moments = orders("Fe2O3").tried[0]
    assert name == "antiferromagnetic (0 0 0)"
    large = supercell_of(cell, orders("Fe2O3").supercell)
    # https://doi.org/10.1103/PhysRev.83.333: parallel within a layer (2.97 Å) and across the empty site (3.98 Å).
    seen = {distance: neighbours(large, moments, distance) for distance in (2.90, 2.97, 3.37, 3.70, 3.98)}
    assert seen == {2.90: {(0, 1)}, 2.97: {(3, 0)}, 3.37: {(0, 3)}, 3.70: {(0, 6)}, 3.98: {(1, 0)}}


def test_a_rutiles_order_needs_no_larger_cell() -> None:
    found = orders("MnF2")
    assert names(found)[0] == "antiferromagnetic (0 0 0)"
    moments = dict(found.tried)["antiferromagnetic (0 0 0)"]
    assert sum(moments) == 0


def test_a_superoxides_two_oxygens_turn_together() -> None:
    found = orders("KO2")
    large = supercell_of(symmetrised(CRYSTALS["KO2"]), found.supercell)
    for _, moments in found.tried:
        assert neighbours(large, moments, 1.30) == {(1, 0)}


def test_two_elements_may_oppose_each_other() -> None:
    found = dict(orders("Fe, Cr").tried)
    (name,) = [name for name in found if name.startswith("ferrimagnetic")]
    assert name == "ferrimagnetic (0 0 0)"
    cell = supercell_of(symmetrised(CRYSTALS["Fe, Cr"]), orders("Fe, Cr").supercell)
    signs = {site.specie.symbol: np.sign(moment) for site, moment in zip(cell, found[name], strict=True)}
    assert signs["Fe"] == -signs["Cr"]


@pytest.mark.parametrize("name", CRYSTALS)
def test_what_is_tried_is_bounded_and_what_is_not_is_told(name: str) -> None:
    found, cell = orders(name), symmetrised(CRYSTALS[name])
    assert 2 <= len(found.tried) <= MOST_ORDERS
    assert names(found)[-1] == "ferromagnetic"
    large = supercell_of(cell, found.supercell)
    assert len(large) <= max(MOST_SITES, len(cell))
    every = antiparallel_orders(cell, magnetism_of(cell))
    assert (len(found.tried) - 1 < len(every)) == bool(found.left_out)
    assert large.volume / len(large) == pytest.approx(cell.volume / len(cell))


@pytest.mark.parametrize("name", CRYSTALS)
def test_antiferromagnets_have_no_moment_and_symmetry_makes_no_two_of_them_one(name: str) -> None:
    cell = symmetrised(CRYSTALS[name])
    found = orders(name)
    large = supercell_of(cell, found.supercell)
    for order, moments in found.tried:
        total = sum(moments)
        assert abs(total) < 1e-6 or not order.startswith("antiferromagnetic"), order
        assert (len({m > 0 for m in moments if m}) == 1) == (order == "ferromagnetic")
    # Moments as elements of their own: pymatgen's matcher says whether two orders are one.
    from pymatgen.analysis.structure_matcher import StructureMatcher

    def dressed(moments: tuple[float, ...], turned: int) -> Structure:
        stand_ins = {1: "He", -1: "Ne"}
        species = [
            stand_ins[int(np.sign(turned * m))] if m else site.specie.symbol
            for site, m in zip(large, moments, strict=True)
        ]
        return Structure(large.lattice, species, large.frac_coords)

    if len(large) > 10:
        return
    matcher = StructureMatcher(primitive_cell=False, attempt_supercell=False)
    for (_, one), (_, other) in itertools.combinations(found.tried, 2):
        assert not any(matcher.fit(dressed(one, 1), dressed(other, turned)) for turned in (1, -1))


@given(st.sampled_from(["NiO", "SrMnO3", "MnF2", "Fe2O3"]), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_images_and_the_opposite_of_an_order_have_its_name(name: str, seed: int) -> None:
    cell = symmetrised(CRYSTALS[name])
    magnetism = magnetism_of(cell)
    symmetry = _Symmetry(cell, magnetism)
    rng = np.random.default_rng(seed)
    pattern = rng.choice([-1.0, 1.0], size=symmetry.shape)
    image = pattern.ravel()[symmetry.images[rng.integers(len(symmetry.images))]].reshape(symmetry.shape)
    assert symmetry.canonical(image) == symmetry.canonical(pattern) == symmetry.canonical(-pattern)


def test_only_the_ferromagnetic_start_where_no_moments_meet() -> None:
    molecule = Structure(Lattice.cubic(9.0), ["O", "O"], [(0, 0, 0), (0, 0, 1.22 / 9)])
    assert orders_of(symmetrised(molecule)) == Orders()
    assert spin_of(molecule, "antiferromagnetic") == {"magnetic_moments": {"O": 1.0}}


def test_what_a_campaign_may_ask_for() -> None:
    oxide = CRYSTALS["NiO"]
    assert spin_of(oxide, "none") == {}
    assert spin_of(oxide, "ferromagnetic") == {"magnetic_moments": {"Ni": 2.0}}
    tried = spin_of(oxide, "antiferromagnetic")["magnetic_orders"]["tried"]
    assert [name for name, _ in tried] == ["antiferromagnetic (½ ½ ½)", "antiferromagnetic (0 0 1)"]


AFM_2 = Structure(
    Lattice(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) @ symmetrised(CRYSTALS["NiO"]).lattice.matrix),
    ["Ni", "Ni", "O", "O"],
    [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (0.75, 0.75, 0.75)],
)


def asked(structure: Structure) -> Orders:
    cell = symmetrised(structure)
    order, why = given_order(structure, cell, SYMPREC)
    return orders_of(cell, given=[order] if order else [], notes=[why] if why else [])


@given(st.integers(0, 2**31), st.sampled_from([(1, 1, 1), (2, 1, 1)]))
@settings(max_examples=10, deadline=None)
def test_given_moments_are_found_again(seed: int, scaling: tuple[int, int, int]) -> None:
    """Whatever the cell, its origin and noise: an order that is known anyway is recognised and comes first."""
    rng = np.random.default_rng(seed)
    layers = CRYSTALS["NiO"].copy()  # AFM-I: signs by the height of the layer
    moments = [2.0 * (-1) ** round(2 * s.frac_coords[2]) * (s.specie.symbol == "Ni") + 0.05 for s in layers]
    layers.add_site_property("magmom", moments)
    layers = layers * scaling
    layers.translate_sites(range(len(layers)), rng.random(3))
    noisy = Structure(
        layers.lattice,
        layers.species,
        layers.cart_coords + rng.normal(scale=1e-3, size=(len(layers), 3)),
        coords_are_cartesian=True,
        site_properties=layers.site_properties,
    )
    assert names(asked(noisy))[0] == "antiferromagnetic (0 0 1)"
    second = AFM_2.copy()
    second.add_site_property("magmom", [[0, 0, 1.5], [0, 0, -1.5], None, None])
    assert names(asked(second)) == names(orders("NiO"))


def test_given_moments_of_a_longer_period_are_tried_too() -> None:
    iron = CRYSTALS["Fe"] * (3, 1, 1)
    iron.add_site_property("magmom", [2.0, 2.0, 2.0, 2.0, -2.0, -2.0])
    found = asked(iron)
    assert names(found)[0] == "ferrimagnetic (as given)"
    assert sum(found.tried[0][1]) == pytest.approx(len(found.tried[0][1]) * 2 / 3)


def test_moments_that_are_not_collinear_are_told() -> None:
    canted = AFM_2.copy()
    canted.add_site_property("magmom", [[1.5, 0, 0], [0, 1.5, 0], [0, 0, 0], [0, 0, 0]])
    found = asked(canted)
    assert found.left_out == ("the moments that the structure came with: they are not collinear",)
    assert names(found) == names(orders("NiO"))
    assert along_one_axis([[0, 0, -2], [0, 0, 1], None]) == pytest.approx([-2, 1, 0])


def test_moments_where_there_are_none_by_the_shells() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], ROCK_SALT).get_primitive_structure()
    salt.add_site_property("magmom", [float(site.specie.symbol == "Cl") for site in salt])
    spin = spin_of(salt, "auto")
    assert spin["magnetic_moments"] == {"Cl": 1.0}
    assert [name for name, _ in spin["magnetic_orders"]["tried"]] == ["ferromagnetic (as given)"]
    assert isinstance(given_order(salt, symmetrised(salt), SYMPREC)[0], Order)
