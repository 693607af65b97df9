"""What the choosing owes to each of its parts: campaigns replayed with one part taken away, or another put in.

    python -m tests.benchmarks.learning TABLE [--seeds 20] [--variants campaign,whitened,…] [--ledger URL]

TABLE holds structures, `decomposition_energy_per_atom` and `band_gap`. Prints a Markdown table: area under the curve of
recall against answers (to 120, 200, 150), and recall after 100 answers, with 95 % intervals over seeds, of three tasks:
the lowest 1 % of the energy, the 1 % of gaps nearest to 1.5 eV, all with an energy below 0.5 eV/atom and a gap of 0.5
to 3.5 eV. `tests/benchmarks/learning.md` keeps what came out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

import flows.replay.dataset as replay_table
from flows.output.progress import Progress
from flows.replay.dataset import Table, read_table
from flows.replay.request import Request
from flows.replay.targets import best_share
from materials.records import Target
from models.learning import batch_selection as selection
from models.learning import fit as learning
from models.learning import objectives, surrogate, target_probability
from models.learning.features.descriptors import column_groups, describe
from models.learning.features.projection import MOST_COMPONENTS, freeze
from models.learning.simulation import STRATEGIES, Features, Question, Strategy, play, recall

ENERGY, GAP = "decomposition_energy_per_atom", "band_gap"
TASKS: Mapping[str, tuple[list[Target], int]] = {
    "energy": ([Target(property=ENERGY, goal="minimize")], 120),
    "gap": ([Target(property=GAP, goal="near", value=1.5)], 200),
    "both": (
        [
            Target(property=ENERGY, goal="at_most", value=0.5),
            Target(property=GAP, goal="near", value=2.0, tolerance=1.5),
        ],
        150,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One thing done otherwise."""

    strategy: Strategy = STRATEGIES["campaign"]
    audits: float = 0.1
    change: Callable[[], None] = lambda: None


def _set(module: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(module, name, value)


def _no_floor() -> None:
    told = {name: replace(expected, floor=None) for name, expected in learning.EXPECTATIONS.items()}
    learning.EXPECTATIONS = told  # type: ignore[misc]


def _thompson() -> None:
    rng = np.random.default_rng(0)
    before = objectives.acquire

    def drawn(posteriors: Any, targets: Any, aim: Any) -> Any:
        if aim.rule == "probability_of_all_targets":
            return before(posteriors, targets, aim)
        (target,) = targets
        belief = posteriors[target.property]
        return -target_probability.badness_of(
            target, np.maximum(rng.normal(belief.mean, belief.std), _floor_of(belief))
        )

    selection.acquire = drawn  # type: ignore[assignment]


def _greedy() -> None:
    before = objectives.acquire

    def mean(posteriors: Any, targets: Any, aim: Any) -> Any:
        if aim.rule == "probability_of_all_targets":
            return before(posteriors, targets, aim)
        (target,) = targets
        return -target_probability.badness_of(target, posteriors[target.property].expected)

    selection.acquire = mean  # type: ignore[assignment]


def _floor_of(belief: Any) -> float:
    return -np.inf if belief.floor is None else belief.floor


def _features(name: str) -> Strategy:
    return replace(STRATEGIES["campaign"], features=name)


VARIANTS: Mapping[str, Variant] = {
    "campaign": Variant(),
    "without the potential's energy": Variant(strategy=STRATEGIES["no_potential"]),
    "expected improvement": Variant(strategy=STRATEGIES["expected_improvement"]),
    "odds of the best 1 %": Variant(strategy=STRATEGIES["best_odds"]),
    "best expected value (greedy)": Variant(change=_greedy),
    "Thompson draws": Variant(change=_thompson),
    "odds of the best 0.5 %": Variant(strategy=STRATEGIES["best_odds"], change=_set(objectives, "BEST_SHARE", 0.005)),
    "odds of the best 2 %": Variant(strategy=STRATEGIES["best_odds"], change=_set(objectives, "BEST_SHARE", 0.02)),
    "no audits": Variant(audits=0.0),
    "two audits of ten": Variant(audits=0.2),
    "gaps without their floor": Variant(change=_no_floor),
    "no doubt about the slope": Variant(change=_set(surrogate, "SLOPE_SPREAD", 0.02)),
    "near-twins of answered ones left out": Variant(change=lambda: _twins()),
    "whitened components": Variant(strategy=_features("whitened")),
    "all z-scores, no components": Variant(strategy=_features("z-scores")),
    "10 components of each group": Variant(strategy=_features("10")),
    "40 components of each group": Variant(strategy=_features("40")),
    "composition and structure and latent vector as one group": Variant(strategy=_features("one group")),
    "without closed shells": Variant(strategy=_features("no shells")),
    "closed shells among the components": Variant(strategy=_features("shells inside")),
    "without the latent vector": Variant(strategy=_features("no latents")),
    "and a group of element fractions": Variant(strategy=_features("elements")),
    "and a group of the potential's energies": Variant(strategy=_features("energies")),
    "composition only": Variant(strategy=replace(STRATEGIES["campaign"], features="composition")),
}


def _twins() -> None:

    selection.SAME = selection.TWIN


def features_of(table: np.ndarray, fractions: np.ndarray, priors: Mapping[str, np.ndarray]) -> dict[str, Features]:
    """Describe the rows in all the ways that variants ask for."""
    groups = column_groups(table.shape[1])
    rest = [column for name, columns in groups.items() for column in columns if name != "closed shells"]

    def projected(*groups: list[int], most: int = MOST_COMPONENTS) -> Features:
        projection = freeze(table, groups=groups, n_components=most)
        return Features(matrix=projection.transform(table), widths=projection.widths)

    def with_group(matrix: np.ndarray) -> Features:
        return Features(matrix=np.hstack([usual.matrix, matrix]), widths=(*usual.widths, matrix.shape[1]))

    usual = projected(*groups.values())
    energies = np.column_stack([priors[ENERGY], priors["formation_energy_per_atom"]])
    energies = (energies - np.nanmean(energies, axis=0)) / np.nanstd(energies, axis=0)
    return {
        "all": usual,
        "composition": projected(groups["composition"]),
        "whitened": replace(usual, matrix=usual.matrix / usual.matrix.std(axis=0)),
        "z-scores": projected(*groups.values(), most=table.shape[1]),
        "10": projected(*groups.values(), most=10),
        "40": projected(*groups.values(), most=40),
        "one group": projected(groups["closed shells"], rest, most=40),
        "no shells": projected(*(groups[name] for name in groups if name != "closed shells")),
        "shells inside": projected(list(range(table.shape[1])), most=40),
        "no latents": projected(*(groups[name] for name in groups if name != "latent vector")),
        "elements": with_group(fractions / np.sqrt(np.mean(fractions.var(axis=0)))),
        "energies": with_group(np.nan_to_num(energies)),
    }


def read(path: str, ledger: str) -> Table:
    """Read and screen the table once."""
    held: dict[str, Any] = {}
    original = replay_table._features

    def keep(structures: Any, calculations: Any) -> dict[str, Features]:
        import json

        latents = np.array([json.loads(c.properties)["latent"] for c in calculations])
        held["table"] = describe(structures, latents)
        symbols = sorted({e.symbol for s in structures for e in s.composition})
        held["fractions"] = np.array(
            [[s.composition.get_atomic_fraction(symbol) for symbol in symbols] for s in structures]
        )
        return original(structures, calculations)

    replay_table._features = keep
    request = Request(table=path, target=TASKS["energy"][0][0], ledger_url=ledger, folder=Path("assay-runs"))
    table = read_table(request, [ENERGY, GAP], Progress())
    return replace(table, features=features_of(held["table"], held["fractions"], table.priors))


_here: list[dict[str, Question]] = []


def _begin(questions: dict[str, Question]) -> None:
    _here[:] = [questions]


def _one(job: tuple[str, str, int]) -> tuple[str, str, np.ndarray]:
    name, task, seed = job
    variant, question = VARIANTS[name], _here[0][task]
    variant.change()
    played = play(question, variant.strategy, batch=10, budget=TASKS[task][1], seed=seed, audits=variant.audits)
    return name, task, recall(question, played)


def _told(values: np.ndarray) -> str:
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    """Play, and print."""
    from multiprocessing import get_context

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--ledger", default="sqlite:///assay.db")
    options = parser.parse_args()
    table = read(options.table, options.ledger)
    energy, gap = table.answers[ENERGY], table.answers[GAP]
    wanted = {
        "energy": best_share(TASKS["energy"][0][0], table.answers),
        "gap": best_share(TASKS["gap"][0][0], table.answers),
        "both": (energy < 0.5) & (gap > 0.5) & (gap < 3.5),
    }
    questions = {
        task: Question(
            features=table.features,
            answers=table.answers,
            priors=table.priors,
            targets=targets,
            wanted=wanted[task],
            groups=table.groups,
        )
        for task, (targets, _) in TASKS.items()
    }
    print("| | " + " | ".join(f"{task}: area | at 100" for task in TASKS) + " |")
    print("|---|" + "---:|---:|" * len(TASKS))
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in options.variants.split(","):
        # A fresh set of processes for each: what one variant changes, the next does not see.
        with get_context("spawn").Pool(os.cpu_count(), _begin, (questions,)) as pool:
            jobs = [(name, task, seed) for task in TASKS for seed in range(options.seeds)]
            found = pool.map(_one, jobs, chunksize=1)
        cells = []
        for task in TASKS:
            curves = np.array([curve for _, of, curve in found if of == task])
            cells += [_told(curves.mean(axis=1)), _told(curves[:, 99])]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
