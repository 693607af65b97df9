"""A table with answers -> arrays: its structures screened by the potential, described, and judged against its hull."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.campaign import Campaign, Screening
from flows.context import Run
from flows.progress import Progress
from flows.sources import Prototypes, Source
from materials.errors import InputError
from materials.records import Candidate, WrittenCalculation
from materials.targets import DIGITS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from flows.replay import Request
    from flows.replay_rows import Labelled
    from materials.phases import HullEntry
    from materials.store.ledger import Ledger
    from models.replay import Features

ANION = 2.5  # Pauling electronegativity above which a non-metal makes salts
LARGEST_PHASE = 12  # sites: of the competing phases that are made up where none are given


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that are labelled and screened, as arrays over them; see `models.replay.Question`."""

    features: Mapping[str, Features]
    answers: Mapping[str, NDArray[np.float64]]
    priors: Mapping[str, NDArray[np.float64]]
    groups: NDArray[np.int64]


def read_table(request: Request, properties: Sequence[str], progress: Progress) -> Table:
    """Read labelled structures from a file or from a campaign in the ledger, and screen them.

    Raises:
        InputError: It is neither, a column is missing, or no row can be used.
    """
    from flows.replay_rows import open_rows

    with open_rows(request.table, request.ledger_url, properties) as (ledger, labelled):
        if labelled.failures:
            progress.say(f"{len(labelled.failures)} rows cannot be read, the first: {labelled.failures[0].message}")
        return _screened(ledger, request, labelled, progress)


def _screened(ledger: Ledger, request: Request, labelled: Labelled, progress: Progress) -> Table:
    """Relax what is not in the ledger yet, and describe what converged."""
    given = request.campaign or labelled.campaign
    screening = given.screening if given is not None else Screening()
    held = screening
    if labelled.campaign is None and not request.relax:
        held = screening.model_copy(update={"cell": "fixed_shape", "positions": "fixed"})
    name = re.sub(r"[^a-z0-9]+", "-", Path(request.table).name.lower()).strip("-")[:40] or "table"
    competing = list(given.competing) if given is not None and given.competing else made_up(labelled.candidates)
    run = _open(ledger, request, progress, f"replay-{name}", competing, held)
    phases = _phases(_open(ledger, request, progress, f"replay-{name}-competing", competing, screening))
    distinct = {candidate.material_id: candidate for candidate in labelled.candidates}
    ledger.add_candidates(run.campaign_id, distinct.values())
    found = {c.material_id: c for c in _relaxed(run) if c.status == "converged" and c.structure is not None}
    rows = [row for row, candidate in enumerate(labelled.candidates) if candidate.material_id in found]
    if len(rows) < len(labelled.candidates):
        progress.say(f"{len(labelled.candidates) - len(rows)} rows are left out: the potential could not relax them")
    if not rows:
        raise InputError(f"{request.table}: the potential could relax none of its structures")
    used = [found[labelled.candidates[row].material_id] for row in rows]
    structures = [_structure(calculation) for calculation in used]
    formulas = [labelled.candidates[row].formula for row in rows]
    with progress.timed("learning"):
        return Table(
            features=_features(structures, used),
            answers={name: values[rows] for name, values in labelled.answers.items()},
            priors=_priors(phases, structures, used),
            groups=np.unique(formulas, return_inverse=True)[1],
        )


def made_up(candidates: Sequence[Candidate]) -> list[Source]:
    """Make up competing phases where none are named: elements, and salts of two elements in known structure types."""
    from pymatgen.core import Element

    symbols = sorted({symbol for candidate in candidates for symbol in candidate.chemsys.split("-")})
    negativity = {symbol: Element(symbol).X for symbol in symbols}
    strongest = {max(c.chemsys.split("-"), key=lambda s: (negativity[s], s)) for c in candidates}
    anions = sorted({s for s in symbols if negativity[s] > ANION and not Element(s).is_metal} | strongest)
    cations = [symbol for symbol in symbols if symbol not in anions]
    sources: list[Source] = [Prototypes(kind="prototypes", roles={"element": symbols}, n_elements=[1])]
    if cations:
        roles = {"cation": cations, "anion": anions}
        sources.append(Prototypes(kind="prototypes", roles=roles, n_elements=[2], max_sites=LARGEST_PHASE))
    return sources


def _open(
    ledger: Ledger, request: Request, progress: Progress, name: str, sources: Sequence[Source], screening: Screening
) -> Run:
    campaign = Campaign(name=name, sources=list(sources), screening=screening)
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
    identity = run.potential_identity
    found = run.ledger.best_calculations(
        run.campaign_id,
        fidelity="mlip",
        method=identity.method,
        level_of_theory=identity.level_of_theory,
        settings_hash=run.screening_hash,
    )
    return list(run.ledger.written_calculations(found.values()))


def _phases(run: Run) -> list[HullEntry]:
    """Propose and relax the competing phases."""
    from flows.stages.propose import propose

    propose(run)
    return [
        _entry(calculation, _structure(calculation))
        for calculation in _relaxed(run)
        if calculation.status == "converged" and calculation.structure is not None
    ]


def _structure(calculation: WrittenCalculation) -> Structure:
    from materials.serialization import structure_from_json

    return structure_from_json(str(calculation.structure))


def _entry(calculation: WrittenCalculation, structure: Structure) -> HullEntry:
    from materials.compositions import amounts_of
    from materials.phases import HullEntry

    assert calculation.energy is not None  # it converged
    return HullEntry(
        entry_id=calculation.material_id,
        amounts={element: float(amount) for element, amount in amounts_of(structure).items()},
        energy=calculation.energy,
        level_of_theory=calculation.level_of_theory,
        method=calculation.method,
    )


def _priors(
    phases: Sequence[HullEntry], structures: Sequence[Structure], calculations: Sequence[WrittenCalculation]
) -> dict[str, NDArray[np.float64]]:
    """What the potential says, against the competing phases and never against other rows; NaN without its elements."""
    from materials.hull import assess

    named = [
        replace(_entry(c, s), entry_id=f"row {i}")
        for i, (c, s) in enumerate(zip(calculations, structures, strict=True))
    ]
    elements = {next(iter(phase.elements)) for phase in phases if len(phase.elements) == 1}
    judged = [i for i, entry in enumerate(named) if entry.elements <= elements]
    values = {
        name: np.full(len(named), np.nan) for name in ("decomposition_energy_per_atom", "formation_energy_per_atom")
    }
    for i, stability in zip(judged, assess(phases, [named[i] for i in judged], fidelity="mlip"), strict=True):
        for name, array in values.items():
            array[i] = round(getattr(stability, name), DIGITS)
    volumes = [round(structure.volume / len(structure), DIGITS) for structure in structures]
    return values | {"volume_per_atom": np.array(volumes)}


def _features(structures: Sequence[Structure], calculations: Sequence[WrittenCalculation]) -> dict[str, Features]:
    from models.descriptors import column_groups, describe

    latents = [json.loads(calculation.properties).get("latent") or [] for calculation in calculations]
    width = len(latents[0])
    complete = width > 0 and all(len(latent) == width for latent in latents)
    table = describe(structures, np.array(latents, dtype=np.float64) if complete else None)
    groups = column_groups(table.shape[1])
    return {"all": _projected(table, list(groups.values())), "composition": _projected(table, [groups["composition"]])}


def _projected(table: NDArray[np.float64], groups: Sequence[Sequence[int]]) -> Features:
    from models.projection import freeze
    from models.replay import Features

    projection = freeze(table, groups=groups)
    return Features(matrix=projection.transform(table), widths=projection.widths)
