import numpy as np
import pytest
from scipy.stats import norm

from materials.errors import InputError
from materials.records import Target
from models.gaussian_process import Kernel
from models.scoring import acquire, best_value, score_pool
from models.surrogate import Posterior

STABLE = Target(property="energy", goal="at_most", value=0.05)
GAP = Target(property="gap", goal="near", value=1.3, tolerance=0.3)


def belief(mean, std):
    return Posterior(
        mean=np.array(mean, dtype=float),
        std=np.array(std, dtype=float),
        version="made up",
        kernel=Kernel(amplitude=1.0, length_scale=1.0, noise=0.1),
        observed=np.empty(0, dtype=np.int64),
        slope=1.0,
    )


POSTERIORS = {"energy": belief([0.0, 0.1, 0.0], [0.1, 0.1, 0.05]), "gap": belief([1.3, 1.3, 3.0], [0.5, 0.5, 0.5])}
UNKNOWN = {"energy": np.full(3, np.nan), "gap": np.full(3, np.nan)}


def test_the_score_is_the_product_of_the_odds():
    expected = norm.cdf(0.5) * (norm.cdf(0.6) - norm.cdf(-0.6))
    assert score_pool(POSTERIORS, [STABLE, GAP], UNKNOWN)[0] == pytest.approx(expected)
    assert score_pool(POSTERIORS, [STABLE, GAP], {})[0] == pytest.approx(expected)


def test_an_answer_counts_nought_or_one():
    known = {"energy": np.array([0.05, 0.06, np.nan]), "gap": np.array([1.6, 1.3, np.nan])}
    score = score_pool(POSTERIORS, [STABLE, GAP], known)
    assert score[0] == 1  # at the very edge of both
    assert score[1] == 0
    assert 0 < score[2] < 1
    half = score_pool(POSTERIORS, [STABLE, GAP], {"energy": known["energy"]})
    assert half[0] == pytest.approx(norm.cdf(0.6) - norm.cdf(-0.6))


def test_at_least_and_maximize_are_the_mirror_of_at_most_and_minimize():
    mirrored = {"energy": belief(-POSTERIORS["energy"].mean, POSTERIORS["energy"].std)}
    for one, other in (
        (STABLE, Target(property="energy", goal="at_least", value=-0.05)),
        (Target(property="energy", goal="minimize"), Target(property="energy", goal="maximize")),
    ):
        for answers in ([np.nan] * 3, [0.2, np.nan, np.nan]):
            known, against = {"energy": np.array(answers)}, {"energy": -np.array(answers)}
            np.testing.assert_allclose(
                score_pool(POSTERIORS, [one], known), score_pool(mirrored, [other], against), atol=1e-12
            )
            np.testing.assert_allclose(
                acquire(POSTERIORS, [one], best_value([one], known))[0],
                acquire(mirrored, [other], best_value([other], against))[0],
            )


def test_targets_that_only_order_leave_the_score_to_the_thresholds():
    lowest = Target(property="energy", goal="minimize")
    both = score_pool(POSTERIORS, [GAP, lowest], UNKNOWN)
    np.testing.assert_array_equal(both, score_pool(POSTERIORS, [GAP], UNKNOWN))
    known = {"energy": np.array([0.0, np.nan, np.nan])}
    alone = score_pool(POSTERIORS, [lowest], known)
    np.testing.assert_allclose(alone, [1, norm.cdf(-1), 0.5])


def test_the_best_is_the_best_of_those_that_meet_the_thresholds():
    lowest = Target(property="energy", goal="minimize")
    known = {"energy": np.array([-3.0, -1.0, np.nan]), "gap": np.array([0.0, 1.2, 1.3])}
    assert best_value([lowest], known) == {"energy": -3.0}
    assert best_value([lowest, GAP], known) == {"energy": -1.0}
    assert best_value([lowest, Target(property="gap", goal="at_least", value=9.0)], known) == {}
    assert best_value([lowest, GAP], {"energy": known["energy"]}) == {}
    assert best_value([Target(property="gap", goal="near", value=1.0)], known) == {"gap": 1.2}


def test_an_objective_under_a_threshold_is_weighed_by_the_odds():
    lowest = Target(property="energy", goal="minimize")
    values, rule = acquire(POSTERIORS, [lowest, GAP], {})
    assert rule == "probability_of_all_targets"  # none meets it yet: first find one that does
    values, rule = acquire(POSTERIORS, [lowest, GAP], {"energy": 0.1})
    assert rule == "expected_improvement"
    assert values[0] > values[1] > 0
    assert values[0] > values[2]


def test_wishes_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="none given"):
        score_pool(POSTERIORS, [], UNKNOWN)
    with pytest.raises(InputError, match="there is: energy, gap"):
        score_pool(POSTERIORS, [Target(property="colour", goal="minimize")], UNKNOWN)
    with pytest.raises(InputError, match="needs a value"):
        acquire(POSTERIORS, [Target(property="gap", goal="near")], {})
