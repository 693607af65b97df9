"""Any ASE calculator by its import path, one crystal at a time: MACE, SevenNet, ORB, MatterSim and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import TYPE_CHECKING, Any

import numpy as np

from materials.errors import PotentialNotInstalled
from materials.records import content_hash
from models.neighbours import CLOSEST, half_list, unfit
from models.potentials.interface import Crystal, Evaluation, PotentialIdentity, no_answer

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


@dataclass(frozen=True, kw_only=True)
class AsePotential(PotentialIdentity):
    """An ASE calculator as a potential. What it raises is raised: a relaxation pins it on its crystal."""

    calculator: Calculator
    covered: frozenset[int]  # atomic numbers
    batch_cost: float = 1.0  # there is nothing to be gained from a batch

    def evaluate(self, crystals: Sequence[Crystal]) -> Evaluation:
        """Energies, forces and stresses, one crystal after the other; magnetic moments if the calculator has them."""
        from ase import Atoms

        problems = [unfit(crystal, self.covered) for crystal in crystals]
        answer = no_answer(crystals, problems)
        for k, crystal in enumerate(crystals):
            if problems[k] is not None:
                continue
            if len(half_list([crystal], CLOSEST).first):
                answer.problems[k] = f"two atoms are closer than {CLOSEST} Å"
                continue
            atoms = Atoms(numbers=crystal.numbers, positions=crystal.positions, cell=crystal.cell, pbc=True)
            atoms.calc = self.calculator
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            stress = atoms.get_stress(voigt=False)
            answer.energies[k], answer.forces[k], answer.stresses[k] = energy, np.array(forces, dtype=float), stress
        return answer

    def cost(self, crystal: Crystal) -> float:
        """Its atoms."""
        return float(max(len(crystal), 1))


def identify_ase(
    model: str | None, level_of_theory: str | None, correction: str | None, arguments: Mapping[str, Any]
) -> PotentialIdentity:
    """Say what a calculator is: its import path, its arguments and the version of its package.

    Raises:
        PotentialNotInstalled: If there is no such import path, or `level_of_theory` is not said.
    """
    from pymatgen.core import Element

    if not model or ":" not in model:
        raise PotentialNotInstalled(
            f"an ase potential is an import path such as mace.calculators:mace_mp, not {model!r}"
        )
    if level_of_theory is None:
        raise PotentialNotInstalled(
            f"nobody knows what the energies of {model} mean: say its level_of_theory (and correction, if they are raw)"
        )
    package = model.split(":")[0].split(".")[0]
    try:
        release = version(packages_distributions().get(package, [package])[0])
    except PackageNotFoundError:
        release = "unknown"
    return PotentialIdentity(
        method=f"ase-{model.replace(':', '.')}-{release}",
        level_of_theory=level_of_theory,
        correction=correction,
        weights_hash=content_hash({"path": model, "arguments": dict(arguments), "version": release}),
        elements=frozenset(Element.from_Z(number).symbol for number in range(1, 119)),
    )


def load_ase(identity: PotentialIdentity, model: str, arguments: Mapping[str, Any]) -> AsePotential:
    """Import and make the calculator.

    Raises:
        PotentialNotInstalled: If it cannot be imported or made.
    """
    from pymatgen.core import Element

    module, _, name = model.partition(":")
    try:
        factory = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PotentialNotInstalled(
            f"{model} cannot be imported ({error}): install its package in this environment"
        ) from error
    try:
        calculator = factory(**arguments)
    except Exception as error:
        raise PotentialNotInstalled(f"{model} with {dict(arguments)} raised {type(error).__name__}: {error}") from error
    return AsePotential(
        **asdict(identity), calculator=calculator, covered=frozenset(Element(s).Z for s in identity.elements)
    )
