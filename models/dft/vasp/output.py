"""Output of VASP, from vasprun.xml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.io.vasp.outputs import Vasprun

from models.dft.runtime.calculation import GPA, largest_force

# In OUTCAR: a line for each ion, split into s, p and d, the sum last.
MOMENTS = re.compile(r"magnetization \(x\)\s+# of ion.*\n-+\n((?: *\d+ .*\n)+)")


def read_run(run: Vasprun, outcar: Path) -> dict[str, Any]:
    """The numbers of a run, in eV and Å, as `result.json` has them.

    Args:
        run: Its vasprun.xml.
        outcar: Its OUTCAR, which alone has the moments of the sites.

    The energy is that for smearing of zero width, as the Materials Project takes it. VASP writes stresses in kBar,
    positive where the cell wants to grow; ours are in eV/Å³ and positive where it wants to shrink, as ASE has them.
    With some inputs (ISIF = 0) VASP writes no stress: then there is none here.
    """
    last, structure = run.ionic_steps[-1], run.final_structure
    arrays = {name: np.array(last[name]) for name in ("forces", "stress") if name in last}
    if "stress" in arrays:
        arrays["stress"] = -0.1 * GPA * arrays["stress"]
    moment = moment_of(run)
    properties: dict[str, Any] = {
        "run_type": run_type(run),
        "hubbards": {element: u for element, u in run.hubbards.items() if u},
        "potcar_spec": [{"titel": " ".join(title.split())} for title in run.potcar_symbols],
        "vasp_version": run.vasp_version,
        "n_kpoints": len(run.actual_kpoints),
        "efermi": run.efermi,
        **{name: array.tolist() for name, array in arrays.items()},
    }
    if moment is not None:
        properties["total_magnetization"] = moment
        if magmoms := site_moments(outcar):
            properties["magmoms"] = magmoms
    return {
        "energy": float(run.final_energy),
        "max_force": largest_force(arrays["forces"]) if "forces" in arrays else None,
        "max_stress": float(abs(arrays["stress"]).max()) if "stress" in arrays else None,
        "cell": structure.lattice.matrix.tolist(),
        "scaled_positions": structure.frac_coords.tolist(),
        "numbers": [int(site.specie.Z) for site in structure],
        "band_gap": gap_of(run),
        "properties": properties,
    }


def energy_of(step: dict[str, Any]) -> float:
    """Energy of an ionic step for smearing of zero width, eV.

    VASP 5.2 to 5.4.4 write 0 for it: the last electronic step has it, without what is added to the free energy at the
    end of the cycle (dispersion).
    """
    if not step["electronic_steps"]:
        return float(step["e_0_energy"])
    last = step["electronic_steps"][-1]
    return float(step["e_fr_energy"] + last["e_0_energy"] - last["e_fr_energy"])


def run_type(run: Vasprun) -> str:
    """GGA or GGA+U, as the Materials Project says it; or what else it was."""
    name, plus, u = run.run_type.partition("+")
    return {"PBE": "GGA", "R2SCAN": "r2SCAN"}.get(name, name) + plus + u


def filled(run: Vasprun) -> list[float]:
    """How many bands are filled in each spin channel, by the occupations on the whole mesh."""
    weights = np.array(run.actual_kpoints_weights)
    return [float(weights @ levels[:, :, 1].sum(axis=1)) for levels in channels(run)]


def channels(run: Vasprun) -> list[Any]:
    """Energies and occupations of each spin channel, up first, (k-points, bands, 2)."""
    return [levels for _, levels in sorted((run.eigenvalues or {}).items(), key=lambda pair: -int(pair[0]))]


def moment_of(run: Vasprun) -> float | None:
    """Total moment of the cell, μB; None without spin."""
    counts = filled(run)
    return counts[0] - counts[1] if len(counts) == 2 else None


def site_moments(outcar: Path) -> list[float]:
    """Moments within a sphere about each site, μB, after the last ionic step; empty where LORBIT asked for none."""
    text = outcar.read_text(errors="replace") if outcar.exists() else ""
    tables = MOMENTS.findall(text)
    return [float(row.split()[-1]) for row in tables[-1].splitlines()] if tables else []


def gap_of(run: Vasprun) -> float:
    """The gap (eV) on the mesh of the density, by counting bands: occupations say nothing where they are smeared."""
    counts = [round(count) for count in filled(run)]
    if any(abs(exact - count) > 0.05 for exact, count in zip(filled(run), counts, strict=True)):
        return 0.0  # a band must be partly full
    energies = [np.sort(levels[:, :, 0], axis=1) for levels in channels(run)]
    top = max(levels[:, count - 1].max() for levels, count in zip(energies, counts, strict=True) if count > 0)
    bottom = min(levels[:, count].min() for levels, count in zip(energies, counts, strict=True))
    return float(max(0.0, bottom - top))
