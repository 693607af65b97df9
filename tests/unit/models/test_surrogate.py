import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

import models.gaussian_process as gaussian_process
from materials.errors import InputError
from models.surrogate import believe, joint, predict, recalibrated


def landscape(n=400, k=4, seed=0):
    """Features, a prior, and a smooth difference that only the features know of."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, k))
    prior = rng.normal(size=n)
    difference = np.sin(features[:, 0]) + 0.5 * features[:, 1]
    return features, prior, difference, rng


def test_it_learns_the_difference_between_dft_and_the_potential():
    features, prior, difference, rng = landscape()
    truth = 0.9 * prior + difference + rng.normal(scale=0.05, size=400)
    seen = rng.choice(400, 80, replace=False)
    rest = np.setdiff1d(np.arange(400), seen)
    with_prior = predict(features, observed=seen, answers=truth[seen], prior=prior)
    without = predict(features, observed=seen, answers=truth[seen])
    error = np.abs(with_prior.mean - truth)[rest]
    assert error.mean() < 0.25
    assert error.mean() < 0.4 * np.abs(without.mean - truth)[rest].mean()
    assert error.mean() < 0.4 * np.abs(prior - truth)[rest].mean()
    assert with_prior.slope == pytest.approx(0.9, abs=0.25)  # the difference is noise to it
    assert 0.8 < np.mean(error < 1.645 * with_prior.std[rest]) <= 1


def test_posterior_equals_scikit_optimize():
    features, _, difference, rng = landscape(n=200)
    seen = rng.choice(200, 40, replace=False)
    posterior = predict(features, observed=seen, answers=difference[seen])
    kernel = posterior.kernel
    theirs = GaussianProcessRegressor(
        ConstantKernel(kernel.amplitude**2, "fixed") * Matern(kernel.length_scale, "fixed", nu=2.5),
        alpha=kernel.noise**2,
        optimizer=None,
    )
    level = np.sum(difference[seen]) / (len(seen) + 1)
    mean, std = theirs.fit(features[seen], difference[seen] - level).predict(features, return_std=True)
    np.testing.assert_allclose(posterior.mean, mean + level, atol=1e-7)
    np.testing.assert_allclose(posterior.std, np.sqrt(std**2 + kernel.noise**2), atol=1e-6)


def test_single_precision_and_chunks_change_nothing_that_counts(monkeypatch):
    features, prior, difference, rng = landscape(n=3000, k=40)
    seen = rng.choice(3000, 60, replace=False)
    ask = {"observed": seen, "answers": (prior + difference)[seen], "prior": prior}
    double = predict(features, **ask)
    monkeypatch.setattr(gaussian_process, "FLOAT64_ROWS", 10)
    monkeypatch.setattr(gaussian_process, "CHUNK_NUMBERS", 60 * 300)
    single = predict(features, **ask)
    np.testing.assert_allclose(single.mean, double.mean, atol=1e-4)
    np.testing.assert_allclose(single.std, double.std, rtol=1e-3)
    assert single.version == double.version


def test_without_answers_it_says_the_prior_and_is_honest_about_it():
    features, prior, *_ = landscape(n=30)
    nothing = predict(features, observed=[], answers=[], prior=prior, spread=0.1)
    np.testing.assert_allclose(nothing.mean, prior, atol=1e-12)
    np.testing.assert_allclose(nothing.std, 0.1, rtol=1e-9)
    blind = predict(features, observed=[], answers=[], center=1.0, spread=1.5)
    np.testing.assert_allclose(blind.mean, 1.0)
    np.testing.assert_allclose(blind.std, 1.5, rtol=1e-9)


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_few_answers_shift_it_and_narrow_it_where_they_are(m):
    features, prior, *_ = landscape(n=50)
    seen = np.arange(m)
    posterior = predict(features, observed=seen, answers=prior[seen] + 0.3, prior=prior, spread=0.2)
    before = predict(features, observed=[], answers=[], prior=prior, spread=0.2)
    assert np.isfinite(posterior.mean).all()
    assert (posterior.mean[seen] > prior[seen] + 0.15).all()
    assert posterior.std[seen].max() < 0.6 * before.std[0]
    far = np.argmax(np.linalg.norm(features - features[0], axis=1))
    assert posterior.std[far] > 0.5 * before.std[far]


@settings(deadline=None, max_examples=25)
@given(
    m=st.integers(0, 20),
    n=st.sampled_from([20, 25]),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    bad=st.sets(st.integers(0, 19)),
    with_prior=st.booleans(),
)
def test_no_set_of_answers_breaks_it(m, n, scale, bad, with_prior):
    rng = np.random.default_rng(m)
    features = rng.normal(size=(n, 3))
    features[1] = features[0]
    answers = scale * rng.normal(size=m) + 2.0
    answers[[i for i in bad if i < m]] = np.nan
    prior = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)) if with_prior else None
    posterior = predict(features, observed=np.arange(m), answers=answers, prior=prior)
    assert np.isfinite(posterior.mean).all()
    assert (posterior.std > 0).all()
    assert np.isfinite(posterior.std).all()
    assert set(posterior.observed) == set(np.flatnonzero(np.isfinite(answers)))


def test_constant_answers_and_answers_for_all():
    features, *_ = landscape(n=40)
    constant = predict(features, observed=np.arange(40), answers=np.full(40, 3.0))
    np.testing.assert_allclose(constant.mean, 3.0, atol=0.1)
    no_features = predict(np.empty((10, 0)), observed=[0, 1], answers=[1.0, 2.0])
    np.testing.assert_allclose(no_features.mean, no_features.mean[0])


def test_where_the_prior_is_missing_it_doubts_more():
    features, prior, *_ = landscape(n=40)
    holes = prior.copy()
    holes[7] = np.nan
    posterior = predict(features, observed=[0, 1], answers=prior[:2], prior=holes, spread=0.1)
    assert posterior.std[7] > 3 * np.median(posterior.std)


def test_a_related_quantity_counts_only_as_far_as_the_answers_say():
    features, prior, *_ = landscape(n=300)
    towards_nothing = predict(features, observed=[], answers=[], prior=prior, prior_slope_towards=0.0)
    np.testing.assert_allclose(towards_nothing.mean, 0.0)
    seen = np.arange(60)
    learned = predict(features, observed=seen, answers=5 - 3 * prior[seen], prior=prior, prior_slope_towards=0.0)
    assert learned.slope == pytest.approx(-3, abs=0.3)


def test_the_same_question_has_the_same_answer_and_version():
    features, prior, difference, _ = landscape()
    ask = {"observed": np.arange(30), "answers": difference[:30], "prior": prior, "seed": 4}
    one, two = predict(features, **ask), predict(features.copy(), **ask)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.std, two.std)
    assert one.version == two.version
    others = [{"seed": 5}, {"prior": prior + 1}, {"answers": difference[1:31]}, {"spread": 2.0}, {"noise": 0.1}]
    assert len({one.version, *(predict(features, **{**ask, **other}).version for other in others)}) == 6


def test_a_given_noise_is_kept():
    features, _, difference, rng = landscape()
    answers = difference[:100] + rng.normal(scale=0.3, size=100)
    assert predict(features, observed=np.arange(100), answers=answers, noise=0.3).kernel.noise == pytest.approx(0.3)
    assert predict(features, observed=np.arange(100), answers=answers).kernel.noise == pytest.approx(0.3, abs=0.1)


def test_believing_a_pick_is_what_an_answer_at_its_mean_would_do():
    features, _, difference, _ = landscape(n=60)
    seen, pick = np.arange(5), 17
    posterior = predict(features, observed=seen, answers=difference[seen])
    rows = np.arange(10, 40)
    covariance, noise = joint(posterior, features, rows)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance) + noise), posterior.std[rows], rtol=1e-9)
    believed = believe(covariance, noise, pick - 10)
    kernel = posterior.kernel
    again, _ = joint(
        type(posterior)(
            mean=posterior.mean,
            std=np.sqrt(
                gaussian_process.condition(features, np.array([*seen, pick]), np.zeros(6), kernel)[1] + kernel.noise**2
            ),
            version="",
            kernel=kernel,
            observed=np.array([*seen, pick]),
            slope=0.0,
        ),
        features,
        rows,
    )
    np.testing.assert_allclose(believed, again, atol=1e-9)


def test_surprises_widen_and_their_absence_narrows():
    features, *_ = landscape(n=20)
    posterior = predict(features, observed=[], answers=[])
    rng = np.random.default_rng(0)
    assert recalibrated(posterior, 3 * rng.normal(size=500)).std[0] == pytest.approx(3 * posterior.std[0], rel=0.1)
    assert recalibrated(posterior, 0.5 * rng.normal(size=500)).std[0] == pytest.approx(posterior.std[0] / 2, rel=0.1)
    np.testing.assert_array_equal(recalibrated(posterior, [np.nan]).std, posterior.std)
    assert posterior.std[0] < recalibrated(posterior, [2.0]).std[0] < 2 * posterior.std[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"observed": [0, 1]}, "one answer for each row"),
        ({"observed": [20]}, "rows count from 0 to 19"),
        ({"prior": np.zeros(3)}, "one value for each row"),
        ({"spread": 0.0}, "above 0"),
        ({"noise": -1.0}, "above 0"),
    ],
)
def test_impossible_questions_are_refused_in_words(wrong, words):
    features, *_ = landscape(n=20)
    with pytest.raises(InputError, match=words):
        predict(features, **{"observed": [3], "answers": [1.0], **wrong})
    features[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        predict(features, observed=[3], answers=[1.0])
