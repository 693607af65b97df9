"""Molecules and molecular ions with unpaired electrons in a crystal: O2, superoxides, NO, atoms."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Sites with the lattice translation of each.
Unit = tuple[tuple[int, tuple[int, int, int]], ...]

BONDED = 1.25  # of the sum of covalent radii
ALONE = 1.7  # of that sum, beyond which an element's atom has no neighbour
# With one of these a unit short of electrons is a radical; without, the crystal is more likely a metal.
ELECTRONEGATIVE = frozenset(["H", "N", "O", "F", "S", "Cl", "Se", "Br", "I"])
# Unpaired electrons of a diatomic molecule by its valence electrons: π* is empty at 10 (N2) and full at 14 (F2).
DIATOMIC = {9: 1, 11: 1, 12: 2, 13: 1}
SUPEROXIDE = 1.42  # Å: below it two oxygens are O2 or O2-, above a peroxide
# Charges of metals whose shells are closed then; others are found with several, and tell nothing of the anions.
CHARGES: dict[str, tuple[int, ...]] = (
    dict.fromkeys(["Li", "Na", "K", "Rb", "Cs", "Fr", "Ag"], (1,))
    | dict.fromkeys(["Be", "Mg", "Ca", "Sr", "Ba", "Ra", "Zn", "Cd", "Hg"], (2,))
    | dict.fromkeys(["Al", "Ga", "In", "Sc", "Y", "La", "Lu"], (3,))
    | {"Zr": (4,), "Hf": (4,), "Th": (4,), "Tl": (1, 3), "Sn": (2, 4), "Pb": (2, 4), "Bi": (3, 5)}
)


def unpaired_units(structure: Structure) -> list[tuple[Unit, int]]:
    """List the molecular units of a crystal that have unpaired electrons, with the number of those.

    Nonmetals bonded to each other make a unit; what the metals give is shared by those that are short of it. An
    endless network is none.

    Args:
        structure: Ordered crystal.
    """
    elements = {site.specie.symbol for site in structure}
    if elements == {"O"} and not is_isolated(structure):  # whatever form it has
        return [(unit, len(unit)) for unit in molecules(structure)]
    if is_isolated(structure):
        return [(((k, (0, 0, 0)),), n) for k in range(len(structure)) if (n := _of_atom(structure[k].specie.symbol))]
    if not elements & ELECTRONEGATIVE:
        return []
    units = molecules(structure)
    metals = [site.specie.symbol for site in structure if site.specie.is_metal]
    if any(symbol not in CHARGES for symbol in metals):
        return [(unit, 1) for unit in units if _is_superoxide(structure, unit)]
    options = product(*(CHARGES[symbol] for symbol in sorted(set(metals))))
    answers = [_short_of_electrons(structure, units, _donated(metals, charges)) for charges in options]
    return min(answers, key=lambda answer: sum(n for _, n in answer))


def molecules(structure: Structure) -> list[Unit]:
    """Find the finite units of bonded nonmetals, single ones too, each in one piece."""
    from ase.data import covalent_radii

    radii = {k: covalent_radii[site.specie.Z] for k, site in enumerate(structure) if not site.specie.is_metal}
    if not radii:
        return []
    reach = BONDED * 2 * max(radii.values()) + 0.05
    first, second, images, distances = structure.get_neighbor_list(reach)
    bonds: dict[int, list[tuple[int, np.ndarray]]] = {k: [] for k in radii}
    for i, j, image, distance in zip(first.tolist(), second.tolist(), images, distances, strict=True):
        if i in radii and j in radii and distance < BONDED * (radii[i] + radii[j]) + 0.05:
            bonds[i].append((j, image))
    units: list[Unit] = []
    seen: set[int] = set()
    for start in radii:
        if start in seen:
            continue
        places, queue, finite = {start: np.zeros(3, dtype=int)}, [start], True
        for k in queue:
            for j, image in bonds[k]:
                place = places[k] + np.round(image).astype(int)
                if j not in places:
                    places[j] = place
                    queue.append(j)
                finite &= bool((places[j] == place).all())
        seen.update(places)
        if finite:
            units.append(tuple((k, (int(r[0]), int(r[1]), int(r[2]))) for k, r in sorted(places.items())))
    return units


def _donated(metals: list[str], charges: tuple[int, ...]) -> int:
    by_symbol: Mapping[str, int] = dict(zip(sorted(set(metals)), charges, strict=True))
    return sum(by_symbol[symbol] for symbol in metals)


def _short_of_electrons(structure: Structure, units: list[Unit], donated: int) -> list[tuple[Unit, int]]:
    """The units with unpaired electrons once single atoms have filled their shells and the others share the rest."""
    kinds: dict[tuple[int, ...], list[Unit]] = {}
    for unit in units:
        kinds.setdefault(tuple(sorted(structure[k].specie.Z for k, _ in unit)), []).append(unit)
    single = {kind: electrons_wanted(kind[0]) for kind in kinds if len(kind) == 1}
    several = {kind: members for kind, members in kinds.items() if len(kind) > 1}
    wanted = sum(len(kinds[kind]) * capacity for kind, capacity in single.items())
    if several and not (donated or any(single.values())):
        odd = [kind for kind in several if sum(kind) % 2]
        # Of two kinds of radicals the one has taken the other's electron.
        open_ones = several if len(odd) < 2 else {}
        return [(unit, n) for kind, members in open_ones.items() if (n := _of_molecule(kind, 0)) for unit in members]
    if not several:
        if donated >= wanted or donated == 0 or len(units) < sum(not s.specie.is_metal for s in structure):
            return []
        kind = max(single, key=lambda k: k[0] if single[k] else 0)
        holes = min((wanted - donated) / len(kinds[kind]), float(single[kind]))
        return [(unit, max(1, round(holes))) for unit in kinds[kind]] if _electronegative(kind) else []
    left = donated - wanted
    if len(several) > 1 or left < 0:
        return []
    group, members = next(iter(several.items()))
    if left % len(members) or not _electronegative(group):
        return [(unit, 1) for unit in members if _is_superoxide(structure, unit)]
    n = _of_molecule(group, left // len(members))
    return [(unit, n) for unit in members] if n else []


def _of_molecule(kind: tuple[int, ...], charge: int) -> int:
    """Unpaired electrons of a molecule that has taken so many electrons."""
    if len(kind) == 2 and all(z > 2 for z in kind):
        return DIATOMIC.get(sum(_valence(z) for z in kind) + charge, 0)
    return (sum(kind) + charge) % 2


def _is_superoxide(structure: Structure, unit: Unit) -> bool:
    if len(unit) != 2 or any(structure[k].specie.symbol != "O" for k, _ in unit):
        return False
    places = [structure[k].frac_coords + np.array(r) for k, r in unit]
    return bool(np.linalg.norm(structure.lattice.get_cartesian_coords(places[1] - places[0])) < SUPEROXIDE)


def is_isolated(structure: Structure) -> bool:
    """Whether a crystal is an element whose atoms are all alone."""
    from ase.data import covalent_radii

    if len({site.specie.Z for site in structure}) > 1:
        return False

    reach = ALONE * 2 * float(max(covalent_radii[site.specie.Z] for site in structure))
    return len(structure.get_neighbor_list(reach)[0]) == 0


def _of_atom(symbol: str) -> int:
    """Unpaired electrons of a free atom by Hund's rule."""
    from pymatgen.core import Element

    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid or element.is_transition_metal:
        from ase.data import ground_state_magnetic_moments

        return int(ground_state_magnetic_moments[element.Z])
    valence = _valence(element.Z)
    return valence % 2 if valence <= 2 else min(valence - 2, 8 - valence)


def electrons_wanted(number: int) -> int:
    """Count the electrons that a single atom takes to fill its shell, by its atomic number."""
    return 1 if number == 1 else max(0, 8 - _valence(number)) if _valence(number) >= 4 else 0


def _valence(number: int) -> int:
    """Electrons outside closed shells."""
    from pymatgen.core import Element

    group = int(Element.from_Z(number).group)
    if number == 2:
        return 2
    return group if group <= 2 else group - 10


def _electronegative(kind: tuple[int, ...]) -> bool:
    from pymatgen.core import Element

    return any(Element.from_Z(z).symbol in ELECTRONEGATIVE for z in kind)
