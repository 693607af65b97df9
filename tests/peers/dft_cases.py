"""What the contract test asks of each DFT code: crystals, and how to have a calculation end in each way."""

import atexit
import functools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pymatgen.core import SETTINGS, Lattice, Structure

from flows.config.pseudopotential_table import load_family
from flows.dft.run import job_for, run_jobs
from materials.errors import CodeNotInstalled
from models.dft.base import DFTCode, DFTResult, DFTSettings, Limits
from models.dft.espresso.code import Espresso
from models.dft.gpaw.code import Gpaw
from models.dft.hubbard import HubbardChoice
from models.dft.vasp.code import Vasp
from tests.peers import vasp as vasp_peer

# Those of Debian's quantum-espresso-data that go together.
PSEUDOPOTENTIALS = Path(__file__).with_name("debian-lda.yaml")


def symbols_of(structures: Sequence[Structure]) -> list[str]:
    return sorted({element.symbol for s in structures for element in s.composition.elements})


def diamond(symbol: str, a: float) -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(a), [symbol], [(0, 0, 0)])


def fcc(symbol: str, a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [symbol], [(0, 0, 0)])


def skewed() -> Structure:
    """Silicon, pressed together, and one of its two atoms moved: the symmetry that is left is no accident."""
    silicon: Structure = diamond("Si", 5.3).get_primitive_structure()
    moved = silicon.cart_coords + np.array([(0, 0, 0), (0.3, 0.1, 0)])
    return Structure(silicon.lattice, silicon.species, moved, coords_are_cartesian=True)


SILICON = diamond("Si", 5.43)
ALUMINIUM = fcc("Al", 4.05)
IRON_ALUMINIDE = Structure.from_spacegroup("Pm-3m", Lattice.cubic(2.9), ["Al", "Fe"], [(0, 0, 0), (0.5, 0.5, 0.5)])
# Equal divisions with Γ are the same points whichever primitive cell is chosen.
SMOOTH = {
    "kpoints": (3, 3, 3),
    "kpoint_shift": (False, False, False),
    "cutoff_ev": 600.0,
    "convergence_energy_ev": 1e-6,
    "convergence_density": 1e-6,
}
# Ferromagnetic, which is cheaper than its ground state.
NICKEL_OXIDE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["Ni", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
# Simple cubic hydrogen, each atom with its own electron: parallel, or antiparallel to all neighbours.
HYDROGEN = Structure(Lattice.cubic(3.0), ["H"], [(0, 0, 0)])
BOTH_ORDERS = {
    "supercell": [[1, 1, 0], [1, 0, 1], [0, 1, 1]],
    "tried": [["antiferromagnetic (½ ½ ½)", [1.0, -1.0]], ["ferromagnetic", [1.0, 1.0]]],
}
# Its bands touch at K, and nowhere else: silicene (https://doi.org/10.1103/PhysRevLett.102.236804), one layer in 8 Å.
SILICENE = Structure.from_spacegroup("P-3m1", Lattice.hexagonal(3.86, 8.0), ["Si"], [(1 / 3, 2 / 3, 0.5275)])
TOO_CLOSE = Structure(Lattice.cubic(5.0), ["Si", "Si"], [(0, 0, 0), (0.2, 0, 0)])


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A calculation: a crystal, and what is unusual about its settings, its limits and its environment."""

    structure: Structure
    relax: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def settings_for(self, code: DFTCode) -> DFTSettings:
        symbols = symbols_of([self.structure])
        return replace(code.settings("quick", symbols, self.structure, relax=self.relax), **self.settings)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A code under the contract.

    Attributes:
        open: Gives the code.
        insulator: An ordered crystal with a gap, as a cell that is not primitive.
        gap: Least and most that its gap may be, eV.
        metal: One without.
        honeycomb: One whose bands touch at K alone.
        honeycomb_gap: Least and most that its gap may be, eV.
        ends: Status -> what ends so, and a word that its message must have.
        stretched: The insulator, to be relaxed; its first steps take some seconds.
        lattice_constant: Of the relaxed insulator, Å, and how far off it may be.
        skewed: A crystal under stress with forces on its atoms, so well converged that its energy can be derived.
        magnet: A ferromagnet, its moment on transition metals.
        with_u: Gives the code with 6 eV on nickel's d shell; None: its input sets say who has a U.
        oxide: Nickel oxide, cheap.
    """

    open: Callable[[], DFTCode]
    insulator: Structure
    gap: tuple[float, float]
    metal: Structure
    honeycomb: Ask
    honeycomb_gap: tuple[float, float]
    ends: Mapping[str, tuple[Ask, str]]
    stretched: Ask
    lattice_constant: tuple[float, float]
    skewed: Ask
    magnet: Ask
    with_u: Callable[[], DFTCode] | None = None
    oxide: Ask = field(
        default_factory=lambda: Ask(structure=NICKEL_OXIDE, settings={"magnetic_orders": {}, "kpoints": (2, 2, 2)})
    )


def run(folder: Path, code: DFTCode, asked: Mapping[str, Ask], **limits: float) -> dict[str, DFTResult]:
    """Run calculations one after the other, each with its own limits and environment."""
    results: dict[str, DFTResult] = {}
    for name, ask in asked.items():
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in ask.environment.items():
                patch.setenv(variable, value)
            run_jobs(
                [job_for(name, ask.structure, ask.settings_for(code), code)],
                code,
                runs_dir=folder,
                concurrent=1,
                limits=Limits(**{"walltime_s": 300.0, **limits, **ask.limits}),
                on_result=lambda job, result: results.__setitem__(job.material_id, result),
                stop=threading.Event(),
            )
    return results


def working_in(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder.resolve() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


def nobody_works_in(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while working_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not working_in(folder)


def espresso(hubbard: HubbardChoice = "none") -> DFTCode:
    code = Espresso()
    code.version()
    if not Path("/usr/share/espresso/pseudo/Si.pz-vbc.UPF").exists():
        raise CodeNotInstalled("no pseudopotentials: apt-get install quantum-espresso-data")
    return Espresso(load_family(PSEUDOPOTENTIALS), hubbard)


def gpaw(hubbard: HubbardChoice = "none") -> DFTCode:
    code = Gpaw(hubbard)
    code.version()
    return code


@functools.cache
def vasp() -> DFTCode:
    """VASP's stand-in, slow enough that one can see it work."""
    folder = Path(tempfile.mkdtemp(prefix="assay-vasp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vasp_peer.make_potcars(folder, {"PBE": ["Si", "Al", "Fe_pv"]})
    SETTINGS["PMG_VASP_PSP_DIR"] = str(folder)
    program = vasp_peer.install(folder, told={"seconds": 0.4})

    class StandIn(Vasp):
        def version(self) -> str:
            return "6.4.2"

        def task(self, structure: Structure, settings: DFTSettings) -> dict[str, Any]:
            return super().task(structure, settings) | {"program": [str(program)]}

    return StandIn()


@functools.cache
def told(**instructions: Any) -> dict[str, str]:
    """The environment in which VASP's stand-in does as it is told."""
    file, name = tempfile.mkstemp(prefix="assay-stand-in-", suffix=".json")
    os.close(file)
    atexit.register(Path(name).unlink, missing_ok=True)
    Path(name).write_text(json.dumps(instructions))
    return {"ASSAY_STAND_IN": name}


def vasps_ends() -> dict[str, tuple[Ask, str]]:
    """The ways to end of a program that does as it is told."""
    return {
        "converged": (Ask(structure=SILICON), ""),
        "scf_not_converged": (Ask(structure=SILICON, environment=told(trouble="scf")), "not in 100 steps"),
        "max_steps": (Ask(structure=SILICON, relax=True, environment=told(trouble="crawl")), "not relaxed in"),
        "walltime": (
            Ask(structure=SILICON, environment=told(seconds=60), limits={"walltime_s": 4.0}),
            "within 4 s",
        ),
        "out_of_memory": (
            Ask(structure=SILICON, environment=told(trouble="memory"), limits={"memory_gib": 1.0}),
            "GiB were needed",
        ),
        "failed": (Ask(structure=TOO_CLOSE), "1.00 Å apart"),
    }


def ends(*, dear: Mapping[str, Any], memory_gib: float) -> dict[str, tuple[Ask, str]]:
    """The ways to end, for codes that are run for real.

    Args:
        dear: Settings that take more time and memory than there is.
        memory_gib: How much there is.
    """
    return {
        "converged": (Ask(structure=SILICON), ""),
        "scf_not_converged": (Ask(structure=SILICON, settings={"max_scf_steps": 1}), "mixing default, then slow"),
        "max_steps": (Ask(structure=diamond("Si", 5.6), relax=True, settings={"max_steps": 0}), "still too large"),
        "walltime": (Ask(structure=SILICON, settings=dear, limits={"walltime_s": 4.0}), "within 4 s"),
        "out_of_memory": (Ask(structure=SILICON, settings=dear, limits={"memory_gib": memory_gib}), "GiB were needed"),
        "failed": (Ask(structure=TOO_CLOSE), "1.00 Å apart"),
    }


CASES = {
    "gpaw": Case(
        open=gpaw,
        insulator=SILICON,
        # PBE: 0.57 to 0.61 eV at 85 % of the way to X (https://doi.org/10.1103/PhysRevB.82.205212), 0.71 at X itself.
        gap=(0.55, 0.75),
        metal=ALUMINIUM,
        honeycomb=Ask(structure=SILICENE),
        honeycomb_gap=(0.0, 0.05),
        ends=ends(dear={"cutoff_ev": 2000.0, "kpoints": (8, 8, 8)}, memory_gib=0.2),
        stretched=Ask(structure=diamond("Si", 5.7), relax=True, settings={"max_stress_gpa": 0.3}),
        lattice_constant=(5.469, 0.02),  # PBE, https://doi.org/10.1103/PhysRevB.79.085104
        with_u=lambda: gpaw({"Ni": 6.0}),
        oxide=Ask(structure=NICKEL_OXIDE, settings={"magnetic_orders": {}, "kpoints": (2, 2, 2), "cutoff_ev": 350.0}),
        skewed=Ask(structure=skewed(), settings=SMOOTH),
        magnet=Ask(
            structure=IRON_ALUMINIDE, settings={"magnetic_orders": {}, "kpoints": (4, 4, 4), "cutoff_ev": 350.0}
        ),
    ),
    "espresso": Case(
        open=espresso,
        insulator=SILICON,
        gap=(0.45, 0.75),  # LDA: 0.5 eV, and 0.1 to 0.2 more at X itself
        metal=ALUMINIUM,
        honeycomb=Ask(structure=SILICENE),
        honeycomb_gap=(0.0, 0.05),
        ends=ends(dear={"cutoff_ev": 3000.0, "density_cutoff_ev": 12000.0, "kpoints": (12, 12, 12)}, memory_gib=0.3),
        stretched=Ask(structure=diamond("Si", 5.7), relax=True, settings={"max_stress_gpa": 0.1}),
        lattice_constant=(5.40, 0.02),  # LDA, https://doi.org/10.1103/PhysRevB.79.085104
        with_u=lambda: espresso({"Ni": 6.0}),
        skewed=Ask(structure=skewed(), settings={**SMOOTH, "density_cutoff_ev": 2400.0}),
        magnet=Ask(structure=fcc("Ni", 3.45), settings={"magnetic_orders": {}, "kpoints": (6, 6, 6)}),
    ),
    # No VASP was at hand: this is the program of tests/peers/vasp.py, whose "physics" is a pair potential.
    "vasp": Case(
        open=vasp,
        insulator=SILICON,
        gap=(1.19, 1.21),
        metal=ALUMINIUM,
        # Gaps are those of the one mesh of its input set, whose 7 divisions hold no K.
        honeycomb=Ask(structure=SILICENE, environment=told(bands="honeycomb")),
        honeycomb_gap=(0.3, 2.0),
        ends=vasps_ends(),
        stretched=Ask(structure=diamond("Si", 5.7), relax=True),
        lattice_constant=(5.019, 0.01),  # where its pair potential is lowest
        skewed=Ask(structure=skewed()),
        magnet=Ask(structure=IRON_ALUMINIDE),
    ),
}
