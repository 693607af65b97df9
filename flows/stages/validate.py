"""Validate the selected with DFT, with their competing phases: each calculation once, in a folder of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from flows.dft.calculation import Job
from flows.dft.run import folder_of, open_executor, run_jobs, take_back
from flows.run.context import Run
from flows.stages.assess import Screened, assess_validated
from flows.stages.dft_plan import absurd, answers, collect, jobs_for, jobs_of, plan_of, plans, superseded
from flows.stages.rank import best_validated
from materials.errors import DFTError
from materials.records import Calculation, Failure, Selection
from materials.stability.competing_phases import lost_corners
from models.dft.calculation_record import calculation_from, has_gap, is_final, method_of

if TYPE_CHECKING:
    from models.dft.base import DFTResult


TOLD = 5  # of many, in a message


def _how(run: Run) -> str:
    dft = run.campaign.dft
    return f"{dft.code}, {dft.input_set if dft.code == 'vasp' else dft.preset}"


def validate(run: Run, screened: Screened, picks: Sequence[Selection]) -> int:
    """Run what the picks still need, and judge them; return how many calculations were run.

    Raises:
        CodeNotInstalled: The DFT code is not here.
        Interrupted: Somebody asked to stop.
    """
    wanted, this_round = {pick.material_id for pick in picks}, picks[0].round
    jobs: dict[str, Job] = {}
    for plan in plans(run, screened, this_round):
        if plan.material_id in wanted:
            for job in jobs_of(run, screened, plan):
                jobs.setdefault(job.calculation_id, job)
    _take_back_earlier(run, superseded(run, screened))
    count = _run_missing(run, list(jobs.values()), f"DFT ({_how(run)})")
    # A campaign that goes on may know a part of a later round, whose hulls lack the rest.
    results = collect(run, screened, this_round)
    run.ledger.add_failures(
        run.campaign_id, [_failure(calculation) for calculation in absurd(run, screened, this_round).values()]
    )
    stabilities = assess_validated(run, screened, results, this_round)
    _note_unjudged(run, picks, stabilities, results)
    return count


def require_corners(run: Run, screened: Screened, picks: Sequence[Selection]) -> None:
    """Go on only if each pick that has an energy has a hull to stand on: more picks could not be judged either.

    Raises:
        DFTError: A corner of a hull has no result; what ended so, and what to do.
    """
    this_round = picks[0].round
    results = collect(run, screened, this_round)
    computed = {material_id for calculations in results.values() for material_id in calculations}
    lost: dict[str, list[str]] = {}
    for pick in picks:
        if pick.material_id in computed and pick.material_id in screened.stabilities:
            plan = plan_of(run, screened, pick.material_id)
            entries = screened.inside(run, str(screened.phase(pick.material_id).chemsys))
            for phase in lost_corners(entries, plan, computed):
                lost.setdefault(phase, []).append(pick.material_id)
    if not lost:
        return
    failed = {failure.material_id: failure for failure in run.ledger.failures(run.campaign_id, "dft")}
    lines = []
    for phase, ours in sorted(lost.items())[:TOLD]:
        why = failed[phase].error if phase in failed else "no result"
        lines.append(f"{phase} ({screened.phase(phase).formula}): {why}, wanted for {', '.join(sorted(ours)[:TOLD])}")
    more = [f"and {len(lost) - TOLD} more"] if len(lost) > TOLD else []
    raise DFTError(
        f"Round {this_round} stops: of the hulls of its picks, corners have no DFT energy. "
        + "; ".join([*lines, *more])
        + ". `assay show MATERIAL_ID` tells why, with the folder of the calculation. What was killed is tried again by "
        "the same command; what failed for good by `assay run --retry failed`, once its cause is mended."
    )


def relax_best(run: Run, screened: Screened) -> int:
    """Relax the best of the validated with DFT, cell and positions; return how many calculations were run."""
    return _run_missing(run, _best_jobs(run, screened), "Relaxing the best with DFT")


def relaxed_best(run: Run, screened: Screened) -> dict[str, Calculation]:
    """Read the DFT relaxations of the best, by material_id."""
    found = answers(run, _best_jobs(run, screened))
    return {calculation.material_id: calculation for calculation in found.values()}


def _best_jobs(run: Run, screened: Screened) -> list[Job]:
    best = best_validated(run, screened)[: run.campaign.dft.relax_best]
    return [job for m in best for job in jobs_for(run, screened, [m], screened.elements(m), relax=True)]


def _run_missing(run: Run, jobs: Sequence[Job], title: str) -> int:
    """Run what the ledger has no final answer for; each result is written as it comes."""
    hardware = run.cluster.dft
    most = hardware.most()
    _take_up_earlier(run, jobs)
    _take_back_earlier(run, [job.before.calculation_id for job in jobs if job.before])
    known = answers(run, jobs)

    def is_missing(job: Job) -> bool:
        calculation = known.get(job.calculation_id)
        if calculation is None:
            return True
        if calculation.status == "cancelled" and _is_gone(run, calculation):
            return True
        again = run.retry_failed and calculation.status != "converged"
        return job.calculation_id not in run.tried and (again or not is_final(calculation, most))

    missing = [job for job in jobs if is_missing(job)]
    if not missing:
        return 0
    _tell_again(run, missing)
    method = method_of(run.dft_code)

    with run.progress.timed("DFT"), run.progress.counting(title, len(missing), "calculations") as counter:

        def keep(job: Job, result: DFTResult) -> None:
            calculation = calculation_from(result, job.material_id, method, job.settings)
            run.ledger.add_calculations([calculation])
            run.tried.add(job.calculation_id)
            if calculation.status != "converged":
                run.ledger.add_failures(run.campaign_id, [_failure(calculation)])
            counter.advance()

        run_jobs(
            missing,
            run.dft_code,
            runs_dir=run.folder,
            concurrent=hardware.resolved_concurrent(),
            limits=hardware.limits(),
            most=most,
            executor=open_executor(hardware, run.dft_code),
            on_result=keep,
            stop=run.stop,
            say=run.progress.say,
            retry=run.retry_failed,
        )
    run.check_stop()
    return len(missing)


def _is_gone(run: Run, calculation: Calculation) -> bool:
    """Whether somebody removed a calculation's folder: that is how one that was cancelled is asked for again."""
    return not folder_of(run.folder, calculation.calculation_id).exists()


def _take_up_earlier(run: Run, jobs: Sequence[Job]) -> None:
    """Write what an earlier version finished and did not write, where it stands."""
    known, most = answers(run, jobs), run.cluster.dft.most()
    for job in jobs:
        if job.before is None or job.calculation_id in known:
            continue
        folder = folder_of(run.folder, job.before.calculation_id)
        if folder.exists() and run.dft_code.finished(folder, most):
            result, method = run.dft_code.parse(folder), method_of(run.dft_code)
            calculation = calculation_from(result, job.material_id, method, job.before.settings)
            if result.status == "converged" and not has_gap(calculation):
                run.ledger.add_calculations([calculation])


def _take_back_earlier(run: Run, calculation_ids: Collection[str]) -> None:
    """Cancel what an earlier version sent, and nobody will take the answer of."""
    take_back(calculation_ids, run.dft_code, runs_dir=run.folder, hardware=run.cluster.dft, say=run.progress.say)


def _tell_again(run: Run, jobs: Sequence[Job]) -> None:
    """Say how many calculations are computed a second time, and why."""
    again = run.ledger.calculations_by_id({job.before.calculation_id for job in jobs if job.before})
    if n := sum(has_gap(calculation) for calculation in again.values()):
        run.progress.say(
            f"{n} of the calculations were computed before, with a gap that may be too wide, and are computed again: "
            "a gap is now counted with the empty levels of both k-point meshes"
        )


def _failure(calculation: Calculation) -> Failure:
    return Failure(
        material_id=calculation.material_id,
        stage="dft",
        error=calculation.status,
        message=f"{calculation.method}, {calculation.level_of_theory}: {calculation.message}",
    )


def _note_unjudged(
    run: Run,
    picks: Sequence[Selection],
    stabilities: Mapping[str, object],
    results: Mapping[str, Mapping[str, Calculation]],
) -> None:
    """Say which picks have an energy and yet no hull: a competing element failed."""
    computed = {material_id for calculations in results.values() for material_id in calculations}
    unjudged = [p.material_id for p in picks if p.material_id in computed and p.material_id not in stabilities]
    run.ledger.add_failures(
        run.campaign_id,
        [
            Failure(
                material_id=material_id,
                stage="assess",
                error="MissingTerminals",
                message="the DFT calculation of one of its elements did not end well: see assay status",
            )
            for material_id in unjudged
        ],
    )
