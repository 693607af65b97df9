"""Campaigns played on made-up tables, against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from materials.records import Target
from models.learning.simulation import (
    STRATEGIES,
    Features,
    Played,
    Question,
    answers_needed,
    covered,
    play,
    reasons_against,
    recall,
)

ENERGY = "decomposition_energy_per_atom"
LOWEST = Target(property=ENERGY, goal="minimize")
LEARNING = [name for name, strategy in STRATEGIES.items() if strategy.features]


def question(n=200, seed=0, targets=(LOWEST,), share=0.02, error=0.3, **changes) -> Question:
    """A smooth landscape, and a potential that is off by `error` eV/atom."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 5))
    energy = 0.5 * np.tanh(matrix[:, 0]) + 0.2 * np.cos(2 * matrix[:, 1])
    gap = np.clip(1.0 + matrix[:, 2] + 0.3 * matrix[:, 3], 0, None)
    made = Question(
        features={
            "all": Features(matrix=matrix, widths=(2, 3)),
            "composition": Features(matrix=matrix[:, 2:], widths=(3,)),
        },
        answers={ENERGY: energy, "band_gap": gap},
        priors={
            ENERGY: energy + rng.normal(scale=error, size=n),
            "formation_energy_per_atom": energy - 2 + rng.normal(scale=2 * error, size=n),
            "volume_per_atom": rng.uniform(10, 30, n),
        },
        targets=targets,
        wanted=energy <= np.quantile(energy, share),
        groups=np.arange(n),
    )
    return replace(made, **changes)


def played(made: Question, name: str, *, batch=10, budget=40, seed=0) -> Played:
    found = play(made, STRATEGIES[name], batch=batch, budget=budget, seed=seed)
    n = min(budget, len(made.wanted))
    assert len(found.order) == n
    assert len(set(found.order.tolist())) == n, "asked twice"
    assert found.order.min() >= 0
    assert found.order.max() < len(made.wanted)
    return found


def test_random_finds_what_a_permutation_finds():
    made = question(wanted=np.arange(200) < 20)
    curves = np.array([recall(made, played(made, "random", budget=200, seed=seed)) for seed in range(300)])
    np.testing.assert_allclose(curves.mean(axis=0), np.arange(1, 201) / 200, atol=0.02)
    np.testing.assert_array_equal(curves[:, -1], 1.0)
    # Draws until half are found, by chance: k (n + 1) / (K + 1).
    needed = [answers_needed(curve, 0.5) for curve in curves]
    assert np.mean(needed) == pytest.approx(10 * 201 / 21, abs=3)


@pytest.mark.parametrize(
    ("name", "prior"), [("potential", "formation_energy_per_atom"), ("hull", "decomposition_energy_per_atom")]
)
@pytest.mark.parametrize(
    ("goal", "value", "best"),
    [
        ("minimize", None, lambda prior: prior),
        ("at_most", 0.1, lambda prior: prior),
        ("maximize", None, lambda prior: -prior),
        ("at_least", 0.1, lambda prior: -prior),
    ],
)
def test_the_potential_asks_in_its_own_order(name, prior, goal, value, best):
    made = question(targets=[Target(property=ENERGY, goal=goal, value=value)])
    values = made.priors[prior].copy()
    values[[3, 17, 90]] = np.nan
    made = replace(made, priors={**made.priors, prior: values})
    expected = sorted(range(200), key=lambda row: (np.isnan(values[row]), best(values[row]), row))
    assert played(made, name, budget=200).order.tolist()[:197] == expected[:197]
    assert set(played(made, name, budget=200).order.tolist()[197:]) == {3, 17, 90}
    assert played(made, name, seed=1).order.tolist() == expected[:40]


@pytest.mark.parametrize("goal", ["near", "window"])
def test_what_is_to_be_near_a_value_is_ranked_by_its_distance_where_it_is_the_potentials_own_quantity(goal):
    target = Target(property=ENERGY, goal="near", value=0.2, tolerance=None if goal == "near" else 0.05)
    made = question(targets=[target])
    off = np.abs(made.priors[ENERGY] - 0.2)
    assert played(made, "hull").order.tolist() == np.argsort(off, kind="stable")[:40].tolist()
    formation = made.priors["formation_energy_per_atom"]
    assert played(made, "potential").order.tolist() == np.argsort(formation, kind="stable")[:40].tolist()


def test_the_potential_is_silent_about_a_gap_and_where_it_has_no_numbers():
    gap = question(targets=[Target(property="band_gap", goal="near", value=1.3)])
    assert reasons_against(gap, STRATEGIES["potential"]) == "the potential has no say in what is wished for"
    unknown = question(priors={ENERGY: np.full(200, np.nan)})
    for name in ("potential", "hull"):
        assert "the potential has no" in str(reasons_against(unknown, STRATEGIES[name]))
    for name in STRATEGIES:
        assert reasons_against(question(), STRATEGIES[name]) is None
    for name in (*LEARNING, "random"):
        assert reasons_against(unknown, STRATEGIES[name]) is None


def test_recall_and_the_answers_that_it_takes():
    made = question(n=6, wanted=np.array([1, 0, 1, 0, 1, 0], dtype=bool))
    some = Played(order=np.array([1, 2, 3, 0]), held={}, covered={}, cpu_s=0.0)
    curve = recall(made, some)
    np.testing.assert_allclose(curve, [0, 1 / 3, 1 / 3, 2 / 3])
    assert [answers_needed(curve, share) for share in (1 / 3, 0.5, 2 / 3, 0.8)] == [2, 4, 4, None]


def test_a_campaign_finds_more_than_chance_and_than_the_potential():
    found = {name: [] for name in ("campaign", "random", "potential", "hull")}
    for landscape in range(2):
        made = question(n=400, seed=landscape)
        for name, shares in found.items():
            shares.append(recall(made, played(made, name, budget=60, seed=landscape))[-1])
    mean = {name: np.mean(shares) for name, shares in found.items()}
    assert mean["campaign"] >= 0.7
    assert mean["campaign"] > mean["hull"] + 0.1
    assert mean["campaign"] > mean["potential"] + 0.1
    assert mean["campaign"] > mean["random"] + 0.4


def test_several_wishes_at_once():
    targets = [
        Target(property=ENERGY, goal="at_most", value=-0.2),
        Target(property="band_gap", goal="at_least", value=1),
    ]
    made = question(targets=targets)
    made = replace(made, wanted=(made.answers[ENERGY] <= -0.2) & (made.answers["band_gap"] >= 1))
    found = played(made, "campaign")
    assert np.sum(made.wanted[found.order]) > 2 * 40 * np.mean(made.wanted)
    assert set(found.held) == set(found.covered) == {ENERGY, "band_gap"}


def test_near_a_value_all_are_found_that_tie_at_it():
    made = question(n=400)
    gap = np.round(made.answers["band_gap"], 1)
    near = Target(property="band_gap", goal="near", value=1.0)
    made = replace(made, answers={"band_gap": gap}, targets=[near], wanted=gap == 1.0)
    curve = recall(made, played(made, "campaign", budget=100))
    assert curve[-1] > 0.8  # by chance a quarter
    assert curve[-1] > recall(made, played(made, "random", budget=100))[-1] + 0.4


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_seed_is_a_campaign(name):
    made = question(n=80)
    first, again, other = (played(made, name, budget=25, seed=seed).order.tolist() for seed in (3, 3, 4))
    assert first == again
    assert (first == other) == (name in ("potential", "hull"))


def failing(made: Question) -> Question:
    lost = np.random.default_rng(5).random(len(made.wanted)) < 0.1
    answers = np.where(lost, np.nan, made.answers[ENERGY])
    return replace(made, answers={**made.answers, ENERGY: answers}, wanted=made.wanted & ~lost)


def off_by_5_ev(made: Question) -> Question:
    answers = made.answers[ENERGY].copy()
    answers[np.argsort(made.priors[ENERGY])[2]] += 5.0  # soon asked for
    return replace(made, answers={**made.answers, ENERGY: answers})


def constant(made: Question) -> Question:
    return replace(made, answers={ENERGY: np.full(len(made.wanted), 0.3)}, wanted=np.ones(len(made.wanted), bool))


def twins(made: Question) -> Question:
    """Each structure three times."""
    rows = np.arange(len(made.wanted)) // 3 * 3
    features = {name: replace(f, matrix=f.matrix[rows]) for name, f in made.features.items()}
    return replace(made, features=features, groups=made.groups[rows])


def featureless(made: Question) -> Question:
    n = len(made.wanted)
    nothing = Features(matrix=np.zeros((n, 0)), widths=(0, 0))
    return replace(made, features={"all": nothing, "composition": replace(nothing, widths=(0, 0))})


def without_priors(made: Question) -> Question:
    return replace(made, priors={name: np.full(len(made.wanted), np.nan) for name in made.priors})


def all_failing(made: Question) -> Question:
    return replace(made, answers={ENERGY: np.full(len(made.wanted), np.nan)})


TROUBLES = [failing, off_by_5_ev, constant, twins, featureless, without_priors, all_failing]


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", ["campaign", "composition", "no_potential", "best_odds"])
def test_trouble_does_not_stop_a_campaign(trouble, name):
    found = played(trouble(question(n=60)), name, batch=7, budget=25)
    assert np.isfinite(recall(question(n=60), found)).all()


@pytest.mark.parametrize("trouble", [failing, off_by_5_ev, twins])
def test_trouble_costs_a_campaign_little(trouble):
    made = trouble(question(n=300, share=0.03))
    assert recall(made, played(made, "campaign", budget=70))[-1] > 0.6


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("n", [1, 12])
def test_a_budget_beyond_the_table_finds_everything(n, name):
    made = question(n=n, share=0.2)
    found = played(made, name, batch=5, budget=1000)
    assert sorted(found.order.tolist()) == list(range(n))
    assert recall(made, found)[-1] == 1.0


def test_a_batch_beyond_the_table():
    assert sorted(played(question(n=7), "campaign", batch=50, budget=50).order.tolist()) == list(range(7))


def test_cover_is_of_what_was_answered():
    """A failed calculation says nothing of the error bars."""
    made = failing(question(n=150))
    found = played(made, "campaign", budget=40)
    lost = np.isnan(made.answers[ENERGY][found.order])
    assert lost.any()
    np.testing.assert_array_equal(np.isnan(found.held[ENERGY][10:]), lost[10:])
    assert np.isnan(found.held[ENERGY][:10]).all()  # before the first answers nothing was believed
    few = replace(made, answers={ENERGY: np.where(np.arange(150) % 3 == 0, made.answers[ENERGY], np.nan)})
    assert played(few, "campaign", budget=40).covered[ENERGY] > 0.5


def test_cover_is_nine_in_ten_where_beliefs_are_right():
    """Answers drawn from the very process that the surrogate believes in."""
    from models.learning.gaussian_process import Kernel

    rng = np.random.default_rng(0)
    n, campaigns = 150, []
    matrix = rng.normal(size=(n, 3))
    kernel = Kernel(amplitude=0.07, length_scales=(2.0,), widths=(3,), noise=0.02)
    factor = np.linalg.cholesky(kernel.covariance(matrix, matrix) + 1e-10 * np.eye(n))
    prior = rng.normal(scale=0.3, size=n)
    features = Features(matrix=matrix, widths=(3,))
    for seed in range(4):
        energy = prior + factor @ rng.standard_normal(n) + rng.normal(scale=kernel.noise, size=n)
        made = question(
            n=n, features={"all": features}, answers={ENERGY: energy}, priors={ENERGY: prior}, wanted=energy < -0.4
        )
        campaigns.append(played(made, "campaign", batch=20, budget=60, seed=seed))
    picked, rest = covered(campaigns)[ENERGY]
    told = sum(np.isfinite(c.held[ENERGY]).sum() for c in campaigns)
    assert told == 4 * 40
    low, high = binom.ppf([0.001, 0.999], told, 0.9) / told
    assert low <= picked <= high
    assert rest == pytest.approx(0.9, abs=0.05)


def test_covered_is_a_mean_over_picks_and_over_campaigns():
    one = Played(order=np.arange(7), held={"x": np.array([np.nan, 1, 1, 0, 0.9, 1, 0])}, covered={"x": 0.5}, cpu_s=0.0)
    other = replace(one, held={"x": np.array([1, np.nan])}, covered={"x": 0.7})
    picked, rest = covered([one, other])["x"]
    assert picked == pytest.approx((3.9 + 1) / 7)
    assert rest == pytest.approx(0.6)
    nothing = replace(one, held={"x": np.full(7, np.nan)}, covered={"x": np.nan})
    assert np.isnan(covered([nothing])["x"]).all()
    assert covered([replace(one, held={}, covered={})]) == {}
    picked, rest = covered([one, nothing])["x"]
    assert rest == pytest.approx(0.5)


ABOVE = "energy_above_hull"


def polymorphs(target: str, seed: int = 0) -> Question:
    """Forty compositions of six phases each, most of them stable against other compositions; one of six on the hull."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), 6)
    matrix = np.hstack([rng.normal(size=(40, 3))[groups], rng.normal(size=(240, 2))])
    energy = -0.15 + 0.1 * matrix[:, 0] + 0.08 * np.tanh(matrix[:, 3]) + 0.04 * matrix[:, 4]
    lowest = np.array([energy[groups == group].min() for group in range(40)])[groups]
    above = np.maximum(energy - np.minimum(lowest, 0.0), 0.0)
    prior = energy + rng.normal(scale=0.05, size=240)
    return Question(
        features={"all": Features(matrix=matrix, widths=(3, 2))},
        answers={ENERGY: energy, ABOVE: above},
        priors={ENERGY: prior, ABOVE: np.maximum(prior, 0.0), "formation_energy_per_atom": prior - 1},
        targets=(Target(property=target, goal="at_most", value=0.0),),
        wanted=above == 0,
        groups=groups,
    )


@pytest.mark.parametrize("seed", range(3))
def test_above_the_hull_is_asked_of_the_lowest_of_a_composition(seed: int) -> None:
    """Wished as a decomposition energy, one polymorph is as good as another."""
    found = {name: played(polymorphs(name, seed), "campaign", budget=60, seed=seed) for name in (ENERGY, ABOVE)}
    hits = {name: recall(polymorphs(name, seed), p)[-1] * polymorphs(name, seed).n_wanted for name, p in found.items()}
    assert hits[ABOVE] >= 1.4 * hits[ENERGY]
    assert set(found[ABOVE].held) == {ENERGY}  # what is learned
    by_potential = {name: played(polymorphs(name, seed), "hull", budget=60) for name in (ENERGY, ABOVE)}
    assert sum(polymorphs(ABOVE, seed).wanted[by_potential[ABOVE].order]) > sum(
        polymorphs(ABOVE, seed).wanted[by_potential[ENERGY].order]
    )


def test_without_decomposition_energies_the_table_s_own_are_learned() -> None:
    made = polymorphs(ABOVE)
    alone = replace(made, answers={ABOVE: made.answers[ABOVE]})
    assert set(played(alone, "campaign").held) == {ABOVE}
