"""Presets of DFT settings, and the k-point meshes of a crystal.

What they are worth was measured: tests/benchmarks/dft-presets.md.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from materials.errors import DFTError
from models.dft.base import DFTCode, DFTSettings
from models.dft.hubbard import HubbardChoice, hubbard_of
from models.dft.magnetism.given_moments import given_order
from models.dft.magnetism.moments import magnetism_of
from models.dft.magnetism.orders import Magnetic, orders_of, supercell_of

if TYPE_CHECKING:
    from moyopy import MoyoDataset
    from pymatgen.core import Structure

# Å. Noise of 0.01 Å survives 0.05 and not 0.01; a distortion smaller than this is worth less than a meV/atom.
SYMPREC = 0.05
# 2p and 3d electrons without a node need short waves.
HARD_ELEMENTS = frozenset({"N", "O", "F"})
# Elements whose crystals have a gap, or are molecules: everything else alone is a metal, or close to one (As, Sb).
GAPPED_ELEMENTS = frozenset(
    ["H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar", "Ge", "Se", "Br", "Kr", "I", "Xe", "Rn"]
)
ANIONS = frozenset(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Ge", "As", "Se", "Br", "Sb", "Te", "I"])
# Space groups whose primitive cell has three equal axes around the threefold one; the first cubic one.
RHOMBOHEDRAL = frozenset({146, 148, 155, 160, 161, 166, 167})
FIRST_CUBIC = 195
# Where the levels of a gap are: `DFTSettings.gap_edges`.
BOTH_MESHES = "both meshes"
# Plane waves of a fixed cut-off press a cell together: below this, relaxing it means nothing.
MIN_CUTOFF_TO_RELAX = 700.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the table. Units as in `DFTSettings`; the densities are points per Å⁻¹ of a shifted mesh."""

    cutoff_ev: float
    hard_cutoff_ev: float
    density: float
    metal_density: float
    gap_divisions: int
    convergence_energy_ev: float
    convergence_density: float
    relax: bool
    fmax: float
    max_stress_gpa: float


PRESETS = {
    "quick": Preset(
        cutoff_ev=450.0,
        hard_cutoff_ev=600.0,
        density=1.6,
        metal_density=3.2,
        gap_divisions=2,
        convergence_energy_ev=5e-4,
        convergence_density=1e-4,
        relax=False,
        fmax=0.05,
        max_stress_gpa=0.5,
    ),
    "standard": Preset(
        cutoff_ev=600.0,
        hard_cutoff_ev=800.0,
        density=2.4,
        metal_density=4.8,
        gap_divisions=4,
        convergence_energy_ev=2e-4,
        convergence_density=1e-4,
        relax=False,
        fmax=0.05,
        max_stress_gpa=0.5,
    ),
    "accurate": Preset(
        cutoff_ev=800.0,
        hard_cutoff_ev=900.0,
        density=4.0,
        metal_density=6.0,
        gap_divisions=4,
        convergence_energy_ev=1e-4,
        convergence_density=1e-5,
        relax=True,
        fmax=0.02,
        max_stress_gpa=0.2,
    ),
}


def settings_for(
    preset: str,
    elements: Iterable[str],
    structure: Structure,
    *,
    code: DFTCode,
    metal: bool | None = None,
    relax: bool | None = None,
    geometry: str = "",
    magnetism: Magnetic = "auto",
    hubbard: HubbardChoice = "none",
) -> DFTSettings:
    """Settings for one crystal of a hull.

    Args:
        preset: "quick", "standard" or "accurate".
        elements: Of the whole hull: the cut-off is the largest that any of them asks for, since energies of two
            cut-offs cannot be compared.
        structure: The crystal, symmetrised or not.
        code: Which code; it names its potentials.
        metal: Whether it needs the denser mesh of a metal; None: judged by its composition.
        relax: Whether positions and cell are relaxed; None: as the preset has it. Relaxing raises the cut-off
            to 700 eV.
        geometry: Whose geometry it is (`DFTSettings.geometry`).
        magnetism: Which magnetic orders are tried; an element's always are as "auto" has it, for it is a reference.
        hubbard: U, of the hull's elements.

    Raises:
        DFTError: There is no such preset, or no such U.
        CodeNotInstalled: The code is not on this machine.
    """
    elements = [str(element) for element in elements]
    if preset not in PRESETS:
        raise DFTError(f"dft.preset: there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    symbols = {element.symbol for element in structure.composition.elements}
    cutoff = chosen.hard_cutoff_ev if HARD_ELEMENTS & symbols.union(elements) else chosen.cutoff_ev
    relaxes = chosen.relax if relax is None else relax
    if relaxes:
        cutoff = max(cutoff, MIN_CUTOFF_TO_RELAX)
    is_metal = looks_metallic(symbols) if metal is None else metal
    spin = spin_of(structure, "auto" if len(symbols) == 1 else magnetism)
    cell = cell_of(structure, spin.get("magnetic_orders", {}))
    kpoints, shift = mesh(cell, chosen.metal_density if is_metal else chosen.density)
    return DFTSettings(
        code=code.name,
        preset=preset,
        potentials=code.potentials(),
        cutoff_ev=cutoff,
        kpoints=kpoints,
        kpoint_shift=shift,
        gap_kpoints=gap_mesh(cell, chosen.gap_divisions),
        smearing_ev=0.05,
        convergence_energy_ev=chosen.convergence_energy_ev,
        convergence_density=chosen.convergence_density,
        max_scf_steps=120,
        **spin,
        mode="relax" if relaxes else "static",
        fmax=chosen.fmax,
        max_stress_gpa=chosen.max_stress_gpa,
        geometry=geometry,
        gap_edges=BOTH_MESHES,
        hubbard=hubbard_of(hubbard, elements),
    )


def asked_before(settings: DFTSettings, structure: Structure) -> DFTSettings | None:
    """The settings of the same question while a gap took its empty levels from one mesh; None where it never was asked.

    Args:
        settings: From `settings_for`, or a code that has them from there.
        structure: The crystal, symmetrised or not.
    """
    if settings.gap_edges != BOTH_MESHES or settings.magnetic_orders:
        return None
    n = _divisions(symmetrised(structure), PRESETS[settings.preset].gap_divisions)
    return replace(settings, gap_kpoints=(n, n, n), gap_edges="")


def spin_of(structure: Structure, wanted: Magnetic) -> dict[str, Any]:
    """The fields of `DFTSettings` that say how a crystal is magnetised; those that stay empty are left out.

    Args:
        structure: The crystal; moments that it came with (site property `magmom`) are among the orders.
        wanted: Which orders.
    """
    if wanted == "none":
        return {}
    cell = symmetrised(structure)
    symbols = [site.specie.symbol for site in cell]
    given, why = (None, "") if wanted == "ferromagnetic" else given_order(structure, cell, SYMPREC)
    found = orders_of(cell, wanted=wanted, given=[given] if given else [], notes=[why] if why else [])
    moments = magnetism_of(cell).of_elements(symbols)
    spin: dict[str, Any] = {}
    if found.tried:
        tried = [[name, list(values)] for name, values in found.tried]
        spin["magnetic_orders"] = {"supercell": [list(row) for row in found.supercell], "tried": tried}
        repeated = [symbol for symbol in symbols for _ in range(len(found.tried[0][1]) // len(symbols))]
        for _, values in found.tried:
            for symbol, moment in sorted(zip(repeated, map(abs, values), strict=True)):
                if moment > moments.get(symbol, 0.0):
                    moments[symbol] = moment
    if moments:
        spin["magnetic_moments"] = dict(sorted(moments.items()))
    if found.left_out:
        spin["orders_left_out"] = found.left_out
    return spin


def cell_of(structure: Structure, magnetic_orders: Mapping[str, Any]) -> Structure:
    """The cell that is computed: symmetrised and primitive, repeated where magnetic orders ask for it.

    Args:
        structure: The crystal.
        magnetic_orders: Of its settings.
    """
    cell = symmetrised(structure)
    return supercell_of(cell, magnetic_orders["supercell"]) if magnetic_orders else cell


def looks_metallic(symbols: Iterable[str]) -> bool:
    """Whether a crystal of these elements is more likely a metal: one metal alone, or a compound without anion."""
    present = frozenset(symbols)
    return not present & (GAPPED_ELEMENTS if len(present) == 1 else ANIONS)


def space_group(structure: Structure) -> int:
    """The number of its space group; 1 where none can be named."""
    found = _symmetry(structure, SYMPREC)
    return 1 if found is None else int(found.number)


def symmetrised(structure: Structure, symprec: float = SYMPREC) -> Structure:
    """The primitive cell with its symmetry made exact: noise of 0.01 Å costs a code six times as many k-points.

    Args:
        structure: Ordered crystal.
        symprec: Å by which atoms may be off.
    """
    from pymatgen.core import Element, Lattice, Structure

    found = _symmetry(structure, symprec)
    if found is None:  # the crystal stays as it is
        symbols = [Element.from_Z(site.specie.Z).symbol for site in structure]
        return Structure(structure.lattice, symbols, structure.frac_coords)
    cell = found.prim_std_cell
    return Structure(Lattice(cell.basis), [Element.from_Z(z).symbol for z in cell.numbers], cell.positions)


def _symmetry(structure: Structure, symprec: float) -> MoyoDataset | None:
    """The symmetry of a crystal; None where there is none at all that could be named."""
    numbers = tuple(int(site.specie.Z) for site in structure)
    basis, positions = (np.asarray(of, float) for of in (structure.lattice.matrix, structure.frac_coords))
    return _symmetry_of(basis.tobytes(), positions.tobytes(), numbers, symprec)


# Settings, cell and identity of one calculation each ask for it.
@functools.lru_cache(maxsize=256)
def _symmetry_of(basis: bytes, positions: bytes, numbers: tuple[int, ...], symprec: float) -> MoyoDataset | None:
    import moyopy

    # Of a supercell it warns that not all operations map its lattice onto itself, which nobody asked.
    logging.getLogger("moyo").setLevel(logging.ERROR)

    rows, sites = np.frombuffer(basis).reshape(3, 3), np.frombuffer(positions).reshape(-1, 3)
    try:
        return moyopy.MoyoDataset(moyopy.Cell(rows.tolist(), sites.tolist(), list(numbers)), symprec=symprec)
    except ValueError:
        return None


def mesh(structure: Structure, density: float) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Divisions and shifts of the k-point mesh of a symmetrised cell.

    A mesh with even divisions, shifted by half a division, needs far fewer points for the same error (Monkhorst and
    Pack, https://doi.org/10.1103/PhysRevB.13.5188). In the plane of a hexagonal cell it would break the symmetry: there
    the mesh holds Γ and has 1.5 times the density.

    Args:
        structure: From `symmetrised`.
        density: Points per Å⁻¹ (with 2π in the reciprocal lattice) along a shifted axis.
    """
    reciprocal = np.linalg.norm(structure.lattice.reciprocal_lattice.matrix, axis=1)
    shift = (False, False, True) if _is_hexagonal(structure) else (True, True, True)
    divisions = []
    for length, shifted in zip(reciprocal, shift, strict=True):
        # The hundredth keeps rounding noise from dividing two equal axes differently.
        if shifted:
            divisions.append(max(2, 2 * math.ceil(density * length / 2 - 0.01)))
        else:
            divisions.append(max(1, math.ceil(1.5 * density * length - 0.01)))
    return (divisions[0], divisions[1], divisions[2]), shift


def gap_mesh(structure: Structure, divisions: int) -> tuple[int, int, int]:
    """Divisions of the Γ-centred mesh for the band gap of a symmetrised cell.

    Bands of layers and of hexagonal crystals have their edges at K = (1/3, 1/3, 0) as often as at M = (1/2, 0, 0):
    along axes that span a hexagonal net the divisions are a multiple of 6, which holds both. In the primitive cell of a
    rhombohedral crystal the net is spanned by differences of the three axes, and all three have such divisions.

    Args:
        structure: From `symmetrised`.
        divisions: Along any other axis; one where all axes are long.
    """
    along = _divisions(structure, divisions)
    in_net = 6 * math.ceil(along / 6)
    net = _net_axes(structure)
    first, second, third = (in_net if axis in net else along for axis in range(3))
    return first, second, third


def _divisions(structure: Structure, divisions: int) -> int:
    return 1 if all(length > 12.0 for length in structure.lattice.abc) else divisions


def _net_axes(structure: Structure) -> Collection[int]:
    """Find the axes that span hexagonal nets, whatever the third does: layers may be stacked askew."""
    number = space_group(structure)
    if number in RHOMBOHEDRAL:
        return (0, 1, 2)
    lengths, angles = structure.lattice.abc, structure.lattice.angles
    nets = [
        (i, j)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        if abs(lengths[i] - lengths[j]) < 0.02 * lengths[i] and min(abs(angles[k] - 120), abs(angles[k] - 60)) < 1.0
    ]
    # Nets in more than one plane are those of a cubic close packing, or of what comes near it.
    return nets[0] if len(nets) == 1 and number < FIRST_CUBIC else ()


def _is_hexagonal(structure: Structure) -> bool:
    a, b, _ = structure.lattice.abc
    alpha, beta, gamma = structure.lattice.angles
    upright = abs(alpha - 90) < 0.1 and abs(beta - 90) < 0.1
    return upright and abs(a - b) < 1e-3 * a and min(abs(gamma - 120), abs(gamma - 60)) < 0.1
