"""ASE calculators for tests: cheap, and as nasty as asked for."""

import os
import signal
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Springs(Calculator):
    """Harmonic wells between near atoms: smooth, periodic, with a cell that relaxes."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    ideal = 2.6  # Å
    stiffness = 1.5  # eV/Å²

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        from ase.neighborlist import neighbor_list

        first, distance, vector = neighbor_list("idD", atoms, 4.0)
        stretch = distance - self.ideal
        smooth = np.exp(-(stretch**2))
        energies = -0.5 * smooth * self.stiffness
        slope = self.stiffness * stretch * smooth  # of each pair, counted twice
        unit = vector / distance[:, None]
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, first, 2 * 0.5 * slope[:, None] * unit * 1.0)
        virial = 0.5 * np.einsum("i,ij,ik->jk", slope, unit, vector)
        stress = virial / atoms.get_volume()
        self.results = {
            "energy": float(energies.sum()),
            "forces": forces * 1.0,
            "stress": np.array([stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]]),
        }


class Poisoned(Springs):
    """Springs that kill the process for xenon, raise for krypton, and lose their numbers for argon."""

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        symbols = set(atoms.get_chemical_symbols())
        if "Xe" in symbols:
            os.kill(os.getpid(), signal.SIGKILL)
        if "Kr" in symbols:
            raise RuntimeError("krypton is not to my taste")
        super().calculate(atoms, properties, system_changes)
        if "Ar" in symbols:
            self.results["energy"] = float("nan")
