import numpy as np
import pytest
from scipy.stats import norm

from materials.errors import InputError
from materials.records import Target
from models.learning.objectives import acquire, aim_at
from models.learning.target_probability import best_value, meeting, score_pool
from tests.unit.models.learning.made_beliefs import belief

STABLE = Target(property="energy", goal="at_most", value=0.05)
GAP = Target(property="gap", goal="near", value=1.3, tolerance=0.3)


POSTERIORS = {"energy": belief([0.0, 0.1, 0.0], [0.1, 0.1, 0.05]), "gap": belief([1.3, 1.3, 3.0], [0.5, 0.5, 0.5])}
UNKNOWN = {"energy": np.full(3, np.nan), "gap": np.full(3, np.nan)}


def test_the_score_is_the_product_of_the_odds():
    expected = norm.cdf(0.5) * (norm.cdf(0.6) - norm.cdf(-0.6))
    assert score_pool(POSTERIORS, [STABLE, GAP], UNKNOWN)[0] == pytest.approx(expected)
    assert score_pool(POSTERIORS, [STABLE, GAP], {})[0] == pytest.approx(expected)


def test_an_answer_counts_nought_or_one():
    known = {"energy": np.array([0.05, 0.06, np.nan]), "gap": np.array([1.6, 1.3, np.nan])}
    score = score_pool(POSTERIORS, [STABLE, GAP], known)
    assert score[0] == 1  # at the very edge of both
    assert score[1] == 0
    assert 0 < score[2] < 1
    half = score_pool(POSTERIORS, [STABLE, GAP], {"energy": known["energy"]})
    assert half[0] == pytest.approx(norm.cdf(0.6) - norm.cdf(-0.6))


def test_at_least_and_maximize_are_the_mirror_of_at_most_and_minimize():
    mirrored = {"energy": belief(-POSTERIORS["energy"].mean, POSTERIORS["energy"].std)}
    for one, other in (
        (STABLE, Target(property="energy", goal="at_least", value=-0.05)),
        (Target(property="energy", goal="minimize"), Target(property="energy", goal="maximize")),
    ):
        for answers in ([np.nan] * 3, [0.2, np.nan, np.nan]):
            known, against = {"energy": np.array(answers)}, {"energy": -np.array(answers)}
            np.testing.assert_allclose(
                score_pool(POSTERIORS, [one], known), score_pool(mirrored, [other], against), atol=1e-12
            )
            for rule in ("best_odds", "expected_improvement", "lower_confidence_bound"):
                np.testing.assert_allclose(
                    acquire(POSTERIORS, [one], aim_at(POSTERIORS, [one], known, rule)),
                    acquire(mirrored, [other], aim_at(mirrored, [other], against, rule)),
                    atol=1e-9,
                )


def test_targets_that_only_order_leave_the_score_to_the_thresholds():
    lowest = Target(property="energy", goal="minimize")
    both = score_pool(POSTERIORS, [GAP, lowest], UNKNOWN)
    np.testing.assert_array_equal(both, score_pool(POSTERIORS, [GAP], UNKNOWN))
    known = {"energy": np.array([0.0, np.nan, np.nan])}
    alone = score_pool(POSTERIORS, [lowest], known)
    np.testing.assert_allclose(alone, [1, norm.cdf(-1), 0.5])


def test_the_best_is_the_best_of_those_that_meet_the_thresholds():
    lowest = Target(property="energy", goal="minimize")
    known = {"energy": np.array([-3.0, -1.0, np.nan]), "gap": np.array([0.0, 1.2, 1.3])}
    assert best_value([lowest], known) == {"energy": -3.0}
    assert best_value([lowest, GAP], known) == {"energy": -1.0}
    assert best_value([lowest, Target(property="gap", goal="at_least", value=9.0)], known) == {}
    assert best_value([lowest, GAP], {"energy": known["energy"]}) == {}
    assert best_value([Target(property="gap", goal="near", value=1.0)], known) == {"gap": 1.2}


def test_an_objective_under_a_threshold_is_weighed_by_the_odds():
    lowest = Target(property="energy", goal="minimize")
    assert aim_at(POSTERIORS, [lowest, GAP], {}).rule == "probability_of_all_targets"  # none meets it: find one first
    aim = aim_at(POSTERIORS, [lowest, GAP], {"energy": np.array([np.nan, 0.1, np.nan]), "gap": np.full(3, 1.3)})
    assert (aim.rule, aim.bars) == ("expected_improvement", [0.1])
    values = acquire(POSTERIORS, [lowest, GAP], aim)
    assert values[0] > values[1] > 0
    assert values[0] > values[2]


@pytest.mark.parametrize("others", [[], [Target(property="energy", goal="at_most", value=0.2)]])
def test_an_answer_at_the_very_value_leaves_something_to_look_for(others):
    """Against the single best answer, which is off by nothing, nothing would be an improvement."""
    target = Target(property="gap", goal="near", value=1.3)
    n = 1000
    posteriors = {"gap": belief(np.linspace(-2, 5, n), np.full(n, 0.3)), "energy": belief(np.zeros(n), np.ones(n))}
    known = {"gap": np.full(n, np.nan), "energy": np.full(n, np.nan)}
    known["gap"][0] = 1.3
    known["energy"][0] = 0.0
    aim = aim_at(posteriors, [target, *others], known)
    assert aim.rule == "expected_improvement"
    assert aim.bars[0] == pytest.approx(0.035, rel=0.1)  # ten in seven thousandths of an eV each, to either side
    values = acquire(posteriors, [target, *others], aim)
    assert np.argmax(values) == np.argmin(np.abs(posteriors["gap"].mean - 1.3))
    assert np.all(values >= 0)


def test_gains_below_the_floor_are_gains_at_it():
    gap = belief([-3.0, 1.0, 2.0], [0.1, 0.1, 0.1], floor=0.0)
    lowest, highest = (Target(property="gap", goal=goal) for goal in ("minimize", "maximize"))
    for target, expected in ((lowest, [1.5, 0.5, 0.0]), (highest, [0.0, 0.0, 0.5])):
        aim = aim_at({"gap": gap}, [target], {"gap": np.full(3, 1.5)}, "expected_improvement")
        np.testing.assert_allclose(np.array(acquire({"gap": gap}, [target], aim)) * aim.units[0], expected, atol=1e-6)
    near = Target(property="gap", goal="near", value=0.2)
    aim = aim_at({"gap": gap}, [near], {"gap": np.array([np.nan, 1.0, 2.0])})
    assert np.argmax(acquire({"gap": gap}, [near], aim)) == 0  # a metal is off by 0.2


WITHIN = [
    ([Target(property="gap", goal="at_least", value=1.0), Target(property="gap", goal="minimize")], 1.2),
    ([Target(property="gap", goal="at_most", value=1.0), Target(property="gap", goal="maximize")], 0.8),
    ([Target(property="gap", goal="at_least", value=1.0), Target(property="gap", goal="maximize")], 1.2),
    ([Target(property="gap", goal="at_most", value=1.0), Target(property="gap", goal="minimize")], 0.8),
    ([Target(property="gap", goal="at_most", value=1.35), Target(property="gap", goal="near", value=1.3)], None),
    ([Target(property="gap", goal="at_most", value=0.4), Target(property="gap", goal="near", value=0.1)], None),
]


@pytest.mark.parametrize("floor", [None, 0.0])
@pytest.mark.parametrize(("targets", "best"), WITHIN)
def test_what_is_ordered_and_bounded_counts_where_it_is_in_bounds(targets, best, floor):
    gap = belief([-1.0, 0.0, 1.0, 1.1, 1.4, 3.0], [0.5, 1.0, 0.2, 0.1, 0.5, 2.0], floor=floor)
    known = {"gap": np.full(6, np.nan if best is None else best)}
    aim = aim_at({"gap": gap}, targets, known)
    assert aim.rule == "expected_improvement"
    drawn = np.random.default_rng(0).normal(gap.mean, gap.std, (400_000, 6))
    drawn = drawn if floor is None else np.maximum(drawn, floor)
    bound, order = targets
    met = drawn >= bound.value if bound.goal == "at_least" else drawn <= bound.value
    badness = {"minimize": drawn, "maximize": -drawn, "near": np.abs(drawn - (order.value or 0))}[order.goal]
    gain = np.where(met, np.maximum(aim.bars[0] - badness, 0.0), 0.0)
    values = acquire({"gap": gap}, targets, aim) * aim.units[0]
    np.testing.assert_allclose(values, gain.mean(axis=0), atol=6 * gain.std(axis=0).max() / 400_000**0.5)


def test_one_more_at_the_floor_is_no_better_than_the_first():
    gap = belief([-2.0, -0.5, 0.3], [0.5, 0.5, 0.5], floor=0.0)
    metals = {"gap": np.array([0.0, np.nan, np.nan])}
    above = norm.sf(0.0, gap.mean, gap.std)
    for target, odds in (
        (Target(property="gap", goal="maximize"), above[1:]),
        (Target(property="gap", goal="minimize"), [0.0, 0.0]),
        (Target(property="gap", goal="near", value=1.5), norm.cdf(3.0, gap.mean, gap.std)[1:] - 1 + above[1:]),
    ):
        np.testing.assert_allclose(score_pool({"gap": gap}, [target], metals), [1.0, *odds], atol=1e-12)
    highest = Target(property="gap", goal="maximize")
    np.testing.assert_allclose(score_pool({"gap": gap}, [highest], {})[:2], norm.sf(0.3, gap.mean, gap.std)[:2])
    many = belief(np.linspace(-3, -1, 100), np.full(100, 0.5), floor=0.0)
    for target in (highest, Target(property="gap", goal="near", value=1.5)):
        aim = aim_at({"gap": many}, [target], {}, "best_odds")
        odds = acquire({"gap": many}, [target], aim)
        assert np.all(np.diff(odds) > 0), target


def test_stable_is_as_far_above_the_hull_as_can_be_wished():
    hull = {"energy_above_hull": belief([-0.2, 0.03, 0.2], [0.01, 0.01, 0.01])}
    near = Target(property="energy_above_hull", goal="near", value=0.0, tolerance=0.05)
    for known in ({}, {"energy_above_hull": np.array([-0.2, 0.03, 0.2])}):
        np.testing.assert_allclose(score_pool(hull, [near], known), [1.0, 1.0, 0.0], atol=0.03)


def test_wishes_that_cannot_be_judged_are_refused():
    with pytest.raises(InputError, match="none given"):
        score_pool(POSTERIORS, [], UNKNOWN)
    with pytest.raises(InputError, match="there is: energy, gap"):
        score_pool(POSTERIORS, [Target(property="colour", goal="minimize")], UNKNOWN)
    with pytest.raises(InputError, match="needs a value"):
        aim_at(POSTERIORS, [Target(property="gap", goal="near")], {})


@pytest.mark.parametrize("goal", ["minimize", "maximize", "near"])
def test_the_bar_is_where_as_many_are_expected_as_count_as_the_best(goal):
    target = Target(property="energy", goal=goal, value=0.3)
    rng = np.random.default_rng(1)
    posterior = belief(rng.normal(size=800), rng.uniform(0.1, 1.0, 800))
    answers = np.where(rng.random(800) < 0.2, posterior.mean + 0.1, np.nan)
    aim = aim_at({"energy": posterior}, [target], {"energy": answers}, "best_odds")
    drawn = np.where(np.isnan(answers), rng.normal(posterior.mean, posterior.std, (4000, 800)), answers)
    badness = {"minimize": drawn, "maximize": -drawn, "near": np.abs(drawn - 0.3)}[goal]
    assert aim.rule == "best_odds"
    assert np.mean(np.sum(badness <= aim.bars[0], axis=1)) == pytest.approx(8, abs=0.3)
    odds = acquire({"energy": posterior}, [target], aim)
    unknown = np.isnan(answers)
    np.testing.assert_allclose(odds[unknown], np.mean(badness <= aim.bars[0], axis=0)[unknown], atol=0.04)


def test_below_the_floor_lies_what_is_at_the_floor():
    gap = belief([-1.0, 0.5, 2.0], [0.5, 0.5, 0.5], floor=0.0)
    drawn = np.maximum(np.random.default_rng(0).normal(gap.mean, gap.std, (100_000, 3)), 0.0)
    for target, met in (
        (Target(property="gap", goal="at_most", value=0.0), drawn <= 0.0),
        (Target(property="gap", goal="at_least", value=0.0), drawn >= 0.0),
        (Target(property="gap", goal="at_least", value=0.4), drawn >= 0.4),
        (Target(property="gap", goal="at_most", value=-0.1), drawn <= -0.1),
        (Target(property="gap", goal="near", value=0.1, tolerance=0.2), np.abs(drawn - 0.1) <= 0.2),
        (Target(property="gap", goal="near", value=1.5, tolerance=0.3), np.abs(drawn - 1.5) <= 0.3),
    ):
        np.testing.assert_allclose(score_pool({"gap": gap}, [target], {}), met.mean(axis=0), atol=0.006)
    np.testing.assert_allclose(gap.expected, [0.0, 0.5, 2.0])


@pytest.mark.parametrize("floor", [None, 0.0])
def test_thresholds_of_one_property_are_one_window(floor):
    gap = belief([-1.0, 0.5, 2.0, 4.0], [0.5, 1.5, 0.7, 3.0], floor=floor)
    drawn = np.random.default_rng(0).normal(gap.mean, gap.std, (200_000, 4))
    drawn = drawn if floor is None else np.maximum(drawn, floor)
    least, most = Target(property="gap", goal="at_least", value=0.4), Target(property="gap", goal="at_most", value=2.5)
    near = Target(property="gap", goal="near", value=0.0, tolerance=1.0)
    for targets, met in (
        ([least, most], (drawn >= 0.4) & (drawn <= 2.5)),
        ([most, least, near], (drawn >= 0.4) & (drawn <= 1.0)),
        ([Target(property="gap", goal="at_least", value=0.0), most], (drawn >= 0.0) & (drawn <= 2.5)),
        ([least, Target(property="gap", goal="at_most", value=0.3)], np.zeros_like(drawn)),
    ):
        aim = aim_at({"gap": gap}, targets, {})
        assert aim.rule == "probability_of_all_targets"
        np.testing.assert_allclose(score_pool({"gap": gap}, targets, {}), met.mean(axis=0), atol=0.005)
        np.testing.assert_allclose(acquire({"gap": gap}, targets, aim), met.mean(axis=0), atol=0.005)


def test_an_answer_at_either_edge_of_a_window_meets_it():
    edges = np.array([0.1, 0.3, 0.1 - 1e-9, 0.3 + 1e-9])
    gap = belief([0.0] * 4, [1.0] * 4)
    window = [Target(property="gap", goal="at_least", value=0.1), Target(property="gap", goal="at_most", value=0.3)]
    np.testing.assert_array_equal(score_pool({"gap": gap}, window, {"gap": edges}), [1, 1, 0, 0])
    np.testing.assert_array_equal(meeting(window, {"gap": edges}), [True, True, False, False])
    np.testing.assert_array_equal(meeting([*window, STABLE], {"gap": edges}), [False] * 4)
    assert meeting([Target(property="gap", goal="minimize")], {"gap": edges}) is None
