from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from materials.records import Target
from models.learning.surrogate import predict
from models.learning.target_probability import DOUBT, correlations, odds_together, score_pool
from tests.unit.models.learning.made_beliefs import belief


@given(rho=st.floats(-0.95, 0.95), seed=st.integers(0, 100))
def test_odds_of_two_are_those_of_scipy(rho, seed):
    rng = np.random.default_rng(seed)
    low = rng.normal(-1, 1, (2, 3))
    high = low + rng.uniform(0.1, 3, (2, 3))
    covariance = np.array([[1, rho], [rho, 1]])
    theirs = [multivariate_normal.cdf(high[:, i], np.zeros(2), covariance, lower_limit=low[:, i]) for i in range(3)]
    np.testing.assert_allclose(odds_together(low, high, covariance), theirs, atol=2e-3)


def test_bounds_may_be_endless_and_more_than_two():
    low = np.array([[-np.inf, 0.5], [-np.inf, -0.3], [-1.0, -np.inf]])
    high = np.array([[0.2, np.inf], [1.0, 0.4], [np.inf, 0.8]])
    covariance = np.array([[1, 0.5, -0.2], [0.5, 1, 0.1], [-0.2, 0.1, 1]])
    drawn = np.random.default_rng(0).multivariate_normal(np.zeros(3), covariance, 400_000).T
    inside = [np.mean(np.all((drawn > low[:, [i]]) & (drawn < high[:, [i]]), axis=0)) for i in range(2)]
    np.testing.assert_allclose(odds_together(low, high, covariance), inside, atol=0.006)
    np.testing.assert_allclose(odds_together(low[:1], high[:1], np.eye(1)), [0.57926, 0.30854], atol=1e-5)


def test_what_both_miss_together_is_correlated_and_little_evidence_is_not_much():
    rng = np.random.default_rng(1)
    one = predict(np.zeros((300, 1)), observed=np.arange(200), answers=np.zeros(200))
    shared = rng.normal(size=200)
    a = replace(one, misfits=shared)
    b = replace(one, misfits=0.6 * shared + 0.8 * rng.normal(size=200), observed=np.arange(200))
    assert correlations([a, b])[0, 1] == pytest.approx(0.6 * 200 / (200 + DOUBT), abs=0.1)
    few = replace(b, misfits=np.where(np.arange(200) < 3, shared, np.nan))
    assert 0 < correlations([a, few])[0, 1] < 0.4
    strangers = replace(b, observed=np.arange(100, 300))
    assert abs(correlations([a, strangers])[0, 1]) < 0.3
    three = correlations([a, replace(a, misfits=-shared), replace(a, misfits=shared)])
    assert np.linalg.eigvalsh(three).min() > 0


def test_wishes_that_come_true_together_are_likelier():
    energy, gap = belief([0.0, 2.0], [1.0, 1.0]), belief([1.0, 1.0], [1.0, 1.0], floor=0.0)
    wishes = [Target(property="energy", goal="at_most", value=0.0), Target(property="gap", goal="at_least", value=1.0)]
    apart = score_pool({"energy": energy, "gap": gap}, wishes, {})
    z = np.random.default_rng(0).normal(size=60)
    rows = np.arange(60)
    energy, gap = replace(energy, observed=rows, misfits=z), replace(gap, observed=rows, misfits=-z)
    together = score_pool({"energy": energy, "gap": gap}, wishes, {})
    assert apart[0] == pytest.approx(0.25)
    assert (together > 1.3 * apart).all()
    known = {"energy": np.array([-1.0, np.nan])}
    assert score_pool({"energy": energy, "gap": gap}, wishes, known)[0] == pytest.approx(0.5)
