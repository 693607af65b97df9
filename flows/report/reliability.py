"""Reliability of the predictions: those made before DFT, beside its results, for the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from materials.plain_text import code, in_markdown
from materials.properties import floor_of, is_of_dft_alone, learned_as, spoken, unit_of
from materials.records import RankedCandidate, Selection
from materials.targets import expected, surprise
from models.learning.calibration import FAR, Calibration, calibrate, few_answers, reliability, verdict
from models.learning.stopping import HitRate

MOST_TOLD = 10  # ways in which those next in line are unlike what was computed
MOST_NAMED = 3  # of those that are unlike it in one way
FIRST, CHOSEN, AT_RANDOM = "first round", "chosen", "at random"


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """A prediction of a pick, and the answer that came after it."""

    material_id: str
    formula: str
    target: str
    mean: float  # of the belief: below the floor where an answer at it is expected
    std: float
    answer: float
    group: str  # FIRST, where nothing was learned yet and error bars were assumed; else CHOSEN or AT_RANDOM

    @property
    def surprise(self) -> float:
        """(answer - mean) / std; none of an answer at the floor that was believed to lie there."""
        return surprise(self.target, self.answer, self.mean, self.std)

    @property
    def expected(self) -> float:
        """The mean, or the floor where that lies below it."""
        return expected(self.target, self.mean)

    @property
    def low(self) -> float:
        """Lower end of the error bar: mean - std, or the floor where that lies below it."""
        return expected(self.target, self.mean - self.std)

    @property
    def high(self) -> float:
        """Upper end of the error bar: mean + std, or the floor."""
        return expected(self.target, self.mean + self.std)


def compare(rows: Iterable[RankedCandidate], selections: Sequence[Selection]) -> list[Foretold]:
    """Set each prediction that was made before its answer beside it, in the order of the picks.

    Args:
        rows: Of the table, all that were picked among them: `predicted` of a pick is what was said before DFT.
        selections: Of all rounds.
    """
    by_id = {row.material_id: row for row in rows}
    found = []
    for selection in selections:
        row = by_id.get(selection.material_id)
        for target, (mean, std) in sorted(row.predicted.items()) if row else ():
            answer = _answer(row, target) if row else None
            if row and answer is not None and std > 0 and selection.predates(target):
                found.append(
                    Foretold(
                        material_id=row.material_id,
                        formula=row.formula,
                        target=target,
                        mean=mean,
                        std=std,
                        answer=answer,
                        group=_group(selection),
                    )
                )
    return found


def section(
    rows: Sequence[RankedCandidate],
    selections: Sequence[Selection],
    n_answers: int,
    cautions: Mapping[str, Sequence[str]],
) -> str:
    """Write the report's section, in Markdown.

    Args:
        rows: As `compare` takes them.
        selections: Of all rounds.
        n_answers: That the surrogate has learned from.
        cautions: What speaks against the prediction of each of the next in line, in words, by material_id.
    """
    pairs = compare(rows, selections)
    lines = [few] if (few := few_answers(n_answers)) else []
    lines += doubts(pairs)
    if told := {material_id: words for material_id, words in cautions.items() if words}:
        lines.append(f"of the {len(cautions)} next in line, {len(told)} are unlike what was computed:")
        lines += _grouped(told)
    parts = ["\n".join(f"- {line}" for line in lines), _coverage_table(pairs), _probability_table(rows, selections)]
    return "\n\n".join(part for part in parts if part)


def _grouped(told: Mapping[str, Sequence[str]]) -> list[str]:
    """Say once what speaks against several."""
    groups: dict[str, list[str]] = {}
    for material_id, words in told.items():
        groups.setdefault("; ".join(words), []).append(material_id)
    lines = []
    for words, ids in list(groups.items())[:MOST_TOLD]:
        more = f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else ""
        lines.append(f"{', '.join(map(code, ids[:MOST_NAMED]))}{more}: {in_markdown(words)}")
    left = sum(len(ids) for ids in list(groups.values())[MOST_TOLD:])
    return [*lines, f"and {left} more"] if left else lines


def doubts(pairs: Sequence[Foretold]) -> list[str]:
    """Name the answers that lie so far from their prediction that the calculation itself may be wrong."""
    far = sorted((p for p in pairs if abs(p.surprise) > FAR), key=lambda p: -abs(p.surprise))
    lines = [
        f"check this calculation: {in_markdown(p.formula)} ({code(p.material_id)}),"
        f" {spoken(learned_as(p.target))} predicted {p.expected:.3f} ± {p.std:.3f},"
        f" found {p.answer:.3f} {unit_of(p.target)}: {abs(p.surprise):.0f} σ"
        f" {'above' if p.surprise > 0 else 'below'}"
        for p in far[:MOST_TOLD]
    ]
    return [*lines, f"and {len(far) - MOST_TOLD} more"] if len(far) > MOST_TOLD else lines


def _group(selection: Selection) -> str:
    if selection.round == 1:
        return FIRST
    return AT_RANDOM if selection.acquisition == "audit" else CHOSEN


def _answer(row: RankedCandidate, target: str) -> float | None:
    if row.fidelity != "dft" and not is_of_dft_alone(target):
        return None
    answer: float | None = getattr(row, learned_as(target))
    return answer


def _coverage_table(pairs: Sequence[Foretold]) -> str:
    """Tell apart what was chosen for being promising, and so flatters no prediction, from what was picked at random."""
    lines = []
    for target in sorted({pair.target for pair in pairs}):
        for group in (FIRST, CHOSEN, AT_RANDOM):
            mine = [pair for pair in pairs if (pair.target, pair.group) == (target, group)]
            answers, means, stds = ([getattr(p, part) for p in mine] for part in ("answer", "mean", "std"))
            found = calibrate(answers, means, stds, floor=floor_of(target))
            if found is not None:
                lines.append(_coverage_row(target, group, found))
    if not lines:
        return ""
    heading = [
        "Predictions made before DFT answered, beside its answers (95 % intervals in brackets). In the first round"
        " nothing is learned yet: the potential's values with an assumed error bar.",
        "",
        "| predicted | picks | in 50 % interval | in 90 % interval | mean error | RMSE | σ should be × | verdict |",
        "|---|---:|---|---|---:|---:|---|---|",
    ]
    return "\n".join([*heading, *lines])


def _coverage_row(target: str, who: str, found: Calibration) -> str:
    cells = [
        f"{spoken(target)} ({unit_of(target)}), {who}",
        str(found.n),
        *[_share(found.coverage[share]) for share in sorted(found.coverage)],
        f"{found.bias:+.3f}",
        f"{found.rmse:.3f}",
        f"{found.stretch:.2f} ({found.stretch_low:.2f} to {found.stretch_high:.2f})",
        verdict(found),
    ]
    return "| " + " | ".join(cells) + " |"


def _probability_table(rows: Sequence[RankedCandidate], selections: Sequence[Selection]) -> str:
    by_id = {row.material_id: row for row in rows}
    judged = [
        (selection.why["odds"], row.meets_targets)
        for selection in selections
        if selection.round > 1
        and (row := by_id.get(selection.material_id)) is not None
        and row.meets_targets is not None
        and "odds" in selection.why
        and all(selection.predates(target) for target in row.predicted)
    ]
    if not judged:
        return ""
    lines = ["Probability of meeting all targets, as predicted from the second round on, beside the hits:", ""]
    lines += ["| probability | picks | hits expected | hits found |", "|---|---:|---:|---|"]
    for found in reliability([probability for probability, _ in judged], [bool(hit) for _, hit in judged]):
        seen = f"{found.seen.hits}: {_share(found.seen)}"
        lines.append(f"| {found.low:.1f} to {found.high:.1f} | {found.seen.trials} | {found.expected:.1f} | {seen} |")
    return "\n".join(lines)


def _share(rate: HitRate) -> str:
    return f"{rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%})"
