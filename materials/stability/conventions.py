"""Conventions of PBE energies, and changes from one to another: which Materials Project corrections are in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from materials.crystals.composition import formula_of
from materials.errors import HullError
from materials.stability.corrections import ANIONS, correction
from materials.stability.hull import HullEntry

if TYPE_CHECKING:
    from pymatgen.core import Structure

MP2020 = "MP2020"
BONDS_MATTER = frozenset({"O", "S"})  # oxides are told from peroxides, sulfides from disulfides, by their bonds


def rule_in(level_of_theory: str) -> str | None:
    """Name the rule whose corrections energies of a level have in: `MP2020`, `ANIONS`; None: they are raw.

    Raises:
        HullError: They are of another functional than PBE, for which there is no such rule.
    """
    functional, *rest = level_of_theory.split("/")
    if functional not in ("PBE", "PBE+U") and not functional.startswith("PBE+U("):
        raise HullError(f"{level_of_theory}: the MP2020 corrections are for energies of PBE")
    return next((rule for rule in (ANIONS, MP2020) if rule in rest), None)


def change_between(own: str, wanted: str) -> Change | None:
    """Give what takes energies of one level to the convention of another.

    Returns:
        None where that is nothing, or where one of the two is of another functional than PBE: what the corrections
        mend it does not have.
    """
    try:
        change = Change(out=rule_in(own), into=rule_in(wanted))
    except HullError:
        return None
    return change if change.out != change.into else None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of convention: the corrections of one rule are taken out of energies, those of another put in.

    Attributes:
        out: `MP2020`, `ANIONS`, or None for nothing; `into` likewise.
    """

    out: str | None
    into: str | None
    _per_atom: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def entry(self, entry: HullEntry, structure: Callable[[], Structure]) -> HullEntry:
        """Give a phase with its energy in the other convention.

        Args:
            entry: The phase.
            structure: Builds its structure; called only where the corrections need it.

        Raises:
            HullError: A rule does not cover it.
        """
        level = f"PBE+U/{self.into}" if self.into else "PBE+U"
        return replace(entry, energy=entry.energy + self.of(entry.amounts, structure), level_of_theory=level)

    def of(self, amounts: Mapping[str, float], structure: Callable[[], Structure]) -> float:
        """Give what is added to the total energy of so many atoms of each element, eV; the rest as for `entry`."""
        if not self.touches(amounts.keys()):
            return 0.0
        if BONDS_MATTER & amounts.keys():
            return self._of(structure())
        formula = formula_of(amounts)
        if formula not in self._per_atom:
            self._per_atom[formula] = self._of(structure()) / sum(amounts.values())
        return self._per_atom[formula] * sum(amounts.values())

    def touches(self, elements: Collection[str]) -> bool:
        """Whether the rules may differ in a compound of these elements: for most they do not, and are not asked."""
        present = set(elements)
        anions, metals = _corrected()
        if len(present) < 2 or self.out == self.into:
            return False
        if None in (self.out, self.into):
            return bool(anions & present)
        return bool({"O", "F"} & present and metals & present)

    def _of(self, structure: Structure) -> float:
        return correction(self.into, structure) - correction(self.out, structure)


@cache
def _corrected() -> tuple[frozenset[str], frozenset[str]]:
    """Anions, and metals in oxides and fluorides, that MP2020 has terms for."""
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    metals = frozenset(metal for of_anion in scheme.u_corrections.values() for metal in of_anion)
    return frozenset({"O", *scheme.comp_correction}), metals
