"""Compounds with formation energies that every sound potential knows.

A potential with the wrong energy convention (corrected twice, or not at all), or with weights that were made for
another version of its package, gets them wrong by much more than potentials differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from materials.errors import AnchorMismatch
from models.potentials.interface import Potential, crystal_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOLERANCE = 0.2  # eV/atom


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A compound and its formation energy from the elements at 298 K.

    `correction` is what MP2020 (https://doi.org/10.1038/s41598-021-94550-5) adds to raw PBE or PBE+U; `hubbard`
    says that the raw value needs +U.
    """

    formula: str
    experiment: float  # eV/atom, CRC Handbook
    correction: float  # eV/atom
    hubbard: bool = False


ANCHORS = (
    Anchor(formula="NaCl", experiment=-2.131, correction=-0.614 / 2),
    Anchor(formula="Li2O", experiment=-2.066, correction=-0.687 / 3),
    Anchor(formula="MgO", experiment=-3.118, correction=-0.687 / 2),
    Anchor(formula="MnO", experiment=-1.996, correction=(-0.687 - 1.668) / 2, hubbard=True),
)
COMPARABLE = ("PBE", "PBE+U", "PBE+U/MP2020", "r2SCAN")


def check_anchors(potential: Potential) -> None:
    """Compare a potential's formation energies, at experimental geometries, with experiment.

    Levels other than PBE, PBE+U (raw or corrected) and r2SCAN have no known offset from experiment, and compounds
    with an element that the potential does not cover no value: those are not compared.

    Raises:
        AnchorMismatch: If one of them is off by more than 0.2 eV/atom.
    """
    if potential.level_of_theory not in COMPARABLE:
        return
    from pymatgen.core import Composition

    raw = potential.correction is not None or potential.level_of_theory in ("PBE", "PBE+U")
    plain = potential.level_of_theory == "PBE"
    anchors = [
        anchor
        for anchor in ANCHORS
        if Composition(anchor.formula).chemical_system_set <= potential.elements and not (plain and anchor.hubbard)
    ]
    if not anchors:
        return
    names = {symbol for anchor in anchors for symbol in Composition(anchor.formula).chemical_system_set}
    names |= {anchor.formula for anchor in anchors}
    structures = {name: structure for name, structure in _structures().items() if name in names}
    answer = potential.evaluate([crystal_of(structure) for structure in structures.values()])
    energies = {
        name: energy / len(structure)
        for (name, structure), energy in zip(structures.items(), answer.energies, strict=True)
    }
    off = {}
    for anchor in anchors:
        shares = Composition(anchor.formula).fractional_composition
        formation = energies[anchor.formula] - sum(x * energies[element.symbol] for element, x in shares.items())
        off[anchor.formula] = formation - anchor.experiment + (anchor.correction if raw else 0.0)
    wrong = {formula: error for formula, error in off.items() if not abs(error) <= TOLERANCE}
    if wrong:
        found = ", ".join(f"{formula} {error:+.2f}" for formula, error in wrong.items())
        needs = potential.correction or "no correction"
        raise AnchorMismatch(
            f"{potential.method} as {potential.level_of_theory} with {needs}: formation energies are off by {found} "
            "eV/atom. Either level_of_theory or correction is not what this model was trained on, or its weights "
            "belong to another version of its package"
        )


def _structures() -> dict[str, Structure]:
    """The anchors and their elements, each at its experimental geometry."""
    from pymatgen.core import Lattice, Structure

    def molecule(symbol: str, distance: float) -> Structure:
        box = Lattice.orthorhombic(8.0, 8.3, 8.7)
        return Structure(box, [symbol] * 2, [[0.0, 0.0, 0.0], [0.0, 0.0, distance]], coords_are_cartesian=True)

    def crystal(group: str, lattice: Lattice, species: list[str], sites: Sequence[Sequence[float]]) -> Structure:
        return Structure.from_spacegroup(group, lattice, species, sites).get_primitive_structure()

    corner, centre, quarter = [0.0] * 3, [0.5] * 3, [0.25] * 3
    alpha_mn: list[list[float]] = [corner, [0.317] * 3, [0.356, 0.356, 0.034], [0.089, 0.089, 0.282]]
    return {
        "NaCl": crystal("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [corner, centre]),
        "Li2O": crystal("Fm-3m", Lattice.cubic(4.62), ["Li", "O"], [quarter, corner]),
        "MgO": crystal("Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [corner, centre]),
        "MnO": crystal("Fm-3m", Lattice.cubic(4.44), ["Mn", "O"], [corner, centre]),
        "Na": crystal("Im-3m", Lattice.cubic(4.24), ["Na"], [corner]),
        "Li": crystal("Im-3m", Lattice.cubic(3.48), ["Li"], [corner]),
        "Mg": crystal("P6_3/mmc", Lattice.hexagonal(3.21, 5.21), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
        "Mn": crystal("I-43m", Lattice.cubic(8.62), ["Mn"] * 4, alpha_mn),
        "O": molecule("O", 1.22),
        "Cl": molecule("Cl", 2.00),
    }
