"""Decomposition energies of before version 4, worked out again: they counted phases of the same composition.

What was against all phases but the material itself is against phases of other compositions now. The ledger holds no
hull, but of the potential's every phase with its formation energy, and of DFT's the calculations. A hull that is put
together from them counts where it gives the old number back; what it does not is taken out, and judged again when its
campaign runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from pymatgen.core import Composition

from materials.crystals.composition import formula_of
from materials.crystals.crystal import crystal_from_json
from materials.errors import HullError, MissingTerminals
from materials.records import Stability
from materials.stability.hull import HullEntry
from materials.stability.stability import assess

SAME = 1e-4  # eV/atom: within it the old number is given back

Key = tuple[str, str, str]  # campaign, fidelity, material

NUMBERS = ("energy_above_hull", "decomposition_energy_per_atom", "formation_energy_per_atom")


def _table(name: str, *columns: str, **typed: Any) -> sa.TableClause:
    return sa.table(name, *(sa.column(c) for c in columns), *(sa.column(c, kind) for c, kind in typed.items()))


_KEYS = ("campaign_id", "material_id", "fidelity", "level_of_theory")
_stabilities = _table("stabilities", "sequence", *_KEYS, *NUMBERS, decomposition=sa.JSON)
_rankings = _table("rankings", *_KEYS, *NUMBERS, "energy_above_hull_mlip", "decomposition_energy_mlip")


@dataclass
class _Counts:
    judged: int = 0
    changed: int = 0
    taken_out: int = 0
    rows: int = 0
    emptied: int = 0


def work_out_again(connection: sa.Connection) -> str:
    """Bring stabilities and tables to the new definition, and say in a line what became of them."""
    counts = _Counts()
    query = sa.select(_stabilities).order_by(
        *(_stabilities.c[name] for name in ("campaign_id", "fidelity", "level_of_theory", "sequence"))
    )
    for campaign_id, told in groupby(connection.execute(query).all(), key=lambda row: str(row.campaign_id)):
        renewed: dict[Key, list[Stability]] = {}
        duplicates = _duplicates(connection, campaign_id)
        for (fidelity, level), rows in groupby(told, key=lambda row: (row.fidelity, row.level_of_theory)):
            history = list(rows)
            latest = {str(row.material_id): row for row in history}
            if fidelity == "mlip":  # what has become another's crystal is in no hull any more
                latest = {name: row for name, row in latest.items() if name not in duplicates}
            hulls = _of_potential(connection, latest) if fidelity == "mlip" else _of_dft(connection, campaign_id, level)
            found = _judged_again(latest, hulls, fidelity)
            _renew(connection, history, latest, found, counts)
            for material_id, stability in found.items():
                renewed.setdefault((campaign_id, fidelity, material_id), []).append(stability)
        _renew_table(connection, campaign_id, renewed, duplicates, counts)
    if not counts.judged and not counts.rows and not counts.emptied:
        return "No decomposition energy to work out again"
    return (
        f"Decomposition energies are against phases of other compositions now: of {counts.judged}, {counts.changed}"
        f" changed and {counts.taken_out} could not be worked out again (they are judged when their campaign runs);"
        f" rows of the tables: {counts.rows} changed, {counts.emptied} left empty until then"
    )


def _duplicates(connection: sa.Connection, campaign_id: str) -> dict[str, str]:
    query = sa.text("SELECT material_id, duplicate_of FROM equivalences WHERE campaign_id = :id ORDER BY sequence")
    return {row.material_id: row.duplicate_of for row in connection.execute(query, {"id": campaign_id})}


def _of_potential(connection: sa.Connection, latest: Mapping[str, Any]) -> list[list[HullEntry]]:
    """Make the potential's hull of formation energies, all of whose phases were judged."""
    formulas: dict[str, str] = {}
    names = list(latest)
    query = sa.text("SELECT material_id, formula FROM candidates WHERE material_id IN :ids")
    query = query.bindparams(sa.bindparam("ids", expanding=True))
    for start in range(0, len(names), 500):
        rows = connection.execute(query, {"ids": names[start : start + 500]})
        formulas |= {row.material_id: row.formula for row in rows}
    entries = []
    for name in names:
        row = latest[name]
        if name in formulas and row.formation_energy_per_atom is not None:
            amounts = _amounts(formulas[name])
            energy = row.formation_energy_per_atom * sum(amounts.values())
            entries.append(_phase(name, amounts, energy, row.level_of_theory))
    return [entries]


def _amounts(formula: str) -> dict[str, float]:

    return dict(Composition(formula).get_el_amt_dict())


def _of_dft(connection: sa.Connection, campaign_id: str, level: str) -> list[list[HullEntry]]:
    """Make hulls of a campaign's converged calculations; of several of a material the first, or the last."""
    query = sa.text(
        "SELECT material_id, structure, energy FROM calculations"
        " WHERE fidelity = 'dft' AND status = 'converged' AND level_of_theory = :level AND energy IS NOT NULL"
        " AND material_id IN (SELECT material_id FROM proposals WHERE campaign_id = :id)"
        " ORDER BY created_at, attempt, calculation_id"
    )
    first: dict[str, HullEntry] = {}
    last: dict[str, HullEntry] = {}
    for name, structure, energy in connection.execute(query, {"level": level, "id": campaign_id}):
        if structure is not None:
            last[name] = _phase(name, crystal_from_json(structure).amounts, energy, level)
            first.setdefault(name, last[name])
    return [list(first.values()), list(last.values())]


def _phase(name: str, amounts: Mapping[str, float], energy: float, level: str) -> HullEntry:
    return HullEntry(entry_id=name, amounts=amounts, energy=energy, level_of_theory=level, method="")


def _judged_again(
    latest: Mapping[str, Any], hulls: Sequence[Sequence[HullEntry]], fidelity: Any
) -> dict[str, Stability]:
    """Judge phases by the first of the hulls that gives the old numbers back."""
    found: dict[str, Stability] = {}
    for entries in hulls:
        elements = {next(iter(entry.elements)) for entry in entries if len(entry.elements) == 1}
        whole = [entry for entry in entries if entry.elements <= elements]
        asked = [entry for entry in whole if entry.entry_id in latest and entry.entry_id not in found]
        try:
            judged = assess(whole, asked, fidelity=fidelity)
        except (HullError, MissingTerminals):
            continue
        rivals = _rivals(whole)
        for entry, stability in zip(asked, judged, strict=True):
            if _gives_back(latest[entry.entry_id], entry, stability, rivals):
                found[entry.entry_id] = stability
    return found


def _rivals(entries: Iterable[HullEntry]) -> dict[str, list[HullEntry]]:
    """The two lowest phases of each composition, by formula."""
    found: dict[str, list[HullEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.energy_per_atom):
        found.setdefault(formula_of(entry.amounts), []).append(entry)
    return {formula: phases[:2] for formula, phases in found.items()}


def _gives_back(old: Any, entry: HullEntry, new: Stability, rivals: Mapping[str, Sequence[HullEntry]]) -> bool:
    """Whether a hull has the numbers that are kept of one phase."""
    others = [phase for phase in rivals[formula_of(entry.amounts)] if phase.entry_id != entry.entry_id]
    against_all = [new.decomposition_energy_per_atom] if len(entry.elements) > 1 or not others else []
    against_all += [entry.energy_per_atom - phase.energy_per_atom for phase in others[:1]]
    numbers = (
        (old.energy_above_hull, new.energy_above_hull),
        (old.formation_energy_per_atom, new.formation_energy_per_atom),
        (old.decomposition_energy_per_atom, max(against_all)),
    )
    return all(kept is not None and abs(kept - found) < SAME for kept, found in numbers)


def _renew(
    connection: sa.Connection,
    history: Sequence[Any],
    latest: Mapping[str, Any],
    found: Mapping[str, Stability],
    counts: _Counts,
) -> None:
    """Write the latest numbers anew; those that they replaced are emptied, what cannot be worked out is taken out."""
    counts.judged += len(latest)
    changed, taken_out, emptied = [], [], []
    for row in history:
        stability = found.get(row.material_id)
        if row.material_id not in latest or row.sequence != latest[row.material_id].sequence:
            emptied.append({"at": row.sequence})
        elif stability is None:
            taken_out.append({"at": row.sequence})
        else:
            energy, products = stability.decomposition_energy_per_atom, dict(stability.decomposition)
            changed.append({"at": row.sequence, "energy": energy, "products": products})
            counts.changed += abs(energy - row.decomposition_energy_per_atom) >= SAME
    counts.taken_out += len(taken_out)
    at = _stabilities.c.sequence == sa.bindparam("at")
    values: dict[str, Any] = {
        "decomposition_energy_per_atom": sa.bindparam("energy"),
        "decomposition": sa.bindparam("products"),
    }
    if changed:
        connection.execute(sa.update(_stabilities).where(at).values(values), changed)
    if emptied:
        nothing = {"decomposition_energy_per_atom": sa.null(), "decomposition": sa.null()}
        connection.execute(sa.update(_stabilities).where(at).values(nothing), emptied)
    if taken_out:
        connection.execute(sa.delete(_stabilities).where(at), taken_out)


def _renew_table(
    connection: sa.Connection,
    campaign_id: str,
    renewed: Mapping[Key, Sequence[Stability]],
    duplicates: Mapping[str, str],
    counts: _Counts,
) -> None:
    """Write the new numbers of the published rows, or none."""
    behind: dict[str, list[str]] = {}
    for duplicate, kept in duplicates.items():
        behind.setdefault(kept, []).append(duplicate)

    def number(row: Any, fidelity: str, above: float | None) -> float | None:
        names = [row.material_id, *sorted(behind.get(row.material_id, ()))]
        told = (stability for name in names for stability in renewed.get((campaign_id, fidelity, name), ()))
        return next((s.decomposition_energy_per_atom for s in told if above is not None and _same(s, above)), None)

    updates = []
    for row in connection.execute(sa.select(_rankings).where(_rankings.c.campaign_id == campaign_id)):
        new = {
            "energy": number(row, row.fidelity, row.energy_above_hull) if row.fidelity else None,
            "mlip": number(row, "mlip", row.energy_above_hull_mlip),
        }
        old = {"energy": row.decomposition_energy_per_atom, "mlip": row.decomposition_energy_mlip}
        if any(old[name] is not None and _differ(old[name], new[name]) for name in old):
            updates.append({"material": row.material_id, **new})
            lost = any(old[name] is not None and new[name] is None for name in old)
            counts.emptied += lost
            counts.rows += not lost
    if updates:
        mine = (_rankings.c.campaign_id == campaign_id) & (_rankings.c.material_id == sa.bindparam("material"))
        values: dict[str, Any] = {
            "decomposition_energy_per_atom": sa.bindparam("energy"),
            "decomposition_energy_mlip": sa.bindparam("mlip"),
        }
        connection.execute(sa.update(_rankings).where(mine).values(values), updates)


def _same(stability: Stability, above: float) -> bool:
    return abs(stability.energy_above_hull - above) < SAME


def _differ(old: float, new: float | None) -> bool:
    return new is None or abs(old - new) >= SAME
