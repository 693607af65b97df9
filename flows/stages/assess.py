"""Calculations -> where each material stands against its competing phases, one level of theory a hull."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flows.context import Run
from materials.corrections import MP2020_LEVEL
from materials.records import Calculation, Stability

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materials.hull import HullEntry


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What the potential says of a campaign, duplicates told apart.

    Attributes:
        calculations: The potential's, by material_id: one for each distinct material, whatever its status.
        entries: The hull's phases: converged, distinct; a database's energies of the same level among them.
        sizes: Sites in the cell of each phase.
        structures: Of each phase, relaxed by the potential or as the database has it.
        geometries: Of each phase, the id of the calculation that its structure comes from.
        stabilities: Of each phase.
        duplicates: Material -> the one that it relaxed into.
        references: Phases with a database's energies at `MP2020_LEVEL`, candidates that it knows among them, by the
            material that stands for each crystal.
    """

    calculations: Mapping[str, Calculation]
    entries: tuple[HullEntry, ...]
    sizes: Mapping[str, int]
    structures: Mapping[str, Structure]
    geometries: Mapping[str, str]
    stabilities: Mapping[str, Stability]
    duplicates: Mapping[str, str]
    references: Mapping[str, HullEntry] = field(default_factory=dict)


def assess_screened(run: Run) -> Screened:
    """Merge what relaxed into one crystal, build the potential's hull, keep both in the ledger."""
    from materials.hull import assess, entry_from

    identity = run.potential_identity
    with run.progress.timed("ledger"):
        calculations = run.ledger.calculations(
            campaign_id=run.campaign_id,
            fidelity="mlip",
            method=identity.method,
            level_of_theory=identity.level_of_theory,
            settings_hash=run.screening_hash,
        )
        energies = _of_databases(run, identity.level_of_theory)
        known = energies if identity.level_of_theory == MP2020_LEVEL else _of_databases(run, MP2020_LEVEL)
        candidates = set(run.ledger.candidate_ids(run.campaign_id, "candidate"))
    # A candidate is judged by the potential's energy, whatever a database says: screening must not know the answer.
    converged = {m: c for m, c in energies.items() if m not in candidates}
    converged |= {m: c for m, c in calculations.items() if c.status == "converged"}
    with run.progress.timed("identity"):
        duplicates = _duplicates(converged, candidates)
    distinct = {m: c for m, c in converged.items() if m not in duplicates}
    with run.progress.timed("hull"):
        entries = tuple(entry_from(distinct[m]) for m in sorted(distinct))
        stabilities = assess(entries, fidelity="mlip")
    with run.progress.timed("ledger"):
        run.ledger.add_equivalences(run.campaign_id, duplicates, "relaxed")
        run.ledger.add_stabilities(run.campaign_id, stabilities)
    _report(run, calculations, candidates, duplicates, stabilities)
    return Screened(
        calculations={m: c for m, c in calculations.items() if m not in duplicates},
        entries=entries,
        sizes={m: len(c.structure) for m, c in distinct.items() if c.structure is not None},
        structures={m: c.structure for m, c in distinct.items() if c.structure is not None},
        geometries={m: c.calculation_id for m, c in distinct.items()},
        stabilities={s.material_id: s for s in stabilities},
        duplicates=duplicates,
        references=_references(known, duplicates),
    )


def _of_databases(run: Run, level_of_theory: str) -> dict[str, Calculation]:
    """Read the energies of a level that we did not compute: what DFT answers must not change what is asked."""
    found = run.ledger.calculations(
        campaign_id=run.campaign_id,
        fidelity="dft",
        level_of_theory=level_of_theory,
        not_by=run.campaign.dft.code,
    )
    return {m: c for m, c in found.items() if c.status == "converged"}


def _references(known: Mapping[str, Calculation], duplicates: Mapping[str, str]) -> dict[str, HullEntry]:
    """Give each crystal its lowest known energy, under the id of the material that stands for it."""
    from materials.hull import entry_from

    found: dict[str, HullEntry] = {}
    for material_id, calculation in sorted(known.items()):
        stands = duplicates.get(material_id, material_id)
        entry = replace(entry_from(calculation), entry_id=stands)
        if stands not in found or entry.energy_per_atom < found[stands].energy_per_atom:
            found[stands] = entry
    return found


def _duplicates(converged: Mapping[str, Calculation], candidates: set[str]) -> dict[str, str]:
    """Map each material onto the one that stands for its crystal: a candidate first, then the lowest in energy."""
    from materials.identity import group_duplicates

    ids = sorted(converged)
    structures = [converged[m].structure for m in ids]
    duplicates: dict[str, str] = {}
    for group in group_duplicates([s for s in structures if s is not None]):
        members = sorted((ids[i] for i in group), key=lambda m: (m not in candidates, _energy(converged[m]), m))
        duplicates.update(dict.fromkeys(members[1:], members[0]))
    return duplicates


def _energy(calculation: Calculation) -> float:
    """Energy per atom rounded to 0.1 meV: the last digits depend on the batch, and decisions must not."""
    assert calculation.energy is not None
    assert calculation.structure is not None
    return round(calculation.energy / len(calculation.structure), 4)


def _report(
    run: Run,
    calculations: Mapping[str, Calculation],
    candidates: set[str],
    duplicates: Mapping[str, str],
    stabilities: list[Stability],
) -> None:
    unfinished = [c for c in calculations.values() if c.status != "converged"]
    near = [s for s in stabilities if s.material_id in candidates and s.decomposition_energy_per_atom <= 0.05]
    run.progress.say(
        f"Screened {len(calculations)}: {len(unfinished)} not converged, {len(duplicates)} relaxed into another's"
        f" crystal, {len(near)} candidates within 0.05 eV/atom of the potential's hull"
    )


def assess_validated(
    run: Run, screened: Screened, results: Mapping[str, Mapping[str, Calculation]]
) -> dict[str, Stability]:
    """Judge each validated candidate against phases computed at its own level of theory.

    A database's phases are among them where it computes at that level: only at the Materials Project's.

    Args:
        run: The campaign.
        screened: What the potential says.
        results: Level of theory -> material_id -> converged DFT calculation.

    Returns:
        By material_id, for the candidates whose hull is complete.
    """
    from materials.errors import MissingTerminals
    from materials.hull import assess, entry_from

    found: dict[str, Stability] = {}
    picks = {selection.material_id for selection in run.ledger.selections(run.campaign_id)}
    with run.progress.timed("hull"):
        for level, calculations in results.items():
            entries = [entry_from(c) for _, c in sorted(calculations.items())]
            known = screened.references if level == MP2020_LEVEL else {}
            others = [*known.values(), *(e for e in entries if e.entry_id not in known)]
            for entry in entries:
                if entry.entry_id not in picks:
                    continue
                inside = [e for e in others if e.elements <= entry.elements and e.entry_id != entry.entry_id]
                inside.append(entry)
                try:
                    found[entry.entry_id] = assess(inside, [entry], fidelity="dft")[0]
                except MissingTerminals:
                    continue  # an element's calculation failed, and its Failure says so
    with run.progress.timed("ledger"):
        run.ledger.add_stabilities(run.campaign_id, [found[m] for m in sorted(found)])
    return found
