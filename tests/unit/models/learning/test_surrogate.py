import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

import models.learning.gaussian_process as gaussian_process
from materials.errors import InputError
from models.learning.gaussian_process import Answers, Kernel, Process
from models.learning.hyperparameters import choose_kernel
from models.learning.surrogate import believe, joint, predict


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
    features, prior, difference, rng = landscape(n=200)
    seen = rng.choice(200, 40, replace=False)
    posterior = predict(features, observed=seen, answers=(prior + difference)[seen], prior=prior)
    kernel = posterior.kernel
    (length,) = kernel.length_scales
    # Level and slope have normal priors of their own: a linear kernel on them.
    scaled = np.hstack([features / length, np.full((200, 1), math.sqrt(0.5)), 0.5 * (prior - prior.mean())[:, None]])

    def covariance(a, b):
        matern = ConstantKernel(kernel.amplitude**2, "fixed") * Matern(1.0, "fixed", nu=2.5)
        return matern(a[:, :4], b[:, :4]) + a[:, 4:] @ b[:, 4:].T

    known = covariance(scaled[seen], scaled[seen]) + kernel.noise**2 * np.eye(40)
    gain = np.linalg.solve(known, covariance(scaled[seen], scaled)).T
    np.testing.assert_allclose(posterior.mean, prior + gain @ difference[seen], atol=1e-7)
    left = np.diag(covariance(scaled, scaled) - gain @ covariance(scaled[seen], scaled))
    np.testing.assert_allclose(posterior.std, np.sqrt(left + kernel.noise**2), atol=1e-6)


def test_hyperparameters_are_at_the_top_of_their_posterior():
    features, _, difference, rng = landscape(n=60, k=5)
    answers = Answers(
        features=features,
        basis=np.full((60, 1), 0.7),
        residuals=difference + rng.normal(scale=0.1, size=60),
        doubts=np.where(np.arange(60) < 5, 0.2, 0.0),
    )
    found = choose_kernel(answers, (2, 3), spread=1.0, seed=0)

    def height(amplitude, one, two, noise):
        kernel = Kernel(amplitude=amplitude, length_scales=(one, two), widths=(2, 3), noise=noise)
        known = kernel.covariance(features, features) + 0.49 + np.diag(noise**2 + answers.doubts)
        scale2 = (4 + np.sum(answers.residuals**2)) / 64
        priors = norm.logpdf(np.log(amplitude**2 / scale2), 0, 2) + norm.logpdf(
            np.log(noise**2 / scale2), np.log(0.05), math.sqrt(2)
        )
        for length, width in ((one, 2), (two, 3)):
            priors += norm.logpdf(np.log(length), np.log(1.5 * math.sqrt(2 * width)), 0.5)
        return multivariate_normal.logpdf(answers.residuals, np.zeros(60), known) + priors

    top = np.array([found.amplitude, *found.length_scales, found.noise])
    for i in range(4):
        for factor in (0.97, 1.03):
            moved = top.copy()
            moved[i] *= factor
            assert height(*moved) < height(*top)


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
    slope = 0.5 * (prior - prior.mean())
    np.testing.assert_allclose(nothing.std, np.sqrt(0.1**2 + slope**2), rtol=1e-9)
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
    assert posterior.std[far] > 0.5 * 0.2  # what one answer told of the slope is left aside


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


def test_a_floor_lets_what_lies_at_it_lie_deeper():
    features, _, _, rng = landscape(n=400)
    deep = 2 * features[:, 0] - 1.5
    gap = np.maximum(deep + rng.normal(scale=0.05, size=400), 0.0)
    seen, rest = np.arange(60), np.arange(60, 400)
    ask = {"observed": seen, "answers": gap[seen]}
    tobit, plain = predict(features, floor=0.0, **ask), predict(features, **ask)
    assert np.mean(gap == 0) > 0.6
    assert np.corrcoef(tobit.mean[rest], deep[rest])[0, 1] > np.corrcoef(plain.mean[rest], deep[rest])[0, 1]
    assert np.mean(np.abs(tobit.expected - gap)[rest]) < 0.8 * np.mean(np.abs(plain.mean - gap)[rest])
    metals = seen[gap[seen] == 0]
    assert (tobit.mean[metals] < 0.1).all()
    assert np.quantile(tobit.mean[metals], 0.1) < -0.3


def test_another_kind_of_answer_helps_through_its_offset():
    features, _, difference, rng = landscape(n=300)
    quick = difference + 0.4 + rng.normal(scale=0.1, size=300)
    few, many = np.arange(8), np.arange(8, 90)
    rows, kinds = np.concatenate([few, many]), np.repeat([0, 1], [8, 82])
    answers = np.concatenate([difference[few], quick[many]])
    rest = np.arange(90, 300)

    def error(**ask):
        return np.mean(np.abs(predict(features, **ask).mean - difference)[rest])

    both = error(observed=rows, answers=answers, kinds=kinds)
    assert both < 0.5 * error(observed=few, answers=difference[few])
    assert both < 0.6 * error(observed=rows, answers=answers)  # taken for the same thing


def test_one_wrong_answer_is_noticed_and_hardly_believed():
    features, _, difference, rng = landscape()
    answers = difference[:60] + rng.normal(scale=0.05, size=60)
    ask = {"observed": np.arange(60)}
    sound = predict(features, answers=answers, **ask)
    answers[17] += 5
    told = predict(features, answers=answers, **ask)
    assert sound.suspicious.tolist() == []
    assert 17 in told.suspicious
    assert len(told.suspicious) <= 2
    rest = np.arange(60, 400)
    assert np.mean(np.abs(told.mean - difference)[rest]) < 1.5 * np.mean(np.abs(sound.mean - difference)[rest]) + 0.02


def test_the_same_question_has_the_same_answer_and_version():
    features, prior, difference, _ = landscape()
    ask = {"observed": np.arange(30), "answers": difference[:30], "prior": prior, "seed": 4}
    one, two = predict(features, **ask), predict(features.copy(), **ask)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.std, two.std)
    assert one.version == two.version
    others = [{"seed": 5}, {"prior": prior + 1}, {"answers": difference[1:31]}, {"spread": 2.0}]
    assert len({one.version, *(predict(features, **{**ask, **other}).version for other in others)}) == 5


def test_the_noise_of_answers_is_found():
    features, _, difference, rng = landscape()
    answers = difference[:100] + rng.normal(scale=0.3, size=100)
    assert predict(features, observed=np.arange(100), answers=answers).kernel.noise == pytest.approx(0.3, abs=0.1)


def test_believing_a_pick_is_what_an_answer_at_its_mean_would_do():
    features, _, difference, _ = landscape(n=60)
    seen, pick = np.arange(5), 17
    posterior = predict(features, observed=seen, answers=difference[seen])
    rows = np.arange(10, 40)
    covariance, noise = joint(posterior, features, rows)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance) + noise), posterior.std[rows], rtol=1e-9)
    believed = believe(covariance, noise, pick - 10)
    known = posterior.process.answers
    told = Answers(
        features=np.vstack([known.features, features[pick]]),
        basis=np.vstack([known.basis, posterior.basis[pick]]),
        residuals=np.append(known.residuals, 0.0),
        doubts=np.append(known.doubts, 0.0),
    )
    again = Process(kernel=posterior.kernel, answers=told).covariance(features[rows], posterior.basis[rows])
    np.testing.assert_allclose(believed, again, atol=1e-9)


def test_misfits_are_what_leaving_each_answer_out_shows():
    features, prior, difference, _ = landscape(n=60)
    seen = np.arange(25)
    posterior = predict(features, observed=seen, answers=(prior + difference)[seen], prior=prior)
    known = posterior.process.answers
    for i in seen[::6]:
        rest = np.delete(seen, i)
        others = Answers(**{n: getattr(known, n)[rest] for n in ("features", "basis", "residuals", "doubts")})
        mean, variance = Process(kernel=posterior.kernel, answers=others).predict(features[[i]], posterior.basis[[i]])
        off = (known.residuals[i] - mean[0]) / np.sqrt(variance[0] + posterior.kernel.noise**2)
        assert posterior.misfits[i] == pytest.approx(off, abs=1e-6)
        assert posterior.left_out[i] ** 2 == pytest.approx(variance[0] + posterior.kernel.noise**2, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"observed": [0, 1]}, "one answer for each row"),
        ({"observed": [20]}, "rows count from 0 to 19"),
        ({"prior": np.zeros(3)}, "one value for each row"),
        ({"spread": 0.0}, "above 0"),
        ({"widths": (1, 2)}, "add up to 3, but there are 4"),
        ({"kinds": [0, 1]}, "2 kinds"),
    ],
)
def test_impossible_questions_are_refused_in_words(wrong, words):
    features, *_ = landscape(n=20)
    with pytest.raises(InputError, match=words):
        predict(features, **{"observed": [3], "answers": [1.0], **wrong})
    features[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        predict(features, observed=[3], answers=[1.0])
