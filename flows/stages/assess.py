"""Stability of each material against its competing phases, one level of theory a hull."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from flows.run.context import Run
from flows.stages.unsound import Why, note_unsound, spoiled, take_out_unsound
from materials.errors import CampaignError, MissingTerminals
from materials.records import Calculation, CalculationStatus, Outcome, Stability
from materials.stability.absurd_energies import absurd_energies
from materials.stability.corrections import MP2020_LEVEL, anion_corrected, anion_corrected_level, is_raw_pbe

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from flows.dft.calculation import Job
    from materials.crystals.crystal import Crystal
    from materials.stability.competing_phases import ValidationPlan
    from materials.stability.stability import HullEntry

JUDGED_AT_ONCE = 5_000  # written in one transaction, which others wait for
SAME_ENERGY = 0.005  # eV/atom, within which two relaxations of one crystal may end, soft ones too


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What the potential says of a campaign, duplicates told apart.

    It holds no structure of its own: those are in the ledger, and of a hundred thousand DFT asks for a few.

    Attributes:
        outcomes: The potential's, by material_id: one for each distinct material, whatever its status.
        known: A database's of the same level, of the hull's phases that it has an energy of and the potential has not.
        stabilities: Of the hull's phases: converged, distinct. What each decomposes into is left to the ledger.
        duplicates: Material -> the one that it relaxed into.
        references: Phases with a database's energies at `MP2020_LEVEL`, candidates that it knows among them, by the
            material that stands for each crystal.
        built: Structures that were asked for, relaxed by the potential or as the database has it, by material_id.
        gathered: Phases that were asked for, by chemical system.
        planned: What goes with each candidate that was asked about, by material_id.
        jobs: Calculations that were asked for, by phase, elements of its hull, and whether it is relaxed.
        work: What `models.learning.dft_cost` says of calculations that were asked for, by calculation_id.
    """

    outcomes: Mapping[str, Outcome]
    known: Mapping[str, Outcome]
    stabilities: Mapping[str, Stability]
    duplicates: Mapping[str, str]
    references: Mapping[str, HullEntry] = field(default_factory=dict)
    built: dict[str, Structure] = field(default_factory=dict)
    gathered: dict[str, list[HullEntry]] = field(default_factory=dict)
    planned: dict[str, ValidationPlan] = field(default_factory=dict)
    jobs: dict[tuple[str, frozenset[str], bool | None], Job] = field(default_factory=dict)
    work: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def phase(self, material_id: str) -> Outcome:
        """Give the calculation that a phase's energy and structure come from."""
        return self.known.get(material_id) or self.outcomes[material_id]

    def elements(self, material_id: str) -> frozenset[str]:
        """Name the elements of a phase."""
        return frozenset(str(self.phase(material_id).chemsys).split("-"))

    def inside(self, run: Run, chemsys: str) -> list[HullEntry]:
        """Gather the hull's phases that hold no other elements."""
        if chemsys not in self.gathered:
            elements = set(chemsys.split("-"))
            systems = {phase.chemsys for phase in (*self.outcomes.values(), *self.known.values()) if phase.chemsys}
            systems = {system for system in systems if elements.issuperset(system.split("-"))}
            asked = [p.calculation_id for m in self.stabilities if (p := self.phase(m)).chemsys in systems]
            self.gathered[chemsys] = list(_read(run, asked)[1].values())
        return self.gathered[chemsys]

    def structures(self, run: Run, material_ids: Sequence[str]) -> list[Structure]:
        """Build the structures of some phases."""
        from materials.crystals.serialization import structure_from_json

        missing = {self.phase(m).calculation_id: m for m in material_ids if m not in self.built}
        for calculation in run.ledger.written_calculations(missing):
            assert calculation.structure is not None  # or it were no phase
            self.built[missing[calculation.calculation_id]] = structure_from_json(calculation.structure)
        return [self.built[m] for m in material_ids]


def assess_screened(run: Run, *, keep: bool = True) -> Screened:
    """Merge what relaxed into one crystal and build the potential's hull.

    Args:
        run: The campaign.
        keep: Whether both are written into the ledger. What a screening that was stopped says is not: of a crystal that
            stands for others, and of a phase's distance from its hull, the rest may say otherwise.
    """
    identity = run.potential_identity
    with run.progress.timed("ledger"):
        candidates = set(run.ledger.candidate_ids(run.campaign_id, "candidate"))
        outcomes, entries, unsound = _read(run, run.screened().values())
        known, energies, _ = _of_databases(run, identity.level_of_theory)
        references = energies if identity.level_of_theory == MP2020_LEVEL else _of_databases(run, MP2020_LEVEL)[1]
        # A candidate is judged by the potential's energy, whatever a database says: screening must not know the answer.
        others = [m for m in energies if m not in candidates and m not in entries]
        known = {m: known[m] for m in others}
        entries.update((m, energies[m]) for m in others)
    ends = Counter(outcome.status for outcome in outcomes.values())
    unsound |= take_out_unsound(entries)
    outcomes |= {m: spoiled(outcomes[m], *why) for m, why in unsound.items() if m in outcomes}
    note_unsound(run, unsound)
    n_left_out = sum(m in outcomes for m in unsound)
    with run.progress.timed("identity"):
        duplicates = _duplicates(run, entries, outcomes | known, candidates)
    for material_id in duplicates:
        del entries[material_id]
        outcomes.pop(material_id, None)
    if keep:
        with run.progress.timed("ledger"):
            run.ledger.add_equivalences(run.campaign_id, duplicates, "relaxed")
    stabilities = _judge(run, entries, keep=keep)
    near = sum(s.energy_above_hull <= 0.05 for m, s in stabilities.items() if m in candidates)
    run.progress.say(
        f"Screened {ends.total()}: {_unfinished(ends)}"
        + (f", {n_left_out} left out of the hull" if n_left_out else "")
        + f", {len(duplicates)} relaxed into another's crystal, {near} candidates within 0.05 eV/atom of the"
        " potential's hull"
    )
    return Screened(
        outcomes=outcomes,
        known=known,
        stabilities=stabilities,
        duplicates=duplicates,
        references=_references(references, duplicates),
    )


def _unfinished(ends: Mapping[CalculationStatus, int]) -> str:
    """Count what did not converge: "4 not converged (3 exploded, 1 max_steps)"."""
    others = {status: count for status, count in sorted(ends.items()) if status != "converged"}
    counted = ", ".join(f"{count} {status}" for status, count in others.items())
    return f"{sum(others.values())} not converged" + (f" ({counted})" if others else "")


def phases_of(run: Run) -> list[HullEntry]:
    """Read the phases of the potential's hull: what it relaxed, and what a database has computed at its level."""
    known = _of_databases(run, run.potential_identity.level_of_theory)[1]
    entries = known | _read(run, run.screened().values())[1]
    for material_id in absurd_energies(list(entries.values())):
        del entries[material_id]
    return list(entries.values())


def _of_databases(run: Run, level_of_theory: str) -> tuple[dict[str, Outcome], dict[str, HullEntry], dict[str, Why]]:
    """Read the energies of a level that we did not compute: what DFT answers must not change what is asked."""
    found = run.ledger.best_calculations(
        run.campaign_id, fidelity="dft", level_of_theory=level_of_theory, not_by=run.campaign.dft.code
    )
    return _read(run, found.values())


def _references(known: Mapping[str, HullEntry], duplicates: Mapping[str, str]) -> dict[str, HullEntry]:
    """Give each crystal its lowest known energy, under the id of the material that stands for it."""
    found: dict[str, HullEntry] = {}
    for material_id, entry in sorted(known.items()):
        stands = duplicates.get(material_id, material_id)
        if stands not in found or entry.energy_per_atom < found[stands].energy_per_atom:
            found[stands] = replace(entry, entry_id=stands)
    return found


def _read(run: Run, calculation_ids: Iterable[str]) -> tuple[dict[str, Outcome], dict[str, HullEntry], dict[str, Why]]:
    """Read calculations one after the other.

    Returns:
        What became of each; the phases that the converged ones make; and which of those make none, and why: atoms that
        have collapsed into each other, or no energy, in a ledger of a version that did not look.
    """
    from materials.crystals.composition import formula_of
    from materials.crystals.crystal import crystal_from_json
    from materials.crystals.validation import too_close
    from materials.stability.stability import HullEntry

    outcomes: dict[str, Outcome] = {}
    entries: dict[str, HullEntry] = {}
    unsound: dict[str, Why] = {}
    shared: dict[tuple[tuple[str, float], ...], dict[str, float]] = {}  # polymorphs are of the same
    for calculation in run.ledger.written_calculations(calculation_ids):
        material_id = calculation.material_id
        formula = chemsys = n_sites = volume = None
        if calculation.status == "converged" and calculation.structure is not None and calculation.energy is not None:
            crystal = crystal_from_json(calculation.structure)
            if pair := too_close(crystal.matrix, crystal.frac_coords @ crystal.matrix, crystal.numbers):
                unsound[material_id] = ("exploded", f"collapsed: {pair}")
            n_sites = len(crystal.species)
            volume = crystal.volume / n_sites
            amounts = crystal.amounts
            formula, chemsys = formula_of(amounts), sys.intern("-".join(sorted(amounts)))
            entries[material_id] = HullEntry(
                entry_id=material_id,
                amounts=shared.setdefault(tuple(amounts.items()), amounts),
                energy=calculation.energy,
                level_of_theory=sys.intern(calculation.level_of_theory),
                method=sys.intern(calculation.method),
            )
        elif calculation.status == "converged":  # a database keeps no infinity
            unsound[material_id] = ("exploded", "its energy is no finite number")
        outcomes[material_id] = Outcome(
            calculation_id=calculation.calculation_id,
            material_id=material_id,
            method=sys.intern(calculation.method),
            status=sys.intern(calculation.status),  # type: ignore[arg-type]
            message=calculation.message,
            formula=formula,
            chemsys=chemsys,
            n_sites=n_sites,
            volume_per_atom=volume,
        )
    for material_id, why in unsound.items():
        entries.pop(material_id, None)
        outcomes[material_id] = spoiled(outcomes[material_id], *why)
    return outcomes, entries, unsound


def _duplicates(
    run: Run, entries: Mapping[str, HullEntry], outcomes: Mapping[str, Outcome], candidates: set[str]
) -> dict[str, str]:
    """Map each material onto the one that stands for its crystal: a candidate first, then the lowest in energy.

    What lies well below the candidate that would stand for it is another crystal, however like it is: a hull without
    the distorted type of a competing phase would call the undistorted candidate stable.
    """
    from materials.crystals.crystal import crystal_from_json
    from materials.duplicates.duplicates import group_alike

    ids = sorted(entries)

    def crystals(indices: Sequence[int]) -> list[Crystal]:
        with run.progress.timed("ledger"):
            asked = [outcomes[ids[i]].calculation_id for i in indices]
            return [crystal_from_json(str(c.structure)) for c in run.ledger.written_calculations(asked)]

    # Rounded to 0.1 meV: the last digits depend on the machine, and decisions must not.
    def order(material_id: str) -> tuple[bool, float, str]:
        return material_id not in candidates, round(entries[material_id].energy_per_atom, 4), material_id

    duplicates: dict[str, str] = {}
    for group in group_alike([str(outcomes[m].formula) for m in ids], crystals, check_stop=run.check_stop):
        left = sorted((ids[i] for i in group), key=order)
        while left:
            kept, *others = left
            left = [m for m in others if _is_below(entries[m], entries[kept])]
            duplicates.update((m, kept) for m in others if m not in left)
    return duplicates


def _is_below(other: HullEntry, kept: HullEntry) -> bool:
    """Whether it is well below by the same method: a database's energy of a crystal may be off the potential's."""
    return other.method == kept.method and other.energy_per_atom < kept.energy_per_atom - SAME_ENERGY


def _judge(run: Run, entries: Mapping[str, HullEntry], *, keep: bool) -> dict[str, Stability]:
    """Build the hulls, write what they say of each phase, and give what the stages ask for."""
    from materials.stability.stability import assess_by_system

    nothing: dict[str, float] = {}
    stabilities: dict[str, Stability] = {}
    judged = assess_by_system([entries[m] for m in sorted(entries)], fidelity="mlip")
    while True:
        with run.progress.timed("hull"):
            some = list(islice(judged, JUDGED_AT_ONCE))
        if not some:
            return stabilities
        if keep:
            with run.progress.timed("ledger"):
                run.ledger.add_stabilities(run.campaign_id, some)
        stabilities.update((s.material_id, replace(s, decomposition=nothing)) for s in some)


def hull_level(run: Run, level_of_theory: str) -> str:
    """Name the level of the hulls that DFT energies of a level make: with corrections for anions where they are due.

    Raises:
        CampaignError: They are asked for, and the energies are not raw PBE.
    """
    wanted, raw = run.campaign.dft.anion_corrections, is_raw_pbe(level_of_theory)
    if wanted and not raw:
        raise CampaignError(
            f"dft.anion_corrections: they were fitted to PBE and are added to raw energies only, and those of this"
            f" campaign are {level_of_theory}: leave the key out"
        )
    return level_of_theory if wanted is False or not raw else anion_corrected_level(level_of_theory)


def judged_by_dft(run: Run, levels: Iterable[str]) -> dict[str, Stability]:
    """Read where DFT puts each validated candidate; of several levels, as calculations have them, the last counts."""
    found: dict[str, Stability] = {}
    for level in levels:
        found |= run.ledger.stabilities(run.campaign_id, "dft", hull_level(run, level))
    return found


def assess_validated(
    run: Run, screened: Screened, results: Mapping[str, Mapping[str, Calculation]], until: int | None = None
) -> dict[str, Stability]:
    """Judge each validated candidate against phases computed at its own level of theory.

    A database's phases are among them where it computes at that level: only at the Materials Project's. Where energies
    are corrected for anions, the ledger keeps what the raw ones say beside it.

    Args:
        run: The campaign.
        screened: What the potential says.
        results: Level of theory -> material_id -> converged DFT calculation.
        until: The last round whose candidates are judged; None for all.

    Returns:
        By material_id, for the candidates whose hull is complete.
    """
    picks = {selection.material_id for selection in run.ledger.selections(run.campaign_id, until)}
    raw: dict[str, Stability] = {}
    found: dict[str, Stability] = {}
    with run.progress.timed("hull"):
        for level, calculations in results.items():
            ordered = [calculation for _, calculation in sorted(calculations.items())]
            known = screened.references if level == MP2020_LEVEL else {}
            judged = _judge_picks(ordered, picks, known)
            if hull_level(run, level) != level:
                raw |= judged
                judged = _judge_picks([anion_corrected(calculation) for calculation in ordered], picks, known)
            found |= judged
    with run.progress.timed("ledger"):
        for several in (raw, found):
            run.ledger.add_stabilities(run.campaign_id, [several[m] for m in sorted(several)])
    return found


def _judge_picks(
    calculations: Sequence[Calculation], picks: Collection[str], known: Mapping[str, HullEntry]
) -> dict[str, Stability]:
    """Judge the picks among calculations of one level against the others, and against a database's phases."""
    from materials.stability.stability import assess, entry_from

    found: dict[str, Stability] = {}
    entries = [entry_from(calculation) for calculation in calculations]
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
    return found
