"""How far off gaps are by the mesh on which they are counted, each against a mesh of twelve divisions.

    python -m tests.benchmarks.gap_meshes [--runs FOLDER]

Writes its section of tests/benchmarks/dft-presets.md, with a Python that has GPAW. Crystals as measured, the density of
`quick`, and nothing varied but the mesh of the gap; about ten CPU minutes; what lies in FOLDER is not computed again.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models.dft.calculation_record import method_of
from models.dft.gpaw import calculation as gpaw_physics
from models.dft.gpaw.code import Gpaw
from models.dft.presets import PRESETS, gap_mesh, settings_for, symmetrised
from models.dft.runtime.calculation import edges
from tests.benchmarks.dft_convergence import GAP_MESHES, TABLE, write

FINEST = 12
# Measured once, with the same functions: the first on 121 points around K, the second on CHGNet's geometries.
NOTES = (
    "Edges at points of no symmetry are met by chance. That of silicon lies 0.14 eV below X; and rhombohedral graphite "
    "has no gap: its bands approach each other 0.08 Å⁻¹ away from K (0.18 eV is left on points 0.04 Å⁻¹ apart), while "
    "all meshes here, the finest too, see the 0.66 eV at K.",
    "Of the hexagonal cells in the README's quickstart, LiMgSb in the LiGaGe type went from 1.314 to 1.133 eV as the "
    "gap mesh went from 2×2×2 to 6×6×2; LiBeAs (1.204 eV) and LiMgAs (1.169 eV) in the same type stayed.",
)
# Names of presets -> divisions of their gap mesh, where nothing asks for more.
DIVISIONS = {
    ", ".join(name for name, preset in PRESETS.items() if preset.gap_divisions == n): n
    for n in sorted({preset.gap_divisions for preset in PRESETS.values()})
}


def crystals() -> dict[str, Structure]:
    """The cells, with lattice constants as measured."""
    tetrahedral = [(0, 0, 0), (0.25, 0.25, 0.25)]
    net = [(1 / 3, 2 / 3, 0.25), (2 / 3, 1 / 3, 0.25)]

    def cubic(group: str, a: float, *symbols: str, sites: list[tuple[float, float, float]]) -> Structure:
        return Structure.from_spacegroup(group, Lattice.cubic(a), symbols, sites)

    def hexagonal(group: str, a: float, c: float, *symbols: str, sites: list[tuple[float, float, float]]) -> Structure:
        return Structure.from_spacegroup(group, Lattice.hexagonal(a, c), symbols, sites)

    def wurtzite(a: float, c: float, u: float, *symbols: str) -> Structure:
        return hexagonal("P6_3mc", a, c, *symbols, sites=[(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, u)])

    return {
        "graphite": hexagonal("P6_3/mmc", 2.464, 6.711, "C", "C", sites=[(0, 0, 0.25), net[0]]),
        "h-BN": hexagonal("P6_3/mmc", 2.504, 6.661, "B", "N", sites=net),
        "AlN": wurtzite(3.112, 4.982, 0.382, "Al", "N"),
        "Si": cubic("Fd-3m", 5.431, "Si", sites=tetrahedral[:1]),
        "GaAs": cubic("F-43m", 5.653, "Ga", "As", sites=tetrahedral),
        "MgO": cubic("Fm-3m", 4.212, "Mg", "O", sites=[(0, 0, 0), (0.5, 0.5, 0.5)]),
        "LiMgP": cubic("F-43m", 6.005, "Li", "Mg", "P", sites=[(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]),
        "CdS": wurtzite(4.136, 6.714, 0.377, "Cd", "S"),
        "graphite, rhombohedral": hexagonal("R-3m", 2.456, 10.04, "C", sites=[(0, 0, 1 / 6)]),
        "ZnO": wurtzite(3.250, 5.207, 0.382, "Zn", "O"),
        "MoS2": hexagonal("P6_3/mmc", 3.161, 12.295, "Mo", "S", sites=[net[0], (1 / 3, 2 / 3, 0.621)]),
    }


@dataclass(frozen=True, kw_only=True)
class Gaps:
    """Gaps of one crystal, eV, by mesh, and CPU seconds.

    Attributes:
        density: The mesh of the density, "Γ" where it is not shifted in the plane.
        of_density: Counted on that mesh alone.
        two: Full levels of that mesh and of a Γ-centred one of two divisions, empty levels of the latter alone.
        by_preset: Mesh and gap, counted on the density's mesh and on the gap mesh of presets, by their names.
        finest: On the density's mesh and on one of twelve divisions (hexagonal: four along the axis).
        scf_s: For the density.
        quick_s: For the gap by `quick`.
    """

    density: str
    of_density: float
    two: float
    by_preset: Mapping[str, tuple[tuple[int, int, int], float]]
    finest: float
    scf_s: float
    quick_s: float


def measure(structure: Structure) -> Gaps:
    """Converge the density as `quick` does, and count the gap on each mesh."""
    symbols = [element.symbol for element in structure.composition.elements]
    quick = settings_for("quick", symbols, structure, code=Gpaw())
    cell = symmetrised(structure)
    settings = asdict(quick)
    start = time.process_time()
    calc, _ = gpaw_physics.ground_state(AseAtomsAdaptor.get_atoms(cell), {"settings": settings})
    scf_s = time.process_time() - start
    known: dict[tuple[int, int, int], tuple[float, float]] = {}

    def on(mesh: tuple[int, int, int]) -> float:
        if mesh not in known:
            begun = time.process_time()
            known[mesh] = gpaw_physics.band_gap(calc, settings | {"gap_kpoints": mesh}), time.process_time() - begun
        return known[mesh][0]

    meshes = {names: gap_mesh(cell, n) for names, n in DIVISIONS.items()}
    quick_mesh = quick.gap_kpoints
    hexagonal = quick_mesh[0] != quick_mesh[2]
    full = [round(calc.get_number_of_electrons() / 2)]
    top, bottom = edges(gpaw_physics.levels(calc), full)
    points = gpaw_physics.k_points((2, 2, 2), (False, False, False))
    two_top, two_bottom = edges(gpaw_physics.levels_on(calc, points, full[0] + 1), full)
    held = "" if all(quick.kpoint_shift) else " Γ"
    return Gaps(
        density=f"{'×'.join(map(str, quick.kpoints))}{held}",
        of_density=float(max(0.0, bottom - top)),
        two=float(max(0.0, two_bottom - max(top, two_top))),
        by_preset={names: (mesh, on(mesh)) for names, mesh in meshes.items()},
        finest=on((FINEST, FINEST, 4 if hexagonal else FINEST)),
        scf_s=scf_s,
        quick_s=known[quick_mesh][1],
    )


def compute(runs: Path) -> dict[str, Gaps]:
    """Measure what is missing; compound -> gaps."""
    runs.mkdir(parents=True, exist_ok=True)
    os.chdir(runs)  # where GPAW writes its logs
    found = {}
    for name, structure in crystals().items():
        kept = Path(f"{name}.json")
        if not kept.exists():
            kept.write_text(json.dumps(asdict(measure(structure))))
        found[name] = Gaps(**json.loads(kept.read_text()))
        print(name, found[name], flush=True)
    return found


def section(found: Mapping[str, Gaps]) -> str:
    """The section of the page."""
    code = Gpaw()
    off = {name: gaps.by_preset["quick"][1] - gaps.finest for name, gaps in found.items()}
    worst, within = max(off, key=lambda name: off[name]), sum(value <= 0.01 for value in off.values())
    lines = [
        GAP_MESHES,
        "",
        f"Written by `python -m tests.benchmarks.gap_meshes` with {method_of(code)}, {code.potentials()}, "
        f"{platform.machine()}. PBE gaps in eV on the geometry as measured and the density of `quick`, whose mesh "
        "comes first (Γ: not shifted in the plane). Counted on that mesh alone; with the empty levels of a Γ-centred "
        "2×2×2 mesh alone, as an earlier version of `quick` had it; on the density's mesh and the gap mesh of each "
        f"preset together; and with {FINEST} divisions (four along a hexagonal axis). CPU seconds on one core: of the "
        "density, and of the gap by `quick`.",
        "",
        f"| compound | density | alone | 2×2×2 alone | {' | '.join(DIVISIONS)} | finest | `quick` − finest | s |",
        "|---|---|" + "---:|" * (len(DIVISIONS) + 5),
    ]
    for name, gaps in found.items():
        cells = [f"{value:.3f} ({'×'.join(map(str, mesh))})" for mesh, value in gaps.by_preset.values()]
        lines.append(
            f"| {name} | {gaps.density} | {gaps.of_density:.3f} | {gaps.two:.3f} | {' | '.join(cells)} | "
            f"{gaps.finest:.3f} | {off[name]:+.3f} | {gaps.scf_s:.1f}, {gaps.quick_s:.1f} |"
        )
    lines += [
        "",
        f"More points can only make a gap narrower. That of `quick` is within 0.01 eV of the finest mesh's for "
        f"{within} of {len(found)}, and {off[worst]:.2f} eV above it at most ({worst}).",
        *(f"\n{note}" for note in NOTES),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compute, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("assay-runs/gap-meshes"))
    write(gap_meshes=section(compute(parser.parse_args().runs)))
    print(TABLE)


if __name__ == "__main__":
    main()
