"""Explanation of a material: every record behind its row of the table, as text or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from materials.errors import QueryError
from materials.plain_text import printable
from materials.records import Failure
from materials.selection_reasons import Selections, reasons_of, told
from materials.targets import expected

Record = Mapping[str, Any]


class Records(Selections, Protocol):
    """What a ledger gives of a material."""

    def evidence(self, name: str) -> dict[str, Any]:
        """Give every record behind a material."""

    def unread(self) -> list[Failure]:
        """List what could not be read."""


def explain(ledger: Records, name: str, style: Literal["text", "json"]) -> str:
    """Write what a ledger holds of a material, or why a file could not be read.

    Args:
        ledger: Where the records are.
        name: A material_id, a unique beginning of one, a source's own id, or a file that could not be read.
        style: "text" or "json".

    Raises:
        QueryError: It means no material, or several.
    """
    try:
        evidence = ledger.evidence(name)
    except QueryError:
        unread = [f for f in ledger.unread() if _means(name.removeprefix("./"), f.material_id)]
        if not unread:
            raise
        return _unread(unread, style)
    evidence["why"] = reasons_of(ledger, evidence)
    if style == "json":
        return json.dumps(evidence, indent=1, ensure_ascii=False)
    crystal = evidence["candidate"]
    lines = [f"{evidence['material_id']}: {crystal['formula']}, {crystal['chemsys']}, {crystal['n_sites']} sites"]
    for title, key, describe in (
        ("Ranked", "rankings", _ranking),
        ("Proposed", "proposals", _proposal),
        ("Same crystal", "equivalences", _equivalence),
        ("Calculated", "calculations", _calculation),
        ("Stability", "stabilities", _stability),
        ("Predicted before", "predictions", _prediction),
        ("Why", "why", told),
        ("Failed", "failures", _failure),
    ):
        records: Sequence[Record] = evidence[key]
        if records:
            lines += ["", title, *[f"  {line}" for record in records for line in describe(record).splitlines()]]
    return printable("\n".join(lines))


def _number(value: float | None, unit: str, digits: int = 3) -> str:
    return "unknown" if value is None else f"{value:.{digits}f} {unit}"


def _ranking(r: Record) -> str:
    hit = {None: "not judged yet", 1: "meets all targets", 0: "misses a target"}[r["meets_targets"]]
    score = "" if r["score"] is None else f", score {r['score']:.3f}"
    return f"{r['campaign_id']}: rank {r['rank']}, {r['status']}, {hit}{score}"


def _proposal(r: Record) -> str:
    origin = "; ".join(r["parents"]) or r["source"]
    known = f" (known as {', '.join(r['known_as'])})" if r["known_as"] else ""
    return f"{r['campaign_id']}: as {r['role']} by {r['source']} {r['source_version']}: {origin}{known}"


def _equivalence(r: Record) -> str:
    return f"{r['campaign_id']}: {r['material_id']} is {r['duplicate_of']} ({r['stage']})"


def _calculation(r: Record) -> str:
    line = f"{r['created_at'][:19]} {r['method']} ({r['level_of_theory']}): {r['status']}"
    if r["energy"] is not None:
        line += f", {r['energy']:.4f} eV in the cell"
    if r["max_force"] is not None:
        line += f", largest force {r['max_force']:.3f} eV/Å"
    seconds = r["wall_time_s"]  # a damaged ledger may have lost it
    known = isinstance(seconds, int | float) and math.isfinite(seconds)
    line += f", {r['n_steps']} steps, {f'{seconds:.1f}' if known else '–'} s"
    gap = (r["properties"] or {}).get("band_gap")
    if gap is not None:
        line += f", gap {gap:.3f} eV"
    last = str(r["message"]).strip()
    line += f"\n  id {r['calculation_id']}, settings {r['settings_hash']}"
    return "\n  ".join([line, *_magnetism(r["properties"] or {}), *([last] if last else [])])


def _magnetism(properties: Record) -> list[str]:
    """The order that was found, the moments, and the orders that lost."""
    lines = []
    moment = properties.get("total_magnetization_per_formula_unit")
    if moment is not None:
        sites = " ".join(f"{value:.2f}" for value in properties.get("magmoms") or [])
        lines.append(
            f"magnetic order: {properties['magnetic_order']}, {moment:.2f} μB a formula unit"
            + (f"; sites (μB): {sites}" if sites else "")
        )
    tried = properties.get("orders_tried") or []
    energies = [trial["energy_per_atom"] for trial in tried if trial["energy_per_atom"] is not None]
    for trial in tried:
        if trial["energy_per_atom"] is None:
            lines.append(f"tried {trial['order']}: not converged")
        else:
            above = 1000 * (trial["energy_per_atom"] - min(energies))
            ended = "" if trial["magnetic_order"] == trial["order"] else f", which became {trial['magnetic_order']}"
            lines.append(f"tried {trial['order']}: {above:.1f} meV/atom above the lowest{ended}")
    return lines + [f"not tried: {left_out}" for left_out in properties.get("orders_left_out") or []]


def _stability(r: Record) -> str:
    phases = " + ".join(f"{share:.3f} {phase}" for phase, share in (r["decomposition"] or {}).items())
    return (
        f"{r['fidelity']} ({r['level_of_theory']}, hull {r['reference_version'][:8]}):"
        f" {_number(r['energy_above_hull'], 'eV/atom')} above hull,"
        f" decomposition {_number(r['decomposition_energy_per_atom'], 'eV/atom')},"
        f" formation {_number(r['formation_energy_per_atom'], 'eV/atom')}\n  against {phases}"
    )


def _prediction(r: Record) -> str:
    mean = expected(r["target"], r["mean"])
    return f"round {r['round']}: {r['target']} {mean:.3f} ± {r['std']:.3f} (surrogate {r['surrogate_version'][:8]})"


def _unread(failures: Sequence[Failure], style: str) -> str:
    if style == "json":
        return json.dumps([asdict(failure) for failure in failures], indent=1, ensure_ascii=False)
    return printable("\n".join(f"Could not be read: {failure.message} ({failure.error})" for failure in failures))


def _failure(r: Record) -> str:
    times = f" ({r['attempts']} attempts)" if r["attempts"] > 1 else ""
    return f"{r['stage']}: {r['error']}{times}: {r['message']}"


def _means(name: str, origin: str) -> bool:
    """Whether a name is a file's: its name, its path or the end of either, or its place in it."""
    return name != "" and any(
        whole == name or whole.endswith(f"/{name}") or name.endswith(f"/{whole}")
        for whole in (origin, origin.rpartition("#")[0] or origin)
    )
