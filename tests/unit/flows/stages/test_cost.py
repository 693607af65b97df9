"""Rounds of a campaign played without a potential and without DFT: what is chosen, at what cost, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from flows.config.campaign import DFT, Campaign
from flows.config.cluster import Cluster, DFTJobs
from flows.dft.calculation import Job
from flows.output.progress import Progress
from flows.report import report
from flows.run.context import Run
from flows.stages import cost as cost_stage
from flows.stages.assess import Screened, assess_screened, assess_validated
from flows.stages.choose import choose
from flows.stages.cost import bill_of, cost_model
from flows.stages.dft_plan import collect, jobs_of, plan_of, plans
from flows.stages.pool import Pool, gather_pool
from flows.stages.publish import publish
from materials.records import Selection
from materials.store.ledger import Ledger
from models.dft.base import DFTResult
from models.dft.calculation_record import calculation_from, method_of
from models.dft.gpaw.code import Gpaw
from models.learning.dft_cost import EXPONENTS, features_of, law_of
from tests.unit.materials import made_records as made

METALS, ANIONS = ("Li", "Na", "K"), ("F", "Cl", "Br")
CORES = 4


class Code(Gpaw):
    """GPAW's settings, without GPAW."""

    def version(self) -> str:
        return "9"

    def potentials(self) -> str:
        return "gpaw-setups-9"


class Play:
    """A campaign of alkali halides whose DFT answers are made up."""

    def __init__(self, ledger: Ledger, folder: Path, n: int, **campaign: Any) -> None:
        self.said: list[str] = []
        described = Campaign.model_validate(
            {
                "name": "made",
                "sources": [{"kind": "prototypes", "roles": {"A": list(METALS), "X": list(ANIONS)}}],
                "targets": [{"property": "decomposition_energy_per_atom", "at_most": -0.5}],
                "dft": {"budget": 100, "preset": "quick", "relax_best": 0},
                "learning": {"batch": 2, "within": 9.0, "audits": 0.0},
            }
            | campaign
        )
        self.run = Run(
            campaign=described,
            cluster=Cluster(dft=DFTJobs(cores=CORES)),
            campaign_id=ledger.add_campaign(described.name, described.identity()),
            ledger=ledger,
            folder=folder,
            progress=Progress(self.said.append),
        )
        self.run.__dict__["dft_code"] = Code()
        salts = [(a, x) for a in METALS for x in ANIONS][:n]
        self._propose(salts)
        self.screened: Screened = assess_screened(self.run)
        self.pool: Pool = gather_pool(self.run, self.screened)

    def _propose(self, salts: list[tuple[str, str]]) -> None:
        run = self.run
        crystals = {f"{a}{x}": Structure(Lattice.cubic(4.0), [a, x], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a, x in salts}
        elements = sorted({symbol for salt in salts for symbol in salt})
        crystals |= {e: Structure(Lattice.cubic(3.5), [e], [[0, 0, 0]]) for e in elements}
        run.ledger.add_candidates(
            run.campaign_id,
            [
                made.candidate(
                    name,
                    structure=crystal,
                    formula=name,
                    chemsys=crystal.chemical_system,
                    role="competing" if name in elements else "candidate",
                )
                for name, crystal in crystals.items()
            ],
        )
        run.ledger.add_calculations(
            [
                made.calculation(
                    name,
                    method=run.potential_identity.method,
                    level_of_theory=run.potential_identity.level_of_theory,
                    settings_hash=run.screening_hash,
                    structure=crystal,
                    energy=-1.0 if name in elements else -2 * (1.2 + 0.1 * rank),
                    properties={"latent": [0.1 * rank, 1.0]},
                )
                for rank, (name, crystal) in enumerate(crystals.items())
            ]
        )

    def answer(
        self, picks: list[Selection], status: str = "converged", seconds: float | Callable[[Job], float] = 36.0
    ) -> None:
        """DFT as `validate` keeps it: each calculation once, an element -1 eV, a salt a little better than expected."""
        run, found = self.run, {}
        for pick in picks:
            for job in jobs_of(run, self.screened, plan_of(run, self.screened, pick.material_id)):
                energy = -1.0 if len(job.structure) == 1 else -3.0
                ended = DFTResult(
                    status=status,  # type: ignore[arg-type]
                    energy=energy if status == "converged" else None,
                    structure=job.structure,
                    band_gap=1.0,
                    wall_time_s=seconds(job) if callable(seconds) else seconds,
                )
                found[job.calculation_id] = calculation_from(
                    ended, job.material_id, method_of(run.dft_code), job.settings
                )
        run.ledger.add_calculations(list(found.values()))
        assess_validated(run, self.screened, collect(run, self.screened))

    def choose(self, round_number: int) -> list[Selection]:
        return choose(self.run, self.screened, self.pool, round_number)

    def play(self, **answer: Any) -> list[list[Selection]]:
        """All rounds until the campaign ends by itself."""
        rounds: list[list[Selection]] = []
        while picks := self.choose(len(rounds) + 1):
            rounds.append(picks)
            self.answer(picks, **answer)
            assert len(rounds) < 20
        return rounds

    def summary(self) -> str:
        publish(self.run, self.screened, self.pool)
        return (report.folder(self.run) / "summary.md").read_text()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Play]]:
    with Ledger.open(str(tmp_path / "assay.db")) as ledger:
        yield lambda n=9, **campaign: Play(ledger, tmp_path, n, **campaign)


BY_TIME = {"batch": 2, "within": 9.0, "audits": 0.0, "cost": "time"}


def test_a_bill_holds_each_calculation_once_and_what_is_computed_is_paid(play: Callable[..., Play]) -> None:
    game = play(learning=BY_TIME | {"cost": "measured_time"})
    run, screened = game.run, game.screened
    before = bill_of(run, screened, cost_model(run, screened), ["NaCl", "NaBr", "KCl"])
    # Three salts and Na, K, Cl, Br: each element is needed by those that hold it.
    assert before.needs.shape == (3, 7)
    assert before.needs.sum(axis=1).tolist() == [3, 3, 3]
    assert (before.prices > 0).all()
    left = before.paid(0).marginal() / before.marginal()
    assert left[0] < left[1] < 1
    assert left[0] < left[2] < 1

    picks = game.choose(1)
    game.answer(picks, seconds=50.0)
    model = cost_model(run, screened)
    asked = {j.calculation_id: j for p in picks for j in jobs_of(run, screened, plan_of(run, screened, p.material_id))}
    assert model.n_learned == len(asked)
    took = model.expect([features_of(job.structure, job.settings) for job in asked.values()])
    assert np.exp(np.mean(np.log(took))) == pytest.approx(50.0 * CORES, rel=0.3)
    done = bill_of(run, screened, model, [picks[0].material_id])
    assert done.prices.sum() == 0


@pytest.mark.parametrize("cost", ["candidates", "time", "measured_time"])
def test_all_are_asked_once_and_the_numbers_are_told(play: Callable[..., Play], cost: str) -> None:
    game = play(learning=BY_TIME | {"cost": cost})
    rounds = game.play()
    asked = [pick.material_id for picks in rounds for pick in picks]
    assert sorted(asked) == sorted(game.pool.material_ids)
    rules = {pick.acquisition for picks in rounds[1:] for pick in picks}
    suffix = "" if cost == "candidates" else "_per_cpu_hour"
    assert rules == {f"probability_of_all_targets{suffix}"}
    told = [line for line in game.said if line.startswith("Round 2: the next 2: ")]
    assert len(told) == 1
    assert "CPU hours; P(any of the 7 left meets the targets) = " in told[0]
    assert game.said[-1] == "Stopping before the budget is spent: Nothing is left to validate."
    assert "not worth going on: Nothing is left to validate." in game.summary()


def test_a_campaign_that_counts_time_takes_less_of_it(play: Callable[..., Play]) -> None:
    """Potassium has nine electrons to compute and looks best by the potential; lithium and sodium have one."""

    def cost(game: Play) -> float:
        picks = [pick.material_id for pick in game.choose(1)]
        return float(bill_of(game.run, game.screened, cost_model(game.run, game.screened), picks).prices.sum())

    by_count, by_time = cost(play()), cost(play(name="by-time", learning=BY_TIME))
    assert by_time < 0.85 * by_count


@pytest.mark.parametrize(("cost", "most"), [("time", None), ("candidates", 1e-2)])
def test_the_same_answers_give_the_same_picks_however_long_they_took(
    tmp_path: Path, cost: str, most: float | None
) -> None:
    """Two machines: on one, what holds potassium took a thousand times as long as the rest."""
    learning = BY_TIME | {"cost": cost, "stop_after": 3, "stop_cpu_hours_per_hit": most}
    told = []
    for name, slow in (("one", 1e4), ("other", 1e-2)):
        with Ledger.open(str(tmp_path / f"{name}.db")) as ledger:
            game = Play(ledger, tmp_path / name, 9, learning=learning)
            rounds = game.play(seconds=lambda job, slow=slow: slow if "K" in job.structure.symbol_set else 10.0)
            outlooks = [line for line in (*game.said, *game.summary().splitlines()) if "P(any of" in line]
            told.append((rounds, outlooks))
    assert told[0] == told[1]
    assert len(told[0][1]) >= 3
    assert all("CPU hours" in line or "at no cost" in line for line in told[0][1])


@pytest.mark.parametrize("code", get_args(DFT.model_fields["code"].annotation))
def test_a_law_ships_for_each_code(code: str) -> None:
    law = law_of(code)
    assert law.n_learned == 0
    assert law.exponents.shape == EXPONENTS.shape
    assert (np.abs(law.exponents - EXPONENTS) < 1.0).all()


def test_times_are_learned_where_a_campaign_asks_for_it(play: Callable[..., Play]) -> None:
    game = play(learning=BY_TIME | {"cost": "measured_time"})
    before = cost_model(game.run, game.screened)
    game.answer(game.choose(1), seconds=1e4)
    after = cost_model(game.run, game.screened)
    assert before.n_learned == 0
    assert after.n_learned > 0
    jobs = [job for plan in plans(game.run, game.screened) for job in jobs_of(game.run, game.screened, plan)]
    works = [features_of(job.structure, job.settings) for job in jobs]
    assert (after.expect(works) > 10 * before.expect(works)).all()
    assert {pick.acquisition for pick in game.choose(2)} == {"probability_of_all_targets_per_cpu_hour"}


def test_the_report_says_why_it_ends_as_the_campaign_did(play: Callable[..., Play]) -> None:
    learning = {"batch": 2, "within": 9.0, "audits": 0.0, "stop_after": 3, "stop_cpu_hours_per_hit": 1e-3}
    game = play(learning=learning)
    assert len(game.play()) == 2
    (reason,) = [line for line in game.said if line.startswith("Stopping")]
    assert "After 4 DFT results the next 2: " in reason
    assert "CPU hours, more than 0.001 CPU hours a hit" in reason
    summary = game.summary()
    assert f"not worth going on: {reason.removeprefix('Stopping before the budget is spent: ')}" in summary


def test_the_report_says_what_going_on_could_bring(play: Callable[..., Play]) -> None:
    game = play(dft={"budget": 2, "preset": "quick", "relax_best": 0})
    assert len(game.play()) == 1
    assert "- going on: the next 2: " in game.summary()
    assert "going on" not in play(name="untouched").summary()


@pytest.mark.parametrize("cost", ["candidates", "time"])
@pytest.mark.parametrize("target", [{"at_most": -0.5}, {"goal": "minimize"}, {"at_most": -1e3}])
@pytest.mark.parametrize(("n", "status"), [(1, "converged"), (9, "converged"), (9, "scf_not_converged")])
def test_poor_campaigns_end_by_themselves(
    play: Callable[..., Play], cost: str, target: dict[str, Any], n: int, status: str
) -> None:
    """One candidate; the same answer from all; a target that nobody reaches; every calculation fails."""
    game = play(
        n,
        learning=BY_TIME | {"cost": cost, "audits": 0.3, "batch": 3},
        targets=[{"property": "decomposition_energy_per_atom", **target}],
    )
    rounds = game.play(status=status)
    assert sum(map(len, rounds)) == n
    assert "Found" in game.summary()


def test_a_forecast_is_made_once_for_the_report_and_the_next_round(
    play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of: list[int] = []
    forecast = cost_stage._forecast

    def counted(*arguments: Any) -> Any:
        made_of.append(len(arguments[-1]))
        return forecast(*arguments)

    monkeypatch.setattr(cost_stage, "_forecast", counted)
    game = play(n=9)
    while picks := game.choose(len(made_of) + 1):
        game.answer(picks)
        said = game.summary()
    assert made_of == sorted(set(made_of))  # once for each number of selections
    assert "Nothing is left to validate" in said
