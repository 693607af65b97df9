"""What brings an energy to the level of theory that its hull speaks of.

Potentials trained on raw PBE(+U) energies need the Materials Project's 2020 corrections before they may meet entries
of that database. CHGNet learned corrected energies: correcting those again ruins a hull by up to 1 eV/atom.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from materials.errors import HullError

if TYPE_CHECKING:
    from pymatgen.core import Structure


def correct(rule: str | None, structure: Structure, energy: float) -> float:
    """Give the energy in the convention of the hull.

    Args:
        rule: What the potential's energies lack: None, or `MP2020`.
        structure: What the energy belongs to.
        energy: Total, eV, raw: never one that was corrected before.

    Raises:
        HullError: the rule is unknown, or does not cover the structure.
    """
    return energy + correction(rule, structure)


def correction(rule: str | None, structure: Structure) -> float:
    """Give what the rule adds to the total energy of a structure, eV; it does not depend on that energy.

    `MP2020` is https://doi.org/10.1038/s41598-021-94550-5, with Hubbard U where `MPRelaxSet` sets it.

    Raises:
        HullError: the rule is unknown, or does not cover the structure.
    """
    if rule is None:
        return 0.0
    if rule != "MP2020":
        raise HullError(f"There is no energy correction {rule!r}: None and MP2020 are known")
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    hubbards = _hubbards(structure)
    entry = ComputedStructureEntry(
        structure,
        0.0,
        parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards, "is_hubbard": bool(hubbards)},
        data={"oxidation_states": _oxidation_states(structure)},
    )
    if _scheme().process_entry(entry, inplace=True) is None:
        raise HullError(f"The MP2020 corrections do not cover {structure.composition.reduced_formula}")
    return float(entry.correction)


@cache
def _scheme() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    # A potential's entry has no POTCAR to be checked; how they were chosen is the training data's affair.
    return MaterialsProject2020Compatibility(check_potcar=False)


def _hubbards(structure: Structure) -> dict[str, float]:
    from pymatgen.io.vasp.sets import MPRelaxSet

    elements = sorted(structure.composition.element_composition.elements, key=lambda element: element.X)
    values = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    return {element.symbol: values[element.symbol] for element in elements if values.get(element.symbol)}


def _oxidation_states(structure: Structure) -> dict[str, float]:
    composition = structure.composition.element_composition
    guesses = composition.oxi_state_guesses(max_sites=-20) if len(composition) > 1 else ()
    # All zero has pymatgen correct the most electronegative element only, as an empty guess would, without a warning.
    return dict(guesses[0]) if guesses else {element.symbol: 0.0 for element in composition}
