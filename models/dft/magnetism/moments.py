"""Magnetic sites of a crystal, and the moments that a calculation starts from.

Spin follows from the atoms: open d and f shells by likely oxidation states, and molecular units with unpaired
electrons (superoxides, O2, NO). Where the atoms leave it open, the crystal is computed with spin.

A cycle that starts in high spin may end there although low spin is lower, so what has a strong field starts in low
spin: 4d and 5d metals, trivalent and tetravalent cobalt and nickel, and iron, cobalt and nickel beside anions that are
bonded to each other (FeS2, FeAs2, CoSb3), where no high spin is known. Where that leaves no unpaired electron, as in
the d6 of pyrite, the cycle has spin and a small moment to start from, which vanishes or grows; orders of it are not
tried. All else starts in high spin: a shell that starts closed may never open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

from materials.crystals.validation import oxidation_states as known_states
from models.dft.magnetism.polyanions import ANIONS, Polyanions, polyanions_of
from models.dft.magnetism.radicals import Unit, is_isolated, unpaired_units

if TYPE_CHECKING:
    from pymatgen.core import Composition, Element, Structure

# Moments to start from, μB, of metals where no oxidation state tells: elements, intermetallics, pnictides, silicides.
METALLIC_MOMENTS = {"V": 1.5, "Cr": 3.0, "Mn": 4.0, "Fe": 3.0, "Co": 2.0, "Ni": 1.2} | {
    "Ce": 1.0, "Pr": 2.0, "Nd": 3.0, "Pm": 4.0, "Sm": 5.0, "Eu": 7.0, "Gd": 7.0, "Tb": 6.0, "Dy": 5.0, "Ho": 4.0,
    "Er": 3.0, "Tm": 2.0, "U": 2.0, "Np": 3.0, "Pu": 5.0, "Am": 6.0, "Cm": 7.0,
}  # fmt: skip
# The same where the element itself has no moment, and a compound of it may (ZrZn2, TiAu).
COMPOUND_MOMENTS = METALLIC_MOMENTS | dict.fromkeys(
    ["Ti", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Yb"], 1.0
)
# Anions electronegative enough that their partners have oxidation states.
SALT_FORMERS = frozenset(["H", "C", "N", "O", "F", "S", "Cl", "Se", "Br", "I"])
# Anions that can hold copper or silver with a hole in the d shell.
HOLE_MAKERS = frozenset(["O", "F", "S", "Cl", "Se", "Br"])
CLOSED = 0.6  # μB to start from where a low-spin 3d shell has no unpaired electron, to find another spin state
LOW_SPIN = {4: 2.0, 5: 1.0, 6: CLOSED, 7: 1.0}  # d electrons -> μB
LEAST_MOMENT = 0.05  # μB: less is noise of mixed oxidation states
MOST_GUESSED = 20  # atoms in a formula whose oxidation states are guessed by how often the ICSD has them


@dataclass(frozen=True, kw_only=True)
class Magnetism:
    """The atoms of a cell that carry moments.

    Attributes:
        moments: Of each site, μB, all parallel and in high spin; 0 where there is none.
        centres: Sites that turn together, with the lattice translation of each: an ion, or the atoms of a radical; none
            where single atoms are far apart, nor of shells that are most likely closed.
    """

    moments: tuple[float, ...]
    centres: tuple[Unit, ...]

    def of_elements(self, symbols: Sequence[str]) -> dict[str, float]:
        """Element -> largest moment of its sites (μB), those with none left out."""
        found: dict[str, float] = {}
        for symbol, moment in sorted(zip(symbols, self.moments, strict=True)):
            if moment:
                found[symbol] = max(moment, found.get(symbol, 0.0))
        return found


def magnetism_of(structure: Structure) -> Magnetism:
    """Find the atoms that carry moments.

    Args:
        structure: Ordered crystal.
    """
    symbols = [site.specie.symbol for site in structure]
    polyanions = polyanions_of(structure)
    shells = open_shells(structure, polyanions)
    moments = [shells.get(symbol, 0.0) for symbol in symbols]
    least = CLOSED if polyanions is not None and polyanions.strong_field else 0.0
    centres: list[Unit] = [((k, (0, 0, 0)),) for k, moment in enumerate(moments) if moment > least]
    for unit, unpaired in unpaired_units(structure):
        if not any(moments[k] for k, _ in unit):
            centres.append(unit)
            for k, _ in unit:
                moments[k] = round(unpaired / len(unit), 4)
    if is_isolated(structure):  # atoms that do not meet have no order
        centres = []
    return Magnetism(moments=tuple(moments), centres=tuple(centres))


def open_shells(structure: Structure, polyanions: Polyanions | None) -> dict[str, float]:
    """Element -> moment of its open d or f shell (μB) by its oxidation state, those with closed shells left out.

    Args:
        structure: Ordered crystal.
        polyanions: Its own, from `polyanions_of`.
    """
    symbols = frozenset(site.specie.symbol for site in structure)
    if len(symbols) == 1:
        return {symbol: METALLIC_MOMENTS[symbol] for symbol in symbols if symbol in METALLIC_MOMENTS}
    states = states_of(structure, polyanions)
    strong_field = polyanions is not None and polyanions.strong_field
    found = {}
    for symbol in sorted(symbols):
        if symbol in states:
            moment = _of_ion(symbol, states[symbol], symbols, strong_field=strong_field)
        else:
            moment = _of_metal(symbol, symbols)
        if moment > LEAST_MOMENT:
            found[symbol] = round(moment, 4)
    return found


def states_of(structure: Structure, polyanions: Polyanions | None) -> dict[str, float]:
    """Element -> its most likely oxidation state; empty where it has none.

    By the composition; but where anions are bonded to each other, their bonds tell what is left for the metals, and
    those alone are in the answer.

    Args:
        structure: Ordered crystal.
        polyanions: Its own, from `polyanions_of`.
    """
    from pymatgen.core import Composition

    composition = structure.composition.element_composition
    if polyanions is not None:
        cations = Composition({e: n for e, n in composition.items() if e.symbol not in ANIONS})
        if found := _cation_states(cations, -polyanions.charge):
            return found
    if not {element.symbol for element in composition} & SALT_FORMERS:
        return {}
    return oxidation_states(composition.reduced_formula)


def _cation_states(cations: Composition, charge: int) -> dict[str, float]:
    """Share the charge of a cell's cations among their elements."""
    divisor = math.gcd(charge, *(round(n) for n in cations.values()))
    if len(cations) == 1:
        (element,) = cations
        return {element.symbol: charge / cations.num_atoms} if charge > 0 else {}
    return oxidation_states((cations / divisor).formula.replace(" ", ""), charge // divisor) if charge > 0 else {}


@lru_cache(maxsize=10_000)
def oxidation_states(formula: str, charge: int = 0) -> dict[str, float]:
    """Element -> its most likely oxidation state, by how often pymatgen's table of the ICSD has it.

    Means of mixed ones are fractions (Fe3O4: 8/3). Of more than twenty atoms in the formula, for which that table would
    take too long, each element has one state, its most common where that balances. Empty where no known states add up
    to the charge.
    """
    from pymatgen.core import Composition

    composition = Composition(formula)
    if composition.num_atoms > MOST_GUESSED:
        return _single_states(composition, charge)
    # Of an ion the formula must not be reduced any further.
    guesses = composition.oxi_state_guesses(target_charge=charge, max_sites=None if charge else -MOST_GUESSED)
    return {str(symbol): float(state) for symbol, state in guesses[0].items()} if guesses else {}


def _single_states(composition: Composition, charge: int) -> dict[str, float]:
    """One oxidation state an element, the most common that add up to the charge; if none do, one mixes two."""
    symbols, amounts = [element.symbol for element in composition], list(composition.values())
    known = [known_states(symbol) for symbol in symbols]
    best: tuple[int, int] | None = None
    found: list[float] = []
    for ranks in product(*(range(len(states)) for states in known)):
        chosen = [float(states[rank]) for states, rank in zip(known, ranks, strict=True)]
        excess = sum(n * q for n, q in zip(amounts, chosen, strict=True)) - charge
        if abs(excess) < 1e-6 and (best is None or (0, sum(ranks)) < best):
            best, found = (0, sum(ranks)), chosen
        for i, states in enumerate(known if best is None or best[0] else ()):
            mixed = chosen[i] - excess / amounts[i]
            same_sign = [q for q in states if q * chosen[i] > 0]
            if same_sign and min(same_sign) <= mixed <= max(same_sign) and (best is None or (1, sum(ranks)) < best):
                best, found = (1, sum(ranks)), [*chosen[:i], mixed, *chosen[i + 1 :]]
    return dict(zip(symbols, found, strict=True)) if found else {}


def _of_metal(symbol: str, symbols: frozenset[str]) -> float:
    if symbol in ("Cu", "Ag"):  # no known states add up; beside phosphorus or a metal the d shell is full
        return 1.0 if symbols & (HOLE_MAKERS - {"S", "Se"}) else 0.0
    # Beside a metal of large moment the moments of the others are its doing.
    return (METALLIC_MOMENTS if symbols & METALLIC_MOMENTS.keys() else COMPOUND_MOMENTS).get(symbol, 0.0)


def _of_ion(symbol: str, state: float, symbols: frozenset[str], *, strong_field: bool) -> float:
    """The moment (μB) at an oxidation state, between two of them that of their mixture."""
    from pymatgen.core import Element

    element = Element(symbol)
    if state <= 0 or not (element.is_transition_metal or element.is_lanthanoid or element.is_actinoid):
        return 0.0
    if symbol in ("Cu", "Ag", "Au") and not symbols & HOLE_MAKERS:
        return 0.0
    if symbol == "Ce" and not symbols & {"O", "F"}:
        return 1.0  # trivalent in almost everything else, whatever the charges add up to
    low, share = math.floor(state + 1e-6), state - math.floor(state + 1e-6)
    mixed = share > 0.01
    lower = ion_moment(element, low, symbols, strong_field=strong_field)
    if not mixed:
        return lower
    return (1 - share) * lower + share * ion_moment(element, low + 1, symbols, strong_field=strong_field)


def ion_moment(
    element: Element, state: int, partners: frozenset[str] = frozenset(), *, strong_field: bool = False
) -> float:
    """Unpaired electrons of an ion: high spin for 3d and f, low spin for 4d and 5d and in a strong field.

    Args:
        element: A transition metal, lanthanoid or actinoid.
        state: Its oxidation state.
        partners: The elements of the compound: Co3+ is in high spin only with fluorine.
        strong_field: Whether its neighbours are polyanions, in which manganese alone stays in high spin.
    """
    if element.is_lanthanoid or element.is_actinoid:
        core = 54 if element.is_lanthanoid else 86
        electrons = min(max(element.Z - core - state, 0), 14)
        return float(min(electrons, 14 - electrons))
    electrons = min(max(_group(element) - state, 0), 10)
    strong_field = (
        (strong_field and element.symbol in ("Fe", "Co", "Ni"))
        or (element.symbol == "Co" and state >= 3 and "F" not in partners)
        or (element.symbol == "Ni" and state >= 3)
    )
    if strong_field and electrons in LOW_SPIN:
        return LOW_SPIN[electrons]
    if element.row == 4:
        return float(min(electrons, 10 - electrons))
    # Six in the lower three; d8 is square planar, and all are paired.
    return float({1: 1, 2: 2, 3: 3, 4: 2, 5: 1, 7: 1, 9: 1}.get(electrons, 0))


def _group(element: Any) -> int:
    return int(element.group)
