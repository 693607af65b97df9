"""What batches by marginal value per marginal cost find for their CPU time, beside plain top-k.

    python -m tests.benchmarks.batches [--seeds 10] [--batch 10]

The pool is made up: ternaries A-B-X of three structure types, whose hull needs the three elements and the three
binaries, each shared by all ternaries that hold it and paid once. Energies depend smoothly on the elements and the
type, the potential is off by another smooth function and by noise, and calculations cost by their electrons, the
dearest thirty times what the cheapest do. Hits are the lowest 5 %. Each strategy sees the same Gaussian process; what
differs is whom it asks. About five minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from materials.records import Target
from models.learning.batch_selection import select_batch
from models.learning.dft_cost import Bill, open_bill
from models.learning.surrogate import Posterior, predict
from models.learning.target_probability import score_pool

ELEMENTS = {"A": 10, "B": 10, "X": 6}
TYPES = 3
SHARE = 0.05  # of the pool that are hits
UP_TO = 0.25  # of what all would cost: how far the curves are followed
MARKS = (0.5, 0.8)  # shares of the hits whose price is told


@dataclass(frozen=True, kw_only=True)
class World:
    """A pool with answers, and what each calculation costs."""

    features: NDArray[np.float64]
    energy: NDArray[np.float64]
    potential: NDArray[np.float64]
    needs: NDArray[np.bool_]  # (n, p): own calculations first, then phases
    prices: NDArray[np.float64]
    groups: NDArray[np.int64]


def make(seed: int) -> World:
    """Draw one."""
    rng = np.random.default_rng(seed)
    counts = [*ELEMENTS.values(), TYPES]
    which = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, 4)
    traits = [rng.normal(size=(count, 2)) for count in counts]
    features = np.hstack([trait[column] for trait, column in zip(traits, which.T, strict=True)])
    energy, error = _smooth(features, rng), _smooth(features, rng)
    electrons = [rng.uniform(1, 12, count) for count in counts[:3]]
    each = np.stack([electrons[site][which[:, site]] for site in range(3)], axis=1)
    # Phases by number: of each site's elements, then of each pair of sites.
    columns, prices, first = [], [], 0
    for sites in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        number = np.ravel_multi_index(tuple(which[:, sites].T), tuple(counts[site] for site in sites))
        columns.append(first + number)
        price = np.empty(number.max() + 1)
        price[number] = each[:, sites].sum(axis=1) ** 2 * len(sites) / 3
        prices.append(price)
        first += len(price)
    phases = np.zeros((len(which), first), dtype=bool)
    for column in columns:
        phases[np.arange(len(which)), column] = True
    own = each.sum(axis=1) ** 2 * rng.choice([0.5, 1.0, 2.0], TYPES)[which[:, 3]]
    return World(
        features=(features - features.mean(axis=0)) / features.std(axis=0),
        energy=energy,
        potential=energy + 0.7 * error + 0.2 * rng.normal(size=len(which)),
        needs=np.hstack([np.eye(len(which), dtype=bool), phases]),
        prices=np.concatenate([own, *prices]),
        groups=np.ravel_multi_index(tuple(which[:, :3].T), tuple(counts[:3])),
    )


def _smooth(features: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    waves = rng.normal(size=(features.shape[1], 40)) * 0.5
    drawn = np.cos(features @ waves + rng.uniform(0, 2 * np.pi, 40)) @ rng.normal(size=40)
    scaled: NDArray[np.float64] = (drawn - drawn.mean()) / drawn.std()
    return scaled


def play(world: World, strategy: str, batch: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cost and recall after each answer, until `UP_TO` is spent."""
    n = len(world.energy)
    bar = float(np.quantile(world.energy, SHARE))
    hit = world.energy <= bar
    target = Target(property="energy", goal="at_most", value=bar)
    known, available, paid = np.full(n, np.nan), np.ones(n, dtype=bool), np.zeros(len(world.prices), dtype=bool)
    budget, costs, recalls, round_number = UP_TO * world.prices.sum(), [0.0], [0.0], 0
    while costs[-1] < budget and available.any():
        round_number += 1
        seen = np.flatnonzero(np.isfinite(known))
        belief = predict(
            world.features, observed=seen, answers=known[seen], prior=world.potential, spread=0.7, seed=seed
        )

        def bill_of(rows: NDArray[np.int64], paid: NDArray[np.bool_] = paid) -> Bill:
            return open_bill(world.needs[rows], np.where(paid, 0.0, world.prices))

        for row in STRATEGIES[strategy](world, belief, target, known, available, batch, (seed, round_number), bill_of):
            costs.append(costs[-1] + float(world.prices[world.needs[row] & ~paid].sum()))
            recalls.append(recalls[-1] + hit[row] / hit.sum())
            paid |= world.needs[row]
            known[row], available[row] = world.energy[row], False
    return np.array(costs) / world.prices.sum(), np.array(recalls)


Strategy = Callable[..., list[int]]


def _top(
    world: World,
    belief: Posterior,
    target: Target,
    known: NDArray[np.float64],
    available: NDArray[np.bool_],
    batch: int,
    seeds: tuple[int, int],
    bill_of: Callable[[NDArray[np.int64]], Bill],
) -> list[int]:
    odds = np.where(available, score_pool({"energy": belief}, [target], {"energy": known}), -1.0)
    return [int(row) for row in np.argsort(-odds, kind="stable")[: min(batch, int(available.sum()))]]


def _ours(by_cost: bool) -> Strategy:
    def choose(
        world: World,
        belief: Posterior,
        target: Target,
        known: NDArray[np.float64],
        available: NDArray[np.bool_],
        batch: int,
        seeds: tuple[int, int],
        bill_of: Callable[[NDArray[np.int64]], Bill],
    ) -> list[int]:
        picks = select_batch(
            features=world.features,
            posteriors={"energy": belief},
            targets=[target],
            known={"energy": known},
            available=available,
            size=batch,
            seed=seeds[0],
            round=seeds[1],
            groups=world.groups,
            bill_of=bill_of if by_cost else None,
        )
        return [pick.index for pick in picks]

    return choose


STRATEGIES: dict[str, Strategy] = {
    "plain top-k": _top,
    "cost: candidates": _ours(False),
    "cost: time": _ours(True),
}


def main() -> None:
    """Play all strategies in the same worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=10)
    asked = parser.parse_args()
    areas: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    marks: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    for seed in range(asked.seeds):
        world = make(seed)
        for name in STRATEGIES:
            costs, recalls = play(world, name, asked.batch, seed)
            grid = np.linspace(0, UP_TO, 501)
            areas[name].append(float(np.mean(recalls[np.searchsorted(costs, grid, side="right") - 1])))
            marks[name].append([float(np.interp(mark, recalls, costs, right=np.nan)) for mark in MARKS])
    told = " | ".join(f"cost of {mark:.0%} of the hits" for mark in MARKS)
    print(f"| strategy | area under recall against cost, to {UP_TO:.0%} of all cost | {told} |")
    print(f"|---|---|{'---|' * len(MARKS)}")
    for name, found in areas.items():
        paid = " | ".join(_told(np.array(marks[name])[:, i], ".1%") for i in range(len(MARKS)))
        print(f"| {name} | {_told(np.array(found), '.3f')} | {paid} |")
    for name in list(STRATEGIES)[:-1]:
        gain = np.array(areas["cost: time"]) - np.array(areas[name])
        print(
            f"cost: time against {name}: area {_told(gain, '+.3f')}, better in {np.sum(gain > 0)} of {len(gain)} worlds"
        )


def _told(values: NDArray[np.float64], form: str) -> str:
    found = values[np.isfinite(values)]
    if not len(found):
        return "never"
    error = format(np.std(found, ddof=min(1, len(found) - 1)) / np.sqrt(len(found)), form.lstrip("+"))
    return f"{np.mean(found):{form}} ± {error}" + (
        f" ({len(found)} of {len(values)})" if len(found) < len(values) else ""
    )


if __name__ == "__main__":
    main()
