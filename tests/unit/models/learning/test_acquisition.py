import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from models.learning.acquisition import (
    expected_improvement,
    expected_improvement_near,
    lower_confidence_bound,
    probability_at_least,
    probability_at_most,
    probability_near,
)

means = st.floats(-5, 5)
stds = st.floats(1e-3, 5)


@settings(deadline=None, max_examples=60)
@given(mean=means, std=stds, value=means, tolerance=st.floats(0, 3))
def test_probabilities_are_those_of_scipy(mean, std, value, tolerance):
    belief = norm(mean, std)
    assert probability_at_most(mean, std, value) == pytest.approx(belief.cdf(value), abs=1e-12)
    assert probability_at_least(mean, std, value) == pytest.approx(belief.sf(value), abs=1e-12)
    inside = belief.cdf(value + tolerance) - belief.cdf(value - tolerance)
    assert probability_near(mean, std, value, tolerance) == pytest.approx(inside, abs=1e-9)


def test_certainty_meets_a_threshold_at_its_edge():
    assert probability_at_most(1.0, 0.0, 1.0) == 1
    assert probability_at_least(1.0, 0.0, 1.0) == 1
    assert probability_at_most(1.1, 0.0, 1.0) == 0
    assert probability_near(1.5, 0.0, 1.0, 0.5) == 1
    assert probability_near(0.4, 0.0, 1.0, 0.5) == 0


def test_the_odds_of_a_window_keep_their_digits_far_away():
    odds = probability_near(20.0, 1.0, 0.0, 1.0)
    assert odds == pytest.approx(norm.sf(19) - norm.sf(21), rel=1e-6)
    assert odds == probability_near(-20.0, 1.0, 0.0, 1.0)


@settings(deadline=None, max_examples=60)
@given(mean=means, std=stds, best=means)
def test_expected_improvement_is_the_integral(mean, std, best):
    low, high = mean - 12 * std, min(best, mean + 12 * std)
    integral = 0.0
    if high > low:
        integral, _ = quad(
            lambda y: (best - y) * norm.pdf(y, mean, std), low, high, points=[min(mean, high)], limit=200
        )
    assert expected_improvement(mean, std, best) == pytest.approx(integral, rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(mean=means, std=stds, more=st.floats(1e-3, 3), best=means)
def test_expected_improvement_is_never_negative_and_grows_with_doubt(mean, std, more, best):
    less = expected_improvement(mean, std, best)
    assert less >= 0
    assert expected_improvement(mean, std + more, best) >= less
    assert less >= max(best - mean, 0) - 1e-12


def test_expected_improvement_far_in_the_tail_and_without_doubt():
    # 30 standard deviations off: asymptotically std * phi(z) / z^2, where the textbook form returns 0 or less.
    z = 30.0
    assert expected_improvement(z, 1.0, 0.0) == pytest.approx(norm.pdf(z) / z**2 * (1 - 3 / z**2 + 15 / z**4), rel=1e-5)
    assert expected_improvement(0.25, 0.0, 1.0) == 0.75
    assert expected_improvement(2.0, 0.0, 1.0) == 0


@settings(deadline=None, max_examples=60)
@given(mean=means, std=stds, value=means, distance=st.floats(0, 3))
def test_improvement_towards_a_value_is_the_integral(mean, std, value, distance):
    low, high = max(value - distance, mean - 12 * std), min(value + distance, mean + 12 * std)
    integral = 0.0
    if low < high:
        kinks = [p for p in (value, mean - 3 * std, mean, mean + 3 * std) if low < p < high] or None
        integral, _ = quad(
            lambda y: (distance - abs(y - value)) * norm.pdf(y, mean, std), low, high, points=kinks, limit=400
        )
    near = expected_improvement_near(mean, std, value, distance)
    assert near == pytest.approx(integral, rel=1e-5, abs=1e-8)
    assert 0 <= near <= distance


def test_improvement_towards_a_value_agrees_with_monte_carlo():
    y = np.random.default_rng(1).normal(1.1, 0.4, 400_000)
    sampled = np.maximum(0.5 - np.abs(y - 1.3), 0)
    near = expected_improvement_near(1.1, 0.4, 1.3, 0.5)
    assert near == pytest.approx(sampled.mean(), abs=5 * sampled.std() / 400_000**0.5)
    assert expected_improvement_near(1.1, 0.0, 1.3, 0.5) == pytest.approx(0.3)


@settings(deadline=None, max_examples=100)
@given(mean=means, std=stds, floor=means, best=means, distance=st.floats(0, 3))
def test_what_is_believed_below_the_floor_comes_out_at_it(mean, std, floor, best, distance):
    def expected(gain, *kinks):
        """At the floor with the odds of lying there or below, and above it the integral."""
        low, high = max(floor, mean - 12 * std), max(floor, mean + 12 * std)
        kinks = [p for p in (*kinks, mean - 3 * std, mean, mean + 3 * std) if low < p < high] or None
        above, _ = quad(lambda y: gain(y) * norm.pdf(y, mean, std), low, high, points=kinks, limit=400)
        return gain(floor) * norm.cdf(floor, mean, std) + above

    lower = expected_improvement(mean, std, best, floor)
    assert lower == pytest.approx(expected(lambda y: max(best - y, 0), best), rel=1e-5, abs=1e-8)
    kinks = (best - distance, best, best + distance)
    near = expected_improvement_near(mean, std, best, distance, floor)
    assert near == pytest.approx(expected(lambda y: max(distance - abs(y - best), 0), *kinks), rel=1e-5, abs=1e-8)


def test_the_bound_is_optimistic_for_a_minimum():
    np.testing.assert_allclose(lower_confidence_bound(np.array([1.0, 2.0]), np.array([0.5, 3.0]), 2.0), [0.0, -4.0])
