"""Answers that say "there or lower", against draws from the prior that agree with them."""

import numpy as np
import pytest
from scipy.stats import norm

from models.learning.censored import Floor, learn
from models.learning.gaussian_process import Answers, Kernel, Process
from models.learning.hyperparameters import choose_kernel

KERNEL = Kernel(amplitude=1.0, length_scales=(0.7,), widths=(1,), noise=0.3)


def answers_at(places, values, doubts=0.0):
    n = len(places)
    return Answers(
        features=np.array(places)[:, None],
        basis=np.zeros((n, 0)),
        residuals=np.array(values),
        doubts=np.full(n, doubts),
    )


def agreeing(answers, at, places, *, draws=1_000_000):
    """Mean and standard deviation of the process at some places, of those draws that agree with the bounds."""
    exact = ~at
    given = Process(kernel=KERNEL, answers=answers[exact])
    rows = np.concatenate([answers.features[at], np.array(places)[:, None]])
    nothing = np.zeros((len(rows), 0))
    mean, _ = given.predict(rows, nothing)
    rng = np.random.default_rng(0)
    drawn = rng.multivariate_normal(mean, given.covariance(rows, nothing), size=draws, method="eigh")
    scatter = np.sqrt(KERNEL.noise**2 + answers.doubts[at])
    bounded = drawn[:, : at.sum()] + scatter * rng.normal(size=(draws, at.sum()))
    kept = drawn[(bounded <= answers.residuals[at]).all(axis=1), at.sum() :]
    assert len(kept) > 5_000
    return kept.mean(axis=0), kept.std(axis=0)


@pytest.mark.parametrize(
    ("places", "values", "at", "doubts"),
    [
        ([0.0], [0.0], [True], 0.0),
        ([0.0], [-0.8], [True], 0.2),
        ([0.0, 0.3, 0.5], [0.0, 0.0, 0.9], [True, True, False], 0.0),
        ([0.0, 0.7, 1.4, 2.1, 2.8], [0.0, 0.8, 0.0, 0.0, 0.0], [True, False, True, True, True], 0.0),
        ([0.0, 0.2, 0.4, 3.0], [0.5, 0.5, 0.5, -1.0], [True, True, True, False], 0.1),
    ],
)
def test_answers_at_a_floor_are_believed_as_bounds_nearly(places, values, at, doubts):
    answers, at, elsewhere = answers_at(places, values, doubts), np.array(at), [-0.5, 0.1, 0.6, 1.4, 5.0]
    learned = learn(
        answers, np.zeros(len(places), dtype=int), Floor(at=at, residuals=answers.residuals), lambda _: KERNEL
    )
    mean, variance = learned.process.predict(np.array(elsewhere)[:, None], np.zeros((5, 0)))
    drawn_mean, drawn_std = agreeing(answers, at, elsewhere)
    np.testing.assert_allclose(mean, drawn_mean, atol=0.02)
    np.testing.assert_allclose(np.sqrt(variance), drawn_std, rtol=0.05)


def test_a_bound_that_was_never_in_doubt_tells_nothing():
    low, bound = answers_at([0.0, 0.1], [-9.0, 0.0]), np.array([False, True])
    learned = learn(low, np.zeros(2, dtype=int), Floor(at=bound, residuals=np.zeros(2)), lambda _: KERNEL)
    alone = Process(kernel=KERNEL, answers=answers_at([0.0], [-9.0]))
    there = np.array([[0.1], [0.6]])
    np.testing.assert_allclose(
        learned.process.predict(there, np.zeros((2, 0))), alone.predict(there, np.zeros((2, 0))), atol=1e-3
    )


def test_where_all_lie_at_the_floor_the_rest_may_not():
    """Against worlds drawn from what is expected in which the same answers lie at the floor."""
    n, m, level = 90, 45, 2 / np.sqrt(2)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 5))
    kernel = choose_kernel(answers_at([], [])[:0], (5,), spread=level, seed=0)
    told = Answers(features=features[:m], basis=np.full((m, 1), level), residuals=np.zeros(m), doubts=np.zeros(m))

    def fitted(answers):
        return choose_kernel(answers, (5,), spread=level, seed=0)

    learned = learn(told, np.zeros(m, dtype=int), Floor(at=np.ones(m, dtype=bool), residuals=np.zeros(m)), fitted)
    mean, variance = learned.process.predict(features[m:], np.full((n - m, 1), level))
    above = np.sum(norm.sf(0, mean, np.sqrt(variance + learned.process.kernel.noise**2)))
    covariance = kernel.covariance(features, features) + level**2 + kernel.noise**2 * np.eye(n)
    drawn = np.linalg.cholesky(covariance) @ rng.standard_normal((n, 200_000))
    alike = drawn[:, (drawn[:m] <= 0).all(axis=0)]
    assert alike.shape[1] > 2000
    assert above == pytest.approx(np.mean(np.sum(alike[m:] > 0, axis=0)), rel=0.5)
