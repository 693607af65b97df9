"""A program that behaves as VASP does, for tests: a wrapper that starts it stands on the path as `vasp_std`.

It reads INCAR, POSCAR, KPOINTS and POTCAR in its folder and writes OUTCAR, OSZICAR, CONTCAR, vasprun.xml and, to
standard output, what VASP says there. Energies come from a pair potential, or from CHGNet less the corrections that
its energies have in them; it relaxes as IBRION, ISIF and NSW say. Bands are made up: a gap of 1.2 eV where there is an
anion, none elsewhere.

INCAR's title may tell it to go wrong as VASP does: `SYSTEM = trouble=zbrent times=1`. So may a JSON file that
ASSAY_STAND_IN names, for all runs:

    {"model": "pairs" | "chgnet", "old": whether it writes energies as 5.2 to 5.4.4 do, "trouble": …,
     "times": in how many runs of a folder, "step": from which ionic step on, "seconds": that each ionic step takes,
     "bands": "honeycomb"}

Troubles are those of `WORDS`, where VASP stops, and of `WARNINGS`, where it goes on, and `scf` (never converges),
`crawl` (never relaxes), `uphill` (the energy rises), `killed`, `segfault`, and `memory` (takes ever more).
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.filters import FrechetCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS

from tests.peers import vasp_files as files

GAP, OVERLAP = 1.2, 0.5  # eV
ANIONS = frozenset({"H", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Sb", "Te", "I"})
ENTROPY = 2e-4  # eV/atom
# What each trouble has VASP say, on standard output or error.
WORDS = {
    "zbrent": " ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR\n"
    "     to POSCAR and continue\n",
    "edddav": " Error EDDDAV: Call to ZHEGV failed. Returncode =   7   1   8\n",
    "refuse": " -----------------------------------------------------------------------------\n"
    "|     EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###     |\n"
    "|     The distance between some ions is very small. Please check the          |\n"
    "|       ---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----       |\n"
    " -----------------------------------------------------------------------------\n",
    "memory_words": "forrtl: severe (41): insufficient virtual memory\n",
}


WARNINGS = {
    "brmix": "BRMIX: very serious problems\n the old and the new charge density differ\n"
    " old charge density:    8.00000 new    7.98012\n",
    "dentet": "  WARNING: DENTET: can't reach specified precision\n  Number of Electrons is NELECT =   7.99480867\n",
    "subspace": "WARNING: Sub-Space-Matrix is not hermitian in DAV            1  -3.4E-002\n",
    "eddrmm": "WARNING in EDDRMM: call to ZHEGV failed, returncode =   8  4  1\n",
    "brions": " BRIONS problems: POTIM should be increased\n",
}


class Pairs(Calculator):
    """Morse pairs at the sum of the covalent radii, faded out at 6 Å, and an energy for each atom."""

    implemented_properties = ("energy", "forces", "stress")
    depth, width, reach, atom = 0.5, 1.6, 6.0, -2.0

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        i, j, r, vectors = neighbor_list("ijdD", self.atoms, self.reach)
        rest = 1.1 * (covalent_radii[self.atoms.numbers[i]] + covalent_radii[self.atoms.numbers[j]])
        e = np.exp(-self.width * (r - rest))
        well, slope = self.depth * ((1 - e) ** 2 - 1), self.depth * 2 * self.width * e * (1 - e)
        fade = 1 - (r / self.reach) ** 2
        pull = (slope * fade**2 - well * 4 * r / self.reach**2 * fade)[:, None] * vectors / r[:, None]
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, pull)
        stress = np.einsum("pa,pb->ab", pull, vectors) / (2 * self.atoms.get_volume())
        self.results = {
            "energy": float((well * fade**2).sum() / 2 + self.atom * len(self.atoms)),
            "forces": forces,
            "stress": stress.ravel()[[0, 4, 8, 5, 2, 1]],
        }


def raw_chgnet() -> Calculator:
    """CHGNet's energies as a DFT code would give them: without the corrections that it has learnt."""
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    from materials.stability.corrections import correction

    class Raw(CHGNetCalculator):  # type: ignore[misc]
        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            self.results["energy"] -= correction("MP2020", AseAtomsAdaptor.get_structure(atoms))

    return Raw(use_device="cpu")


def moments_of(task: files.Input) -> list[float]:
    """Of each site: two fifths of what it starts from, if that is more than a little."""
    return [0.4 * m * (abs(m) > 1) for m in task.tags["MAGMOM"]] if task.tags["ISPIN"] == 2 else []


def bands(task: files.Input, kind: str = "") -> tuple[np.ndarray, np.ndarray, float, float]:
    """Energies and occupations (spins, k-points, bands), Fermi level, moment; "honeycomb": two bands touch at K."""
    spins = int(task.tags["ISPIN"])
    moment = sum(moments_of(task))
    insulates = bool(set(task.atoms.symbols) & ANIONS) and not moment and round(task.n_electrons) % 2 == 0
    each = [task.n_electrons / 2 + sign * moment / 2 for sign in (1, -1)][:spins]
    n_bands = int(np.ceil(max(each))) + 4
    wave = 0.3 * np.cos(2 * np.pi * task.kpoints).sum(axis=1)
    levels = np.arange(n_bands)[None, :] * 0.8 - 5.0 + (-1.0) ** np.arange(n_bands)[None, :] * wave[:, None]
    energies = np.sort(np.stack([levels] * spins), axis=2)
    occupations = np.zeros_like(energies)
    for spin, count in enumerate(each):
        full = int(count + 1e-9)
        occupations[spin, :, :full] = 1.0
        if full < n_bands:
            occupations[spin, :, full] = count - full
        if full < n_bands:
            top, bottom = energies[spin, :, full - 1].max(), energies[spin, :, full].min()
            energies[spin, :, full:] += (GAP if insulates else -OVERLAP) - (bottom - top)
            if kind == "honeycomb":  # axes at 120°
                phases = np.exp(2j * np.pi * task.kpoints[:, :2].cumsum(axis=1))
                around = np.abs(1 + phases.sum(axis=1))[:, None]
                energies[spin, :, :full] = top - around - np.arange(full)[::-1]
                energies[spin, :, full:] = top + around + np.arange(n_bands - full)
    fermi = float(energies[0, :, int(each[0]) - 1].max())
    return energies, occupations, fermi, moment


class Run:
    """One run of the program."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.folder = folder
        tags = files.read_incar((folder / "INCAR").read_text())
        for pair in str(tags.get("SYSTEM", "")).split():
            key, equals, value = pair.partition("=")
            if equals:
                told[key] = float(value) if value.replace(".", "").isdigit() else value
        count = folder / "stand-in.runs"
        with open(count, "a") as file:
            file.write(f"{os.getpid()}\n")
        number = len(count.read_text().splitlines())
        self.trouble = told.get("trouble", "") if number <= told.get("times", 10**9) else ""
        self.told = told

    def main(self) -> int:
        self.say(f" running on    1 total cores\n vasp.{files.VERSION} 20Jul23 (build Aug 01 2023 10:00:00) complex\n")
        try:
            self.task = files.read_input(self.folder)
        except files.Refused as refused:
            self.say(f" {refused}\n")
            return 1
        if self.trouble == "refuse":
            return self.fail()
        energies, occupations, self.fermi, self.moment = bands(self.task, str(self.told.get("bands", "")))
        self.atoms = self.task.atoms.copy()
        self.atoms.calc = raw_chgnet() if self.told.get("model") == "chgnet" else Pairs()
        self.symbols = [title.split()[1].split("_")[0] for title in self.task.titles]
        with (
            open(self.folder / "vasprun.xml", "w") as self.xml,
            open(self.folder / "OUTCAR", "w") as self.outcar,
            open(self.folder / "OSZICAR", "w") as self.oszicar,
        ):
            (self.folder / "CONTCAR").write_text("")
            files.write(self.xml, files.xml_head(self.task, energies.shape[2]))
            files.write(self.outcar, files.outcar_head(self.task, energies.shape[2]))
            self.say(" entering main loop\n")
            code = self.steps(files.xml_electrons(energies, occupations, self.fermi))
            if code == 0:
                end = files.xml_structure(self.atoms, "finalpos") + "</modeling>\n"
                files.write(self.xml, end)
                files.write(self.outcar, files.OUTCAR_END)
        return code

    def steps(self, electrons: str) -> int:
        """Ionic steps, until the geometry is relaxed or there are enough of them."""
        tags = self.task.tags
        moves = tags["IBRION"] in (1, 2, 3) and tags["NSW"] > 0
        handle = FrechetCellFilter(self.atoms) if tags["ISIF"] == 3 else self.atoms
        optimizer = BFGS(handle, logfile=None, maxstep=0.05) if moves else None
        before = None
        for number in range(1, max(1, tags["NSW"]) + 1):
            files.write(self.xml, " <calculation>\n")
            if number == self.told.get("step", 1) and self.trouble not in ("", "scf", "crawl", "uphill", *WARNINGS):
                return self.fail()
            if number == self.told.get("step", 1):
                self.say(WARNINGS.get(self.trouble, ""))
            if number >= self.told.get("step", 1):
                time.sleep(self.told.get("seconds", 0.0))
            energy = self.atoms.get_potential_energy() + 0.05 * (self.trouble == "uphill" and number > 1)
            converged = self.scf(energy, number)
            self.ended(energy, number, 0.0 if before is None else energy - before)
            done = not moves or number == tags["NSW"] or (converged and self.relaxed(energy, before, handle))
            (self.folder / "CONTCAR").write_text(files.poscar(self.atoms, self.symbols, self.task.counts))
            files.write(self.xml, (electrons if done else "") + " </calculation>\n")
            if done:
                break
            before = energy
            assert optimizer is not None
            optimizer.step()
            (self.folder / "CONTCAR").write_text(files.poscar(self.atoms, self.symbols, self.task.counts))
        return 0

    def relaxed(self, energy: float, before: float | None, handle: Any) -> bool:
        limit = self.task.tags["EDIFFG"]
        if limit < 0:
            met = bool(np.linalg.norm(handle.get_forces(), axis=1).max() < -limit)
        else:
            met = before is not None and abs(energy - before) < limit
        met = met and self.trouble != "crawl"
        if met:
            self.say(" reached required accuracy - stopping structural energy minimisation\n writing wavefunctions\n")
            files.write(self.outcar, " reached required accuracy - stopping structural energy minimisation\n")
        return met

    def scf(self, energy: float, number: int) -> bool:
        """The lines of an SCF cycle, and whether it converged."""
        stuck = self.trouble == "scf"
        count = self.task.tags["NELM"] if stuck else min(9, self.task.tags["NELM"])
        head = "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
        self.both(head)
        value, entropy = energy + 50.0, ENTROPY * len(self.atoms)
        algorithm = "RMM" if str(self.task.tags["ALGO"])[0] in "fFvV" else "DAV"
        for n in range(1, count + 1):
            new = energy + (0.5 * (-1) ** n if stuck else 50.0 * 10.0 ** (-2 * n) * (n < count))
            change, value = new - value, new
            self.both(
                f"{algorithm}: {n:3d}    {files.fortran(value, 12)}   {files.fortran(change, 5)}"
                f"   {files.fortran(change, 5)}  1144   0.654E+02\n"
            )
            files.write(self.outcar, f"{'-' * 41} Iteration {number:4d}({n:4d})  {'-' * 39}\n")
            files.write(self.xml, f"  <scstep>\n{files.xml_energy(value, entropy, '   ')}  </scstep>\n")
        if not stuck:
            files.write(self.outcar, f"{'-' * 24} aborting loop because EDIFF is reached {'-' * 40}\n")
        return not stuck

    def ended(self, energy: float, number: int, change: float) -> None:
        """What VASP writes once the density has converged."""
        entropy = ENTROPY * len(self.atoms)
        magnetic = f"  mag= {self.moment:10.4f}" if self.task.tags["ISPIN"] == 2 else ""
        self.both(
            f"{number:4d} F= {files.fortran(energy - entropy / 2)} E0= {files.fortran(energy)}"
            f"  d E ={files.fortran(change, 6)}{magnetic}\n"
        )
        files.write(self.outcar, files.outcar_step(self.atoms, self.task, energy, entropy, self.fermi, self.moment))
        if self.task.tags.get("LORBIT", 0) >= 10:
            files.write(self.outcar, files.outcar_moments(moments_of(self.task)))
        stress = -files.KILOBAR * self.atoms.get_stress(voigt=False)
        files.write(
            self.xml,
            files.xml_structure(self.atoms)
            + files.xml_vectors("forces", self.atoms.get_forces(), "  ")
            + files.xml_vectors("stress", stress, "  ")
            + files.xml_energy(energy, entropy, "  ", old=self.told.get("old", False)),
        )

    def fail(self) -> int:
        """Go wrong as VASP does."""
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.trouble == "memory":
            held = []
            while True:
                held.append(bytearray(2**26))
                time.sleep(0.02)
        (sys.stderr if self.trouble == "memory_words" else sys.stdout).write(WORDS[self.trouble])
        return 1

    def both(self, text: str) -> None:
        self.say(text)
        files.write(self.oszicar, text)

    def say(self, text: str) -> None:
        files.write(sys.stdout, text)


def install(folder: Path, name: str = "vasp_std", told: dict[str, Any] | None = None) -> Path:
    """Put a wrapper that starts this program into a folder, with the line that every VASP has in it.

    Args:
        folder: Made if need be.
        name: Of the wrapper.
        told: What it does where ASSAY_STAND_IN is not set.
    """
    path, instructions = folder / name, folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    instructions.write_text(json.dumps(told or {}))
    path.write_text(
        f"#!/bin/sh\n# vasp.{files.VERSION} 20Jul23\n"
        f'ASSAY_STAND_IN="${{ASSAY_STAND_IN:-{instructions}}}" exec {sys.executable} -P {Path(__file__).resolve()}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make_potcars(folder: Path, symbols: dict[str, list[str]]) -> None:
    """Write POTCARs without a potential in them: their headers alone, as pymatgen's table knows them.

    Args:
        folder: What PMG_VASP_PSP_DIR will name.
        symbols: Release, such as "PBE" -> symbols, such as Li_sv.
    """
    import re

    from monty.serialization import loadfn
    from pymatgen.io.vasp.inputs import POTCAR_FUNCTIONAL_MAP, POTCAR_STATS_PATH

    known = loadfn(POTCAR_STATS_PATH)
    for release, wanted in symbols.items():
        titles = {one["symbol"]: (title, one) for title, several in known[release].items() for one in several}
        for symbol in wanted:
            title, one = titles[symbol]
            spaced = re.sub(r"^(PAW_PBE)(.+?)(\d{2}[A-Z][a-z]{2}\d{4})$", r"\1 \2 \3", title)
            path = folder / POTCAR_FUNCTIONAL_MAP[release] / f"POTCAR.{symbol}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"  {spaced}\n   {one['ZVAL']:.8f}\n parameters from PSCTR are:\n   VRHFIN =A: made up\n"
                f"   LEXCH  = {one['LEXCH']}\n   EATOM  =   100.0000 eV,    7.3499 Ry\n\n   TITEL  = {spaced}\n"
                f"   ENMAX  =  300.000; ENMIN  =  200.000 eV\n   POMASS =   10.000; ZVAL   = {one['ZVAL']:8.3f}"
                "    mass and valenz\n END of PSCTR-controll parameters\n local part\n  0.0\n End of Dataset\n"
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if os.environ.get("OMPI_COMM_WORLD_RANK", "0") != "0":
        sys.exit(0)  # the other ranks of an MPI run: one is enough
    instructions = os.environ.get("ASSAY_STAND_IN")
    said = json.loads(Path(instructions).read_text()) if instructions else {}
    sys.exit(Run(Path.cwd(), said).main())
