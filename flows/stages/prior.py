"""Prior means of the surrogate: the potential's energies in the convention of the DFT hull."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from flows.run.context import Run
from flows.stages.assess import Screened, hull_level
from materials.records import Stability
from materials.stability.conventions import Change, change_between
from models.dft.calculation_record import level_of_theory

if TYPE_CHECKING:
    from materials.stability.hull import HullEntry
    from materials.store.ledger import Ledger
    from models.dft.base import DFTSettings


def prior_stabilities(run: Run, screened: Screened, material_ids: Sequence[str]) -> Mapping[str, Stability]:
    """Find where the potential puts candidates, in the convention in which DFT will answer.

    Where DFT's energies are raw, what the potential learned to be corrected by is taken out of all phases of its hull,
    and the hull is built again; where they have only the terms for anions in, so has it. The table and the ledger keep
    the potential's own.

    Args:
        run: The campaign.
        screened: What the potential says.
        material_ids: Some of its phases.

    Returns:
        By material_id, for these at least.
    """
    if not material_ids:
        return {}
    change = change_to_dft(run, own_settings(run, screened, material_ids[0]))
    if change is None or not any(change.touches(system.split("-")) for system in _systems(screened)):
        return screened.stabilities
    asked = [screened.phase(m).calculation_id for m in screened.stabilities]
    entries = {entry.entry_id: entry for entry in changed_entries(run.ledger, change, asked)}
    return changed_stabilities(entries, material_ids)


def own_settings(run: Run, screened: Screened, material_id: str) -> DFTSettings:
    """Give how the campaign computes a candidate, but for its cut-off and its mesh."""
    (structure,) = screened.structures(run, [material_id])
    return run.dft_code.settings(run.campaign.dft.preset, screened.elements(material_id), structure)


def change_to_dft(run: Run, own: DFTSettings) -> Change | None:
    """Give what takes the potential's energies to the convention of DFT's hull; None where that is nothing."""
    return change_between(run.potential_identity.level_of_theory, hull_level(run, level_of_theory(own)))


def changed_stabilities(entries: Mapping[str, HullEntry], material_ids: Sequence[str]) -> dict[str, Stability]:
    """Find where some of the potential's phases, in another convention, stand on their hull."""
    from materials.stability.stability import assess

    if not material_ids:
        return {}
    judged = assess(list(entries.values()), [entries[m] for m in material_ids], fidelity="mlip")
    return {stability.material_id: stability for stability in judged}


def changed_entries(ledger: Ledger, change: Change, calculation_ids: Iterable[str]) -> Iterator[HullEntry]:
    """Read converged calculations as phases whose energies are in another convention."""
    from materials.crystals.crystal import crystal_from_json
    from materials.stability.hull import HullEntry

    for calculation in ledger.written_calculations(calculation_ids):
        crystal = crystal_from_json(str(calculation.structure))
        assert calculation.energy is not None  # or it were no phase
        yield change.entry(
            HullEntry(
                entry_id=calculation.material_id,
                amounts=crystal.amounts,
                energy=calculation.energy,
                level_of_theory=calculation.level_of_theory,
                method=calculation.method,
            ),
            crystal.structure,
        )


def _systems(screened: Screened) -> set[str]:
    return {str(screened.phase(m).chemsys) for m in screened.stabilities}
