"""GPAW itself, where it is peculiar: spin, and the bands of metals. The rest is in test_dft_contract.py."""

from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from spglib import get_ir_reciprocal_mesh

from materials.errors import CodeNotInstalled
from models.dft.gpaw.code import Gpaw
from tests.peers.dft_cases import Ask, fcc, run

CODE = Gpaw()


pytestmark = [pytest.mark.dft, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        CODE.version()
    except CodeNotInstalled as error:
        pytest.skip(str(error))


def test_metals(tmp_path: Path) -> None:
    settings = {"kpoints": (4, 4, 4), "cutoff_ev": 350.0, "magnetic_orders": {}}
    iron = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.83), ["Fe"], [(0, 0, 0)])
    results = run(
        tmp_path,
        CODE,
        {"iron": Ask(structure=iron, settings=settings), "calcium": Ask(structure=fcc("Ca", 5.53), settings=settings)},
    )
    # Experiment says 2.2 μB.
    assert results["iron"].properties["total_magnetization"] == pytest.approx(2.2, abs=0.2)
    assert results["iron"].band_gap == 0.0
    # Left alone, GPAW gives calcium no band above the filled ones, and calls it an insulator.
    assert results["calcium"].band_gap == 0.0


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib's own news
def test_screw_axes_and_glide_planes_spare_points(tmp_path: Path) -> None:
    """As many points as spglib leaves of the mesh: in hcp half of the operations have a translation."""
    zinc = Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.66, 4.95), ["Zn"], [(1 / 3, 2 / 3, 0.25)])
    settings = {"kpoints": (6, 6, 4), "kpoint_shift": (False, False, False), "cutoff_ev": 300.0}
    (result,) = run(tmp_path, CODE, {"zinc": Ask(structure=zinc, settings=settings)}).values()
    cell = (zinc.lattice.matrix, zinc.frac_coords, zinc.atomic_numbers)
    mapping, _ = get_ir_reciprocal_mesh((6, 6, 4), cell, is_shift=(0, 0, 0))
    assert result.status == "converged"
    assert result.properties["n_kpoints"] == len(set(mapping.tolist()))
    assert result.band_gap == 0.0
