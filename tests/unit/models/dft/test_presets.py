"""Settings: one cut-off a hull, meshes that keep the symmetry, the same for every cell of a crystal."""

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.calculator import kptdensity2monkhorstpack
from ase.dft.kpoints import get_monkhorst_pack_size_and_offset, monkhorst_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from materials.errors import DFTError
from materials.records import content_hash
from models.dft.base import DFTResult, DFTSettings
from models.dft.calculation_record import calculation_from, calculation_id, level_of_theory
from models.dft.gpaw.calculation import k_points
from models.dft.presets import looks_metallic, mesh, settings_for, symmetrised


class Code:
    """What `settings_for` asks of a code."""

    name = "gpaw"

    def potentials(self) -> str:
        return "gpaw-setups-9.9"


def half_heusler(a: float = 6.02) -> Structure:
    return Structure.from_spacegroup(
        "F-43m", Lattice.cubic(a), ["Li", "Mg", "P"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)]
    )


def hexagonal_na3as() -> Structure:
    return Structure.from_spacegroup(
        "P6_3/mmc",
        Lattice.hexagonal(5.09, 9.0),
        ["Na", "Na", "As"],
        [(0, 0, 0.25), (1 / 3, 2 / 3, 0.583), (1 / 3, 2 / 3, 0.25)],
    )


def test_the_hull_decides_the_cutoff() -> None:
    alone = settings_for("quick", ["Li", "Mg", "P"], half_heusler(), code=Code())
    with_nitrogen = settings_for("quick", ["Li", "Mg", "P", "N"], half_heusler(), code=Code())
    assert (alone.cutoff_ev, with_nitrogen.cutoff_ev) == (450.0, 600.0)
    assert level_of_theory(alone) == "PBE/gpaw-setups-9.9/PW450"
    assert level_of_theory(alone) != level_of_theory(with_nitrogen)
    assert alone.settings_hash != with_nitrogen.settings_hash


def test_a_cell_is_never_relaxed_with_few_plane_waves() -> None:
    assert settings_for("quick", ["Li"], half_heusler(), code=Code(), relax=True).cutoff_ev == 700.0
    assert settings_for("accurate", ["Li"], half_heusler(), code=Code()).mode == "relax"


def test_an_unknown_preset_names_the_known() -> None:
    with pytest.raises(DFTError, match=r"'sloppy'.*quick, standard, accurate"):
        settings_for("sloppy", ["Li"], half_heusler(), code=Code())


def test_meshes_are_those_that_were_found_to_converge() -> None:
    # 4x4x4 shifted for LiMgP: 0.1 meV from 8x8x8; a hexagonal plane holds Γ.
    assert mesh(symmetrised(half_heusler()), 1.6) == ((4, 4, 4), (True, True, True))
    assert mesh(symmetrised(hexagonal_na3as()), 1.6) == ((4, 4, 2), (False, False, True))


def test_density_is_ases_measure() -> None:
    from pymatgen.io.ase import AseAtomsAdaptor

    cell = symmetrised(half_heusler())
    size = kptdensity2monkhorstpack(AseAtomsAdaptor.get_atoms(cell), kptdensity=1.6, even=True)
    assert mesh(cell, 1.6)[0] == tuple(size)


@given(
    noise=st.integers(0, 2**31),
    scaling=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2)]),
    make=st.sampled_from([half_heusler, hexagonal_na3as]),
)
@settings(max_examples=10, deadline=None)
def test_noise_and_supercells_change_nothing(noise: int, scaling: tuple[int, int, int], make) -> None:
    made = make() * scaling
    rng = np.random.default_rng(noise)
    step = rng.normal(size=(len(made), 3))
    # A thousandth of an Å and less: what a potential's relaxation leaves. More is told apart in a large cell.
    moved = Structure(made.lattice.matrix, made.species, made.cart_coords + 1e-3 * step, coords_are_cartesian=True)
    assert len(symmetrised(moved)) == len(symmetrised(make()))
    assert mesh(symmetrised(moved), 2.4) == mesh(symmetrised(make()), 2.4)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # pymatgen's way to call spglib
def test_symmetry_is_exact_afterwards() -> None:
    noisy = half_heusler()
    noisy.perturb(0.01)
    assert SpacegroupAnalyzer(noisy, symprec=1e-4).get_space_group_number() != 216
    clean = symmetrised(noisy)
    assert SpacegroupAnalyzer(clean, symprec=1e-6).get_space_group_number() == 216
    assert clean.volume / len(clean) == pytest.approx(noisy.volume / len(noisy), rel=1e-6)


@pytest.mark.parametrize("size", [(4, 4, 4), (2, 6, 4)])
def test_k_points_are_monkhorst_and_packs(size: tuple[int, int, int]) -> None:
    ours = k_points(size, (True, True, True))
    theirs = monkhorst_pack(size)
    assert {tuple(k) for k in np.round(ours, 9)} == {tuple(k) for k in np.round(theirs, 9)}
    found, offset = get_monkhorst_pack_size_and_offset(theirs)
    assert tuple(found) == size
    assert np.allclose(offset, 0)


def test_an_unshifted_mesh_holds_gamma() -> None:
    points = k_points((3, 4, 2), (False, False, True))
    assert len(np.unique(np.round(points, 9), axis=0)) == 24
    assert any(np.allclose(k[:2], 0) and abs(k[2]) == 0.25 for k in points)
    assert np.all(points > -0.5)
    assert np.all(points <= 0.5)


def test_spin_where_atoms_ask_for_it() -> None:
    def moments(structure: Structure) -> dict[str, float]:
        return dict(settings_for("quick", [], structure, code=Code()).magnetic_moments)

    assert moments(half_heusler()) == {}
    assert moments(Structure(Lattice.cubic(9.0), ["O", "O"], [(0, 0, 0), (0, 0, 1.22 / 9)])) == {"O": 1.0}
    wustite = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.3), ["Fe", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    assert moments(wustite) == {"Fe": 4.0}


@pytest.mark.parametrize(
    ("symbols", "metallic"), [("Na", True), ("As", True), ("N", False), ("Cu Mg", True), ("Li P", False), ("Si", False)]
)
def test_what_looks_like_a_metal(symbols: str, metallic: bool) -> None:
    assert looks_metallic(symbols.split()) is metallic


def test_a_calculation_bears_the_name_of_its_folder() -> None:
    asked = settings_for("quick", ["Li", "Mg", "P"], half_heusler(), code=Code(), geometry="abc")
    result = DFTResult(status="converged", energy=-1.0, structure=half_heusler(), band_gap=1.5, attempts=2)
    record = calculation_from(result, "LiMgP-1", "gpaw-26.7.0", asked)
    assert record.calculation_id == calculation_id("LiMgP-1", "gpaw-26.7.0", asked)
    assert record.properties["band_gap"] == 1.5
    assert record.properties["scf_attempts"] == 2
    assert record.settings_hash == content_hash(asked.content())
    other = settings_for("quick", ["Li", "Mg", "P"], half_heusler(), code=Code(), geometry="abd")
    assert calculation_id("LiMgP-1", "gpaw-26.7.0", other) != record.calculation_id


def test_settings_that_came_later_leave_older_hashes_as_they_were() -> None:
    """Ledgers know calculations by them."""
    asked = DFTSettings(
        code="gpaw",
        preset="quick",
        potentials="gpaw-setups-1.2.1",
        cutoff_ev=450.0,
        kpoints=(4, 4, 4),
        kpoint_shift=(True, True, True),
        gap_kpoints=(2, 2, 2),
        smearing_ev=0.05,
        convergence_energy_ev=5e-4,
        convergence_density=1e-4,
        max_scf_steps=120,
        magnetic_moments={"Mn": 4.0},
        geometry="abc",
    )
    assert asked.settings_hash == "055701b0149f997b"
    assert replace(asked, density_cutoff_ev=1800.0).settings_hash != asked.settings_hash
