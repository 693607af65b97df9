"""Magnetic moments that files carry: read, kept through the ledger's text and a relaxation, refused with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.core import Magmom

from materials.crystals.serialization import structure_from_json, structure_to_json
from materials.duplicates.duplicates import material_id
from materials.records import Candidate, Failure
from materials.sources.files import source as files

CELL = Structure(Lattice.cubic(4.0), ["Mn", "Mn", "O", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0, 0, 0.5)])
MCIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 5.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_magn.number_BNS 1.1
_space_group_magn.name_BNS "P 1"
loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mn1 Mn 0 0 0
Mn2 Mn .5 .5 .5
O1 O .5 .5 0
O2 O 0 0 .5
loop_
_atom_site_moment.label
_atom_site_moment.crystalaxis_x
_atom_site_moment.crystalaxis_y
_atom_site_moment.crystalaxis_z
Mn1 0 2.5 0
Mn2 0 -2.5 0
"""


def only(path: Path) -> Structure:
    (found,) = files.read(path=path)
    assert isinstance(found, Candidate), found
    return found.structure


def moments(structure: Structure) -> np.ndarray:
    again = structure_from_json(structure_to_json(structure))
    assert again == structure
    return np.array(again.site_properties["magmom"])


def test_a_magnetic_cif(tmp_path: Path) -> None:
    path = tmp_path / "x.mcif"
    path.write_text(MCIF)
    assert moments(only(path)) == pytest.approx(np.array([[0, 2.5, 0], [0, -2.5, 0], [0, 0, 0], [0, 0, 0]]))


VECTORS = [[0, 0, 3], [0, 0, -3], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ([3.0, -3.0, 0.0, 0.0], [3.0, -3.0, 0.0, 0.0]),
        ([3.0, -3.0, None, None], [3.0, -3.0, 0.0, 0.0]),
        (VECTORS, VECTORS),
        ([Magmom(3), Magmom(-3), Magmom(0), Magmom(0)], VECTORS),
    ],
)
def test_pymatgens_json(tmp_path: Path, said: list[object], read: list[object]) -> None:
    path = tmp_path / "x.json"
    path.write_text(CELL.copy(site_properties={"magmom": said}).to_json())
    assert moments(only(path)) == pytest.approx(np.array(read))
    assert material_id(only(path)) == material_id(CELL)


@pytest.mark.parametrize("name", ["initial_magmoms", "magmoms"])
def test_extended_xyz(tmp_path: Path, name: str) -> None:
    atoms = Atoms(CELL.labels, scaled_positions=CELL.frac_coords, cell=CELL.lattice.matrix, pbc=True)
    if name == "initial_magmoms":
        atoms.set_initial_magnetic_moments([3, -3, 0, 0])
    else:
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, energy=0.0, magmoms=np.array([3.0, -3.0, 0, 0]))
    path = tmp_path / "x.extxyz"
    write(path, atoms, format="extxyz")
    assert moments(only(path)) == pytest.approx([3.0, -3.0, 0.0, 0.0])


def test_moments_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for said in ([0.0] * 4, [0.02, -0.01, 0.0, 0.0], [None] * 4, [float("nan")] * 4):
        path.write_text(CELL.copy(site_properties={"magmom": said}).to_json())
        assert only(path).site_properties == {}


@pytest.mark.parametrize("said", ["three", [1, 2], {"a": 1}, float("inf"), [[1, 2], 3]])
def test_moments_that_cannot_be_read_are_told(tmp_path: Path, said: object) -> None:
    content = CELL.as_dict()
    content["sites"][0]["properties"] = {"magmom": said}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    (found,) = files.read(path=path)
    if said == {"a": 1}:  # nothing of it is a moment
        assert isinstance(found, Candidate)
    else:
        assert isinstance(found, Failure)
        assert "magnetic moment" in found.message
