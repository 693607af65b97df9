"""Converged results that cannot stand in a hull: each a failure of its own row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.run.context import Run
from materials.errors import MissingTerminals
from materials.records import CalculationStatus, Failure, Outcome
from materials.stability.absurd_energies import absurd_energies

if TYPE_CHECKING:
    from materials.stability.stability import HullEntry

Why = tuple[CalculationStatus, str]


def tell_missing_references(run: Run) -> None:
    """Say, before anything is computed, which elements have no phase of their own, with the lines that bring one.

    Raises:
        MissingTerminals: So many that there would be no hull at all.
    """
    with run.progress.timed("ledger"):
        systems = run.ledger.chemical_systems(run.campaign_id)
        candidates = run.ledger.chemical_systems(run.campaign_id, "candidate")
    pure = {system for system in systems if "-" not in system}
    lacking = {system: sorted(missing) for system in systems if (missing := set(system.split("-")) - pure)}
    without = sorted({element for system in candidates for element in lacking.get(system, ())})
    if not without:
        return
    count = sum(n for system, n in candidates.items() if system in lacking)
    line = f"- {{kind: prototypes, roles: {{element: [{', '.join(without)}]}}, n_elements: [1]}}"
    where = "under competing in the campaign file" if run.campaign.competing else "to the campaign file"
    lines = f"  {line}" if run.campaign.competing else f"  competing:\n    {line}"
    told = (
        f"{count} of {sum(candidates.values())} candidates have no hull: nothing proposes a phase of"
        f" {', '.join(without)}. To have their phases computed too, add {where}:\n{lines}"
    )
    if len(lacking) == len(systems):
        raise MissingTerminals(told)
    run.progress.say(f"{told}\nThe others are ranked; these will be rows that say why they are not.")


def take_out_unsound(entries: dict[str, HullEntry]) -> dict[str, Why]:
    """Take out what no hull can be built of: absurd energies, and compounds of elements that have no phase.

    Raises:
        MissingTerminals: Nothing is left.
    """
    found: dict[str, Why] = {m: ("exploded", why) for m, why in absurd_energies(list(entries.values())).items()}
    for material_id in found:
        del entries[material_id]
    pure = {next(iter(entry.elements)) for entry in entries.values() if len(entry.elements) == 1}
    for material_id, entry in list(entries.items()):
        if missing := sorted(entry.elements - pure):
            found[material_id] = ("failed", f"its hull has no phase of {', '.join(missing)}: compute or pull one")
            del entries[material_id]
    if found and not entries:
        raise MissingTerminals(f"No hull can be built: {next(iter(found))}: {next(iter(found.values()))[1]}")
    return found


def spoiled(outcome: Outcome, status: CalculationStatus, message: str) -> Outcome:
    """Give an outcome that is not what its calculation says of itself."""
    return replace(
        outcome, status=status, message=message, formula=None, chemsys=None, n_sites=None, volume_per_atom=None
    )


def note_unsound(run: Run, unsound: Mapping[str, Why]) -> None:
    """Say what converged and is left out of the hull all the same."""
    if not unsound:
        return
    failures = [
        Failure(material_id=material_id, stage="assess", error=error, message=message)
        for material_id, (error, message) in sorted(unsound.items())
    ]
    with run.progress.timed("ledger"):
        run.ledger.add_failures(run.campaign_id, failures)
    first = failures[0]
    run.progress.say(
        f"{len(failures)} that converged are left out of the hull, the first: {first.material_id}: {first.message}"
    )
