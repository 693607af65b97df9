import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from models.learning.applicability_domain import cautions, nearest_answered
from models.learning.hyperparameters import FEWEST_TO_FIT
from tests.unit.models.learning.made_beliefs import belief

ENERGY = "decomposition_energy_per_atom"


def posterior(means):
    return belief(means, np.ones(len(means)))


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40), k=st.integers(1, 6), count=st.integers(1, 4))
def test_neighbours_are_those_of_a_tree(seed, n, k, count):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, k))
    answered = rng.permutation(n)[: rng.integers(1, n)]
    rows = np.setdiff1d(np.arange(n), answered)
    count = min(count, len(answered))
    distances, _ = cKDTree(features[answered]).query(features[rows], k=list(range(1, count + 1)))
    found = nearest_answered(features, rows, answered, count)
    assert np.array([[d for _, d in near] for near in found]) == pytest.approx(
        distances / np.median(pdist(features)), abs=2e-4
    )
    assert all(i in answered for near in found for i, _ in near)


def test_an_answered_one_is_not_its_own_neighbour_and_ties_go_to_the_lower_row():
    features = np.array([[0.0], [1.0], [-1.0], [0.0]])
    found = nearest_answered(features, np.array([0]), np.array([2, 1, 0]), 3)
    assert [row for row, _ in found[0]] == [1, 2]


def test_a_pool_without_features_or_answers_has_no_distances_to_speak_of():
    assert nearest_answered(np.empty((2, 0)), np.array([0]), np.array([1]), 3) == [[(1, 0.0)]]
    assert nearest_answered(np.ones((2, 3)), np.array([0]), np.array([], dtype=int), 3) == [[]]


def told(n_answered, *, at=0.5, mean=0.05, prior=0.05, elements=frozenset({"Li", "P"})):
    """What is said of one more candidate, beside some answered ones on a line."""
    place = np.linspace(0, 1, n_answered)
    known = np.append(np.linspace(0, 0.1, n_answered), np.nan)
    return cautions(
        np.array([n_answered]),
        features=np.append(place, at)[:, None],
        elements={row: frozenset({"Li", "P"}) for row in range(n_answered)} | {n_answered: elements},
        posteriors={"energy_above_hull": posterior(np.append(place, mean))},
        priors={ENERGY: np.append(known[:-1], prior)},
        known={"energy_above_hull": known},
    )[0]


def test_one_like_the_others_is_trusted():
    assert told(12) == []


def test_nothing_is_said_before_dft_has_spoken():
    assert told(0, elements=frozenset({"Cs"})) == []


@pytest.mark.parametrize("n_answered", [1, 12])
def test_an_element_that_nobody_held_is_named(n_answered):
    assert told(n_answered, elements=frozenset({"Li", "Cs", "Bi"})) == [
        "holds Bi, Cs, which no computed candidate does"
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": -0.2}, "energy above hull predicted -0.200 eV/atom, outside 0.000 to 0.100 of those computed"),
        ({"mean": 0.2}, "energy above hull predicted 0.200 eV/atom, outside 0.000 to 0.100 of those computed"),
        ({"prior": 0.4}, "energy above hull by the potential 0.400 eV/atom, outside 0.000 to 0.100 of those computed"),
        ({"at": 3.0}, "unlike all that was computed"),
    ],
)
def test_what_lies_outside_is_said_once_there_are_answers_enough(change, words):
    (caution,) = told(12, **change)
    assert caution.startswith(words)
    assert told(FEWEST_TO_FIT - 1, **change) == []


def test_the_ends_of_the_range_are_inside():
    assert told(12, mean=0.1, prior=0.0, at=1 + 1 / 11) == []


@pytest.mark.parametrize(("mean", "said"), [(-1.3, []), (1.2, ["1.200 eV, outside 0.000 to 0.900"])])
def test_a_metal_lies_inside_where_metals_were_seen(mean, said):
    known = np.append(np.linspace(0, 0.9, 12), np.nan)
    found = cautions(
        np.array([12]),
        features=np.linspace(0, 1, 13)[[*range(0, 12, 2), *range(1, 12, 2), 12]][:, None] * 0.5,
        elements={row: frozenset({"Li", "P"}) for row in range(13)},
        posteriors={"band_gap": belief(np.append(known[:-1], mean), np.ones(13), floor=0.0)},
        priors={},
        known={"band_gap": known},
    )[0]
    found = [words for words in found if words.startswith("band gap predicted")]
    assert found == [f"band gap predicted {words} of those computed" for words in said]


def test_one_answered_phase_without_a_value_by_the_potential_is_left_out():
    known = np.append(np.linspace(0, 0.1, 12), np.nan)
    prior = np.append(known[:-1], 0.05)
    prior[3] = np.nan
    asked = {
        "features": np.append(np.linspace(0, 1, 12), 0.5)[:, None],
        "elements": {row: frozenset({"Li", "P"}) for row in range(13)},
        "posteriors": {ENERGY: posterior(np.append(known[:-1], 0.05))},
        "known": {ENERGY: known},
    }
    assert cautions(np.array([12]), priors={ENERGY: prior}, **asked) == [[]]
    prior[12] = np.nan
    assert cautions(np.array([12]), priors={ENERGY: prior}, **asked) == [[]]
