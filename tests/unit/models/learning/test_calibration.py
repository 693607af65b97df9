import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from models.learning.calibration import ODDS, calibrate, few_answers, held, reliability, surprises, verdict


def predictions(n, seed, off_by=1.0):
    """Predictions, and answers that scatter about them `off_by` times as much as they say."""
    rng = np.random.default_rng(seed)
    means, stds = rng.normal(0, 0.3, n), rng.uniform(0.01, 0.2, n)
    return means + off_by * stds * rng.standard_normal(n), means, stds


def test_a_surprise_is_positive_where_dft_lies_above():
    assert surprises([0.3, -0.1], [0.1, 0.1], [0.1, 0.05]) == pytest.approx([2.0, -4.0])


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.5, 0.9]))
def test_intervals_hold_what_scipy_says_they_hold(seed, share):
    answers, means, stds = predictions(40, seed)
    low, high = norm.interval(share, loc=means, scale=stds)
    np.testing.assert_array_equal(held(answers, means, stds, share=share), (low <= answers) & (answers <= high))
    np.testing.assert_array_equal(held([np.nan], [0.0], [1.0], share=share, floor=0.0), [0.0])


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("mean", [-3.0, -0.5, 0.0, 0.5, 1.5, 4.0])
def test_right_beliefs_hold_their_share_wherever_a_floor_cuts_them(mean, share):
    drawn = np.maximum(np.random.default_rng(0).normal(mean, 1.0, 40_000), 0.0)
    inside = held(drawn, np.full(len(drawn), mean), np.ones(len(drawn)), share=share, floor=0.0)
    assert np.mean(inside) == pytest.approx(share, abs=0.01)
    wrong = held(drawn, np.full(len(drawn), mean - 2.0), np.ones(len(drawn)), share=share, floor=0.0)
    if mean > 0:
        assert np.mean(wrong) < share - 0.1


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.5, 1.5])
def test_error_bars_of_gaps_are_judged_as_well_where_most_are_metals(mean):
    drawn = np.maximum(np.random.default_rng(1).normal(mean, 1.0, 4_000), 0.0)
    means = np.full(len(drawn), mean)
    right, boasting = (calibrate(drawn, means, np.full(len(drawn), std), floor=0.0) for std in (1.0, 0.5))
    assert "agree" in verdict(right)
    assert right.stretch == pytest.approx(1.0, abs=0.04)
    if mean > 0:
        assert "too small" in verdict(boasting)
        assert boasting.stretch > 1.2


def test_metals_that_were_expected_praise_and_condemn_no_error_bars():
    found = calibrate(np.zeros(100), np.zeros(100), np.full(100, 0.8), floor=0.0)
    assert (found.coverage[0.5].hits, found.coverage[0.9].hits, found.stretch) == (50, 90, pytest.approx(1.0))


def test_a_metal_that_was_expected_is_no_error():
    found = calibrate([0.0, 0.5], [-3.0, -1.0], [1.0, 1.0], floor=0.0)
    assert (found.bias, found.rmse) == (pytest.approx(0.25), pytest.approx(0.5 / 2**0.5))


def test_no_answers_no_calibration():
    assert calibrate([], [], []) is None


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), off_by=st.floats(0.2, 5))
def test_it_counts_what_lies_in_the_intervals_that_scipy_gives(seed, n, off_by):
    answers, means, stds = predictions(n, seed, off_by)
    found = calibrate(answers, means, stds)
    for share in (0.5, 0.9):
        low, high = norm.interval(share, loc=means, scale=stds)
        assert found.coverage[share].hits == np.sum((low <= answers) & (answers <= high))
        assert found.coverage[share].trials == n
        # Jeffreys' interval lies within that of Clopper and Pearson, which is never too short.
        exact = binomtest(found.coverage[share].hits, n).proportion_ci()
        assert exact.low <= found.coverage[share].low <= found.coverage[share].rate
        assert found.coverage[share].rate <= found.coverage[share].high <= exact.high
    assert found.bias == pytest.approx(np.mean(answers - means))
    assert found.rmse**2 == pytest.approx(np.var(answers - means) + found.bias**2)
    assert found.stretch_low < found.stretch < found.stretch_high


@pytest.mark.parametrize(
    ("off_by", "words"), [(1.0, "agree with what came"), (2.0, "too small"), (0.4, "larger than needed")]
)
def test_error_bars_are_judged(off_by, words):
    found = calibrate(*predictions(400, 7, off_by))
    assert words in verdict(found)
    assert found.stretch_low < off_by < found.stretch_high
    assert found.stretch == pytest.approx(off_by, rel=0.1)


def test_a_few_that_lie_far_outside_are_not_hidden_by_the_many_that_lie_inside():
    surprise = np.concatenate([np.linspace(-1, 1, 95), np.full(5, 8.0)])
    found = calibrate(surprise * 0.1, np.zeros(100), np.full(100, 0.1))
    assert found.coverage[0.5].low > 0.5
    assert "far outside" in verdict(found)


def test_few_answers_condemn_nothing():
    assert "as far as 3 answers can tell" in verdict(calibrate([0.1, 0.2, 0.4], [0, 0, 0], [0.2, 0.2, 0.2]))


def test_the_interval_of_the_stretch_holds_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(1000):
        found = calibrate(*predictions(12, seed, 1.7))
        inside += found.stretch_low <= 1.7 <= found.stretch_high
    assert binomtest(inside, 1000, 0.95).pvalue > 0.01


@given(st.lists(st.tuples(st.sampled_from(ODDS) | st.floats(0, 1), st.booleans()), min_size=1, max_size=80))
def test_bins_hold_each_pick_once_and_are_those_of_numpy(picks):
    odds, hits = (np.array(part) for part in zip(*picks, strict=True))
    bins = reliability(odds, hits)
    assert sum(b.expected for b in bins) == pytest.approx(odds.sum())
    assert sum(b.seen.hits for b in bins) == hits.sum()
    counts, edges = np.histogram(odds, bins=ODDS)
    assert [b.seen.trials for b in bins] == [count for count in counts if count]
    assert [b.low for b in bins] == [low for low, count in zip(edges, counts, strict=False) if count]


def test_honest_odds_are_met_and_boasting_ones_are_not():
    rng = np.random.default_rng(3)
    odds = rng.uniform(0, 1, 3000)
    for claimed, honest in ((odds, True), (np.minimum(1.0, odds + 0.3), False)):
        bins = reliability(claimed, rng.uniform(0, 1, 3000) < odds)
        fits = [b.seen.low <= b.expected / b.seen.trials <= b.seen.high for b in bins]
        assert all(fits) == honest


@pytest.mark.parametrize(
    ("n", "words"), [(0, "not answered yet"), (7, "too few to fit"), (8, "only: below 20"), (19, "only"), (20, None)]
)
def test_few_answers_are_said_to_be_few(n, words):
    told = few_answers(n)
    assert told is None if words is None else words in told
