import numpy as np
import pytest

from materials.records import Target
from models.learning.fit import EXPECTATIONS, Earlier, expectation_of, learn
from models.learning.surrogate import SLOPE_SPREAD
from models.learning.target_probability import score_pool

N = 60
rng = np.random.default_rng(0)
FEATURES = rng.normal(size=(N, 3))
UNKNOWN = np.full(N, np.nan)


def learned(name, answers=UNKNOWN, priors=None, audited=()):
    told = {name: np.asarray(answers, dtype=float)}
    found = learn(FEATURES, (3,), [name, name], known=told, priors=priors or {}, audited=audited, seed=0)
    assert list(found) == [name]
    return found[name]


@pytest.mark.parametrize("name", EXPECTATIONS)
def test_before_any_answer_the_expectation_stands(name):
    expected = EXPECTATIONS[name]
    alone = learned(name)
    np.testing.assert_allclose(alone.mean, expected.center)
    # The kernel's least noise comes on top of the spread.
    np.testing.assert_allclose(alone.std, expected.spread, rtol=0.05)
    assert alone.floor == expected.floor


@pytest.mark.parametrize("name", [name for name, told in EXPECTATIONS.items() if told.prior])
def test_before_any_answer_the_potential_is_believed(name):
    prior = rng.normal(size=N)
    prior[7] = np.nan
    found = learned(name, priors={EXPECTATIONS[name].prior: prior})
    there = np.isfinite(prior)
    np.testing.assert_allclose(found.mean[there], prior[there])
    spread = EXPECTATIONS[name].spread
    doubt = SLOPE_SPREAD * np.abs(prior[there] - np.mean(prior[there]))
    np.testing.assert_allclose(found.std[there], np.hypot(spread, doubt), rtol=0.05)
    assert found.std[7] > 0.9 * np.std(prior[there])  # without the potential's value its scatter is all that is known


def test_above_the_hull_is_learned_of_the_potentials_decomposition_energy():
    prior = rng.normal(size=N)
    found = learned("energy_above_hull", priors={"decomposition_energy_per_atom": prior, "energy_above_hull": -prior})
    np.testing.assert_allclose(found.mean, prior)


def test_an_unknown_property_is_expected_as_its_answers_scatter():
    answers = UNKNOWN.copy()
    answers[:5] = [100.0, 120.0, 90.0, 130.0, 110.0]
    told = expectation_of("bulk_modulus", answers)
    assert (told.prior, told.floor) == (None, None)
    assert (told.center, told.spread) == (pytest.approx(110), pytest.approx(np.std(answers[:5])))
    found = learned("bulk_modulus", answers)
    assert np.all((found.mean > 85) & (found.mean < 135))
    assert np.all(found.std < 40)


@pytest.mark.parametrize("answers", [[], [5.0], [5.0, 5.0], [5.0] * 20])
def test_an_unknown_property_that_has_not_scattered_yet(answers):
    told = UNKNOWN.copy()
    told[: len(answers)] = answers
    expected = expectation_of("colour", told)
    assert expected.center == (5.0 if answers else 0.0)
    assert expected.spread == 1.0
    found = learned("colour", told)
    assert np.isfinite(found.mean).all()
    assert np.all(found.std > 0)


def test_what_is_known_of_a_property_does_not_change_with_its_answers():
    assert expectation_of("band_gap", np.array([7.0, 8.0])) == EXPECTATIONS["band_gap"]


def test_a_gap_is_never_expected_below_zero():
    answers = UNKNOWN.copy()
    truth = 2 * FEATURES[:, 0]
    answers[:40] = np.maximum(truth[:40], 0.0)
    found = learned("band_gap", answers)
    assert np.min(found.mean) < -0.5  # a metal through and through, and known to be one
    assert np.min(found.expected) == 0.0
    left = np.arange(40, N)
    odds = score_pool({"band_gap": found}, [Target(property="band_gap", goal="at_most", value=0.0)], {})
    metal = truth[left] <= 0
    assert np.mean(odds[left][metal]) > 0.8
    assert np.mean(odds[left][~metal]) < 0.2


def test_failed_calculations_teach_nothing():
    answers = UNKNOWN.copy()
    answers[:20] = 0.1 * FEATURES[:20, 0]
    lost = answers.copy()
    lost[20:25] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    one, other = (learned("decomposition_energy_per_atom", told) for told in (answers, lost))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)


def test_audits_that_are_far_off_widen_what_is_believed():
    answers = UNKNOWN.copy()
    answers[:30] = FEATURES[:30, 0]
    answers[25:30] += np.array([1.5, -1.5, 1.5, -1.5, 1.5])  # nobody foresaw those
    plain = learned("colour", answers)
    found = learned("colour", answers, audited=[25, 26, 27, 28, 29, 55])
    scale = found.std / plain.std
    assert ((scale > 1.1) & (scale < 5)).all()
    np.testing.assert_array_equal(found.mean, plain.mean)


def test_a_gap_at_its_floor_as_was_expected_tells_nothing_of_error_bars():
    answers = UNKNOWN.copy()
    answers[:40] = np.maximum(2 * FEATURES[:40, 0], 0.0)
    found = learned("band_gap", answers)
    metals = answers[:40] == 0
    assert np.isnan(found.misfits[metals]).mean() > 0.7
    assert np.isfinite(found.misfits[~metals]).all()
    assert (found.misfits[metals & np.isfinite(found.misfits)] < 0).all()  # a gap was expected where there is none


def test_what_the_campaign_has_answered_itself_is_not_told_again_by_an_earlier_one():
    name = "band_gap"
    answers = UNKNOWN.copy()
    answers[:10] = 2 + rng.normal(size=10)
    rows = np.array([0, 1, 2, 3, 20, -1, 4])
    told = np.concatenate([answers[:4], [2.0, 3.0, 2.5]])
    earlier = Earlier(
        features=np.concatenate([FEATURES[[0, 1, 2, 3, 20]], rng.normal(size=(2, 3))]),
        answers={name: told},
        priors={},
        rows=rows,
        kinds=np.array([0, 0, 0, 0, 0, 0, 1]),  # the last was computed otherwise: an answer of its own
    )
    np.testing.assert_array_equal(earlier.beside(name, answers), [np.nan] * 4 + [2.0, 3.0, 2.5])
    asked = {"known": {name: answers}, "priors": {}, "audited": (), "seed": 0}
    found = learn(FEATURES, (3,), [name], earlier=earlier, **asked)[name]
    assert len(found.process.answers) == 10 + 3
    alone = learn(FEATURES, (3,), [name], **asked)[name]
    assert found.kernel.noise > alone.kernel.noise / 3
