"""Reference compounds whose formation energies every sound potential must reproduce.

A potential with the wrong energy convention (corrected twice, or not at all), or with weights that were made for
another version of its package, gets them wrong by much more than potentials differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from pymatgen.core import Composition

from materials.errors import AnchorMismatch
from models.potentials.base import Crystal, FloatArray, Potential, batch_of

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
    crystals = {name: crystal for name, crystal in _crystals().items() if name in names}
    answer = potential.evaluate(batch_of(list(crystals.values()), potential.device))
    energies = {
        name: energy / len(crystal)
        for (name, crystal), energy in zip(crystals.items(), answer.energies.tolist(), strict=True)
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


def _crystals() -> dict[str, Crystal]:
    """The anchors and their elements, each in the primitive cell of its experimental geometry."""
    fcc, bcc = (np.ones((3, 3)) - np.eye(3)) / 2, (np.ones((3, 3)) - 2 * np.eye(3)) / 2
    rock_salt = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    hexagonal = np.array([[1.0, 0.0, 0.0], [-0.5, np.sqrt(0.75), 0.0], [0.0, 0.0, 5.21 / 3.21]])
    box = np.diag([8.0, 8.3, 8.7])
    return {
        "NaCl": _crystal([11, 17], 5.64 * fcc, rock_salt),
        "Li2O": _crystal([8, 3, 3], 4.62 * fcc, [[0.0] * 3, [0.25] * 3, [0.75] * 3]),
        "MgO": _crystal([12, 8], 4.21 * fcc, rock_salt),
        "MnO": _crystal([25, 8], 4.44 * fcc, rock_salt),
        "Na": _crystal([11], 4.24 * bcc, [[0.0] * 3]),
        "Li": _crystal([3], 3.48 * bcc, [[0.0] * 3]),
        "Mg": _crystal([12, 12], 3.21 * hexagonal, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
        "Mn": _alpha_manganese(8.62, 8.62 * bcc),
        "O": _crystal([8, 8], box, [[0.0] * 3, [0.0, 0.0, 1.22 / 8.7]]),
        "Cl": _crystal([17, 17], box, [[0.0] * 3, [0.0, 0.0, 2.00 / 8.7]]),
    }


def _crystal(numbers: list[int], cell: FloatArray, fractional: list[list[float]]) -> Crystal:
    return Crystal(numbers=np.array(numbers), positions=np.array(fractional) @ cell, cell=cell)


def _alpha_manganese(a: float, cell: FloatArray) -> Crystal:
    """The 29 atoms of alpha-Mn (I-43m, sites 2a, 8c, 24g, 24g; `a` in Å)."""
    sites = []
    for site in ([0.0, 0.0, 0.0], [0.317, 0.317, 0.317], [0.356, 0.356, 0.034], [0.089, 0.089, 0.282]):
        turned = {
            tuple(sign * x for sign, x in zip(signs, order, strict=True))
            for order in permutations(site)
            for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
        }
        sites += sorted(turned)
    return Crystal(numbers=np.full(len(sites), 25), positions=a * np.array(sites), cell=cell)
