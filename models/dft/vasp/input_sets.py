"""VASP input by pymatgen's input sets: the files, their settings, and what the energy means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from materials.errors import DFTError
from materials.stability.corrections import MP2020_LEVEL, foreign_potcars
from models.dft.base import DFTSettings
from models.dft.magnetism.given_moments import has_moments
from models.dft.magnetism.orders import FERROMAGNETIC, orders_of
from models.dft.presets import symmetrised
from models.dft.vasp.potcars import NoPotcar, PotcarFile, potcar, quiet

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp.inputs import Kpoints
    from pymatgen.io.vasp.sets import VaspInputSet

Functional = Literal["PBE", "r2SCAN"]
# What is asked for -> the set that computes a geometry as it is, and the one that relaxes it in the same way.
SETS = {
    "MPStaticSet": ("MPStaticSet", "MPRelaxSet"),
    "MPRelaxSet": ("MPStaticSet", "MPRelaxSet"),
    "MatPESStaticSet": ("MatPESStaticSet", "MatPESRelaxSet"),
    "MatPESRelaxSet": ("MatPESStaticSet", "MatPESRelaxSet"),
}


@dataclass(frozen=True, kw_only=True)
class SetChoice:
    """Which input set, and with what.

    Attributes:
        name: One of `SETS`.
        functional: Of the MatPES sets; the MP sets are PBE, with U where they say so.
        potcars: A release of POTCARs by pymatgen's name, such as "PBE_54"; empty: the one that belongs to the set.
    """

    name: str = "MPStaticSet"
    functional: Functional = "PBE"
    potcars: str = ""

    def relaxes(self, asked: bool | None) -> bool:
        """Whether positions and cell are relaxed; asked nothing, as the set does."""
        return self.name.endswith("RelaxSet") if asked is None else asked


def input_set(choice: SetChoice, structure: Structure, *, relax: bool | None = None) -> VaspInputSet:
    """Make pymatgen's input set for a crystal.

    Args:
        choice: Which.
        structure: What is computed is its symmetrised primitive cell, its sites sorted as pymatgen does.
        relax: Whether positions and cell are relaxed; None: as the set does.

    Raises:
        DFTError: There is no such set.
    """
    from pymatgen.io.vasp import sets

    if choice.name not in SETS:
        raise DFTError(f"dft.input_set: there is no {choice.name!r}; choose one of {', '.join(SETS)}")
    name = SETS[choice.name][choice.relaxes(relax)]
    more: dict[str, Any] = {}
    if name.startswith("MatPES"):
        more["xc_functional"] = choice.functional.upper()
    elif choice.functional != "PBE":
        raise DFTError(
            f"dft.functional: {choice.name} is PBE; {choice.functional} needs dft.input_set: MatPESStaticSet"
        )
    if choice.potcars:
        more["user_potcar_functional"] = choice.potcars
    with quiet():
        made: VaspInputSet = getattr(sets, name)(symmetrised(structure).get_sorted_structure(), **more)
    return made


def settings_of(
    choice: SetChoice, elements: Iterable[str], structure: Structure, *, relax: bool | None = None, geometry: str = ""
) -> DFTSettings:
    """Settings for one crystal of a hull: all that the input set makes for it is in them.

    Args:
        choice: Which input set.
        elements: Of the whole hull: with the POTCARs of all of them the Materials Project's, its energies are, too.
        structure: The crystal.
        relax: Whether positions and cell are relaxed; None: as the set does.
        geometry: Whose geometry it is.

    Raises:
        DFTError: There is no such set; or the energy could stand in no hull.
        CodeNotInstalled: There are no POTCARs at all.
    """
    made = input_set(choice, structure, relax=relax)
    name, cell = type(made).__name__, made.structure
    assert cell is not None
    with quiet():
        incar, kpoints = dict(made.incar), made.kpoints
    release, symbols = str(made.user_potcar_functional), made.poscar.site_symbols
    hubbards = hubbards_of(incar, symbols)
    potcars = potcars_of(choice, {*map(str, elements), *symbols})
    inputs = {
        "INCAR": incar,
        "KPOINTS": None if kpoints is None else str(kpoints).splitlines()[1:],  # the first line is a comment
        "POTCAR": [[file.symbol, file.title, file.fingerprint] for s in symbols if (file := potcars.get(s))],
    }
    if lacking := [symbol for symbol in symbols if symbol not in potcars]:
        inputs["lacking"] = lacking  # the calculation will fail, and say why
    titles = {element: file.title for element, file in potcars.items()}
    divisions, shift = mesh_of(kpoints, incar, cell)
    electrons = sum(potcars[s].electrons * n for s, n in zip(symbols, made.poscar.natoms, strict=True) if s in potcars)
    return DFTSettings(
        code="vasp",
        preset=name,
        potentials=f"POTCAR-{release}",
        functional=choice.functional,
        cutoff_ev=float(incar["ENCUT"]),
        kpoints=divisions,
        kpoint_shift=shift,
        gap_kpoints=divisions,
        smearing_ev=float(incar["SIGMA"]),
        convergence_energy_ev=float(incar["EDIFF"]) / (electrons or 1.0),
        convergence_density=0.0,  # VASP judges the energy alone
        max_scf_steps=int(incar["NELM"]),
        magnetic_moments=_moments(incar, cell),
        orders_left_out=_not_tried(name, structure),
        mode="relax" if int(incar["NSW"]) > 0 else "static",
        fmax=max(0.0, -float(incar.get("EDIFFG", 0.0))),  # 0: judged by the change of the energy
        max_stress_gpa=0.0,  # VASP's forces on the cell are among those
        max_steps=int(incar["NSW"]),
        geometry=geometry,
        level=level_of(choice, name, release, titles, hubbards),
        inputs=inputs,
    )


def level_of(choice: SetChoice, name: str, release: str, titles: dict[str, str], hubbards: dict[str, float]) -> str:
    """What the energies of a set mean, with these POTCARs for the elements of the whole hull.

    Args:
        choice: Which input set was chosen.
        name: Of the set that computes.
        release: Of the POTCARs, by pymatgen's name.
        titles: Element -> TITEL.
        hubbards: Element -> U (eV) of this crystal.

    Raises:
        DFTError: The energy has a U in it and cannot be corrected, so no other energy could be compared with it.
    """
    wrong = foreign_potcars(titles, list(titles.values())) if name.startswith("MP") else ""
    if name.startswith("MP") and not wrong:
        return MP2020_LEVEL
    if hubbards:
        raise DFTError(
            f"{name} takes U on {', '.join(sorted(hubbards))}, and energies with and without U meet only by the MP2020"
            f" corrections, which need the Materials Project's own POTCARs ({wrong} are not): put those of"
            f" POT_GGA_PAW_PBE into pymatgen's folder, or take dft.input_set: MatPESStaticSet, which is without U"
        )
    return f"{choice.functional}/POTCAR-{release}/{name}"


def potcars_of(choice: SetChoice, elements: Iterable[str], *, strict: bool = False) -> dict[str, PotcarFile]:
    """Find the POTCAR that a set takes for each element.

    Args:
        choice: Which input set.
        elements: Whose.
        strict: Whether one that is not there is an error; else it is left out.

    Raises:
        NoPotcar: There is none, or the set knows none.
        CodeNotInstalled: There are no POTCARs at all.
    """
    from pymatgen.io.vasp import sets

    with quiet():
        made = getattr(sets, choice.name)(user_potcar_functional=choice.potcars or None)
    table = made._config_dict["POTCAR"]
    found = {}
    for element in sorted(elements):
        try:
            if element not in table:
                raise NoPotcar(f"{choice.name} has no POTCAR for {element}: leave that element out of the campaign")
            found[element] = potcar(table[element], str(made.user_potcar_functional))
        except NoPotcar:
            if strict:
                raise
    return found


def hubbards_of(incar: dict[str, Any], symbols: Sequence[str]) -> dict[str, float]:
    """Element -> U (eV), those without left out."""
    if not incar.get("LDAU"):
        return {}
    return {symbol: float(u) for symbol, u in zip(symbols, incar["LDAUU"], strict=True) if u}


def mesh_of(
    kpoints: Kpoints | None, incar: dict[str, Any], structure: Structure
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Divisions and shifts of the mesh that VASP will make of a KPOINTS file, or of KSPACING."""
    if kpoints is None:  # https://www.vasp.at/wiki/index.php/KSPACING, with Γ on the mesh
        lengths = structure.lattice.reciprocal_lattice.abc
        first, second, third = (max(1, math.ceil(length / float(incar["KSPACING"]))) for length in lengths)
        return (first, second, third), (False, False, False)
    first, second, third = (int(n) for n in kpoints.kpts[0])
    shifted = kpoints.style.name == "Monkhorst"  # an odd division holds Γ nevertheless
    return (first, second, third), (shifted and first % 2 == 0, shifted and second % 2 == 0, shifted and third % 2 == 0)


def _moments(incar: dict[str, Any], structure: Structure) -> dict[str, float]:
    if incar.get("ISPIN", 1) != 2:
        return {}
    moments = incar.get("MAGMOM") or [1.0] * len(structure)
    return {site.specie.symbol: float(moment) for site, moment in zip(structure, moments, strict=True)}


def _not_tried(name: str, structure: Structure) -> tuple[str, ...]:
    """Say which magnetic orders other codes would try, and a set, whose energies are comparable by its very input, does
    not."""
    found = orders_of(symmetrised(structure))
    lines = list(found.left_out)
    if others := [order for order, _ in found.tried if order != FERROMAGNETIC]:
        lines.append(f"{', '.join(others)}: {name} starts ferromagnetic")
    if has_moments(structure):
        lines.append(f"the moments that the structure came with: {name} starts from its own")
    return tuple(lines)
