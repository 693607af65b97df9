import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from materials.records import Target
from models.stopping import hit_rate, hit_rate_among_random, stop_rule
from tests.unit.models.made_beliefs import belief


def ask(target, means, std, n_known=50, **extra):
    mean = np.concatenate([np.linspace(0, 1, n_known), means])
    posterior = belief(mean, np.full(len(mean), std))
    answers = np.where(np.arange(len(mean)) < n_known, mean, np.nan)
    return stop_rule(
        posteriors={"energy": posterior},
        targets=[target],
        known={"energy": answers},
        available=np.isnan(answers),
        batch=3,
        **extra,
    )


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
    assert "the next 3 can expect 0.000 hits, fewer than 0.05" in reason
    assert ask(STABLE, [0.5, -0.6, 0.7], 0.3) is None
    assert ask(STABLE, [0.5, -0.6, 0.7], 0.3, least_hits=0.5) is not None


def test_it_goes_on_until_it_knows_enough_and_stops_when_nothing_is_left():
    assert ask(LOWEST, [9.0], 0.1, n_known=39) is None
    assert ask(LOWEST, [9.0], 0.1, n_known=39, least_answers=30) is not None
    assert ask(LOWEST, [], 0.1, n_known=3) == "Nothing is left to validate."


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
