"""Makes the documents that the stand-in for the Materials Project serves: run once, the result is committed.

`python -m tests.peers.make_materials_project` relaxes known compounds with CHGNet, whose energies are of the level of
the Materials Project's corrected ones (PBE+U/MP2020), takes the corrections out, lets pymatgen put them in again and
emmet, the Materials Project's own code, make the documents.
"""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

DOCUMENTS = Path(__file__).with_name("materials_project.json.gz")

# Number of the id, space group (pymatgen's setting), cell (Å, degrees), elements, sites, seen in an experiment.
F_43M, P6_3_MMC, IM_3M, FD_3M = "F-43m", "P6_3/mmc", "Im-3m", "Fd-3m"
HALF_HEUSLER = [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]  # 4a, 4b, 4c: the group-V atom stands on 4c
HCP = [[1 / 3, 2 / 3, 0.25]]
KNOWN = [
    (135, IM_3M, (3.44, 3.44, 3.44, 90, 90, 90), ["Li"], [[0, 0, 0]], True),
    (153, P6_3_MMC, (3.19, 3.19, 5.18, 90, 90, 120), ["Mg"], HCP, True),
    (79, P6_3_MMC, (2.66, 2.66, 4.95, 90, 90, 120), ["Zn"], HCP, True),
    (157, "Cmce", (3.31, 10.48, 4.37, 90, 90, 90), ["P"], [[0, 0.102, 0.081]], True),
    (11, "R-3m", (3.76, 3.76, 10.55, 90, 90, 120), ["As"], [[0, 0, 0.227]], True),
    (
        736,
        P6_3_MMC,
        (4.27, 4.27, 7.59, 90, 90, 120),
        ["Li", "Li", "P"],
        [[1 / 3, 2 / 3, 0.583], [0, 0, 0.25], HCP[0]],
        True,
    ),
    (
        757,
        P6_3_MMC,
        (4.39, 4.39, 7.81, 90, 90, 120),
        ["Li", "Li", "As"],
        [[1 / 3, 2 / 3, 0.583], [0, 0, 0.25], HCP[0]],
        True,
    ),
    (1934, FD_3M, (6.21, 6.21, 6.21, 90, 90, 90), ["Li", "Zn"], [[0, 0, 0], [0.5, 0.5, 0.5]], True),
    (
        2514,
        "P-3m1",
        (4.22, 4.22, 6.75, 90, 90, 120),
        ["Mg", "Mg", "P"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.63], [1 / 3, 2 / 3, 0.24]],
        False,
    ),
    (9950, F_43M, (5.765, 5.765, 5.765, 90, 90, 90), ["Li", "Zn", "P"], HALF_HEUSLER, True),
    (36111, F_43M, (6.02, 6.02, 6.02, 90, 90, 90), ["Li", "Mg", "P"], HALF_HEUSLER, True),
    (9124, F_43M, (5.94, 5.94, 5.94, 90, 90, 90), ["Li", "Zn", "As"], HALF_HEUSLER, True),
    (12558, F_43M, (6.19, 6.19, 6.19, 90, 90, 90), ["Li", "Mg", "As"], HALF_HEUSLER, True),
    (99001, F_43M, (6.1, 6.1, 6.1, 90, 90, 90), ["Li", "P", "Zn"], HALF_HEUSLER, False),
    (154, "Pa-3", (5.66, 5.66, 5.66, 90, 90, 90), ["N"], [[0.055, 0.055, 0.055]], True),
    (
        2251,
        "P6/mmm",
        (3.65, 3.65, 3.87, 90, 90, 120),
        ["Li", "Li", "N"],
        [[0, 0, 0.5], [1 / 3, 2 / 3, 0], [0, 0, 0]],
        True,
    ),
    (7575, F_43M, (4.91, 4.91, 4.91, 90, 90, 90), ["Li", "Zn", "N"], HALF_HEUSLER, True),
]


def main() -> None:
    """Write the documents."""
    from chgnet.model import StructOptimizer
    from emmet.core.thermo import ThermoDoc
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    warnings.simplefilter("ignore")
    optimizer = StructOptimizer(use_device="cpu")
    scheme = MaterialsProject2020Compatibility(check_potcar=False)
    entries, experimental = [], {}
    for number, group, cell, species, sites, seen in KNOWN:
        structure = Structure.from_spacegroup(
            group, Lattice.from_parameters(*cell), species, sites
        ).get_primitive_structure()
        relaxed = optimizer.relax(structure, fmax=0.02, steps=300, verbose=False)
        final, corrected = relaxed["final_structure"], float(relaxed["trajectory"].energies[-1])
        clean = Structure(final.lattice, final.species, final.frac_coords)
        name = f"mp-{number}"
        experimental[name] = seen
        entry = ComputedStructureEntry(
            clean,
            corrected,
            entry_id=f"{name}-GGA",
            parameters={"run_type": "GGA", "hubbards": {}, "is_hubbard": False, "potcar_symbols": []},
            data={"material_id": name, "task_id": name, "run_type": "GGA", "oxidation_states": _charges(clean)},
        )
        correction = scheme.process_entry(entry.copy(), inplace=True).correction
        entry = ComputedStructureEntry(
            clean, corrected - correction, entry_id=entry.entry_id, parameters=entry.parameters, data=entry.data
        )
        entries.append(scheme.process_entry(entry))
        print(name, clean.formula, f"{entries[-1].energy_per_atom:.4f} eV/atom, correction {correction:.3f} eV")
    made = ThermoDoc.from_entries(entries, thermo_type="GGA_GGA+U")
    documents = [json.loads(document.model_dump_json()) for document in made]
    content = {"thermo": documents, "experimental": experimental}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    DOCUMENTS.write_bytes(gzip.compress(text.encode(), mtime=0))


def _charges(structure) -> dict[str, float]:
    if len(structure.elements) == 1:
        return {structure.elements[0].symbol: 0.0}
    charges = {"Li": 1.0, "Mg": 2.0, "Zn": 2.0, "N": -3.0, "P": -3.0, "As": -3.0}
    return {element.symbol: charges[element.symbol] for element in structure.elements}


if __name__ == "__main__":
    main()
