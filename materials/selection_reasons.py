"""Explain each selection: predictions, DFT results and reasons, as data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from materials.plain_text import duration
from materials.properties import is_of_dft_alone, learned_as, spoken, unit_of
from materials.records import Prediction, Selection, WrittenCalculation
from materials.targets import expected, surprise

Record = Mapping[str, Any]


class Selections(Protocol):
    """What a ledger gives of selections."""

    def selections(self, campaign_id: str, until: int | None = None) -> list[Selection]:
        """Read the selections of a campaign, or those until a round."""

    def written_calculations(self, calculation_ids: Iterable[str]) -> Iterator[WrittenCalculation]:
        """Read calculations one after the other."""


def pick_line(selection: Selection, predictions: Iterable[Prediction]) -> str:
    """Write in a line why a candidate is selected, before its DFT."""
    predicted = _expected({p.target: {"mean": p.mean, "std": p.std} for p in predictions})
    return (
        f"  {selection.rank}. {selection.material_id}: {'; '.join([*predicted, *_standing(selection.why)])}"
        f" ({selection.acquisition})"
    )


def reasons_of(ledger: Selections, evidence: Record) -> list[dict[str, Any]]:
    """Gather why a material was picked, in each campaign that did, and what DFT said since.

    Args:
        ledger: For who else was in the batch.
        evidence: Of the material, as `Ledger.evidence` gives it.

    Returns:
        For each selection its own fields, `predicted` (target -> `mean` and `std` before DFT answered), `batch` (who
        else was picked in that round), `found` (target -> `answer`, and `surprise` in standard deviations, None where
        the answer was known before), and `cost`: wall times of DFT in s, `own_s` of this material's calculations and
        `phases_s` of the `n_phases` competing ones that nobody picked before had asked for; None before any.
    """
    computed = [c for c in evidence["calculations"] if c["fidelity"] == "dft"]
    rows = {row["campaign_id"]: row for row in evidence["rankings"]}
    reasons = []
    for selection in evidence["selections"]:
        campaign_id, round_number = selection["campaign_id"], selection["round"]
        predicted = {
            p["target"]: {"mean": p["mean"], "std": p["std"]}
            for p in evidence["predictions"]
            if (p["campaign_id"], p["round"]) == (campaign_id, round_number)
        }
        others = [s for s in ledger.selections(campaign_id, round_number) if s.round == round_number]
        reasons.append(
            {
                **selection,
                "predicted": predicted,
                "batch": [s.material_id for s in others if s.material_id != evidence["material_id"]],
                "found": _found(predicted, rows.get(campaign_id, {}), selection["why"].get("answered", ())),
                "cost": _cost(ledger, computed, selection["why"].get("calculations", ())),
            }
        )
    return reasons


def told(reason: Record) -> str:
    """Say a reason, as `reasons_of` gave it, in words; a line for each thing."""
    why = reason["why"]
    lines = [
        f"{reason['campaign_id']}, round {reason['round']}, pick {reason['rank']}:"
        f" {reason['acquisition']} {reason['score']:.4f} (seed {reason['seed']})"
    ]
    if beliefs := _expected(reason["predicted"]):
        lines.append(f"predicted: {', '.join(beliefs)}")
    if standing := _standing(why):
        lines.append("; ".join(standing))
    if near := [_neighbour(n) for n in why.get("neighbours", ())]:
        lines.append(f"nearest computed (1 is the median distance of two candidates): {'; '.join(near)}")
    lines += [f"caution: {caution}" for caution in why.get("cautions", ())]
    if reason["batch"]:
        lines.append(f"picked together with {', '.join(reason['batch'])}")
    lines += [f"DFT found {_answer(name, found)}" for name, found in reason["found"].items()]
    if cost := reason["cost"]:
        words = f"DFT took {duration(cost['own_s'])}"
        if cost["n_phases"]:
            words += f", and {duration(cost['phases_s'])} for competing phases ({cost['n_phases']}) that were new then"
        lines.append(words)
    return "\n  ".join(lines)


def _cost(ledger: Selections, own: Sequence[Record], calculation_ids: Sequence[str]) -> dict[str, float] | None:
    if not own:
        return None
    mine = {calculation["calculation_id"] for calculation in own}
    phases = list(ledger.written_calculations(name for name in calculation_ids if name not in mine))
    return {
        "own_s": sum(calculation["wall_time_s"] or 0.0 for calculation in own),
        "phases_s": sum(phase.wall_time_s or 0.0 for phase in phases),
        "n_phases": len(phases),
    }


def _found(predicted: Record, row: Record, answered: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Compare the table's DFT values with what was predicted."""
    found = {}
    for name, belief in predicted.items():
        answer = row.get(learned_as(name)) if row.get("fidelity") == "dft" or is_of_dft_alone(name) else None
        if answer is not None:
            off = None if name in answered else surprise(name, answer, belief["mean"], belief["std"])
            found[name] = {"answer": answer, "surprise": off}
    return found


def _expected(predicted: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [
        f"{spoken(name)} {expected(name, p['mean']):.3f} ± {p['std']:.3f} {unit_of(name)}"
        for name, p in predicted.items()
    ]


def _standing(why: Record) -> list[str]:
    """The probability of meeting all targets, and the rank by the potential alone; older ledgers have neither."""
    if "odds" not in why:
        return []
    return [
        f"P(all targets) {why['odds']:.2f}",
        f"rank {why['rank_by_potential']} of {why['of']} by the potential alone",
    ]


def _neighbour(neighbour: Record) -> str:
    answers = [f"{spoken(name)} {value:.3f} {unit_of(name)}" for name, value in neighbour["answers"].items()]
    return f"{neighbour['material_id']} at {neighbour['distance']:.2f} ({', '.join(answers)})"


def _answer(name: str, found: Record) -> str:
    words = f"{spoken(learned_as(name))} {found['answer']:.3f} {unit_of(name)}"
    if found["surprise"] is None:
        return f"{words}, known before"
    above = "above" if found["surprise"] >= 0 else "below"
    return f"{words}: {abs(found['surprise']):.1f} σ {above} what was predicted"
