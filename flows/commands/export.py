"""`assay export`: structures of the ranked table as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.output.places import require_folder
from flows.report import table as tables

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from pymatgen.core import Structure

    from materials.records import Calculation
    from materials.store.ledger import Ledger

SUFFIXES = {"cif": ".cif", "poscar": ".vasp", "extxyz": ".extxyz"}


def export(
    ledger: Ledger,
    folder: Path,
    style: str,
    *,
    campaign: str | None = None,
    where: str | None = None,
    limit: int | None,
) -> int:
    """Write the best known structure of each row, named by rank and material; return how many.

    Extended XYZ has with it what DFT found for that very structure: the energy (eV, before any correction), forces
    (eV/Å), stress (eV/Å³) and, with spin, moments (μB).

    Args:
        ledger: To ask.
        folder: Made if it is not there.
        style: "cif", "poscar" or "extxyz".
        campaign: Name or id; None for the latest.
        where: A query; None for all rows.
        limit: Most structures; None for all.

    Raises:
        InputError: The folder cannot be written to.
    """
    require_folder(folder, "DIR")
    rows = tables.query(
        ledger, campaign, where=where, sort=None, limit=limit, columns="rank,material_id,energy_above_hull,band_gap"
    )
    ids = [row["material_id"] for row in rows]
    structures, computed = ledger.best_structures(ids), ledger.calculations(ids, fidelity="dft")
    folder.mkdir(parents=True, exist_ok=True)
    width = len(str(max((row["rank"] for row in rows), default=1)))
    for row in rows:
        name = f"{row['rank']:0{width}d}-{row['material_id']}{SUFFIXES[style]}"
        text = _text(structures[row["material_id"]], style, row, computed.get(row["material_id"]))
        (folder / name).write_text(text, encoding="utf-8")
    return len(rows)


def _text(structure: Structure, style: str, row: tables.Row, dft: Calculation | None) -> str:
    if style == "cif":
        return str(structure.to(fmt="cif"))
    if style == "poscar":
        from pymatgen.io.vasp import Poscar

        return str(Poscar(structure.get_sorted_structure(), comment=row["material_id"]).get_str(significant_figures=10))
    import io

    from ase.io import write
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = AseAtomsAdaptor.get_atoms(structure.copy(site_properties={}), msonable=False)
    atoms.info = {name: value for name, value in row.items() if value is not None}
    if dft is not None and dft.status == "converged":  # then it is its structure that is the best known
        atoms.info["level_of_theory"] = dft.level_of_theory
        atoms.calc = _answered(atoms, dft)
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def _answered(atoms: Atoms, dft: Calculation) -> SinglePointCalculator:
    """What DFT found, as a program that fits a potential wants it: ledgers from before arrays were kept hold only the
    energy."""
    from ase.calculators.singlepoint import SinglePointCalculator

    found = dft.properties
    arrays = {name: np.array(found[name]) for name in ("forces", "stress", "magmoms") if name in found}
    return SinglePointCalculator(atoms, energy=found.get("uncorrected_energy", dft.energy), **arrays)
