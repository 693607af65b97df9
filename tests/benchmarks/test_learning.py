"""How long learning takes: structures described, a pool of a million predicted, a batch chosen from it."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materials.records import Target
from models.learning.batch_selection import select_batch
from models.learning.features.descriptors import describe
from models.learning.features.projection import freeze
from models.learning.surrogate import predict

MILLION = 1_000_000
ANSWERS = 300
WIDTHS = (3, 20, 20, 20)


@pytest.fixture(scope="module")
def crystals():
    rng = np.random.default_rng(0)
    symbols = ["Li", "Na", "Mg", "Zn", "Cd", "P", "As", "Sb", "O", "S"]
    return [
        Structure(
            Lattice.from_parameters(*rng.uniform(4, 7, 3), *rng.uniform(80, 100, 3)),
            rng.choice(symbols, size),
            rng.random((size, 3)),
        )
        for size in rng.integers(2, 17, 2000)
    ]


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(MILLION, sum(WIDTHS))).astype(np.float32)
    prior = rng.normal(size=MILLION)
    seen = rng.choice(MILLION, ANSWERS, replace=False)
    answers = prior[seen] + np.sin(features[seen, 0]) + rng.normal(scale=0.1, size=ANSWERS)
    return features, prior, seen, answers


def test_describing_two_thousand_crystals(benchmark, crystals):
    features = benchmark.pedantic(describe, args=(crystals,), rounds=2, warmup_rounds=1)
    assert np.isfinite(features).all()


def test_freezing_and_projecting_a_million(benchmark):
    table = np.random.default_rng(2).normal(size=(MILLION, 160)).astype(np.float32)
    groups = [list(part) for part in np.split(np.arange(160), [3, 61, 96])]
    projected = benchmark.pedantic(lambda: freeze(table, groups=groups).transform(table), rounds=1)
    assert projected.shape == (MILLION, sum(WIDTHS))


def test_predicting_a_million(benchmark, pool):
    features, prior, seen, answers = pool
    posterior = benchmark.pedantic(
        predict,
        args=(features,),
        kwargs={"observed": seen, "answers": answers, "prior": prior, "widths": WIDTHS},
        rounds=1,
    )
    assert np.mean(np.abs(posterior.mean[seen] - answers)) < 1


def test_choosing_ten_of_a_million(benchmark, pool):
    features, prior, seen, answers = pool
    posterior = predict(features, observed=seen, answers=answers, prior=prior, widths=WIDTHS)
    known = np.full(MILLION, np.nan)
    known[seen] = answers
    picks = benchmark.pedantic(
        select_batch,
        kwargs={
            "features": features,
            "posteriors": {"energy": posterior},
            "targets": [Target(property="energy", goal="minimize")],
            "known": {"energy": known},
            "available": np.isnan(known),
            "size": 10,
            "seed": 0,
            "round": 2,
            "groups": np.arange(MILLION) // 3,
            "n_audits": 1,
        },
        rounds=1,
    )
    assert len(picks) == 10
