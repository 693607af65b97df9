"""What the convention of the prior is worth: its error and rank, and those of the Gaussian process, before and after.

    python -m tests.benchmarks.prior_convention TABLE [--into raw|anions] [--campaign FILE] [--known 50,200] [--seeds 9]

TABLE holds structures and `decomposition_energy_per_atom`: energies of PBE, or of what is near it, that have no
corrections in (raw), or MP2020's terms for anions. Before: the potential's energies with all corrections of MP2020 in;
after: as the answers are. Compositions are left out: what a process knows is judged by the others, in five folds or
from so many answers drawn at random. Prints a Markdown table; `tests/benchmarks/learning.md` keeps what came out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

import flows.replay.dataset as replay_table
from flows.config.load import load_campaign
from flows.output.progress import Progress
from flows.replay.dataset import Table, read_table
from flows.replay.request import Request
from materials.stability.conventions import Change
from materials.stability.corrections import ANIONS
from models.learning.fit import learn

ENERGY = "decomposition_energy_per_atom"
FOLDS = 5


def read(options: argparse.Namespace, change: Change | None) -> Table:
    """Read and screen the table, with the potential's energies in a convention."""
    replay_table._change = lambda *_: change  # type: ignore[assignment]
    request = Request(
        table=options.table,
        campaign=load_campaign(options.campaign) if options.campaign else None,
        ledger_url=options.ledger,
        folder=Path("assay-runs"),
    )
    return read_table(request, [ENERGY], Progress())


def judged(table: Table, n_known: int | None, seeds: int) -> tuple[float, ...]:
    """Mean absolute error (meV/atom) and rank correlation of the prior, then of the process, over draws."""
    answers, prior, features = table.answers[ENERGY], table.priors[ENERGY], table.features["all"]
    usable = np.isfinite(answers) & np.isfinite(prior)
    found = []
    for seed in range(seeds):
        for known in _draws(table.groups, usable, n_known, seed):
            posterior = learn(
                features.matrix,
                features.widths,
                [ENERGY],
                known={ENERGY: np.where(known, answers, np.nan)},
                priors=table.priors,
                audited=(),
                seed=seed,
            )[ENERGY]
            left = usable & ~np.isin(table.groups, table.groups[known])
            found.append([m(v[left], answers[left]) for v in (prior, posterior.mean) for m in (_error, _rank)])
    return tuple(np.mean(found, axis=0))


def _draws(
    groups: NDArray[np.int64], usable: NDArray[np.bool_], n_known: int | None, seed: int
) -> Iterator[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    if n_known is not None:
        known = np.zeros(len(groups), dtype=bool)
        known[rng.permutation(np.flatnonzero(usable))[:n_known]] = True
        yield known
        return
    for fold in np.array_split(rng.permutation(np.unique(groups[usable])), FOLDS):
        yield usable & ~np.isin(groups, fold)


def _error(values: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    return 1000 * float(np.mean(np.abs(values - answers)))


def _rank(values: NDArray[np.float64], answers: NDArray[np.float64]) -> float:
    return float(spearmanr(values, answers).statistic)


def main() -> None:
    """Judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--into", choices=["raw", "anions"], default="raw")
    parser.add_argument("--campaign", type=Path)
    parser.add_argument("--known", default="", help="Numbers of answers; empty: five folds.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ledger", default="sqlite:///assay.db")
    options = parser.parse_args()
    change = Change(out="MP2020", into=None if options.into == "raw" else ANIONS)
    tables = {"before": read(options, None), "after": read(options, change)}
    print("| known | convention | prior: error | rank | process: error | rank |")
    print("|---|---|---:|---:|---:|---:|")
    for n_known in [int(n) for n in options.known.split(",") if n] or [None]:
        for name, table in tables.items():
            a, b, c, d = judged(table, n_known, options.seeds)
            told = "four fifths" if n_known is None else str(n_known)
            print(f"| {told} | {name} | {a:.1f} | {b:.3f} | {c:.1f} | {d:.3f} |", flush=True)


if __name__ == "__main__":
    main()
