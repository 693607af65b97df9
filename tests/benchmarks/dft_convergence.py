"""How far the DFT presets are converged: k-points, cut-off and SCF criteria, each against a far stricter setting.

    python -m tests.benchmarks.dft_convergence [--runs FOLDER] [--concurrent 2]

Writes tests/benchmarks/dft-presets.md. What is compared are reaction energies (a compound from its elements, or an
exchange of anions) and gaps, since an error that all phases share harms nobody. About ten minutes on two cores; what
lies in FOLDER is not computed again.
"""

import argparse
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pymatgen.core import Lattice, Structure

from flows.dft.calculation import Job
from flows.dft.run import job_for, run_jobs
from models.dft.base import DFTResult, DFTSettings, Limits
from models.dft.calculation_record import method_of
from models.dft.gpaw.code import Gpaw
from models.dft.presets import PRESETS, looks_metallic, mesh, settings_for, symmetrised

TABLE = Path(__file__).with_name("dft-presets.md")
# The heading of the section that tests/benchmarks/gap_meshes.py writes, the last of the page.
GAP_MESHES = "## Gap, eV, by gap mesh"
STRICT_DENSITY = 4.8
STRICT_METAL_DENSITY = 7.2
STRICT_CUTOFF = 1100.0
# Compound -> the lattice constant of its half-Heusler cell, Å, as measured (LiMgN: as the others scale).
HALF_HEUSLERS = {"LiMgAs": 6.19, "LiZnAs": 5.92, "AgMgAs": 6.24, "LiMgN": 4.97, "LiZnN": 4.91}
# What is left -> what comes out, in formula units.
REACTIONS = {
    "LiMgAs from Li, Mg, As": {"LiMgAs": 1, "Li": -1, "Mg": -1, "As": -1},
    "LiZnAs from Li, Zn, As": {"LiZnAs": 1, "Li": -1, "Zn": -1, "As": -1},
    "AgMgAs from Ag, Mg, As": {"AgMgAs": 1, "Ag": -1, "Mg": -1, "As": -1},
    "LiMgN + LiZnAs -> LiZnN + LiMgAs": {"LiZnN": 1, "LiMgAs": 1, "LiMgN": -1, "LiZnAs": -1},
}


def crystals() -> dict[str, Structure]:
    """The cells, with lattice constants as measured."""
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
    made = {
        "Li": Structure.from_spacegroup("Im-3m", Lattice.cubic(3.49), ["Li"], [(0, 0, 0)]),
        "Mg": Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(3.209, 5.211), ["Mg"], [(1 / 3, 2 / 3, 0.25)]),
        "Zn": Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.665, 4.947), ["Zn"], [(1 / 3, 2 / 3, 0.25)]),
        "Ag": Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.086), ["Ag"], [(0, 0, 0)]),
        "As": Structure.from_spacegroup("R-3m", Lattice.hexagonal(3.760, 10.548), ["As"], [(0, 0, 0.2271)]),
    }
    for name, a in HALF_HEUSLERS.items():
        symbols = [name[:2], name[2:4], name[4:]]
        made[name] = Structure.from_spacegroup("F-43m", Lattice.cubic(a), symbols, sites)
    return made


def variants(structure: Structure, code: Gpaw) -> dict[str, DFTSettings]:
    """All settings that one crystal is computed with, by what is varied."""
    elements = [element.symbol for element in structure.composition.elements]
    quick = settings_for("quick", elements, structure, code=code)
    made = {}
    metal = looks_metallic(elements)
    cell = symmetrised(structure)
    densities = {name: p.metal_density if metal else p.density for name, p in PRESETS.items()}
    for label, density in (densities | {"strict": STRICT_METAL_DENSITY if metal else STRICT_DENSITY}).items():
        kpoints, shift = mesh(cell, density)
        made[f"k:{label}"] = replace(quick, kpoints=kpoints, kpoint_shift=shift)
    for label, preset in PRESETS.items():
        made[f"soft:{label}"] = replace(quick, cutoff_ev=preset.cutoff_ev)
        made[f"hard:{label}"] = replace(quick, cutoff_ev=preset.hard_cutoff_ev)
        criteria = (preset.convergence_energy_ev, preset.convergence_density)
        made[f"scf:{label}"] = replace(quick, convergence_energy_ev=criteria[0], convergence_density=criteria[1])
    made["soft:strict"] = made["hard:strict"] = replace(quick, cutoff_ev=STRICT_CUTOFF)
    made["scf:strict"] = replace(quick, convergence_energy_ev=1e-6, convergence_density=1e-6)
    return made


def compute(runs: Path, concurrent: int) -> dict[tuple[str, str], DFTResult]:
    """Run what is missing; (crystal, variant) -> result."""
    code = Gpaw()
    jobs: dict[tuple[str, str], Job] = {}
    for name, structure in crystals().items():
        # Each cut-off only for phases of a reaction that takes it.
        met = {kind_of_cutoff(reaction) for reaction, phases in REACTIONS.items() if name in phases}
        for variant, settings in variants(structure, code).items():
            if variant.split(":")[0] in {"soft", "hard"} - met:
                continue
            jobs[name, variant] = job_for(name, structure, settings, code)
    results: dict[str, DFTResult] = {}

    def keep(job: Job, result: DFTResult) -> None:
        results[job.calculation_id] = result
        print(len(results), job.material_id, job.settings.cutoff_ev, job.settings.kpoints, result.status, flush=True)

    run_jobs(
        list(jobs.values()),
        code,
        runs_dir=runs,
        concurrent=concurrent,
        limits=Limits(),
        on_result=keep,
        stop=threading.Event(),
    )
    return {key: results[job.calculation_id] for key, job in jobs.items()}


def kind_of_cutoff(reaction: str) -> str:
    """Which of a preset's two cut-offs a reaction takes."""
    return "hard" if "N" in reaction else "soft"


def reaction_energy(results: Mapping[tuple[str, str], DFTResult], reaction: Mapping[str, int], variant: str) -> float:
    """Energy of a reaction, eV an atom of what comes out."""
    total, atoms = 0.0, 0.0
    for name, count in reaction.items():
        result = results[name, variant]
        assert result.energy is not None
        assert result.structure is not None
        units = 3 if name in HALF_HEUSLERS else 1
        total += count * result.energy / len(result.structure) * units
        atoms += max(count, 0) * units
    return total / atoms


def rows(results: Mapping[tuple[str, str], DFTResult], kind: Callable[[str], str]) -> list[str]:
    """Lines of one table: a reaction each, the error of each preset in meV/atom.

    Args:
        results: From `compute`.
        kind: Reaction -> what is varied: "k", "soft", "hard" or "scf".
    """
    lines = [f"| reaction | {' | '.join(PRESETS)} |", "|---|" + "---:|" * len(PRESETS)]
    for name, reaction in REACTIONS.items():
        strict = reaction_energy(results, reaction, f"{kind(name)}:strict")
        errors = [1000 * (reaction_energy(results, reaction, f"{kind(name)}:{p}") - strict) for p in PRESETS]
        lines.append(f"| {name} | {' | '.join(f'{e:+.2f}' for e in errors)} |")
    return lines


def report(results: Mapping[tuple[str, str], DFTResult]) -> str:
    """The whole page."""
    code = Gpaw()
    lines = [
        "# What the DFT presets are worth",
        "",
        f"Written by `python -m tests.benchmarks.dft_convergence` with {method_of(code)}, {code.potentials()}, "
        f"{platform.machine()}. Errors of reaction energies in meV/atom, one thing varied at a time, the rest as in "
        f"`quick`; against density {STRICT_DENSITY} (metals {STRICT_METAL_DENSITY}), {STRICT_CUTOFF:g} eV and "
        "SCF criteria of 1e-6.",
        "",
        "| preset | cut-off (with N, O, F), eV | points per Å⁻¹ (metals) | SCF energy, density | geometry |",
        "|---|---|---|---|---|",
    ]
    for name, p in PRESETS.items():
        geometry = f"relaxed to {p.fmax} eV/Å, {p.max_stress_gpa} GPa" if p.relax else "as it comes"
        lines.append(
            f"| {name} | {p.cutoff_ev:g} ({p.hard_cutoff_ev:g}) | {p.density} ({p.metal_density}) | "
            f"{p.convergence_energy_ev:g}, {p.convergence_density:g} | {geometry} |"
        )
    lines += ["", "## k-points", "", *rows(results, lambda _: "k"), ""]
    lines += ["## Cut-off", "", "With nitrogen the harder one of each preset.", ""]
    lines += rows(results, kind_of_cutoff)
    lines += ["", "## SCF criteria", "", *rows(results, lambda _: "scf"), ""]
    lines += ["## Gap, eV, and seconds, by k-points of the density", ""]
    lines += [f"| compound | {' | '.join(PRESETS)} | strict |", "|---|" + "---:|" * (len(PRESETS) + 1)]
    for name in HALF_HEUSLERS:
        cells = []
        for label in [*PRESETS, "strict"]:
            result = results[name, f"k:{label}"]
            cells.append(f"{result.band_gap:.3f} ({result.wall_time_s:.0f} s)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(*, presets: str | None = None, gap_meshes: str | None = None) -> None:
    """Write one part of the page, and leave the other as it is."""
    first, heading, rest = TABLE.read_text().partition(GAP_MESHES)
    TABLE.write_text(f"{(presets or first).rstrip()}\n\n{gap_meshes or heading + rest}".rstrip() + "\n")


def main() -> None:
    """Compute, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("assay-runs/convergence"))
    parser.add_argument("--concurrent", type=int, default=2)
    arguments = parser.parse_args()
    write(presets=report(compute(arguments.runs, arguments.concurrent)))
    print(TABLE)


if __name__ == "__main__":
    main()
