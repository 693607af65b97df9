"""The crystals that relaxations are timed on: fixed before anything was tuned, easy and hard, 1 to 60 atoms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from pymatgen.core import Lattice, Structure

O3, H3, Q3, T3 = [0.0] * 3, [0.5] * 3, [0.25] * 3, [0.75] * 3


def crystals() -> dict[str, Structure]:
    """All crystals by name, in an order that mixes small and large, so that the first few are a fair sample."""
    found = {**_simple(), **_oxides(), **_wrong(), **_shaken()}
    names = sorted(found, key=lambda name: sum(ord(letter) * (k + 7) for k, letter in enumerate(name)) % 101)
    return {name: found[name] for name in names}


@cache
def _primitive(
    group: str, lattice: Lattice, species: tuple[str, ...], sites: tuple[tuple[float, ...], ...]
) -> Structure:
    return Structure.from_spacegroup(group, lattice, list(species), [list(s) for s in sites]).get_primitive_structure()


def _made(group: str, lattice: Lattice, species: str, sites: Sequence[Sequence[float]]) -> Structure:
    return _primitive(group, lattice, tuple(species.split()), tuple(tuple(site) for site in sites)).copy()


def _shake(structure: Structure, seed: int, moves: float, strain: float) -> Structure:
    """Move every atom by about `moves` (Å) and strain the cell by up to `strain`."""
    rng = np.random.default_rng(seed)
    deformation = np.eye(3) + rng.uniform(-strain, strain, (3, 3))
    positions = structure.cart_coords @ deformation + rng.normal(scale=moves, size=(len(structure), 3))
    cell = Lattice(structure.lattice.matrix @ deformation)
    return Structure(cell, structure.species, positions, coords_are_cartesian=True)


def rock_salt(species: str, a: float) -> Structure:
    """Two atoms."""
    return _made("Fm-3m", Lattice.cubic(a), species, [O3, H3])


def perovskite(species: str, a: float) -> Structure:
    """Five atoms, A B X."""
    return _made("Pm-3m", Lattice.cubic(a), species, [O3, H3, [0.5, 0.5, 0]])


def spinel(species: str, a: float) -> Structure:
    """Fourteen atoms."""
    return _made("Fd-3m", Lattice.cubic(a), species, [O3, [0.625] * 3, [0.388] * 3])


def layered(species: str, a: float, c: float) -> Structure:
    """The delafossite-like oxides of batteries, four atoms."""
    return _made("R-3m", Lattice.hexagonal(a, c), species, [[0, 0, 0.5], O3, [0, 0, 0.24]])


def half_heusler(species: str, a: float) -> Structure:
    """Three atoms, the second on 4c."""
    return _made("F-43m", Lattice.cubic(a), species, [O3, Q3, H3])


def ti_ni_si(species: str, a: float, b: float, c: float) -> Structure:
    """Twelve atoms."""
    sites = [[0.02, 0.25, 0.68], [0.14, 0.25, 0.06], [0.27, 0.25, 0.38]]
    return _made("Pnma", Lattice.orthorhombic(a, b, c), species, sites)


def _simple() -> dict[str, Structure]:
    hcp = [[1 / 3, 2 / 3, 0.25]]
    manganese = [O3, [0.317] * 3, [0.356, 0.356, 0.034], [0.089, 0.089, 0.282]]
    return {
        "Cu fcc": _made("Fm-3m", Lattice.cubic(3.75), "Cu", [O3]),
        "W bcc": _made("Im-3m", Lattice.cubic(3.05), "W", [O3]),
        "Po-like Bi": _made("Pm-3m", Lattice.cubic(3.2), "Bi", [O3]),
        "Si diamond": _made("Fd-3m", Lattice.cubic(5.3), "Si", [[0.125] * 3]),
        "Mg hcp": _made("P6_3/mmc", Lattice.hexagonal(3.3, 5.0), "Mg", hcp),
        "Mn alpha": _made("I-43m", Lattice.cubic(8.9), "Mn Mn Mn Mn", manganese),
        "NaCl": rock_salt("Na Cl", 5.5),
        "UO2": _made("Fm-3m", Lattice.cubic(5.6), "U O", [O3, Q3]),
        "ZnO wurtzite": _made("P6_3mc", Lattice.hexagonal(3.2, 5.3), "Zn O", [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.38]]),
        "LiZnP": half_heusler("Li P Zn", 5.9),
        "CO2 ice": _made("Pa-3", Lattice.cubic(5.6), "C O", [O3, [0.118] * 3]),
        "TiO2 rutile": _made("P4_2/mnm", Lattice.tetragonal(4.5, 3.0), "Ti O", [O3, [0.3, 0.3, 0]]),
        "MoS2 2H": _made(
            "P6_3/mmc", Lattice.hexagonal(3.1, 13.0), "Mo S", [[1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.62]]
        ),
        "Bi2Te3": _made("R-3m", Lattice.hexagonal(4.4, 30.0), "Bi Te Te", [[0, 0, 0.4], O3, [0, 0, 0.21]]),
        "Al2O3": _made("R-3c", Lattice.hexagonal(4.7, 13.1), "Al O", [[0, 0, 0.352], [0.306, 0, 0.25]]),
        "quartz": _made("P3_221", Lattice.hexagonal(5.0, 5.4), "Si O", [[0.47, 0, 2 / 3], [0.41, 0.27, 0.79]]),
    }


def _oxides() -> dict[str, Structure]:
    olivine = [O3, [0.282, 0.25, 0.975], [0.095, 0.25, 0.418], [0.097, 0.25, 0.743], [0.457, 0.25, 0.206]]
    olivine.append([0.166, 0.046, 0.285])
    return {
        "SrTiO3": perovskite("Sr Ti O", 4.0),
        "BaTiO3": perovskite("Ba Ti O", 4.1),
        "LaMnO3": perovskite("La Mn O", 3.95),
        "CsPbI3": perovskite("Cs Pb I", 6.2),
        "MgAl2O4": spinel("Mg Al O", 8.2),
        "Fe3O4": spinel("Fe Fe O", 8.3),
        "Co3O4": spinel("Co Co O", 8.2),
        "LiMn2O4": spinel("Li Mn O", 8.3),
        "LiCoO2": layered("Li Co O", 2.85, 14.2),
        "NaNiO2": layered("Na Ni O", 3.0, 15.6),
        "LiNiO2": layered("Li Ni O", 2.9, 14.3),
        "LiFePO4": _made("Pnma", Lattice.orthorhombic(10.4, 6.0, 4.75), "Li Fe P O O O", olivine),
        "Fe2O3": _made("R-3c", Lattice.hexagonal(5.1, 13.6), "Fe O", [[0, 0, 0.355], [0.306, 0, 0.25]]),
        "MnO": rock_salt("Mn O", 4.5),
        "NiO": rock_salt("Ni O", 4.25),
        "ThO2": _made("Fm-3m", Lattice.cubic(5.7), "Th O", [O3, Q3]),
    }


def _wrong() -> dict[str, Structure]:
    zinc_blende = [O3, Q3]
    nickeline = [O3, [1 / 3, 2 / 3, 0.25]]
    zr_ni_al = [[0.59, 0, 0.5], [0.25, 0, 0], [1 / 3, 2 / 3, 0.5], [0, 0, 0]]
    return {
        "NaCl as CsCl": _made("Pm-3m", Lattice.cubic(3.5), "Na Cl", [O3, H3]),
        "ZnS as NaCl": rock_salt("Zn S", 5.2),
        "BaO as ZnS": _made("F-43m", Lattice.cubic(6.4), "Ba O", zinc_blende),
        "CsF as NiAs": _made("P6_3/mmc", Lattice.hexagonal(4.2, 7.0), "Cs F", nickeline),
        "LiMgN other": half_heusler("Mg Li N", 5.0),
        "KZnP other": half_heusler("K Zn P", 6.4),
        "LiMgN TiNiSi": ti_ni_si("Li Mg N", 6.5, 4.0, 7.2),
        "KZnP TiNiSi": ti_ni_si("K Zn P", 7.6, 4.4, 8.0),
        "NaCaSb TiNiSi": ti_ni_si("Na Ca Sb", 8.2, 4.9, 8.9),
        "CuMgAs ZrNiAl": _made("P-62m", Lattice.hexagonal(7.0, 4.0), "Mg Cu As As", zr_ni_al),
        "AgCdSb ZrNiAl": _made("P-62m", Lattice.hexagonal(7.7, 4.5), "Cd Ag Sb Sb", zr_ni_al),
        "MgF2 as CaF2": _made("Fm-3m", Lattice.cubic(5.0), "Mg F", [O3, Q3]),
        "SiO2 as rutile": _made("P4_2/mnm", Lattice.tetragonal(4.6, 3.0), "Si O", [O3, [0.3, 0.3, 0]]),
        "HgTe as NaCl": rock_salt("Hg Te", 6.2),
        "GaN as NaCl": rock_salt("Ga N", 4.5),
        "YAlO3 cubic": perovskite("Y Al O", 3.8),
    }


def _shaken() -> dict[str, Structure]:
    lithium_poor = layered("Li Ni O", 2.9, 14.3) * (2, 2, 2)
    lithium_poor.remove_sites([0, 3, 5])
    vacancy = rock_salt("Mg O", 4.25) * (3, 3, 3)
    vacancy.remove_sites([0])
    mixed = perovskite("Sr Ti O", 3.95) * (2, 2, 2)
    mixed.replace(0, "Ba")
    mixed.replace(9, "Zr")
    alloy = _made("Fm-3m", Lattice.cubic(3.7), "Cu", [O3]) * (2, 2, 2)
    for site, symbol in ((1, "Ni"), (4, "Zn"), (6, "Au")):
        alloy.replace(site, symbol)
    return {
        "SrTiO3 tilting": _shake(perovskite("Sr Ti O", 3.9) * (2, 2, 2), 1, 0.05, 0.0),
        "CaTiO3 tilting": _shake(perovskite("Ca Ti O", 3.85) * (2, 2, 1), 2, 0.10, 0.01),
        "CsPbI3 tilting": _shake(perovskite("Cs Pb I", 6.2) * (2, 2, 1), 3, 0.15, 0.01),
        "NaTaO3 large": _shake(perovskite("Na Ta O", 3.95) * (2, 2, 3), 4, 0.08, 0.01),
        "LaMnO3 shaken": _shake(perovskite("La Mn O", 3.9) * (2, 1, 1), 5, 0.10, 0.03),
        "MgAl2O4 shaken": _shake(spinel("Mg Al O", 8.1), 6, 0.10, 0.03),
        "Fe3O4 shaken": _shake(spinel("Fe Fe O", 8.4), 7, 0.08, 0.03),
        "Mn3O4 large": _shake(spinel("Mn Mn O", 8.5) * (1, 2, 2), 8, 0.06, 0.02),
        "LiCoO2 shaken": _shake(layered("Li Co O", 2.82, 14.0) * (2, 2, 1), 9, 0.08, 0.03),
        "LiNiO2 vacancies": _shake(lithium_poor, 10, 0.05, 0.01),
        "MgO vacancy": _shake(vacancy, 11, 0.03, 0.01),
        "NiO shaken": _shake(rock_salt("Ni O", 4.2) * (2, 2, 2), 12, 0.10, 0.04),
        "Fe shaken": _shake(_made("Im-3m", Lattice.cubic(2.85), "Fe", [O3]) * (2, 2, 2), 13, 0.12, 0.04),
        "PbTe shaken": _shake(rock_salt("Pb Te", 6.5) * (2, 1, 1), 14, 0.15, 0.05),
        "Si strained": _shake(_made("Fd-3m", Lattice.cubic(5.45), "Si", [[0.125] * 3]), 15, 0.0, 0.08),
        "GaAs shaken": _shake(_made("F-43m", Lattice.cubic(5.7), "Ga As", [O3, Q3]) * (2, 2, 1), 16, 0.10, 0.03),
        "mixed perovskite": _shake(mixed, 17, 0.05, 0.01),
        "Cu alloy": _shake(alloy, 18, 0.05, 0.02),
        "quartz shaken": _shake(_simple()["quartz"], 19, 0.10, 0.03),
        "UO2 shaken": _shake(_simple()["UO2"] * (2, 1, 1), 20, 0.10, 0.03),
    }
