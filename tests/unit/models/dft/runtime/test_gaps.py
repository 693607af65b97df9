"""Band gaps by counting bands on two meshes, held against models whose gap is known without any mesh."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from models.dft.gpaw.calculation import k_points
from models.dft.presets import BOTH_MESHES, PRESETS, asked_before, gap_mesh, settings_for, space_group, symmetrised
from models.dft.runtime.calculation import UNSETTLED, gap

Bands = NDArray[np.float64]


class Code:
    """What `settings_for` asks of a code."""

    name = "gpaw"

    def potentials(self) -> str:
        return "gpaw-setups-9.9"


@dataclass(frozen=True, kw_only=True)
class Honeycomb:
    """Tight binding on honeycomb layers: one orbital an atom, hopping in the layer and between layers.

    Attributes:
        mass: Half of the difference of the two sublattices' levels, eV: the gap is twice that.
        hopping: To the three neighbours, eV.
        interlayer: Cosine band along the axis between layers, eV; it shifts both bands alike.
        plane: Which axes span the layer.
    """

    mass: float = 0.0
    hopping: float = 2.7
    interlayer: float = 0.0
    plane: tuple[int, int] = (0, 1)

    def levels(self, points: Bands, angle: float = 120.0) -> Bands:
        """Levels, [spin][k-point][band]; `angle` is between the axes of the layer."""
        first, second = (2 * np.pi * points[:, axis] for axis in self.plane)
        (third,) = {0, 1, 2} - set(self.plane)
        # The neighbours of an atom lie in the cells 0, a₁ and a₁ + a₂ (120°) or 0, a₁ and a₂ (60°), up to a phase.
        other = first + second if angle > 90 else second
        amplitude = self.hopping * np.abs(1 + np.exp(1j * first) + np.exp(1j * other))
        split = np.sqrt(self.mass**2 + amplitude**2)
        shift = self.interlayer * np.cos(2 * np.pi * points[:, third])
        return np.stack([shift - split, shift + split], axis=1)[None]


def gap_on_meshes(structure: Structure, preset: str, model) -> float:
    """The gap of a model, two electrons a cell, on the meshes of a preset's settings."""
    asked = settings_for(preset, ["C"], structure, code=Code(), relax=False, magnetism="none")
    assert asked.gap_edges == BOTH_MESHES
    finer = k_points(asked.gap_kpoints, (False, False, False))
    return gap(2.0, None, model(k_points(asked.kpoints, asked.kpoint_shift)), lambda n_bands: model(finer))


def hexagonal(a: float = 2.46, c: float = 6.7) -> Structure:
    return Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(a, c), ["C", "C"], [(0, 0, 0.25), (1 / 3, 2 / 3, 0.25)]
    )


def trigonal() -> Structure:
    """CdI2 type: P-3m1."""
    return Structure.from_spacegroup(
        "P-3m1", Lattice.hexagonal(4.24, 6.84), ["Cd", "I"], [(0, 0, 0), (1 / 3, 2 / 3, 0.25)]
    )


def upright_in_b() -> Structure:
    """A monoclinic crystal on a hexagonal lattice, whose net lies in the plane of a and c."""
    lattice = Lattice.from_parameters(4.0, 5.5, 4.0, 90, 120, 90)
    return Structure(lattice, ["Na", "Cl", "Br"], [(0, 0, 0), (0.31, 0.0, 0.13), (0.71, 0.5, 0.42)])


def askew() -> Structure:
    """AlCl3 type: honeycomb layers, stacked askew in C2/m."""
    lattice = Lattice.monoclinic(5.914, 10.234, 6.148, 108.25)
    sites = [(0, 0.167, 0), (0.226, 0, 0.219), (0.247, 0.321, 0.219)]
    return Structure.from_spacegroup("C2/m", lattice, ["Al", "Cl", "Cl"], sites)


def rhombohedral() -> Structure:
    """Rhombohedral graphite, three layers a hexagonal cell."""
    return Structure.from_spacegroup("R-3m", Lattice.hexagonal(2.46, 10.04), ["C"], [(0, 0, 1 / 6)])


def cubic(name: str) -> Structure:
    sites = {"Fm-3m": [(0, 0, 0)], "Im-3m": [(0, 0, 0)], "Pm-3m": [(0, 0, 0)], "Fd-3m": [(0, 0, 0)]}[name]
    return Structure.from_spacegroup(name, Lattice.cubic(4.2), ["Si"], sites)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("mass", [0.0, 0.05, 0.85])
@pytest.mark.parametrize("make", [hexagonal, trigonal])
def test_a_honeycomb_reads_what_it_is(make, mass: float, preset: str) -> None:
    model = partial(Honeycomb(mass=mass).levels)
    assert gap_on_meshes(make(), preset, model) == pytest.approx(2 * mass, abs=1e-6)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("mass", [0.0, 0.85])
def test_a_honeycomb_reads_what_it_is_whichever_axis_is_upright(mass: float, preset: str) -> None:
    cell = symmetrised(upright_in_b())
    assert space_group(cell) < 143
    model = partial(Honeycomb(mass=mass, plane=(0, 2)).levels, angle=cell.lattice.beta)
    assert gap_on_meshes(upright_in_b(), preset, model) == pytest.approx(2 * mass, abs=1e-6)


@pytest.mark.parametrize("mass", [0.0, 0.85])
def test_a_honeycomb_of_layers_stacked_askew_reads_what_it_is(mass: float) -> None:
    cell = symmetrised(askew())
    assert len(cell) == 8
    assert abs(cell.lattice.alpha - 90) > 5
    model = partial(Honeycomb(mass=mass).levels, angle=cell.lattice.gamma)
    assert gap_on_meshes(askew(), "quick", model) == pytest.approx(2 * mass, abs=1e-6)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("mass", [0.0, 0.85])
def test_a_rhombohedral_honeycomb_reads_what_it_is(mass: float, preset: str) -> None:
    cell = symmetrised(rhombohedral())
    assert len(cell) == 2
    assert np.ptp(cell.lattice.abc) < 1e-6

    def model(points: Bands) -> Bands:
        # The layer is spanned by a₁ - a₂ and a₂ - a₃.
        in_layer = points @ np.array([[1, 0, 0], [-1, 1, 0], [0, -1, 0]])
        return Honeycomb(mass=mass).levels(in_layer)

    assert gap_on_meshes(rhombohedral(), preset, model) == pytest.approx(2 * mass, abs=1e-6)


@pytest.mark.parametrize(("top", "bottom"), [("M", "K"), ("K", "M"), ("Γ", "K"), ("M", "Γ"), ("L", "H")])
def test_edges_at_any_point_of_high_symmetry_of_a_hexagonal_cell_are_met(top: str, bottom: str) -> None:
    places = {"Γ": (0, 0, 0), "M": (0.5, 0, 0), "K": (1 / 3, 1 / 3, 0), "L": (0.5, 0, 0.5), "H": (1 / 3, 1 / 3, 0.5)}

    def nearness(points: Bands, name: str) -> Bands:
        # Invariant under the lattice: 1 at the place, less everywhere else.
        return np.cos(np.pi * (points - places[name])).prod(axis=1) ** 2

    def model(points: Bands) -> Bands:
        return np.stack([-3 + nearness(points, top), 3 - nearness(points, bottom)], axis=1)[None]

    assert gap_on_meshes(hexagonal(), "quick", model) == pytest.approx(4.0, abs=1e-6)


@pytest.mark.parametrize("a", [3.0, 12.5, 19.0])
def test_the_gap_mesh_of_a_hexagonal_cell_holds_k_and_m_however_large_it_is(a: float) -> None:
    divisions = gap_mesh(symmetrised(hexagonal(a, 2 * a)), 2)
    assert divisions == (6, 6, 2 if a < 12 else 1)
    points = k_points(divisions, (False, False, False))
    for wanted in ((0, 0, 0), (0.5, 0, 0), (1 / 3, 1 / 3, 0)):
        assert np.isclose(points, wanted, atol=1e-9).all(axis=1).any()


@pytest.mark.parametrize("name", ["Fm-3m", "Im-3m", "Pm-3m", "Fd-3m"])
def test_a_cubic_cell_keeps_its_mesh_though_its_primitive_one_has_three_equal_axes(name: str) -> None:
    assert gap_mesh(symmetrised(cubic(name)), 2) == (2, 2, 2)


def test_what_nearly_is_close_packed_has_no_net_of_its_own() -> None:
    stretched = Structure.from_spacegroup("I4/mmm", Lattice.tetragonal(3.0, 4.25), ["Al"], [(0, 0, 0)])
    assert gap_mesh(symmetrised(stretched), 2) == (2, 2, 2)


def test_a_net_of_many_divisions_keeps_a_multiple_of_six() -> None:
    assert gap_mesh(symmetrised(hexagonal()), 7) == (12, 12, 7)


def levels(*points: list[float]) -> Bands:
    return np.array([points])


@pytest.mark.parametrize(
    ("coarse", "fine", "expected"),
    [
        (levels([0, 5], [1, 4]), levels([0, 3], [0.5, 6]), 2.0),  # the valence edge lies on the density's mesh only
        (levels([0, 2], [0, 4]), levels([1, 3], [0.5, 6]), 1.0),  # the conduction edge does
        (levels([1, 2], [0, 4]), levels([0, 3], [0.5, 6]), 1.0),  # both do
        (levels([0, 5]), levels([1, 3]), 2.0),  # neither does
        (levels([0, 5]), levels([4, 4]), 0.0),  # bands touch at one point
        (levels([0, 5], [4.9, 6]), levels([0, 4.8]), 0.0),  # bands of different points overlap
    ],
)
def test_each_edge_is_the_outermost_of_both_meshes(coarse: Bands, fine: Bands, expected: float) -> None:
    assert gap(2.0, None, coarse, lambda n_bands: fine) == pytest.approx(expected)


def test_bands_that_overlap_ask_for_no_more() -> None:
    def more(n_bands: int) -> Bands:
        raise AssertionError("asked for levels of a metal")

    assert gap(2.0, None, levels([0, 3], [4, 6]), more) == 0.0
    assert gap(3.0, None, levels([0, 5]), more) == 0.0  # an odd electron
    assert gap(4.0, 0.5, [[[0, 1, 5]], [[0, 1, 5]]], more) == 0.0  # a moment that fills no band


def test_spins_have_edges_of_their_own_and_the_gap_is_between_any() -> None:
    coarse = [[[0, 1, 5]], [[0.5, 4, 6]]]  # two up, one down
    fine = [[[0, 2, 5]], [[0.5, 4.5, 6]]]
    asked: list[int] = []

    def more(n_bands: int):
        asked.append(n_bands)
        return fine

    assert gap(3.0, 1.0, coarse, more) == pytest.approx(2.0)  # from 2 (up, finer mesh) to 4 (down, the other)
    assert gap(3.0, -1.0, coarse[::-1], lambda n_bands: fine[::-1]) == pytest.approx(2.0)
    assert min(asked) > 2  # an empty band above those of the fuller spin
    assert gap(1.0, 1.0, [[[0, 4]], [[3, 5]]], lambda n_bands: [[[1, 4]], [[3, 5]]]) == pytest.approx(2.0)


def test_empty_levels_that_have_not_converged_are_asked_for_again_where_they_might_count() -> None:
    asked: list[tuple[int, list[int]]] = []

    def settled(n_bands: int, places: list[int]) -> Bands:
        asked.append((n_bands, places))
        return levels(*[[0, 3.0] for _ in places])

    def counted(bottom: float, fine: Bands) -> float:
        return gap(2.0, None, levels([0, 9], [0, bottom], [0, 5]), lambda n_bands: fine, settled)

    assert counted(3.15, levels([1, 3.1])) == pytest.approx(2.0)  # the density's edge is the lower one after all
    assert asked == [(2, [1])]  # of its points only the one that may hold it
    assert counted(3.5, levels([1, 3.1])) == pytest.approx(2.1)  # it lies far above the other
    assert counted(3.1, levels([0, 3], [3.05, 6])) == 0.0  # nothing is left to be narrower
    assert len(asked) == 1


@given(seed=st.integers(0, 2**31), n_spins=st.sampled_from([1, 2]))
@settings(max_examples=200, deadline=None)
def test_the_gap_is_that_of_all_points_together(seed: int, n_spins: int) -> None:
    rng = np.random.default_rng(seed)
    n_bands = 5
    up, down = rng.integers(1, n_bands, size=2)
    counts = [up, down][:n_spins]
    spread = rng.uniform(0.1, 3.0)

    def bands(n_points: int) -> Bands:
        made = np.arange(n_bands) * 2.0 + spread * rng.uniform(-1, 1, size=(n_spins, n_points, n_bands))
        return rng.permuted(made, axis=2)  # codes need not sort them

    coarse, fine = bands(rng.integers(1, 5)), bands(rng.integers(1, 8))
    both = np.sort(np.concatenate([coarse, fine], axis=1), axis=2)
    top = max(both[spin, :, count - 1].max() for spin, count in enumerate(counts))
    bottom = min(both[spin, :, count].min() for spin, count in enumerate(counts))
    electrons, moment = (float(up + down), float(up - down)) if n_spins == 2 else (2.0 * up, None)
    assert gap(electrons, moment, coarse, lambda n: fine) == pytest.approx(max(0.0, bottom - top))
    # As an SCF cycle leaves the empty ones: too high.
    unsettled = np.sort(coarse, axis=2)
    for spin, count in enumerate(counts):
        unsettled[spin, :, count:] += UNSETTLED * rng.uniform(0, 1, size=unsettled[spin, :, count:].shape)
    found = gap(electrons, moment, unsettled, lambda n: fine, lambda n, places: coarse[:, places])
    assert found == pytest.approx(max(0.0, bottom - top))


def test_gaps_of_two_meshes_are_another_question_and_the_one_of_before_is_known() -> None:
    for structure, divisions in (
        (hexagonal(), 2),
        (hexagonal(12.5, 20.0), 1),
        (rhombohedral(), 2),
        (cubic("Fd-3m"), 2),
    ):
        now = settings_for("quick", ["C"], structure, code=Code(), geometry="abc")
        before = asked_before(now, structure)
        assert before is not None
        assert before.gap_kpoints == (divisions,) * 3
        assert before.settings_hash != now.settings_hash
        assert "gap_edges" not in before.content()
        assert asked_before(before, structure) is None


def test_symmetry_is_asked_silently(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    nickel_oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.17), ["Ni", "O"], [(0, 0, 0), (0.5, 0.5, 0.5)])
    settings = settings_for("quick", ["Ni", "O"], nickel_oxide, code=Code())
    assert settings.magnetic_orders  # in a supercell that has less symmetry than its crystal
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
