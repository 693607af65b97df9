"""Corrections that bring an energy to the level of theory of its hull.

Potentials trained on raw PBE(+U) energies need the Materials Project's 2020 corrections before they may meet entries
of that database. CHGNet learned corrected energies: correcting those again ruins a hull by up to 1 eV/atom.

Raw PBE energies of any code get the terms of the same scheme for anions only: PBE binds O2 and other molecules of the
reference states wrongly, whoever computes them. Its terms for metals tie VASP's GGA to VASP's GGA+U, and mean nothing
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from materials.errors import HullError
from materials.records import Calculation

if TYPE_CHECKING:
    from pymatgen.core import Composition, Structure
    from pymatgen.entries.computed_entries import ComputedEntry

# What the Materials Project's energies of thermo type GGA_GGA+U mean, and VASP's that its rule covers.
MP2020_LEVEL = "PBE+U/MP2020"
# The rule for anions alone, and the end of the level of theory of energies that it was added to.
ANIONS = "MP2020-anions"


def correct(rule: str | None, structure: Structure, energy: float) -> float:
    """Give the energy in the convention of the hull.

    Args:
        rule: What the energies lack: None, `MP2020`, or `ANIONS`.
        structure: What the energy belongs to.
        energy: Total, eV, raw: never one that was corrected before.

    Raises:
        HullError: the rule is unknown, or does not cover the structure.
    """
    return energy + correction(rule, structure)


def correction(rule: str | None, structure: Structure) -> float:
    """Give what the rule adds to the total energy of a structure, eV; it does not depend on that energy.

    `MP2020` is https://doi.org/10.1038/s41598-021-94550-5, with Hubbard U where `MPRelaxSet` sets it; `ANIONS` its
    terms for anions in compounds (oxides, peroxides and superoxides by their O-O bonds), without those for metals.

    Raises:
        HullError: the rule is unknown, or does not cover the structure.
    """
    if rule is None:
        return 0.0
    if rule == ANIONS:
        return _anion_correction(structure)
    if rule != "MP2020":
        raise HullError(f"There is no energy correction {rule!r}: None, MP2020 and {ANIONS} are known")
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    hubbards = _hubbards(structure)
    entry = ComputedStructureEntry(
        structure,
        0.0,
        parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards, "is_hubbard": bool(hubbards)},
        data={"oxidation_states": _oxidation_states(structure.composition)},
    )
    if _scheme().process_entry(entry, inplace=True) is None:
        raise HullError(f"The MP2020 corrections do not cover {structure.composition.reduced_formula}")
    return float(entry.correction)


def is_raw_pbe(level_of_theory: str) -> bool:
    """Tell whether energies of a level are PBE's own, with U or without, as the code gave them."""
    functional, *rest = level_of_theory.split("/")
    return (functional == "PBE" or functional.startswith("PBE+U(")) and not any("MP2020" in part for part in rest)


def anion_corrected_level(level_of_theory: str) -> str:
    """Name the level of raw PBE energies that the corrections for anions were added to.

    Raises:
        HullError: They are not raw PBE: of another functional, or corrected before.
    """
    if not is_raw_pbe(level_of_theory):
        raise HullError(
            f"The {ANIONS} corrections are for energies of PBE that have none yet, and these are {level_of_theory}"
        )
    return f"{level_of_theory}/{ANIONS}"


def anion_corrected(calculation: Calculation) -> Calculation:
    """Add the corrections for anions to a raw PBE energy, and name them in its level of theory.

    Raises:
        HullError: There is no energy, or it is not raw PBE: of another functional, or corrected before.
    """
    if calculation.energy is None or calculation.structure is None:
        raise HullError(f"{calculation.material_id} has no energy ({calculation.status}): leave it out")
    return replace(
        calculation,
        energy=calculation.energy + correction(ANIONS, calculation.structure),
        level_of_theory=anion_corrected_level(calculation.level_of_theory),
    )


def _anion_correction(structure: Structure) -> float:
    """Give what the terms for anions add to a total energy, eV."""
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    composition = structure.composition.element_composition
    if not {"O", "S"} & {element.symbol for element in composition}:
        formula, factor = composition.get_reduced_formula_and_factor()
        return factor * _anion_correction_of_formula(formula)
    # Bonds tell oxides from peroxides, and sulfides from sulfates.
    plain = structure.copy().remove_oxidation_states()
    entry = ComputedStructureEntry(plain, 0.0, data={"oxidation_states": _oxidation_states(structure.composition)})
    return _anion_terms(entry)


@cache
def _anion_correction_of_formula(formula: str) -> float:
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedEntry

    composition = Composition(formula)
    return _anion_terms(ComputedEntry(composition, 0.0, data={"oxidation_states": _oxidation_states(composition)}))


def _anion_terms(entry: ComputedEntry) -> float:
    entry.parameters["run_type"] = "GGA"
    return float(sum(adjustment.value for adjustment in _scheme(compat_type="GGA").get_adjustments(entry)))


def correction_of_vasp(
    structure: Structure, *, run_type: str, hubbards: Mapping[str, float], potcar_titles: Sequence[str]
) -> float:
    """Give what MP2020 adds to the total energy (eV) of a VASP run with the settings of `MPRelaxSet` or `MPStaticSet`.

    With it, and only with it, the energy is of `MP2020_LEVEL`.

    Args:
        structure: What was computed.
        run_type: "GGA" or "GGA+U".
        hubbards: Element -> U (eV).
        potcar_titles: The TITEL of each POTCAR, such as `PAW_PBE Fe_pv 06Sep2000`.

    Raises:
        HullError: U, run type or a POTCAR is not the Materials Project's.
    """
    from pymatgen.analysis.compatibility import CompatibilityError
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    elements = [element.symbol for element in structure.composition.element_composition]
    if wrong := foreign_potcars(elements, potcar_titles):
        raise HullError(f"Not the POTCARs of the Materials Project: {wrong}")
    entry = ComputedStructureEntry(
        structure,
        0.0,
        parameters={
            "run_type": run_type,
            "hubbards": dict(hubbards),
            "is_hubbard": bool(hubbards),
            "potcar_symbols": list(potcar_titles),
        },
        data={"oxidation_states": _oxidation_states(structure.composition)},
    )
    try:
        _scheme(check_potcar=True).process_entry(entry, inplace=True, on_error="raise")
    except CompatibilityError as error:
        raise HullError(f"MP2020 does not cover this VASP run: {str(error).split(' for {')[0]}") from None
    return float(entry.correction)


def foreign_potcars(elements: Iterable[str], titles: Sequence[str]) -> str:
    """Name the POTCARs that are not those which the Materials Project computes these elements with; empty if all are.

    pymatgen compares the symbols alone, and not even those if its settings say so; but Fe_pv is another potential in
    each release, which its title tells.

    Args:
        elements: Whose POTCARs they are.
        titles: TITEL of each.
    """
    due = _potcar_titles()
    found = {title.replace(" ", ""): title for title in titles}
    wanted = {due[element] for element in elements if element in due}
    strange = [title for key, title in sorted(found.items()) if key not in wanted]
    lacking = [element for element in sorted(elements) if due.get(element) not in found]
    return ", ".join(strange or [f"none of {element}" for element in lacking])


@cache
def _potcar_titles() -> dict[str, str]:
    """Element -> TITEL, without its spaces, of the POTCAR that the Materials Project computes it with."""
    from monty.serialization import loadfn
    from pymatgen.io.vasp.inputs import POTCAR_STATS_PATH
    from pymatgen.io.vasp.sets import MPRelaxSet

    titles = {
        known["symbol"]: title for title, several in loadfn(POTCAR_STATS_PATH)["PBE"].items() for known in several
    }
    return {element: titles[symbol] for element, symbol in MPRelaxSet.CONFIG["POTCAR"].items() if symbol in titles}


@cache
def _scheme(*, check_potcar: bool = False, compat_type: str = "Advanced") -> Any:
    """Give pymatgen's scheme; of type "GGA" it has no terms for metals."""
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    # A potential's entry has no POTCAR to be checked; how they were chosen is the training data's affair.
    return MaterialsProject2020Compatibility(check_potcar=check_potcar, compat_type=compat_type)


def _hubbards(structure: Structure) -> dict[str, float]:
    from pymatgen.io.vasp.sets import MPRelaxSet

    elements = sorted(structure.composition.element_composition.elements, key=lambda element: element.X)
    values = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(elements[-1].symbol, {})
    return {element.symbol: values[element.symbol] for element in elements if values.get(element.symbol)}


def _oxidation_states(composition: Composition) -> dict[str, float]:
    composition = composition.element_composition
    guesses: Sequence[Mapping[str, float]] = ()
    if len(composition) > 1:
        # For more than twenty atoms in the formula pymatgen guesses none in this scheme: it would take too long.
        with suppress(ValueError):
            guesses = composition.oxi_state_guesses(max_sites=-20)
    # All zero has pymatgen correct the most electronegative element only, as an empty guess would, without a warning.
    return dict(guesses[0]) if guesses else {element.symbol: 0.0 for element in composition}
