"""Energies above the hull of beliefs about decomposition energies, against Monte Carlo of the hull itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from materials.records import Target
from models.learning.batch_selection import select_batch
from models.learning.fit import learn
from models.learning.objectives import acquire, aim_at
from models.learning.polymorphs import ABOVE, DECOMPOSITION, Beside, Wished, against_all, wished
from models.learning.rivals import Rivals
from models.learning.surrogate import Posterior, joint
from models.learning.target_probability import score_pool
from tests.unit.models.learning.made_beliefs import belief

NEAR_HULL = Target(property=ABOVE, goal="at_most", value=0.05)
DRAWS = 200_000


def asked(posterior: Posterior, groups: list[int], **changes) -> Wished:
    """What is wished of the energy above the hull; independent of each other unless features say otherwise."""
    n = len(posterior.mean)
    told = {
        "known": {DECOMPOSITION: np.full(n, np.nan), ABOVE: np.full(n, np.nan)},
        "features": 1e6 * np.arange(n, dtype=float)[:, None],
        "groups": np.array(groups),
        "priors": {},
        "computed": np.zeros(n, dtype=bool),
    } | changes
    known = told.pop("known")
    return wished({DECOMPOSITION: posterior}, [NEAR_HULL], known, **told)


def scores(posterior: Posterior, groups: list[int], target: Target = NEAR_HULL, **changes) -> np.ndarray:
    found = asked(posterior, groups, **changes)
    return score_pool(found.posteriors, [target], found.known)


def known(decomposition: list[float], above: list[float]) -> dict[str, np.ndarray]:
    return {DECOMPOSITION: np.array(decomposition), ABOVE: np.array(above)}


@pytest.mark.parametrize("seed", range(30))
def test_odds_beside_rivals_are_those_of_monte_carlo(seed: int) -> None:
    random = np.random.default_rng(seed)
    k, correlation, most = int(random.integers(1, 8)), random.uniform(0, 0.95), random.choice([-0.02, 0.0, 0.05, 0.1])
    mean, std = random.normal(0, 0.05), random.uniform(0.01, 0.1)
    gaps, stds = random.normal(0.03, 0.08, k), random.uniform(0.005, 0.1, k)
    rivals = Rivals(
        gaps=np.append(gaps, np.inf)[None],
        stds=np.append(stds, 1.0)[None],
        correlations=np.full((1, k + 1), correlation),
        alike=np.array([correlation / (1 + correlation)]),
    )
    (found,) = rivals.odds(np.array([mean]), np.array([std]), float(most))
    shared, own = random.normal(size=(DRAWS, 1)), random.normal(size=(DRAWS, k + 1))
    drawn = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    energy, others = mean + std * drawn[:, 0], mean + gaps + stds * drawn[:, 1:]
    met = (energy <= most) & (energy - others.min(axis=1) <= most)
    assert found == pytest.approx(np.mean(met), abs=0.006)


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_hulls_that_are_drawn(seed: int) -> None:
    """A process with answers, several compositions of one to five phases, some known: E = max(0, D, D - min D')."""
    random = np.random.default_rng(seed)
    n = 24
    groups = np.sort(random.integers(0, 9, n))
    features = random.normal(size=(n, 3)) + 2.0 * random.normal(size=(9, 3))[groups]
    answers = np.full(n, np.nan)
    answered = random.choice(n, 6, replace=False)
    answers[answered] = random.normal(-0.05, 0.1, 6)
    prior = random.normal(-0.02, 0.08, n)
    (posterior,) = learn(
        features,
        [3],
        [DECOMPOSITION],
        known={DECOMPOSITION: answers},
        priors={DECOMPOSITION: prior},
        audited=[],
        seed=0,
    ).values()
    covariance, noise = joint(posterior, features, np.arange(n))
    energies = random.multivariate_normal(posterior.mean, covariance + np.diag(noise), DRAWS // 10)
    energies[:, answered] = answers[answered]
    told = {DECOMPOSITION: answers, ABOVE: np.maximum(answers, 0.0)}
    for target in (NEAR_HULL, Target(property=ABOVE, goal="near", value=0.0, tolerance=0.02)):
        score = scores(posterior, groups.tolist(), target, known=told, features=features)
        for row in np.setdiff1d(np.arange(n), answered):
            others = energies[:, (groups == groups[row]) & (np.arange(n) != row)]
            above = energies[:, row] - np.minimum(others.min(axis=1, initial=0.0), 0.0)
            limit = target.value + (target.tolerance or 0.0)
            assert score[row] == pytest.approx(np.mean(np.maximum(above, 0) <= limit), abs=0.05)


def test_a_polymorph_of_what_is_known_to_lie_lower_is_no_hit() -> None:
    posterior = belief([-0.3, -0.2, -0.2], [0.02] * 3)
    told = known([-0.3, np.nan, np.nan], [0.0, np.nan, np.nan])
    score = scores(posterior, [0, 0, 1], known=told)
    assert score[0] == 1
    assert score[1] == pytest.approx(norm.cdf(-2.5), abs=0.002)  # 100 meV above it, and 50 are allowed
    assert score[1] < 0.01
    assert score[2] > 0.999  # of another composition
    # As the decomposition energy it would be one.
    target = Target(property=DECOMPOSITION, goal="at_most", value=0.05)
    assert score_pool({DECOMPOSITION: posterior}, [target], told)[1] > 0.999


def test_what_dft_has_computed_as_a_competing_phase_counts_through_the_hull_of_another() -> None:
    # The known one lies 80 meV above the hull, and 200 below other compositions: a phase at -0.28 must be there.
    told = known([-0.2, np.nan], [0.08, np.nan])
    found = asked(belief([-0.2, -0.22], [0.01, 0.01]), [0, 0], known=told)
    assert found.known[ABOVE] == pytest.approx([0.08, np.nan], nan_ok=True)
    assert found.posteriors[ABOVE].mean[1] == pytest.approx(0.06)
    assert score_pool(found.posteriors, [NEAR_HULL], found.known) == pytest.approx([0, norm.cdf(-1)], abs=1e-6)


def test_what_is_validated_counts_by_what_is_known_and_others_by_what_is_believed() -> None:
    posterior = belief([0.0, -0.2], [0.01, 0.01])
    told = known([0.0, np.nan], [0.0, np.nan])
    score = scores(posterior, [0, 0], known=told)
    assert score[0] == 1  # though the other will most likely turn out 200 meV lower
    assert score[1] > 0.999
    assert scores(posterior, [0, 0])[0] < 1e-6
    answers = known([0.0, -0.2], [0.2, 0.0])
    assert scores(posterior, [0, 0], known=answers).tolist() == [0, 1]


def test_of_two_that_are_believed_alike_one_is_on_the_hull() -> None:
    on_hull = Target(property=ABOVE, goal="at_most", value=0.0)
    alone, *pair = scores(belief([-1.0] * 3, [0.05] * 3), [0, 1, 1], on_hull)
    assert alone == pytest.approx(1.0)
    assert pair == pytest.approx([0.5, 0.5], abs=0.002)
    ten = scores(belief([-1.0] * 10, [0.05] * 10), [0] * 10, on_hull, features=np.zeros((10, 1)))
    assert ten == pytest.approx(np.full(10, 0.1), abs=0.01)  # however much they have in common


def test_competing_phases_count_as_the_potential_has_them_until_they_are_computed() -> None:
    posterior, prior = replace(belief([-0.3], [0.02]), slope=0.5), {DECOMPOSITION: np.array([-0.4])}
    lower = Beside(groups=np.array([0, 7]), priors=np.array([-0.6, -9.0]), computed=np.array([False, False]))
    assert scores(posterior, [0], priors=prior, beside=lower)[0] < 0.02  # 100 meV below
    higher = Beside(groups=np.array([0]), priors=np.array([-0.2]), computed=np.array([False]))
    assert scores(posterior, [0], priors=prior, beside=higher)[0] > 0.999
    # Believed 50 meV below it: half of the odds.
    edge = Beside(groups=np.array([0]), priors=np.array([-0.5]), computed=np.array([False]))
    assert scores(posterior, [0], priors=prior, beside=edge)[0] == pytest.approx(0.5, abs=0.01)
    twins = replace(belief([-0.3, -0.3], [0.02, 0.02]), slope=0.5)
    two = {"priors": {DECOMPOSITION: np.array([-0.4, -0.4])}, "known": known([-0.3, np.nan], [0.0, np.nan])}
    done = Beside(groups=np.array([0]), priors=np.array([-0.6]), computed=np.array([True]))
    assert scores(twins, [0, 0], **two, beside=done)[1] > 0.98  # the hull of the first holds it


def test_bounds_from_below_and_windows_count_what_rivals_push_up() -> None:
    posterior = belief([-0.2, -0.3], [0.001, 0.001])
    lifted = Target(property=ABOVE, goal="near", value=0.1, tolerance=0.03)
    assert scores(posterior, [0, 0], lifted) == pytest.approx([1, 0], abs=1e-3)
    assert scores(posterior, [0, 0], Target(property=ABOVE, goal="at_least", value=0.05)) == pytest.approx(
        [1, 0], abs=1e-3
    )
    assert scores(posterior, [0, 0], Target(property=ABOVE, goal="at_least", value=0.0)) == pytest.approx([1, 1])


def test_the_next_pick_is_not_the_higher_polymorph() -> None:
    features = np.array([[0.0], [0.1], [5.0], [9.0]])
    posterior = belief([-0.3, -0.18, 0.02, 0.3], [0.02] * 4)
    told = known([-0.3, np.nan, np.nan, np.nan], [0.0, np.nan, np.nan, np.nan])
    found = asked(posterior, [0, 0, 1, 2], known=told, features=features)
    (pick,) = select_batch(
        features=features,
        posteriors=found.posteriors,
        targets=[NEAR_HULL],
        known=found.known,
        available=np.array([False, True, True, True]),
        size=1,
        seed=0,
        round=2,
        groups=np.array([0, 0, 1, 2]),
    )
    assert pick.index == 2
    for goal in ("minimize", "near"):
        target = Target(property=ABOVE, goal=goal, value=0.0 if goal == "near" else None)
        values = acquire(found.posteriors, [target], aim_at(found.posteriors, [target], found.known))
        assert values[2] > values[1]


def test_with_a_gap_the_odds_are_multiplied() -> None:
    posterior = belief([-0.2, -0.2], [0.05, 0.05])
    found = asked(posterior, [0, 0])
    gap = Target(property="band_gap", goal="at_least", value=1.0)
    both = {**found.posteriors, "band_gap": belief([1.0, 2.0], [0.5, 0.5])}
    expected = score_pool(found.posteriors, [NEAR_HULL], {}) * [0.5, norm.cdf(2)]
    assert score_pool(both, [NEAR_HULL, gap], {}) == pytest.approx(expected)


def test_by_the_potential_alone_rows_of_one_composition_count_against_each_other() -> None:
    found = against_all(
        np.array([-0.3, -0.2, 0.1, -0.2, np.nan]), np.array([0.0, 0.0, 0.1, 0.3, np.nan]), np.array([0, 0, 1, 2, 2])
    )
    assert found == pytest.approx([-0.1, 0.1, 0.1, 0.3, np.nan], nan_ok=True)
