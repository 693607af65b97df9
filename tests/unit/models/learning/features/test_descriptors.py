import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure

from materials.errors import InputError
from models.learning.features.descriptors import column_groups, describe, feature_names


def rocksalt(cation="Na", anion="Cl", a=5.64):
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def half_heusler(a, b, c):
    cubic = Lattice.cubic(6.0)
    return Structure.from_spacegroup(
        "F-43m", cubic, [a, b, c], [[0, 0, 0], [0.5] * 3, [0.25] * 3]
    ).get_primitive_structure()


def named(structure):
    return dict(zip(feature_names(), describe([structure])[0], strict=True))


def test_known_crystals_have_known_numbers():
    salt = named(rocksalt())
    assert salt["mean_neighbour_distance"] == pytest.approx(2.82, rel=1e-3)
    assert salt["mean_effective_coordination"] == pytest.approx(6, rel=0.02)
    assert salt["mean_bond_difference_electronegativity"] == pytest.approx(Element("Cl").X - Element("Na").X, rel=0.05)
    assert salt["mean_electronegativity"] == pytest.approx((Element("Cl").X + Element("Na").X) / 2)
    assert salt["min_group"] == 1
    assert salt["max_group"] == 17
    assert salt["volume_per_atom"] == pytest.approx(5.64**3 / 8)
    assert salt["mixing_entropy"] == pytest.approx(np.log(2))
    assert salt["mean_valence_electrons"] == 4
    caesium = named(Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3]))
    # By hand, from eight neighbours at 1 and six at 2 / sqrt(3).
    near, far = 1.0, 2 / 3**0.5
    w = 6 * np.exp(1 - far**6)
    average = (8 * near + w * far) / (8 + w)
    effective = 8 * np.exp(1 - (near / average) ** 6) + 6 * np.exp(1 - (far / average) ** 6)
    assert caesium["mean_effective_coordination"] == pytest.approx(effective, rel=1e-3)
    carbon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(3.567), ["C"], [[0, 0, 0]])
    assert named(carbon)["mean_effective_coordination"] == pytest.approx(4, rel=0.01)
    assert named(carbon)["std_neighbour_distance"] == pytest.approx(0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    matrix=st.sampled_from([[2, 1, 1], [[1, 1, 0], [0, 1, 0], [0, 0, 2]], [[0, 1, 0], [0, 0, 1], [1, 0, 0]]]),
)
def test_cell_order_origin_and_orientation_do_not_matter(seed, matrix):
    rng = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(4, 4.6, 5.3, 82, 95, 104)
    crystal = Structure(lattice, ["K", "Zn", "Sb", "Sb"], rng.random((4, 3)))
    other = crystal.copy()
    other.make_supercell(matrix)
    other.translate_sites(range(len(other)), rng.random(3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shuffled = rng.permutation(len(other))
    other = Structure(
        Lattice(other.lattice.matrix @ turn),
        [other[int(i)].species for i in shuffled],
        other.frac_coords[shuffled],
    )
    np.testing.assert_allclose(*describe([crystal, other]), rtol=1e-7, atol=1e-7)


def test_arrangements_of_one_composition_differ():
    one, two = describe([half_heusler("Li", "Mg", "P"), half_heusler("Mg", "P", "Li")])
    assert np.abs(one - two).max() > 0.05


def test_company_does_not_matter():
    crystals = [rocksalt(), half_heusler("Li", "Zn", "As"), rocksalt("Mg", "O", 4.21)]
    np.testing.assert_array_equal(describe(crystals)[1], describe(crystals[1:2])[0])


def test_every_element_and_lonely_atoms_are_described():
    crystals = [Structure(Lattice.cubic(4), [Element.from_Z(z)], [[0, 0, 0]]) for z in range(1, 104)]
    crystals.append(Structure(Lattice.cubic(30), ["Xe"], [[0, 0, 0]]))
    crystals.append(Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0]]))
    features = describe(crystals)
    assert features.shape == (105, len(feature_names()))
    assert np.isfinite(features).all()


def test_each_column_is_of_one_group():
    names = feature_names(5)
    groups = column_groups(len(names))
    assert sorted(column for columns in groups.values() for column in columns) == list(range(len(names)))
    told = {group: {names[column] for column in columns} for group, columns in groups.items()}
    assert told["latent vector"] == {f"latent_{number}" for number in range(5)}
    assert {"mean_electronegativity", "max_row", "n_elements"} <= told["composition"]
    assert {"mean_effective_coordination", "packing", "coordination_of_electronegativity"} <= told["structure"]
    assert column_groups(len(feature_names()))["latent vector"] == []


def test_what_knows_the_composition_only_does_not_know_the_structure():
    alike = describe([rocksalt(), rocksalt(a=6.2)])
    groups = column_groups(alike.shape[1])
    differs = alike[0] != alike[1]
    assert not differs[[*groups["closed shells"], *groups["composition"]]].any()
    assert differs[groups["structure"]].any()


def test_latents_are_appended_and_their_gaps_filled():
    crystals = [rocksalt(), rocksalt("Mg", "O", 4.21)]
    latents = np.array([[1.0, np.nan, np.nan], [2.0, 5.0, np.nan]])
    features = describe(crystals, latents)
    assert features.shape[1] == len(feature_names(3))
    np.testing.assert_array_equal(features[:, -3:], [[1, 5, 0], [2, 5, 0]])
    assert describe([]).shape == (0, len(feature_names()))
    with pytest.raises(InputError, match="one row for each structure"):
        describe(crystals, latents[:1])


def test_what_cannot_be_described_is_named():
    with pytest.raises(InputError, match="disordered"):
        describe([Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])])
    with pytest.raises(InputError, match="lawrencium"):
        describe([Structure(Lattice.cubic(4), ["Rf"], [[0, 0, 0]])])
