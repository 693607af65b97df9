from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm, t

from models.learning import calibration
from models.learning.calibration import AUDIT_WEIGHT, FARTHEST, TILT, recalibrated
from models.learning.surrogate import predict

N, ANSWERED = 900, 500


@pytest.fixture(scope="module")
def posterior():
    """Nothing but zeros so far; standard deviations are made up, and as various left out as of the rest."""
    told = predict(np.zeros((N, 1)), observed=np.arange(ANSWERED), answers=np.zeros(ANSWERED))
    std = np.random.default_rng(1).uniform(0.1, 0.4, N)
    return replace(told, std=std, left_out=std[:ANSWERED])


def ranks(posterior):
    """Of each row's standard deviation among those without an answer."""
    return np.array([np.mean(posterior.std[ANSWERED:] < std) for std in posterior.std])


@pytest.mark.parametrize("factor", [0.5, 1.3])
@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_error_bars_become_as_wide_as_the_misfits_of_random_picks(posterior, factor, tilt):
    truth = factor * np.exp(tilt * ranks(posterior))
    off = truth[:ANSWERED] * np.random.default_rng(0).normal(size=ANSWERED)
    found = recalibrated(replace(posterior, misfits=off), np.arange(ANSWERED)).std / posterior.std
    np.testing.assert_allclose(found, truth, rtol=0.15)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), scale=st.floats(0.05, 20))
def test_it_is_the_likeliest_scale_that_scipy_finds_too(posterior, seed, n, scale):
    rng = np.random.default_rng(seed)
    audited = rng.choice(ANSWERED, n, replace=False)
    told = replace(posterior, misfits=scale * rng.normal(size=ANSWERED))
    rank = ranks(posterior)
    z = np.clip(told.misfits[audited], -FARTHEST, FARTHEST)

    def improbability(found):
        deviation = np.exp(found[0] + found[1] * rank[audited])
        spread = 1 / np.sqrt(2 * AUDIT_WEIGHT)
        prior = norm.logpdf(found[0], 0, spread) + norm.logpdf(found[1], TILT, spread)
        return -np.sum(norm.logpdf(z, 0, deviation)) - prior

    level, tilt = minimize(improbability, [0.0, TILT], method="BFGS").x
    widened = t.ppf(0.95, AUDIT_WEIGHT + n) / norm.ppf(0.95)
    expected = widened * np.exp(level + tilt * rank)
    np.testing.assert_allclose(recalibrated(told, audited).std / posterior.std, expected, rtol=1e-3)


def test_one_mistake_does_not_blow_up_all_error_bars(posterior):
    one = replace(posterior, misfits=np.where(np.arange(ANSWERED) == 7, 100.0, np.nan))
    scale = recalibrated(one, [7]).std / posterior.std
    assert (scale > 1).all()
    assert (scale < 4).all()


def test_what_tells_nothing_changes_nothing(posterior):
    one = replace(posterior, misfits=np.where(np.arange(ANSWERED) == 7, 4.0, np.nan))
    assert recalibrated(one, [8, 850]) is one
    assert recalibrated(one, []) is one


def test_nothing_is_left_to_compare_with():
    """All rows have answers."""
    told = predict(np.zeros((20, 1)), observed=np.arange(20), answers=np.linspace(-0.1, 0.1, 20))
    assert np.isfinite(recalibrated(told, np.arange(20)).std).all()


def test_the_scale_is_found_from_any_misfits():
    for misfits in (np.zeros(200), np.full(200, FARTHEST)):
        for rank in (np.zeros(200), np.ones(200), np.linspace(0, 1, 200)):
            found = calibration._likeliest(misfits, rank)
            assert np.isfinite(found).all()
