"""Labelled structures as arrays: screened by the potential, described, and placed against their hull."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.config.campaign import Campaign, Screening
from flows.config.sources import Files, Prototypes, Source
from flows.output.progress import Progress
from flows.run.context import Run
from materials.errors import InputError
from materials.records import Candidate, WrittenCalculation
from materials.targets import DIGITS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from flows.replay.labelled_structures import Check, Labelled
    from flows.replay.request import Request
    from materials.stability.conventions import Change
    from materials.stability.hull import HullEntry
    from materials.store.ledger import Ledger
    from models.learning.simulation import Features

ANION = 2.5  # Pauling electronegativity above which a non-metal makes salts
LARGEST_PHASE = 12  # sites: of the competing phases that are made up where none are given


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that are labelled and screened, as arrays over them; see `models.learning.simulation.Question`.

    Attributes:
        lost: Answers of the rows that the potential could not relax: nobody can ask for them.
    """

    features: Mapping[str, Features]
    answers: Mapping[str, NDArray[np.float64]]
    priors: Mapping[str, NDArray[np.float64]]
    groups: NDArray[np.int64]
    lost: Mapping[str, NDArray[np.float64]]


def read_table(
    request: Request, properties: Sequence[str], progress: Progress, check_answers: Check = lambda _: None
) -> Table:
    """Read labelled structures from a file or from a campaign in the ledger, and screen them.

    Args:
        request: What is asked.
        properties: Whose answers are needed.
        progress: Is told what is left out.
        check_answers: Raises where nothing can be found, before anything is screened.

    Raises:
        InputError: It is neither, a column is missing, or no row can be used.
    """
    from flows.replay.labelled_structures import open_rows

    with open_rows(request.table, request.ledger_url, properties, check_answers) as (ledger, labelled):
        if labelled.failures:
            progress.say(f"{len(labelled.failures)} rows cannot be read, the first: {labelled.failures[0].message}")
        for name, answers in labelled.answers.items():
            if missing := int(np.sum(np.isnan(answers))):
                progress.say(f"{missing} of {len(answers)} rows have no number as {name}: asked for, they tell nothing")
        return _screened(ledger, request, labelled, progress)


def _screened(ledger: Ledger, request: Request, labelled: Labelled, progress: Progress) -> Table:
    """Relax what is not in the ledger yet, and describe what converged."""
    campaign = request.campaign
    screening = campaign.screening if campaign is not None else Screening()
    held = screening
    if labelled.campaign is None and not request.relax:
        held = screening.model_copy(update={"cell": "fixed_shape", "positions": "fixed"})
    name = re.sub(r"[^a-z0-9]+", "-", Path(request.table).name.lower()).strip("-")[:40] or "table"
    named = list(campaign.competing) if campaign is not None else []
    competing = named or made_up(labelled.candidates)
    run = _open(ledger, request, progress, f"replay-{name}", competing, held)
    change = _change(run, labelled)
    phases = _phases(_open(ledger, request, progress, f"replay-{name}-competing", competing, screening), change)
    distinct = {candidate.material_id: candidate for candidate in labelled.candidates}
    ledger.add_candidates(run.campaign_id, distinct.values())
    found, failed = {}, []
    for calculation in _relaxed(run):
        if calculation.status == "converged" and calculation.structure is not None:
            found[calculation.material_id] = calculation
        else:
            failed.append(calculation)
    kept = np.array([candidate.material_id in found for candidate in labelled.candidates])
    if not kept.all():
        progress.say(f"{np.sum(~kept)} rows are left out: {_why(failed)}")
    if not kept.any():
        raise InputError(f"{request.table}: the potential could relax none of its structures: {_why(failed)}")
    candidates = [candidate for candidate, there in zip(labelled.candidates, kept, strict=True) if there]
    used = [found[candidate.material_id] for candidate in candidates]
    structures = [_structure(calculation) for calculation in used]
    formulas = [candidate.formula for candidate in candidates]
    with progress.timed("learning"):
        priors = _priors(phases, structures, used, change)
        if strangers := _strangers(phases, candidates):
            homeless = int(np.sum(np.isnan(priors["decomposition_energy_per_atom"])))
            progress.say(
                f"{homeless} of {len(used)} rows have no place on the potential's hull: the competing phases lack the"
                f" elements {', '.join(strangers)}"
            )
        return Table(
            features=_features(structures, used),
            answers={name: values[kept] for name, values in labelled.answers.items()},
            priors=priors,
            groups=np.unique(formulas, return_inverse=True)[1],
            lost={name: values[~kept] for name, values in labelled.answers.items()},
        )


def _why(failed: Sequence[WrittenCalculation]) -> str:
    """Say what the potential made of rows, the commonest first."""
    told = Counter(f"{c.status.replace('_', ' ')}{f', {c.message}' if c.message else ''}" for c in failed)
    return "; ".join(f"{message} ({n})" if n > 1 else message for message, n in told.most_common(3))


def _strangers(phases: Sequence[HullEntry], candidates: Sequence[Candidate]) -> list[str]:
    """Name the elements of rows that no competing phase consists of."""
    return sorted({symbol for candidate in candidates for symbol in candidate.chemsys.split("-")} - _elements(phases))


def _elements(phases: Sequence[HullEntry]) -> set[str]:
    """Elements that are there by themselves: a hull needs them as its corners."""
    return {next(iter(phase.elements)) for phase in phases if len(phase.elements) == 1}


def made_up(candidates: Sequence[Candidate]) -> list[Source]:
    """Make up competing phases where none are named: elements, and salts of two elements in known structure types."""
    from pymatgen.core import Element

    symbols = sorted({symbol for candidate in candidates for symbol in candidate.chemsys.split("-")})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No Pauling electronegativity")  # of a noble gas: it makes no salts
        negativity = {symbol: float(np.nan_to_num(Element(symbol).X)) for symbol in symbols}
    strongest = {max(c.chemsys.split("-"), key=lambda s: (negativity[s], s)) for c in candidates}
    anions = sorted({s for s in symbols if negativity[s] > ANION and not Element(s).is_metal} | strongest)
    cations = [symbol for symbol in symbols if symbol not in anions]
    sources: list[Source] = [Prototypes(kind="prototypes", roles={"element": symbols}, n_elements=[1])]
    if cations:
        roles = {"cation": cations, "anion": anions}
        sources.append(Prototypes(kind="prototypes", roles=roles, n_elements=[2], max_sites=LARGEST_PHASE))
    return sources


def _open(
    ledger: Ledger, request: Request, progress: Progress, name: str, competing: Sequence[Source], screening: Screening
) -> Run:
    rows = Files(kind="files", path=request.table)
    campaign = Campaign(name=name, sources=[rows], competing=list(competing), screening=screening)
    return Run(
        campaign=campaign,
        cluster=request.cluster,
        campaign_id=ledger.add_campaign(campaign.name, campaign.identity()),
        ledger=ledger,
        folder=request.folder,
        progress=progress,
        use_dft=False,
    )


def _relaxed(run: Run) -> list[WrittenCalculation]:
    """Screen a campaign's materials, and give what became of each."""
    from flows.stages.screen import screen

    screen(run)
    return list(run.ledger.written_calculations(run.screened().values()))


def _change(run: Run, labelled: Labelled) -> Change | None:
    """Give what takes the potential's energies to the convention of the answers; None where that is nothing, not told,
    or not one."""
    from materials.stability.conventions import change_between

    own = run.potential_identity.level_of_theory
    changes = [change_between(own, level) for level in sorted(labelled.levels)]
    return changes[0] if changes and all(change == changes[0] for change in changes) else None


def _phases(run: Run, change: Change | None) -> list[HullEntry]:
    """Propose and relax the competing phases; give them in the convention of the answers."""
    from flows.stages.assess import phases_of
    from flows.stages.prior import changed_entries
    from flows.stages.propose import propose
    from flows.stages.screen import screen

    propose(run, roles=["competing"])
    screen(run)
    phases = phases_of(run)
    if change is None:
        return phases
    level = run.potential_identity.level_of_theory
    known = run.ledger.best_calculations(run.campaign_id, fidelity="dft", level_of_theory=level) | run.screened()
    return list(changed_entries(run.ledger, change, [known[phase.entry_id] for phase in phases]))


def _structure(calculation: WrittenCalculation) -> Structure:
    from materials.crystals.serialization import structure_from_json

    return structure_from_json(str(calculation.structure))


def _entry(calculation: WrittenCalculation, structure: Structure) -> HullEntry:
    from materials.crystals.composition import amounts_of
    from materials.stability.hull import HullEntry

    assert calculation.energy is not None  # it converged
    return HullEntry(
        entry_id=calculation.material_id,
        amounts={element: float(amount) for element, amount in amounts_of(structure).items()},
        energy=calculation.energy,
        level_of_theory=calculation.level_of_theory,
        method=calculation.method,
    )


def _priors(
    phases: Sequence[HullEntry],
    structures: Sequence[Structure],
    calculations: Sequence[WrittenCalculation],
    change: Change | None = None,
) -> dict[str, NDArray[np.float64]]:
    """What the potential says, against the competing phases and never against other rows.

    NaN where the phases lack an element of a row, and where its energy cannot be one.
    """
    from materials.stability.absurd_energies import absurd_energies
    from materials.stability.stability import assess

    entries = [_entry(c, s) for c, s in zip(calculations, structures, strict=True)]
    if change is not None:
        entries = [change.entry(e, s.copy) for e, s in zip(entries, structures, strict=True)]
    named = [replace(entry, entry_id=f"row {i}") for i, entry in enumerate(entries)]
    elements = _elements(phases)
    absurd = absurd_energies([*phases, *named])
    judged = [i for i, entry in enumerate(named) if entry.elements <= elements and entry.entry_id not in absurd]
    energies = ("decomposition_energy_per_atom", "energy_above_hull", "formation_energy_per_atom")
    values = {name: np.full(len(named), np.nan) for name in energies}
    for i, stability in zip(judged, assess(phases, [named[i] for i in judged], fidelity="mlip"), strict=True):
        for name, array in values.items():
            array[i] = round(getattr(stability, name), DIGITS)
    volumes = [round(structure.volume / len(structure), DIGITS) for structure in structures]
    return values | {"volume_per_atom": np.array(volumes)}


def _features(structures: Sequence[Structure], calculations: Sequence[WrittenCalculation]) -> dict[str, Features]:
    from models.learning.features.descriptors import column_groups, describe

    latents = [json.loads(calculation.properties).get("latent") or [] for calculation in calculations]
    width = len(latents[0])
    complete = width > 0 and all(len(latent) == width for latent in latents)
    table = describe(structures, np.array(latents, dtype=np.float64) if complete else None)
    groups = column_groups(table.shape[1])
    return {"all": _projected(table, list(groups.values())), "composition": _projected(table, [groups["composition"]])}


def _projected(table: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> Features:
    from models.learning.features.projection import freeze
    from models.learning.simulation import Features

    projection = freeze(table, groups=groups)
    return Features(matrix=projection.transform(table), widths=projection.widths)
