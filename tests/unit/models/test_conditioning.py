"""Answers that say "there or lower", against draws from the prior that agree with them."""

import numpy as np
import pytest

from models.conditioning import Floor, learn
from models.gaussian_process import Answers, Kernel, Process

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
    told = Answers(**{name: getattr(answers, name)[exact] for name in ("features", "basis", "residuals", "doubts")})
    given = Process(kernel=KERNEL, answers=told)
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
