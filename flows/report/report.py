"""Report of a campaign: a summary in Markdown, plots, and the ranked table as CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.output.unread import unread_lines
from flows.report import reliability
from flows.report.level_caveats import caveats
from flows.run.context import Run
from materials.plain_text import code, duration, in_markdown, out_of_markdown, paragraphs_in_markdown
from materials.properties import spoken, unit_of
from materials.records import Calculation, RankedCandidate, Selection, Target
from materials.stability.competing_phases import ValidationPlan

TOP = 20
UNREAD = "Could not be read"
TRUST = "How far to trust the predictions"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the report is written from.

    Attributes:
        rows: Those that are spoken of, in the table's order: all that were chosen or validated, and the next in line.
        distances: Energy above the potential's hull of every row that has one, eV/atom.
        plans: Of what was chosen.
        relaxed: The best, relaxed with DFT, by material_id.
        names: Formulas by material_id.
        n_answers: That the surrogate has learned from.
        cautions: What speaks against the predictions of the next in line, in words, by material_id.
        verdict: Whether going on is worth it, in words.
    """

    rows: Sequence[RankedCandidate]
    distances: Sequence[float]
    plans: Sequence[ValidationPlan]
    relaxed: Mapping[str, Calculation]
    names: Mapping[str, str]
    n_answers: int
    cautions: Mapping[str, Sequence[str]]
    verdict: str


def folder(run: Run) -> Path:
    """Say where the report lies."""
    return run.folder / "reports" / run.campaign_id


def write(run: Run, evidence: Evidence) -> Path:
    """Write summary and plots; return the summary's path."""
    from flows.report import plots

    where = folder(run)
    where.mkdir(parents=True, exist_ok=True)
    selections = run.ledger.selections(run.campaign_id)
    pictures = plots.draw(evidence.rows, evidence.distances, selections, run.targets)
    for name, picture in pictures.items():
        (where / name).write_bytes(picture)
    text = summary(run, evidence, selections, {name: name for name in pictures})
    (where / "summary.md").write_text(text, encoding="utf-8")
    return where / "summary.md"


def summary(run: Run, evidence: Evidence, selections: Sequence[Selection], pictures: Mapping[str, str]) -> str:
    """Write the report's Markdown.

    Args:
        run: The campaign.
        evidence: What is known.
        selections: Of all rounds.
        pictures: File name of each plot -> what its link shall be (a path, or a data URI).
    """
    campaign = run.campaign
    parts = [f"# {campaign.name}", paragraphs_in_markdown(campaign.description)]
    parts += ["## Found", _list(findings(run, evidence, selections))]
    parts += [f"![{Path(name).stem.replace('-', ' ')}]({link})" for name, link in pictures.items()]
    validated = [row for row in evidence.rows if row.status == "validated"]
    if validated:
        parts += ["## Validated with DFT", ranked_table(validated[:TOP])]
    parts += ["## Next in line", ranked_table([row for row in evidence.rows if row.status != "validated"][:TOP])]
    trust = reliability.section(evidence.rows, selections, evidence.n_answers, evidence.cautions)
    parts += [f"## {TRUST}", trust] if trust else []
    if evidence.relaxed:
        parts += ["## Relaxed with DFT", _list(_relaxed(evidence))]
    if evidence.plans:
        lines = [*left_out(run, evidence), *caveats(evidence.rows)]
        parts += ["## What the hull leaves out", _list(lines)]
    if unread := _unread(run):
        parts += [f"## {UNREAD}", _list(unread)]
    spent = spent_on(run.progress.seconds)
    if spent:
        parts += ["## Where the time of the last run went", spent]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {in_markdown(line)}" for line in lines)


def findings(run: Run, evidence: Evidence, selections: Sequence[Selection]) -> list[str]:
    """Say in words what came out."""
    from models.learning.stopping import hit_rate, hit_rate_among_random

    rows = {row.material_id: row for row in evidence.rows}
    validated = [row for row in evidence.rows if row.status == "validated"]
    lines = [f"wanted: {'; '.join(wish(target) for target in run.targets)}"]
    if unscreened := run.ledger.missing(run.campaign_id, run.campaign.dft.code)["screened"]:
        lines.append(
            f"not yet screened: {unscreened} structures, which the hulls lack: what they call stable may not be;"
            " the same command goes on"
        )
    picked = [rows[s.material_id] for s in selections if s.material_id in rows]
    judged = [row for row in picked if row.meets_targets is not None]
    chosen = hit_rate(sum(bool(row.meets_targets) for row in judged), len(judged))
    if chosen is not None:
        lines.append(
            f"hit rate: {chosen.hits} of {chosen.trials} validated candidates meet all targets"
            f" ({chosen.rate:.0%}, 95 % interval {chosen.low:.0%} to {chosen.high:.0%})"
        )
    random = hit_rate_among_random(
        [s.acquisition for s in selections if s.material_id in rows], [row.meets_targets for row in picked]
    )
    if random is None:
        lines.append("hit rate among random picks: not measured (learning.audits: none was due)")
    else:
        lines.append(
            f"hit rate among random picks: {random.hits} of {random.trials}"
            f" ({random.rate:.0%}, 95 % interval {random.low:.0%} to {random.high:.0%})"
        )
    hits = [row for row in validated if row.meets_targets]
    if hits:
        best = hits[0]
        lines.append(f"best: {best.formula} ({best.parents}), {_facts(best)}")
    if evidence.verdict:
        lines.append(evidence.verdict)
    failed = [row for row in picked if row.status == "failed"]
    if failed:
        lines.append(f"failed: {', '.join(f'{row.formula} ({_lines(row.message)[0][:80]})' for row in failed)}")
    return lines


def left_out(run: Run, evidence: Evidence) -> list[str]:
    """Say in words what the DFT hulls do not hold."""
    names = evidence.names
    replaced = {big: small for plan in evidence.plans for big, small in plan.stand_ins.items()}
    missing = sorted({names.get(m, m) for plan in evidence.plans for m in plan.left_out})
    lines = []
    limit = run.campaign.dft.competing_max_sites
    if replaced:
        formulas = sorted({names.get(big, big) for big in replaced})
        lines.append(
            f"above {limit} sites, so a smaller polymorph of the same composition stands for it"
            f" (the hull is a little too high there): {', '.join(formulas)}"
        )
    if missing:
        lines.append(f"above {limit} sites and without a smaller polymorph: {', '.join(missing)}")
    if evidence.plans and all(plan.n_known and not plan.phases for plan in evidence.plans):
        most = max(plan.n_known for plan in evidence.plans)
        lines.append(
            f"all that the Materials Project does not know: the hull is its own, of up to {most} phases in a"
            " candidate's chemical system, and of the candidates that were computed"
        )
        return [*lines, run.campaign.hull_leaves_out.strip()] if run.campaign.hull_leaves_out else lines
    count = run.campaign.dft.competing_polymorphs
    lines.append(
        f"of each composition all but the {count} lowest polymorphs by the potential"
        if count > 1
        else "of each composition all but the lowest polymorph by the potential"
    )
    lines.append(
        f"phases more than {run.campaign.dft.competing_within} eV/atom above the facet of a candidate's decomposition"
        " by the potential, and all that the campaign's sources do not propose"
    )
    if run.campaign.hull_leaves_out:
        lines.append(run.campaign.hull_leaves_out.strip())
    return lines


def ranked_table(rows: Sequence[RankedCandidate]) -> str:
    """Write rows as a Markdown table: at most eight columns, which is what a page has room for."""
    lines = [
        "| rank | material | from | status | decomposition (eV/atom) | E above hull (eV/atom) | gap (eV) | score |",
        "|---:|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        parents = row.parents if len(row.parents) <= 48 else row.parents[:47] + "…"
        hit = " ✓" if row.meets_targets else ""
        cells = [
            str(row.rank),
            code(row.material_id),
            in_markdown(parents),
            in_markdown(row.status + hit),
            f"{_number(row.decomposition_energy_per_atom)} {in_markdown(row.fidelity or '')}",
            _number(row.energy_above_hull),
            _number(row.band_gap, 2),
            _number(row.score, 2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spent_on(seconds: Mapping[str, float]) -> str:
    """Say where the time went, the longest first."""
    told = sorted(((s, stage) for stage, s in seconds.items() if s >= 0.05), reverse=True)
    return ", ".join(f"{stage} {duration(s)}" for s, stage in told)


def closing_lines(run: Run) -> list[str]:
    """End a run on a terminal: what was found, where everything lies."""
    text = (folder(run) / "summary.md").read_text(encoding="utf-8").split("\n## ")
    sections = {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip() for part in text[1:]}
    lines = []
    for title in ("Found", TRUST, "Relaxed with DFT", "What the hull leaves out"):
        told = sections.get(title, "").splitlines()
        if title in ("Found", TRUST):  # pictures and tables are for the page
            told = [line for line in told if line.startswith("- ")]
        if told:
            lines += [f"{title}:", *[f"  {out_of_markdown(line)}" for line in told]]
    if unread := _unread(run):
        lines += [f"{UNREAD}:", *[f"  {line}" for line in unread]]
    lines.append(f"Time: {spent_on(run.progress.seconds)}")
    lines.append(f"Report: {folder(run) / 'summary.md'}")
    lines.append(
        f"Ledger: {run.ledger.url} (assay table, assay show MATERIAL_ID, or any SQL client: ranked_candidates)"
    )
    return lines


def _unread(run: Run) -> list[str]:
    return unread_lines([failure.message for failure in run.ledger.unread(run.campaign_id)])


def with_pictures_inside(run: Run) -> str:
    """Give the report's Markdown with its pictures as data URIs: what a Prefect artifact shows."""
    import base64

    text = (folder(run) / "summary.md").read_text(encoding="utf-8")
    for picture in sorted(folder(run).glob("*.png")):
        data = base64.b64encode(picture.read_bytes()).decode()
        text = re.sub(rf"(?<!\\)\]\({re.escape(picture.name)}\)", f"](data:image/png;base64,{data})", text)
    return text + f"\nTable and pictures: {code(str(folder(run).resolve()))}; `assay table {run.campaign_id}`\n"


def artifact_key(campaign_id: str) -> str:
    """Name the campaign's artifact: Prefect takes lower-case letters, digits and dashes."""
    return f"assay-{campaign_id}"


def wish(target: Target) -> str:
    """Write a target for a person."""
    unit, name = unit_of(target.property), spoken(target.property)
    match target.goal:
        case "near":
            return f"{name} within {target.tolerance:g} of {target.value:g} {unit}"
        case "at_most" | "at_least":
            return f"{name} {target.goal.replace('_', ' ')} {target.value:g} {unit}"
        case _:
            return f"{target.goal} {name}"


def _facts(row: RankedCandidate) -> str:
    gap = "" if row.band_gap is None else f", gap {row.band_gap:.2f} eV"
    energies = f"{_number(row.decomposition_energy_per_atom)} eV/atom against phases of other compositions"
    if row.energy_above_hull:
        energies += f", {_number(row.energy_above_hull)} above the hull"
    return f"{energies}{gap} ({row.level_of_theory})"


def _relaxed(evidence: Evidence) -> list[str]:
    lines = []
    for material_id, calculation in evidence.relaxed.items():
        formula = evidence.names.get(material_id, material_id)
        if calculation.status != "converged" or calculation.structure is None:
            lines.append(f"{formula}: {calculation.status} {_lines(calculation.message)[-1]}")
            continue
        lattice = calculation.structure.lattice
        gap = calculation.properties.get("band_gap")
        shape = f"a {lattice.a:.3f}, b {lattice.b:.3f}, c {lattice.c:.3f} Å, volume {lattice.volume:.2f} Å³"
        lines.append(
            f"{formula}: {shape}"
            + (f", gap {gap:.2f} eV" if gap is not None else "")
            + f" ({calculation.level_of_theory})"
        )
    return lines


def _lines(message: str) -> list[str]:
    return message.strip().splitlines() or [""]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
