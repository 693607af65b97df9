"""DFT calculations that each selection needs with its competing phases, and the ledger's results of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from flows.dft.calculation import Job
from flows.dft.run import job_for
from flows.run.context import Run
from flows.stages.assess import Screened, hull_level
from materials.records import Calculation
from materials.stability.competing_phases import ValidationPlan, plan_validation
from materials.stability.corrections import MP2020_LEVEL
from models.dft.calculation_record import has_gap, level_of_theory


def plans(run: Run, screened: Screened, until: int | None = None) -> list[ValidationPlan]:
    """Plan each selection so far, or until a round: which competing phases go with it, and which are left out."""
    chosen = [selection.material_id for selection in run.ledger.selections(run.campaign_id, until)]
    return [plan_of(run, screened, material_id) for material_id in chosen if material_id in screened.stabilities]


def plan_of(run: Run, screened: Screened, material_id: str) -> ValidationPlan:
    """Plan one candidate, chosen or not."""
    if material_id not in screened.planned:
        dft = run.campaign.dft
        entries = screened.inside(run, str(screened.phase(material_id).chemsys))
        screened.planned[material_id] = plan_validation(
            entries,
            {entry.entry_id: screened.phase(entry.entry_id).n_sites or 0 for entry in entries},
            material_id,
            within=dft.competing_within,
            max_sites=dft.competing_max_sites,
            polymorphs=dft.competing_polymorphs,
            known=_known(run, screened, material_id),
        )
    return screened.planned[material_id]


def first_needed(run: Run, screened: Screened, material_ids: Sequence[str]) -> list[list[str]]:
    """Name the calculations of each pick, and of its competing phases, that none chosen before it asks for.

    Args:
        run: The campaign; what it has chosen so far comes before.
        screened: What the potential says.
        material_ids: The picks, in their order.
    """
    asked = {job.calculation_id for plan in plans(run, screened) for job in jobs_of(run, screened, plan)}
    found = []
    for material_id in material_ids:
        needed = [job.calculation_id for job in jobs_of(run, screened, plan_of(run, screened, material_id))]
        found.append([calculation_id for calculation_id in needed if calculation_id not in asked])
        asked.update(needed)
    return found


def superseded(run: Run, screened: Screened) -> set[str]:
    """Name the calculations that earlier versions asked for on behalf of this campaign's picks, and this one does not.

    The settings of the same crystal may be others now, its magnetic orders, say.
    """
    asked = {job.calculation_id for plan in plans(run, screened) for job in jobs_of(run, screened, plan)}
    before = {
        key for selection in run.ledger.selections(run.campaign_id) for key in selection.why.get("calculations", ())
    }
    return before - asked


def _known(run: Run, screened: Screened, material_id: str) -> Collection[str]:
    """Name the phases that a database has energies of at the level of this candidate's calculation."""
    if not screened.references:
        return frozenset()
    (job,) = jobs_for(run, screened, [material_id], screened.elements(material_id))
    return screened.references.keys() if level_of_theory(job.settings) == MP2020_LEVEL else frozenset()


def collect(run: Run, screened: Screened, until: int | None = None) -> dict[str, dict[str, Calculation]]:
    """Read the converged DFT results of all selections, or those until a round, and of their competing phases.

    Returns:
        Level of theory -> material_id -> calculation; the levels by name, so that of a material at two of them the same
        one comes last, in whatever order they were computed. Absurd energies are left out: see `absurd`.
    """
    return {
        level: {m: calculation for m, calculation in calculations.items() if calculation.status == "converged"}
        for level, calculations in _answers(run, screened, until).items()
    }


def absurd(run: Run, screened: Screened, until: int | None = None) -> dict[str, Calculation]:
    """Read the DFT results whose energy cannot be one, as failures, by material_id, where there is no better result."""
    answers = [c for calculations in _answers(run, screened, until).values() for c in calculations.values()]
    sound = {calculation.material_id for calculation in answers if calculation.status == "converged"}
    return {calculation.material_id: calculation for calculation in answers if calculation.material_id not in sound}


def _answers(run: Run, screened: Screened, until: int | None) -> dict[str, dict[str, Calculation]]:
    """Read what DFT called converged; what has an absurd energy is called exploded."""
    from materials.stability.absurd_energies import absurd_energies
    from materials.stability.stability import entry_from

    jobs = [job for plan in plans(run, screened, until) for job in jobs_of(run, screened, plan)]
    found = answers(run, jobs)
    results: dict[str, dict[str, Calculation]] = {}
    for calculation in found.values():
        if calculation.status == "converged":
            results.setdefault(calculation.level_of_theory, {})[calculation.material_id] = calculation
    for level, calculations in results.items():
        entries = {m: entry_from(calculation) for m, calculation in calculations.items()}
        known = screened.references if level == MP2020_LEVEL else {}
        for material_id, why in absurd_energies(list({**known, **entries}.values())).items():
            if material_id in calculations:
                calculations[material_id] = replace(calculations[material_id], status="exploded", message=why)
    return dict(sorted(results.items()))


def answers(run: Run, jobs: Sequence[Job]) -> dict[str, Calculation]:
    """Read what the ledger knows of calculations, by the `calculation_id` of each job.

    What an earlier version computed under another id counts where its meaning is the same.
    """
    found = run.ledger.calculations_by_id({job.calculation_id for job in jobs})
    before = {job.calculation_id: job.before.calculation_id for job in jobs if job.before}
    earlier = run.ledger.calculations_by_id({key for name, key in before.items() if name not in found})
    stands = {name: earlier[key] for name, key in before.items() if key in earlier and not has_gap(earlier[key])}
    return stands | found


def jobs_of(run: Run, screened: Screened, plan: ValidationPlan) -> list[Job]:
    """List the calculations of a plan, all with the one cut-off that its elements ask for."""
    elements = screened.elements(plan.material_id)
    return jobs_for(run, screened, [plan.material_id, *plan.phases], elements)


def jobs_for(
    run: Run, screened: Screened, material_ids: Sequence[str], elements: frozenset[str], *, relax: bool | None = None
) -> list[Job]:
    """List the calculations of some materials, all with the cut-off that these elements ask for.

    Args:
        run: The campaign.
        screened: Where their relaxed structures are found.
        material_ids: A candidate, its competing phases.
        elements: Of the hull.
        relax: Cell and positions with DFT too; None: as the preset has it.
    """
    code = run.dft_code
    missing = [material_id for material_id in material_ids if (material_id, elements, relax) not in screened.jobs]
    for material_id, structure in zip(missing, screened.structures(run, missing), strict=True):
        geometry = screened.phase(material_id).calculation_id
        settings = code.settings(run.campaign.dft.preset, elements, structure, relax=relax, geometry=geometry)
        hull_level(run, level_of_theory(settings))  # what could stand in no hull is not computed
        screened.jobs[material_id, elements, relax] = job_for(material_id, structure, settings, code)
    return [screened.jobs[material_id, elements, relax] for material_id in material_ids]
