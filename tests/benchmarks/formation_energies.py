"""Formation energies by GPAW's quick preset, raw and with the corrections for anions, against measured ones.

    python -m tests.benchmarks.formation_energies [--runs FOLDER] [--concurrent 2]

Writes tests/benchmarks/formation-energies.md. Geometries are as measured, molecules stand in a box. About fifteen CPU
minutes; what lies in FOLDER is not computed again.
"""

import argparse
import platform
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from monty.serialization import loadfn
from pymatgen.analysis import compatibility
from pymatgen.core import Composition, Lattice, Structure

from flows.dft.calculation import Job
from flows.dft.run import job_for, run_jobs
from materials.records import Calculation
from materials.stability.corrections import anion_corrected
from materials.stability.stability import assess, entry_from
from models.dft.base import DFTResult, Limits
from models.dft.calculation_record import calculation_from, method_of
from models.dft.gpaw.code import Gpaw

TABLE = Path(__file__).with_name("formation-energies.md")
KJ_PER_MOL = 1 / 96.485  # eV
SOURCES = {
    "J": "NIST-JANAF Thermochemical Tables, 4th edition (doi:10.18434/T42S31)",
    "K": "Kubaschewski, Alcock, Spencer, Materials Thermochemistry, 6th edition (1993)",
    "N": "Kim, Meschel, Nash, Wolverton, Sci. Data 4, 170162 (2017), doi:10.1038/sdata.2017.162",
}
# Kind, compound, standard enthalpy of formation at 298 K (kJ/mol of formula units), source.
MEASURED = [
    ("oxide", "Li2O", -598.73, "J"),
    ("oxide", "BeO", -608.35, "J"),
    ("oxide", "MgO", -601.24, "J"),
    ("oxide", "CaO", -635.09, "J"),
    ("peroxide", "Li2O2", -632.62, "J"),
    ("nitride", "Li3N", -164.56, "J"),
    ("nitride", "AlN", -317.98, "J"),
    ("sulfide", "Li2S", -446.9, "K"),
    ("sulfide", "Na2S", -366.10, "J"),
    ("sulfide", "MgS", -345.72, "J"),
    ("sulfide", "CaS", -473.21, "J"),
    ("halide", "LiF", -616.93, "J"),
    ("halide", "CaF2", -1225.91, "J"),
    ("halide", "LiCl", -408.27, "J"),
    ("halide", "NaCl", -411.12, "J"),
    ("hydride", "LiH", -90.63, "J"),
    ("hydride", "NaH", -56.44, "J"),
    ("silicide", "Mg2Si", -77.82, "K"),
    ("intermetallic", "LiAl", -41.39, "N"),
    ("intermetallic", "CaAl2", -216.7, "K"),
]
ROCK_SALTS = {
    "MgO": 4.212, "CaO": 4.811, "MgS": 5.201, "CaS": 5.695, "LiF": 4.026, "NaF": 4.634, "LiCl": 5.140,
    "NaCl": 5.640, "LiH": 4.083, "NaH": 4.880,
}  # fmt: skip
# Of A2X the X comes first: it is on the corners of fluorite's cube.
ANTIFLUORITES = {"OLi2": 4.619, "ONa2": 5.55, "SLi2": 5.720, "SNa2": 6.526, "SiMg2": 6.351, "CaF2": 5.463}
METALS = {
    "Li": ("Im-3m", 3.510), "Na": ("Im-3m", 4.291), "Ca": ("Fm-3m", 5.588),
    "Al": ("Fm-3m", 4.050), "Si": ("Fd-3m", 5.431),
}  # fmt: skip
HEXAGONAL_METALS = {"Be": (2.286, 3.584), "Mg": (3.209, 5.211)}
DIATOMICS = {"H": 0.741, "N": 1.098, "O": 1.208, "F": 1.412, "Cl": 1.988}  # bond length, Å
BOX = 7.0  # Å, of a molecule of two atoms; S8 has 3 Å more


@dataclass(frozen=True)
class Row:
    """One compound: formation energies in eV/atom."""

    kind: str
    name: str
    raw: float
    corrected: float
    measured: float
    source: str


def crystals() -> dict[str, Structure]:
    """Compounds and elements, by name, with lattice constants and positions as measured."""
    half = [[0, 0, 0], [0.5, 0.5, 0.5]]
    made = {
        name: Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), list(map(str, Composition(name))), half)
        for name, a in ROCK_SALTS.items()
    }
    for name, a in ANTIFLUORITES.items():
        corner, inner = map(str, Composition(name).elements)
        cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [corner, inner], [[0, 0, 0], [0.25, 0.25, 0.25]])
        made[cell.composition.reduced_formula] = cell
    for name, a, c, u in (("BeO", 2.698, 4.377, 0.378), ("AlN", 3.111, 4.979, 0.382)):
        sites = [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, u]]
        made[name] = Structure.from_spacegroup("P6_3mc", Lattice.hexagonal(a, c), [name[:2], name[2:]], sites)
    made["Li2O2"] = Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(3.183, 7.726),
        ["Li", "Li", "O"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.75], [1 / 3, 2 / 3, 0.1497]],
    )
    made["Li3N"] = Structure(
        Lattice.hexagonal(3.648, 3.875),
        ["N", "Li", "Li", "Li"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0], [0, 0, 0.5]],
    )
    made["LiAl"] = Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.37), ["Li", "Al"], half)
    made["CaAl2"] = Structure.from_spacegroup("Fd-3m", Lattice.cubic(8.038), ["Ca", "Al"], [[0, 0, 0], [0.625] * 3])
    return made | elements()


def elements() -> dict[str, Structure]:
    """The elements: crystals, and molecules in a box."""
    made = {
        symbol: Structure.from_spacegroup(group, Lattice.cubic(a), [symbol], [[0, 0, 0]])
        for symbol, (group, a) in METALS.items()
    }
    for symbol, (a, c) in HEXAGONAL_METALS.items():
        made[symbol] = Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(a, c), [symbol], [[1 / 3, 2 / 3, 0.25]])
    for symbol, bond in DIATOMICS.items():
        ends = [[0, 0, -bond / 2], [0, 0, bond / 2]]
        made[symbol] = Structure(Lattice.cubic(BOX), [symbol] * 2, ends, coords_are_cartesian=True)
    crown = [[2.354 * cos(i * pi / 4), 2.354 * sin(i * pi / 4), 0.494 * (-1) ** i] for i in range(8)]
    made["S"] = Structure(Lattice.tetragonal(BOX + 3, BOX), ["S"] * 8, crown, coords_are_cartesian=True)
    return made


def is_molecule(name: str) -> bool:
    """Whether it stands in a box."""
    return name == "S" or name in DIATOMICS


def compute(runs: Path, concurrent: int) -> dict[tuple[str, str], Calculation]:
    """Run what is missing; (compound, phase of its hull) -> calculation."""
    code = Gpaw()
    cells = crystals()
    jobs: dict[tuple[str, str], Job] = {}
    for _, compound, _, _ in MEASURED:
        symbols = list(map(str, Composition(compound)))
        for phase in (compound, *symbols):
            settings = code.settings("quick", symbols, cells[phase])
            settings = replace(settings, gap_kpoints=(1, 1, 1))  # nobody asks for the gap
            if is_molecule(phase):
                settings = replace(settings, kpoints=(1, 1, 1), kpoint_shift=(False, False, False))
            jobs[compound, phase] = job_for(phase, cells[phase], settings, code)
    results: dict[str, DFTResult] = {}

    def keep(job: Job, result: DFTResult) -> None:
        results[job.calculation_id] = result
        print(
            len(results),
            job.material_id,
            job.settings.cutoff_ev,
            result.status,
            f"{result.wall_time_s:.0f} s",
            flush=True,
        )

    distinct = {job.calculation_id: job for job in jobs.values()}
    run_jobs(
        list(distinct.values()),
        code,
        runs_dir=runs,
        concurrent=concurrent,
        limits=Limits(walltime_s=7200),
        on_result=keep,
        stop=threading.Event(),
    )
    method = method_of(code)
    return {
        key: calculation_from(results[job.calculation_id], job.material_id, method, job.settings)
        for key, job in jobs.items()
    }


def formation_energy(calculations: Iterable[Calculation], name: str) -> float:
    """Formation energy of a compound from its elements, eV/atom."""
    entries = [entry_from(calculation) for calculation in calculations]
    (compound,) = [entry for entry in entries if entry.entry_id == name]
    return assess(entries, [compound], fidelity="dft")[0].formation_energy_per_atom


def rows(calculations: dict[tuple[str, str], Calculation]) -> list[Row]:
    """One row a compound."""
    found = []
    for kind, name, enthalpy, source in MEASURED:
        hull = [calculation for (compound, _), calculation in calculations.items() if compound == name]
        if any(calculation.status != "converged" for calculation in hull):
            print("left out:", name, {c.material_id: c.status for c in hull})
            continue
        found.append(
            Row(
                kind,
                name,
                formation_energy(hull, name),
                formation_energy(map(anion_corrected, hull), name),
                enthalpy * KJ_PER_MOL / Composition(name).num_atoms,
                source,
            )
        )
    return found


def raw_by_vasp(names: Iterable[str]) -> dict[str, str]:
    """Formation energies from the raw energies that MP2020 was fitted to, of the compounds that are among them."""
    known = loadfn(Path(compatibility.__file__).with_name("calc_compounds.json.gz")).values()
    energies = {entry.composition.reduced_formula: entry for entry in known}
    elements = {str(e.composition.elements[0]): e for e in known if len(e.composition) == 1}
    told = {}
    for name in names:
        if (entry := energies.get(Composition(name).reduced_formula)) is not None:
            parts = [
                (n, elements[str(e)].uncorrected_energy / elements[str(e)].composition.num_atoms)
                for e, n in entry.composition.items()
            ]
            total = entry.uncorrected_energy - sum(n * energy for n, energy in parts)
            told[name] = f"{total / entry.composition.num_atoms:.3f}"
    return told


def report(found: list[Row]) -> str:
    """The whole page."""
    code, vasp = Gpaw(), raw_by_vasp([r.name for r in found])
    lines = [
        "# Formation energies, raw and with corrections for anions, against measured ones",
        "",
        f"Written by `python -m tests.benchmarks.formation_energies` with {method_of(code)}, {code.potentials()}, "
        f"{platform.machine()}, preset `quick`, on geometries as measured (nothing is relaxed); H2, N2, O2, F2 and Cl2 "
        f"in a box of {BOX:g} Å, S8 in a larger one. eV/atom; DFT's are energies at "
        "0 K without zero-point motion, measured are enthalpies at 298 K. The corrections, MP2020's terms for anions "
        "(doi:10.1038/s41598-021-94550-5), were fitted to VASP's energies and to measured enthalpies, most of "
        "these compounds' among them: the table shows how far they carry over to another code. VASP's raw energies are "
        "the Materials Project's own, as pymatgen carries them, relaxed. CaAl2 gets no term; the measured value "
        "(± 17 kJ/mol) is far from PBE's.",
        "",
        "| kind | compound | raw, VASP | raw | corrected | measured | raw − measured | corrected − measured | source |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for r in found:
        numbers = f"{r.raw:.3f} | {r.corrected:.3f} | {r.measured:.3f}"
        errors = f"{r.raw - r.measured:+.3f} | {r.corrected - r.measured:+.3f}"
        lines.append(f"| {r.kind} | {r.name} | {vasp.get(r.name, '–')} | {numbers} | {errors} | {r.source} |")
    lines += [
        "",
        "Mean absolute errors, eV/atom:",
        "",
        "| kind | compounds | raw | corrected |",
        "|---|---:|---:|---:|",
    ]
    groups = {kind: [r for r in found if r.kind == kind] for kind in dict.fromkeys(r.kind for r in found)}
    groups |= {"all with a term": [r for r in found if r.raw != r.corrected], "all": found}
    for kind, some in groups.items():
        raw, corrected = (np.mean([abs(getattr(r, name) - r.measured) for r in some]) for name in ("raw", "corrected"))
        lines.append(f"| {kind} | {len(some)} | {raw:.3f} | {corrected:.3f} |")
    lines += ["", "Sources:", "", *[f"- {key}: {text}" for key, text in SOURCES.items()]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compute, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("assay-runs/formation-energies"))
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = parser.parse_args()
    TABLE.write_text(report(rows(compute(arguments.runs, arguments.concurrent))))
    print(TABLE)


if __name__ == "__main__":
    main()
