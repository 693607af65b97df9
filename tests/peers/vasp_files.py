"""VASP's files: its input read as VASP reads it, its output written as VASP 6 writes it (as far as others read it)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms

VERSION = "6.4.2"
KILOBAR = 1602.1766208  # in an eV/Å³
RULE = "-" * 104


@dataclass(frozen=True, kw_only=True)
class Input:
    """What lies in the folder."""

    tags: dict[str, Any]
    atoms: Atoms
    kpoints: np.ndarray  # (n, 3), one of each pair k, -k
    weights: np.ndarray
    divisions: tuple[int, int, int]
    monkhorst: bool
    titles: list[str]
    electrons: list[float]  # of each species
    counts: list[int]

    @property
    def n_electrons(self) -> float:
        return float(np.dot(self.electrons, self.counts))


class Refused(Exception):
    """VASP stops with these words."""


def read_input(folder: Path) -> Input:
    tags = read_incar((folder / "INCAR").read_text())
    atoms, symbols, counts = read_poscar((folder / "POSCAR").read_text())
    potcars = [part for part in (folder / "POTCAR").read_text().split("End of Dataset") if part.strip()]
    titles = [re.search(r"TITEL\s*=\s*(.*)", part)[1].strip() for part in potcars]  # type: ignore[index]
    electrons = [float(re.search(r"ZVAL\s*=\s*([\d.]+)", part)[1]) for part in potcars]  # type: ignore[index]
    if [title.split()[1].split("_")[0] for title in titles] != symbols:
        raise Refused(
            "ERROR: the type information on POSCAR and POTCAR are incompatible\n POTCAR overwrites the type information"
            " in POSCAR"
        )
    if len(tags["MAGMOM"]) not in (0, len(atoms)):
        raise Refused("Error reading item 'MAGMOM' from file INCAR.")
    divisions, monkhorst = read_kpoints(folder / "KPOINTS", tags, atoms)
    kpoints, weights = mesh(divisions, monkhorst)
    if tags["ISMEAR"] == -5 and len(kpoints) < 4:
        raise Refused("Tetrahedron method fails (number of k-points < 4)")
    return Input(
        tags=tags,
        atoms=atoms,
        kpoints=kpoints,
        weights=weights,
        divisions=divisions,
        monkhorst=monkhorst,
        titles=titles,
        electrons=electrons,
        counts=counts,
    )


def read_incar(text: str) -> dict[str, Any]:
    """INCAR's tags, and VASP's defaults of those that are used here."""
    given: dict[str, str] = {}
    for line in re.split(r"[\n;]", text):
        key, equals, value = re.sub(r"[#!].*", "", line).partition("=")
        if equals:
            given[key.strip().upper()] = value.strip()
    nsw = int(given.get("NSW", 0))
    defaults = {
        "NSW": 0,
        "IBRION": -1 if nsw in (-1, 0) else 0,
        "ISIF": 2,
        "EDIFF": 1e-4,
        "NELM": 60,
        "ISPIN": 1,
        "LORBIT": 0,
    }
    defaults |= {"ISMEAR": 1, "SIGMA": 0.2, "ALGO": "Normal", "LDAU": False, "ENCUT": 400.0, "PREC": "Normal"}
    defaults |= {"GGA": "PE", "METAGGA": "--", "ISTART": 0}
    found: dict[str, Any] = dict(defaults)
    for key, value in given.items():
        default = defaults.get(key)
        if isinstance(default, bool) or re.fullmatch(r"\.?(true|false|t|f)\.?", value, re.IGNORECASE):
            found[key] = value.strip(".").upper().startswith("T")
        elif isinstance(default, int):
            found[key] = int(float(value))
        elif isinstance(default, float) or key in ("EDIFFG", "KSPACING"):
            found[key] = float(value)
        elif key in ("MAGMOM", "LDAUU", "LDAUJ", "LDAUL"):
            found[key] = numbers(value)
        else:
            found[key] = value
    found.setdefault("EDIFFG", 10 * found["EDIFF"])
    found.setdefault("MAGMOM", [])
    found["given"] = given
    return found


def numbers(text: str) -> list[float]:
    """VASP's lists: `2*0.6 5` is 0.6 0.6 5."""
    found: list[float] = []
    for word in text.split():
        count, star, value = word.partition("*")
        found += [float(value)] * int(count) if star else [float(word)]
    return found


def read_poscar(text: str) -> tuple[Atoms, list[str], list[int]]:
    lines = text.splitlines()
    cell = float(lines[1]) * np.array([line.split()[:3] for line in lines[2:5]], dtype=float)
    symbols, counts = lines[5].split(), [int(word) for word in lines[6].split()]
    where = 8 if lines[7].strip()[0] in "sS" else 7
    assert lines[where].strip()[0] in "dD", "direct coordinates only"
    rows = lines[where + 1 : where + 1 + sum(counts)]
    coords = np.array([row.split()[:3] for row in rows], dtype=float)
    names = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    return Atoms(names, scaled_positions=coords, cell=cell, pbc=True), symbols, counts


def read_kpoints(path: Path, tags: dict[str, Any], atoms: Atoms) -> tuple[tuple[int, int, int], bool]:
    if not path.exists():
        lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
        first, second, third = (max(1, int(np.ceil(length / tags.get("KSPACING", 0.5)))) for length in lengths)
        return (first, second, third), False
    lines = path.read_text().splitlines()
    assert int(lines[1]) == 0, "automatic meshes only"
    first, second, third = (int(word) for word in lines[3].split()[:3])
    return (first, second, third), lines[2].strip()[0] in "mM"


def mesh(divisions: tuple[int, int, int], monkhorst: bool) -> tuple[np.ndarray, np.ndarray]:
    axes = [(np.arange(n) + (0.5 if monkhorst and n % 2 == 0 else 0.0)) / n for n in divisions]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points - np.ceil(points - 0.5 - 1e-9)
    found: dict[tuple[float, ...], list[Any]] = {}
    for point in points:
        key = tuple(np.round(point, 6) + 0.0)
        mirrored = tuple(np.round(-point - np.ceil(-point - 0.5 - 1e-9), 6) + 0.0)
        found.setdefault(min(key, mirrored), [point, 0])[1] += 1
    return np.array([point for point, _ in found.values()]), np.array([n for _, n in found.values()]) / len(points)


def poscar(atoms: Atoms, symbols: list[str], counts: list[int]) -> str:
    rows = [" ".join(symbols), "   1.00000000000000     "]
    rows += [" " + "".join(f"{x:22.16f}" for x in vector) for vector in atoms.cell]
    rows += ["   " + "    ".join(symbols), "".join(f"{n:6d}" for n in counts), "Direct"]
    rows += ["".join(f"{x:20.16f}" for x in point) for point in atoms.get_scaled_positions(wrap=False)]
    return (
        "\n".join(rows) + "\n\n" + "\n".join("  0.00000000E+00  0.00000000E+00  0.00000000E+00" for _ in atoms) + "\n"
    )


def fortran(value: float, digits: int = 8) -> str:
    """As Fortran's E format has it: -.20246959E+02."""
    mantissa, exponent = f"{value:.{digits - 1}E}".split("E")
    sign, figures = ("-" if value < 0 else "0"), mantissa.lstrip("-").replace(".", "")
    power = int(exponent) + 1 if value else 0
    return f"{sign}.{figures}E{'+' if power >= 0 else '-'}{abs(power):02d}"


# vasprun.xml


def xml_vectors(name: str, rows: Any, indent: str = " ") -> str:
    lines = [f'{indent}<varray name="{name}" >']
    lines += [f"{indent} <v>{''.join(f'{x:17.8f}' for x in row)} </v>" for row in rows]
    return "\n".join([*lines, f"{indent}</varray>"]) + "\n"


def xml_structure(atoms: Atoms, name: str = "") -> str:
    named = f' name="{name}" ' if name else ""
    inside = xml_vectors("basis", atoms.cell.array, "   ") + f'   <i name="volume">{atoms.get_volume():16.8f} </i>\n'
    inside += xml_vectors("rec_basis", atoms.cell.reciprocal(), "   ")
    places = xml_vectors("positions", atoms.get_scaled_positions(wrap=False), "  ")
    return f" <structure{named}>\n  <crystal>\n{inside}  </crystal>\n{places} </structure>\n"


def xml_item(name: str, value: Any, indent: str = "  ") -> str:
    if isinstance(value, bool):
        return f'{indent}<i type="logical" name="{name}"> {"T" if value else "F"}  </i>\n'
    if isinstance(value, int):
        return f'{indent}<i type="int" name="{name}">{value:6d}</i>\n'
    if isinstance(value, float):
        return f'{indent}<i name="{name}">{value:16.8f}</i>\n'
    if isinstance(value, list):
        kind = ' type="int"' if name == "LDAUL" else ""
        shown = "".join(f"{int(x):6d}" if kind else f"{x:16.8f}" for x in value)
        return f'{indent}<v{kind} name="{name}">{shown}</v>\n'
    return f'{indent}<i type="string" name="{name}"> {value}</i>\n'


def xml_head(task: Input, n_bands: int) -> str:
    tags = task.tags
    given = {key: tags[key] for key in tags["given"]}
    used = {
        "PREC": str(tags["PREC"]).lower(),
        "ENMAX": tags["ENCUT"],
        "EDIFF": tags["EDIFF"],
        "NBANDS": n_bands,
        "NELECT": task.n_electrons,
        "ISMEAR": tags["ISMEAR"],
        "SIGMA": tags["SIGMA"],
        "ISPIN": tags["ISPIN"],
        "LASPH": bool(tags.get("LASPH", False)),
        "LMETAGGA": tags["METAGGA"] != "--",
        "NELM": tags["NELM"],
        "NSW": tags["NSW"],
        "IBRION": tags["IBRION"],
        "ISIF": tags["ISIF"],
        "EDIFFG": tags["EDIFFG"],
        "LDAU": tags["LDAU"],
        "GGA": "--" if tags["METAGGA"] != "--" else str(tags["GGA"]).upper(),
        "LHFCALC": False,
        "AEXX": 0.0,
        "HFSCREEN": 0.0,
        "LUSE_VDW": False,
        "LEPSILON": False,
        "LCHIMAG": False,
    }
    used |= {name: tags[name] for name in ("LDAUL", "LDAUU", "LDAUJ") if tags["LDAU"]}
    symbols = [title.split()[1].split("_")[0] for title in task.titles]
    kinds = [kind for kind, count in enumerate(task.counts, 1) for _ in range(count)]
    atoms = "".join(
        f"    <rc><c>{symbol:2s}</c><c>{kind:4d}</c></rc>\n"
        for symbol, kind in zip(task.atoms.symbols, kinds, strict=True)
    )
    types = "".join(
        f"    <rc><c>{count:4d}</c><c>{symbol:2s}</c><c>{1.0:16.8f}</c><c>{electrons:16.8f}</c>"
        f"<c>  {title:38s}</c></rc>\n"
        for count, symbol, electrons, title in zip(task.counts, symbols, task.electrons, task.titles, strict=True)
    )
    divisions = "".join(f"{n:9d}" for n in task.divisions)
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n <generator>\n'
        '  <i name="program" type="string">vasp </i>\n'
        f'  <i name="version" type="string">{VERSION}  </i>\n'
        '  <i name="subversion" type="string">20Jul23 (build Aug 01 2023 10:00:00) complex                          '
        "parallel </i>\n"
        '  <i name="platform" type="string">LinuxGNU </i>\n'
        '  <i name="date" type="string">2026 11 25 </i>\n  <i name="time" type="string">10:00:00 </i>\n </generator>\n'
        f" <incar>\n{''.join(xml_item(key, value) for key, value in given.items())} </incar>\n"
        f' <kpoints>\n  <generation param="{"Monkhorst-Pack" if task.monkhorst else "Gamma"}">\n'
        f'   <v type="int" name="divisions">{divisions} </v>\n'
        '   <v name="usershift">      0.00000000       0.00000000       0.00000000 </v>\n  </generation>\n'
        f"{xml_vectors('kpointlist', task.kpoints, '  ')}{xml_vectors('weights', task.weights[:, None], '  ')}"
        " </kpoints>\n"
        f' <parameters>\n  <separator name="electronic" >\n{"".join(xml_item(k, v, "   ") for k, v in used.items())}'
        "  </separator>\n </parameters>\n"
        f" <atominfo>\n  <atoms>{len(task.atoms):8d} </atoms>\n  <types>{len(task.counts):8d} </types>\n"
        '  <array name="atoms" >\n   <dimension dim="1">ion</dimension>\n   <field type="string">element</field>\n'
        f'   <field type="int">atomtype</field>\n   <set>\n{atoms}   </set>\n  </array>\n'
        '  <array name="atomtypes" >\n   <dimension dim="1">type</dimension>\n'
        '   <field type="int">atomspertype</field>\n'
        '   <field type="string">element</field>\n   <field>mass</field>\n   <field>valence</field>\n'
        f'   <field type="string">pseudopotential</field>\n   <set>\n{types}   </set>\n  </array>\n </atominfo>\n'
        f"{xml_structure(task.atoms, 'initialpos')}"
    )


def xml_energy(energy: float, entropy: float, indent: str, *, old: bool = False) -> str:
    """Free energy, without the entropy of the smearing, and at zero width: half-way between.

    At the end of an ionic step 5.2 to 5.4.4 write the last of them in the second's place, and 0 in its own.
    """
    items = {"e_fr_energy": energy - entropy / 2, "e_wo_entrp": energy + entropy / 2, "e_0_energy": energy}
    if old:
        items |= {"e_wo_entrp": energy, "e_0_energy": 0.0}
    inside = "".join(f'{indent} <i name="{name}">{value:16.8f} </i>\n' for name, value in items.items())
    return f"{indent}<energy>\n{inside}{indent}</energy>\n"


def xml_electrons(energies: np.ndarray, occupations: np.ndarray, fermi: float) -> str:
    """Eigenvalues and a density of states, (spins, k-points, bands)."""
    sets = ""
    for spin, (levels, filling) in enumerate(zip(energies, occupations, strict=True), 1):
        sets += f'     <set comment="spin {spin}">\n'
        for k, (row, share) in enumerate(zip(levels, filling, strict=True), 1):
            rows = "".join(f"       <r>{e:10.4f}{f:10.4f} </r>\n" for e, f in zip(row, share, strict=True))
            sets += f'      <set comment="kpoint {k}">\n{rows}      </set>\n'
        sets += "     </set>\n"
    grid = np.linspace(energies.min() - 1, energies.max() + 1, 301)
    dos = ""
    for spin, levels in enumerate(energies, 1):
        density = np.histogram(levels, np.append(grid, grid[-1] + 0.1))[0] / levels.shape[0]
        rows = "".join(
            f"       <r>{e:11.4f}{d:11.4f}{i:11.4f} </r>\n"
            for e, d, i in zip(grid, density, density.cumsum(), strict=True)
        )
        dos += f'      <set comment="spin {spin}">\n{rows}      </set>\n'
    fields = "".join(f"    <field>{name}</field>\n" for name in ("energy", "total", "integrated"))
    return (
        '  <eigenvalues>\n   <array>\n    <dimension dim="1">band</dimension>\n'
        '    <dimension dim="2">kpoint</dimension>\n    <dimension dim="3">spin</dimension>\n'
        "    <field>eigene</field>\n    <field>occ</field>\n    <set>\n"
        f"{sets}    </set>\n   </array>\n  </eigenvalues>\n"
        f'  <dos>\n   <i name="efermi">{fermi:16.8f} </i>\n   <total>\n   <array>\n'
        '    <dimension dim="1">gridpoints</dimension>\n    <dimension dim="2">spin</dimension>\n'
        f"{fields}    <set>\n{dos}    </set>\n   </array>\n   </total>\n  </dos>\n"
    )


# OUTCAR


def outcar_head(task: Input, n_bands: int) -> str:
    tags = task.tags
    cell = outcar_cell(task.atoms, tags["ENCUT"])
    points = "\n".join(
        f"   {k[0]:.8f}  {k[1]:.8f}  {k[2]:.8f}  {w:10.3f}" for k, w in zip(task.kpoints, task.weights, strict=True)
    )
    return (
        f" vasp.{VERSION} 20Jul23 (build Aug 01 2023 10:00:00) complex\n  \n"
        " executed on             LinuxGNU date 2026.11.25  10:00:00\n running on    1 total cores\n"
        " distrk:  each k-point on    1 cores,    1 groups\n"
        " distr:  one band on NCORES_PER_BAND=   1 cores,    1 groups\n\n\n"
        f"{RULE}\n\n\n INCAR:\n"
        + "".join(f" POTCAR:    {title}\n" for title in task.titles)
        + "".join(f"  {title:38s}:\n energy of atom  1       EATOM= -100.0000\n" for title in task.titles)
        + f"\n Dimension of arrays:\n   k-points           NKPTS = {len(task.kpoints):6d}   k-points in BZ     NKDIM ="
        f" {len(task.kpoints):6d}   number of bands    NBANDS= {n_bands:6d}\n"
        f"   number of dos      NEDOS =    301   number of ions     NIONS = {len(task.atoms):6d}\n"
        "   total plane-waves  NPLWV =  32768\n"
        f"   ions per type = {''.join(f'{n:16d}' for n in task.counts)}\n"
        f"   ISPIN  = {tags['ISPIN']:6d}    spin polarized calculation?\n"
        f"   ENCUT  = {tags['ENCUT']:6.1f} eV  22.05 Ry    4.70 a.u.\n"
        f"   NELM   = {tags['NELM']:6d};   NELMIN=  2; NELMDL= -5     # of ELM steps\n"
        f"   NSW    = {tags['NSW']:6d}    number of steps for IOM\n"
        f"   IBRION = {tags['IBRION']:6d}    ionic relax: 0-MD 1-quasi-New 2-CG\n"
        f"   NELECT = {task.n_electrons:12.4f}    total number of electrons\n\n{RULE}\n\n{cell}\n"
        f" k-points in reciprocal lattice and weights: Automatic mesh\n{points}\n\n"
        " maximum number of plane-waves:      1000\n\n"
        " initial charge density was supplied:\n charge density of overlapping atoms calculated\n"
        f" number of electron {task.n_electrons:14.7f} magnetization {sum(tags['MAGMOM']):14.7f}\n"
        f" keeping initial charge density in first step\n\n\n{RULE}\n\n\n"
    )


def outcar_cell(atoms: Atoms, cutoff: float) -> str:
    rows = "".join(
        " " + "".join(f"{x:15.9f}" for x in [*real, *reciprocal]) + "\n"
        for real, reciprocal in zip(atoms.cell.array, atoms.cell.reciprocal(), strict=True)
    )
    return (
        f"  energy-cutoff  :   {cutoff:10.2f}\n  volume of cell :   {atoms.get_volume():10.2f}\n"
        f"      direct lattice vectors                 reciprocal lattice vectors\n{rows}\n"
    )


def outcar_step(atoms: Atoms, task: Input, energy: float, entropy: float, fermi: float, moment: float) -> str:
    """All that stands there of an ionic step, once its SCF cycle has ended."""
    xx, yy, zz, yz, xz, xy = -KILOBAR * atoms.get_stress()
    forces = "".join(
        "".join(f"{x:13.5f}" for x in place) + " " + "".join(f"{x:14.6f}" for x in force) + "\n"
        for place, force in zip(atoms.positions, atoms.get_forces(), strict=True)
    )
    shown = f"  {moment:14.7f}" if task.tags["ISPIN"] == 2 else ""
    return (
        f" number of electron {task.n_electrons:14.7f} magnetization{shown}\n\n"
        f" E-fermi : {fermi:8.4f}     XC(G=0):  -7.0000     alpha+bet : -5.0000\n\n"
        "  FORCE on cell =-STRESS in cart. coord.  units (eV):\n"
        "  Direction    XX          YY          ZZ          XY          YZ          ZX\n"
        f"  in kB    {xx:12.5f}{yy:12.5f}{zz:12.5f}{xy:12.5f}{yz:12.5f}{xz:12.5f}\n"
        f"  external pressure =  {(xx + yy + zz) / 3:10.2f} kB  Pullay stress =        0.00 kB\n\n\n"
        f" VOLUME and BASIS-vectors are now :\n {RULE[:77]}\n{outcar_cell(atoms, task.tags['ENCUT'])}\n"
        " POSITION                                       TOTAL-FORCE (eV/Angst)\n"
        f" {RULE[:83]}\n{forces} {RULE[:83]}\n    total drift:                                0.000000      0.000000"
        f"      0.000000\n\n\n{RULE}\n\n\n"
        "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n"
        f"  free  energy   TOTEN  = {energy - entropy / 2:18.8f} eV\n\n"
        f"  energy  without entropy={energy + entropy / 2:18.8f}  energy(sigma->0) ={energy:18.8f}\n\n"
        "     LOOP+:  cpu time    1.0000: real time    1.0000\n\n\n"
    )


def outcar_moments(moments: list[float]) -> str:
    """Moments of the sites, split into s, p and d; none without spin."""
    if not moments:
        return ""
    rows = "".join(f"{i:5d} {0:12.3f}{0:8.3f}{m:8.3f}{m:8.3f}\n" for i, m in enumerate(moments, 1))
    return (
        "\n\n magnetization (x)\n \n# of ion       s       p       d       tot\n"
        + "-" * 42
        + f"\n{rows}"
        + "-" * 50
        + f"\ntot  {0:12.3f}{0:8.3f}{sum(moments):8.3f}{sum(moments):8.3f}\n\n\n"
    )


OUTCAR_END = (
    "\n\n General timing and accounting informations for this job:\n"
    " ========================================================\n\n"
    "                  Total CPU time used (sec):        1.000\n"
    "                            User time (sec):        1.000\n"
    "                          System time (sec):        0.000\n"
    "                         Elapsed time (sec):        1.000\n\n"
    "                   Maximum memory used (kb):      142870.\n"
    "                   Average memory used (kb):          N/A\n\n"
    "                          Minor page faults:            0\n"
    "                          Major page faults:            0\n"
    "                 Voluntary context switches:            0\n"
)


def write(file: TextIO, text: str) -> None:
    """Write at once: who is killed leaves what was written until then."""
    file.write(text)
    file.flush()
