from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from materials.records import Target
from models.learning.stopping import hit_rate, hit_rate_among_random, look_ahead, stop_rule
from tests.unit.models.learning.made_beliefs import belief


def look(target, means, std, n_known=50, answers=None, batch=3, **extra):
    mean = np.concatenate([np.linspace(0, 1, n_known), means])
    posterior = belief(mean, np.full(len(mean), std))
    asked = np.arange(len(mean)) < n_known
    return look_ahead(
        posteriors={"energy": posterior},
        targets=[target],
        known={"energy": np.where(asked, mean, np.nan) if answers is None else answers},
        available=~asked,
        batch=batch,
        **extra,
    )


def ask(target, means, std, n_known=50, cost_s=None, **extra):
    return stop_rule(replace(look(target, means, std, n_known), cost_s=cost_s), **extra)


LOWEST = Target(property="energy", goal="minimize")
STABLE = Target(property="energy", goal="at_most", value=-1.0)


def test_it_stops_when_nothing_left_can_beat_the_best():
    reason = ask(LOWEST, [1.0, 2.0, 3.0], 0.2)
    assert reason is not None
    assert "any of the 3 left beats the best (energy 0.000)" in reason
    assert "below 0.01" in reason
    assert ask(LOWEST, [1.0, 0.2, 3.0], 0.2) is None
    # Each alone has 0.6 % and would pass; together they are worth a try.
    assert ask(LOWEST, [1.0] * 5, 0.4) is None
    assert ask(LOWEST, [1.0], 0.4) is not None


def test_it_stops_when_the_next_batch_can_expect_no_hit():
    reason = ask(STABLE, [0.5, 0.6, 0.7], 0.3)
    assert reason is not None
    assert "After 50 DFT results the next 3: 0.00 hits expected, fewer than 0.05" in reason
    assert "P(any of the 3 left meets the targets) = 0.00" in reason
    assert ask(STABLE, [0.5, -0.6, 0.7], 0.3) is None
    assert ask(STABLE, [0.5, -0.6, 0.7], 0.3, least_hits=0.5) is not None


def test_it_goes_on_until_it_knows_enough_and_stops_when_nothing_is_left():
    assert ask(LOWEST, [9.0], 0.1, n_known=39) is None
    assert ask(LOWEST, [9.0], 0.1, n_known=39, least_answers=30) is not None
    assert ask(LOWEST, [], 0.1, n_known=3) == "Nothing is left to validate."


def test_the_reason_says_what_the_next_batch_would_have_cost():
    reason = ask(STABLE, [0.5, 0.6, 0.7], 0.3, cost_s=5400.0)
    assert "0.00 hits expected for about 1.5 CPU hours, fewer than 0.05" in reason
    assert "for about 1.5 CPU hours." in ask(LOWEST, [1.0, 2.0, 3.0], 0.2, cost_s=5400.0)


@pytest.mark.parametrize("target", [LOWEST, STABLE])
def test_it_stops_when_a_hit_costs_too_much(target):
    means = [-1.0, 5.0, 5.0] if target is STABLE else [0.0, 5.0, 5.0]  # one with even odds, and no other
    assert look(target, means, 0.3).hits == pytest.approx(0.5)
    assert ask(target, means, 0.3, cost_s=1800.0) is None
    assert ask(target, means, 0.3, cost_s=1800.0, most_s_per_hit=3601.0) is None
    assert "more than 1 CPU hours a hit" in ask(target, means, 0.3, cost_s=1800.0, most_s_per_hit=3599.0)
    assert ask(target, means, 0.3, most_s_per_hit=1.0) is None  # nothing tells what it costs
    assert ask(target, means, 0.3, n_known=39, cost_s=1800.0, most_s_per_hit=1.0) is None


def test_the_outlook_is_that_of_the_batch_that_is_named():
    likeliest = look(STABLE, [-0.9, 0.5, -1.2, -1.1], 0.3, batch=2)
    assert likeliest.rows.tolist() == [52, 53]
    named = look(STABLE, [-0.9, 0.5, -1.2, -1.1], 0.3, rows=np.array([50, 51]))
    odds = norm.cdf(-1.0, [-0.9, 0.5, -1.2, -1.1], 0.3)
    assert likeliest.hits == pytest.approx(odds[2] + odds[3])
    assert named.hits == pytest.approx(odds[0] + odds[1])
    assert named.odds_any == likeliest.odds_any == pytest.approx(1 - np.prod(1 - odds))


@pytest.mark.parametrize(
    "target", [LOWEST, STABLE, Target(property="energy", goal="near", value=0.5), replace(STABLE, value=-1e9)]
)
@pytest.mark.parametrize("n_known", [0, 1, 60])
@pytest.mark.parametrize("n_left", [0, 1, 5])
@pytest.mark.parametrize("how", ["answered", "all failed", "all the same"])
@pytest.mark.parametrize("std", [0.0, 0.3])
def test_no_pool_is_too_poor_for_an_outlook(target, n_known, n_left, how, std):
    n = n_known + n_left
    answers = {"answered": None, "all failed": np.full(n, np.nan), "all the same": np.full(n, 0.5)}[how]
    if how == "all the same":
        answers[n_known:] = np.nan
    outlook = look(target, [0.5] * n_left, std, n_known=n_known, answers=answers)
    assert 0 <= outlook.hits <= min(3, n_left)
    assert 0 <= outlook.odds_any <= 1
    assert outlook.n_answers == (0 if how == "all failed" else n_known)
    reason = stop_rule(outlook)
    if n_left == 0:
        assert reason == "Nothing is left to validate."
    elif how == "all failed" or n_known < 40:
        assert reason is None  # nothing was learned that would speak against the rest
    elif target.value == -1e9:
        assert "0.00 hits expected" in reason  # what nobody reaches


def test_jeffreys_intervals_are_those_published():
    # Brown, Cai and DasGupta, Statist. Sci. 16, 101 (2001), table 5: n = 10, x = 2 and n = 7, x = 0.
    some = hit_rate(2, 10)
    assert (round(some.low, 3), round(some.high, 3)) == (0.044, 0.503)
    none = hit_rate(0, 7)
    assert (none.low, round(none.high, 3)) == (0, 0.292)
    assert hit_rate(0, 0) is None


@given(hits=st.integers(0, 30), more=st.integers(0, 30))
def test_the_rate_lies_in_its_interval(hits, more):
    rate = hit_rate(hits, hits + more)
    if rate is not None:
        assert 0 <= rate.low <= rate.rate <= rate.high <= 1


def test_only_random_picks_with_an_answer_are_the_yardstick():
    why = ["audit", "audit", "audit", "spread", "probability_of_all_targets"]
    rate = hit_rate_among_random(why, [True, False, None, True, True])
    assert (rate.hits, rate.trials, rate.rate) == (1, 2, 0.5)
    assert hit_rate_among_random(["spread"], [True]) is None
    with pytest.raises(ValueError, match="zip"):
        hit_rate_among_random(["audit"], [])
