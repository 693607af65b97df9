"""DFT answers for the quickstart's pool, computed by the program's own stages, for replays of its question.

    python -m tests.benchmarks.quickstart_answers compute [--ledger URL] [--folder DIR] [--concurrent 1] [--most 363]
    python -m tests.benchmarks.quickstart_answers export  [--ledger URL]

`compute` asks for the candidates within 0.05 eV/atom of the potential's hull, one composition after the other in a
seeded random order, so that each has all of its rivals, and each with its competing phases as the campaign would
compute them, then for the rest of the pool. The same command goes on where it was ended: whatever there is, is a fair
sample. `export` writes two tables beside this file:

- `quickstart-answers.csv.gz`: one row a candidate: its structure (relaxed by the potential, as DFT took it), what the
  potential and DFT give for it, DFT's level of theory; what `assay replay` takes.
- `quickstart-energies.csv.gz`: the raw total energy of every calculation, competing phases among them, so that hulls
  can be built again in any convention.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.campaign.loop import Request, opened
from flows.config.campaign import Campaign
from flows.config.cluster import Cluster, DFTJobs
from flows.config.load import load_campaign
from flows.output.progress import Progress
from flows.run.context import Run
from flows.stages.assess import Screened, assess_screened, assess_validated
from flows.stages.dft_plan import answers, collect, jobs_of, plan_of
from flows.stages.pool import gather_pool
from flows.stages.propose import propose
from flows.stages.screen import screen
from flows.stages.validate import validate
from materials.records import Calculation, Selection
from models.learning.dft_cost import features_of

if TYPE_CHECKING:
    import pandas as pd

CAMPAIGN = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
ANSWERS = Path(__file__).with_name("quickstart-answers.csv.gz")
ENERGIES = Path(__file__).with_name("quickstart-energies.csv.gz")
NEAR = 0.05  # eV/atom above the potential's hull: those come first
BATCH = 12  # candidates between two looks at what has come
SEED = 0


def campaign() -> Campaign:
    """The quickstart's question under another name: its picks are ours, its calculations are the same."""
    return load_campaign(CAMPAIGN, budget=100_000).model_copy(update={"name": "quickstart-answers"})


@contextmanager
def screened(options: argparse.Namespace) -> Iterator[tuple[Run, Screened, list[str]]]:
    """Propose and screen as the quickstart does; give the pool's candidates in the order in which they are computed."""
    cluster = Cluster(dft=DFTJobs(concurrent=options.concurrent))
    request = Request(campaign=campaign(), cluster=cluster, ledger_url=options.ledger, folder=options.folder)
    with opened(request, Progress()) as run:
        propose(run)
        screen(run)
        found = assess_screened(run)
        yield run, found, _order(run, found)


def _order(run: Run, found: Screened) -> list[str]:
    """Order compositions at random, each complete, those near the hull first."""
    formula = {m: str(found.outcomes[m].formula) for m in gather_pool(run, found).material_ids}
    place = {name: i for i, name in enumerate(np.random.default_rng(SEED).permutation(sorted(set(formula.values()))))}

    def order(material_id: str) -> tuple[bool, int, str]:
        far = round(found.stabilities[material_id].energy_above_hull, 4) > NEAR
        return far, place[formula[material_id]], material_id

    return sorted(formula, key=order)


def compute(options: argparse.Namespace) -> None:
    """Compute, a few candidates at a time."""
    with screened(options) as (run, found, order):
        for start in range(options.skip, min(options.most, len(order)), BATCH):
            batch, number = order[start : min(start + BATCH, options.most)], 1 + start // BATCH
            run.ledger.add_selections(run.campaign_id, _picks(batch, number))
            validate(run, found, _picks(batch, number))


def _picks(material_ids: list[str], number: int) -> list[Selection]:
    return [
        Selection(material_id=m, round=number, acquisition="audit", score=0.0, rank=rank, seed=SEED)
        for rank, m in enumerate(material_ids, start=1)
    ]


def export(options: argparse.Namespace) -> None:
    """Write the tables."""
    import pandas as pd

    with screened(options) as (run, found, order):
        results = collect(run, found)
        energies = [
            _energy(run, found, c) for calculations in results.values() for _, c in sorted(calculations.items())
        ]
        rows = _rows(run, found, results, [m for m in order if _complete(run, found, m)])
    for path, told in ((ANSWERS, rows), (ENERGIES, energies)):
        frame = pd.DataFrame(told)
        _write(frame, path)
        print(f"{path.name}: {len(frame)} rows")


def _write(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, lineterminator="\n", compression={"method": "gzip", "mtime": 0, "compresslevel": 9})


def _energy(run: Run, found: Screened, calculation: Calculation) -> Mapping[str, Any]:
    assert calculation.structure is not None
    elements = found.elements(calculation.material_id)
    settings = run.dft_code.settings(run.campaign.dft.preset, elements, calculation.structure)
    settings = replace(settings, cutoff_ev=float(calculation.level_of_theory.rpartition("PW")[2]))
    points, electrons, waves, atoms = np.exp(features_of(calculation.structure, settings)[:4])
    return {
        "material_id": calculation.material_id,
        "composition": calculation.structure.composition.formula.replace(" ", ""),
        "energy": round(calculation.energy or 0.0, 6),
        "level_of_theory": calculation.level_of_theory,
        "method": calculation.method,
        "kpoints": "x".join(map(str, calculation.properties["kpoints"])),
        "points": round(points),
        "electrons": round(electrons),
        "waves": round(waves),
        "atoms": round(atoms),
    }


def _complete(run: Run, found: Screened, material_id: str) -> bool:
    """Whether a candidate and its competing phases have all been computed."""
    jobs = jobs_of(run, found, plan_of(run, found, material_id))
    return len(answers(run, jobs)) == len(jobs)


def _rows(
    run: Run, found: Screened, results: Mapping[str, Mapping[str, Calculation]], order: list[str]
) -> list[Mapping[str, Any]]:
    """Make one row a candidate that DFT has judged, in the order in which they were asked for."""
    from pymatgen.io.vasp import Poscar

    judged = assess_validated(run, found, results)
    proposed = {c.material_id: c for c in run.ledger.candidates(run.campaign_id, material_ids=sorted(judged))}
    rows = []
    for m in order:
        if m not in judged:
            continue
        mlip, dft = found.stabilities[m], judged[m]
        calculation = next(calculations[m] for calculations in results.values() if m in calculations)
        (structure,) = found.structures(run, [m])
        rows.append(
            {
                "material_id": m,
                "formula": proposed[m].formula,
                "from": ", ".join(proposed[m].parents),
                "decomposition_energy_per_atom": round(dft.decomposition_energy_per_atom, 4),
                "energy_above_hull": round(dft.energy_above_hull, 4),
                "formation_energy_per_atom": round(dft.formation_energy_per_atom, 4),
                "band_gap": calculation.properties.get("band_gap"),
                "decomposition_energy_mlip": round(mlip.decomposition_energy_per_atom, 4),
                "formation_energy_mlip": round(mlip.formation_energy_per_atom, 4),
                "level_of_theory": dft.level_of_theory,
                "method": calculation.method,
                "structure": Poscar(structure).get_str(significant_figures=6),
            }
        )
    return rows


def main() -> None:
    """Compute or export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["compute", "export"])
    parser.add_argument("--ledger", default="sqlite:///answers.db")
    parser.add_argument("--folder", type=Path, default=Path("answers-runs"))
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="So many of the first batches' candidates are left out.")
    parser.add_argument("--most", type=int, default=100_000)
    options = parser.parse_args()
    {"compute": compute, "export": export}[options.what](options)


if __name__ == "__main__":
    main()
