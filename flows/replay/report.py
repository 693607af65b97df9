"""Report of a replay: a table, one JSON object a strategy, and curves."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from materials.plain_text import in_markdown, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flows.replay.run import Replayed

COLORS = ("#2b6cb0", "#a0aec0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#b7791f", "#0987a0")
HEADINGS = (
    "strategy", "hits", "at 50", "at 100", "95 % interval", "n50", "n80", "acceleration", "enhancement", "90 % cover",
    "CPU s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """One strategy, over its seeds.

    Attributes:
        strategy: Its name.
        hits: Found of what is wanted with the whole budget, on average over seeds.
        hits_std: Standard deviation of that over seeds; None of a single seed.
        recall_at_50: Share of what is wanted that 50 answers found, or the budget where it is less; `recall_at_100`
            likewise.
        n50: Answers that half of it took; `n80` likewise for 80 %; None where a seed did not get there.
        interval_low: Of the mean of `recall_at_100`, 95 %; `interval_high` likewise; None of a single seed.
        seeds: Campaigns played.
        cpu_s: CPU seconds of one of them.
        acceleration: How many times fewer answers than chance needs, to 80 % (else to 50 %).
        enhancement: How many times more than chance 100 answers found.
        covered: Property -> share of 90 % intervals that held the answer: of the picked, and of all not picked.
    """

    strategy: str
    hits: float
    hits_std: float | None
    recall_at_50: float
    recall_at_100: float
    n50: float | None
    n80: float | None
    interval_low: float | None
    interval_high: float | None
    seeds: int
    cpu_s: float
    acceleration: float | None
    enhancement: float
    covered: Mapping[str, tuple[float, float]]


def lines(replayed: Replayed) -> list[Line]:
    """Sum up each strategy."""
    return [_line(replayed, name) for name in replayed.played]


def _line(replayed: Replayed, name: str) -> Line:
    from models.learning.simulation import answers_needed, covered

    played, curves = replayed.played[name], curves_of(replayed, name)
    n, wanted = len(replayed.question.wanted), replayed.question.n_wanted
    at_100 = _at(curves, 100)
    half = _half_width(at_100)
    needed = {share: [answers_needed(curve, share) for curve in curves] for share in (0.5, 0.8)}
    mean = {share: float(np.mean(found)) if None not in found else None for share, found in needed.items()}  # type: ignore[arg-type]
    share = 0.8 if mean[0.8] is not None else 0.5
    reached = mean[share]
    # To draw k of K without looking takes k (n + 1) / (K + 1) of n on average.
    by_chance = np.ceil(share * wanted - 1e-12) * (n + 1) / (wanted + 1)
    hits = curves[:, -1] * wanted
    return Line(
        strategy=name,
        hits=round(float(np.mean(hits)), 2),
        hits_std=round(float(np.std(hits, ddof=1)), 2) if len(hits) > 1 else None,
        recall_at_50=round(float(np.mean(_at(curves, 50))), 4),
        recall_at_100=round(float(np.mean(at_100)), 4),
        n50=None if mean[0.5] is None else round(mean[0.5], 1),
        n80=None if mean[0.8] is None else round(mean[0.8], 1),
        interval_low=None if half is None else round(max(float(np.mean(at_100)) - half, 0.0), 4),
        interval_high=None if half is None else round(min(float(np.mean(at_100)) + half, 1.0), 4),
        seeds=len(played),
        cpu_s=round(float(np.mean([p.cpu_s for p in played])), 2),
        acceleration=None if reached is None else round(float(by_chance) / reached, 2),
        enhancement=round(float(np.mean(at_100)) * n / min(100, curves.shape[1], n), 2),
        covered={key: (round(a, 3), round(b, 3)) for key, (a, b) in covered(played).items()},
    )


def curves_of(replayed: Replayed, name: str) -> NDArray[np.float64]:
    """Share found after each answer, shape (seeds, most answers of any strategy).

    One that has nothing left to ask for finds no more.
    """
    from models.learning.simulation import recall

    most = max(len(played.order) for campaigns in replayed.played.values() for played in campaigns)
    curves = [recall(replayed.question, played) for played in replayed.played[name]]
    return np.array([np.pad(curve, (0, most - len(curve)), mode="edge") for curve in curves])


def _at(curves: NDArray[np.float64], answers: int) -> NDArray[np.float64]:
    return curves[:, min(answers, curves.shape[1]) - 1]


def _half_width(values: NDArray[np.float64]) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t; None of a single one."""
    from scipy.stats import t

    m = len(values)
    return float(t.ppf(0.975, m - 1) * np.std(values, ddof=1) / np.sqrt(m)) if m > 1 else None


def as_text(replayed: Replayed, note: Callable[[str], str] = printable) -> str:
    """Write the table for a person; `note` writes what stands below it."""
    from models.learning.simulation import STRATEGIES

    rows = [HEADINGS, *(_row(line) for line in lines(replayed))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    written = [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows
    ]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    text = "\n".join([written[0], rule, *written[1:]])
    notes = [
        f"{replayed.asked}.",
        "hits: found with the whole budget, ± standard deviation over seeds; at 50, at 100: share of what is wanted"
        " found with so many answers, or with the budget where that is less;"
        " n50, n80: answers until 50, 80 % are found; acceleration (to 80 %, else to 50 %), enhancement (after 100):"
        " against chance; cover: of the picked / of all that are not.",
    ]
    notes += [f"{name}: {STRATEGIES[name].title}." for name in replayed.played]
    notes += [f"{name}: not played, {why}." for name, why in replayed.left_out.items()]
    return "\n".join([text, *map(note, notes)])


def _row(line: Line) -> Sequence[str]:
    cover = ", ".join(f"{_share(picked)}/{_share(rest)}" for picked, rest in line.covered.values())
    return (
        line.strategy,
        f"{line.hits:.1f}" + ("" if line.hits_std is None else f" ± {line.hits_std:.1f}"),
        f"{line.recall_at_50:.2f}",
        f"{line.recall_at_100:.2f}",
        "–" if line.interval_low is None else f"{line.interval_low:.2f} to {line.interval_high:.2f}",
        _number(line.n50, 0),
        _number(line.n80, 0),
        _number(line.acceleration, 1),
        f"{line.enhancement:.1f}",
        cover or "–",
        f"{line.cpu_s:.1f}",
    )


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def as_json(replayed: Replayed) -> str:
    """Write one object a strategy, a line each."""
    return "\n".join(json.dumps(_plain(asdict(line))) for line in lines(replayed))


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def write(replayed: Replayed, folder: Path) -> Path:
    """Write table, curves and plot; return the plot's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replay.md").write_text(
        as_text(replayed, in_markdown) + "\n\n![share found](replay.png)\n", encoding="utf-8"
    )
    (folder / "replay.jsonl").write_text(as_json(replayed) + "\n", encoding="utf-8")
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["strategy", "seed", "answers", "recall"])
        for name in replayed.played:
            for seed, curve in enumerate(curves_of(replayed, name)):
                writer.writerows([name, seed, count, f"{share:.6g}"] for count, share in enumerate(curve, start=1))
    (folder / "replay.png").write_bytes(_plot(replayed))
    return folder / "replay.png"


def _plot(replayed: Replayed) -> bytes:
    import io

    from matplotlib.figure import Figure
    from scipy.stats import t

    figure = Figure(figsize=(7.2, 4.6), layout="constrained", dpi=110)
    axis = figure.subplots()
    for color, name in zip(COLORS, replayed.played, strict=False):
        curves = curves_of(replayed, name)
        answers, mean = np.arange(1, curves.shape[1] + 1), curves.mean(axis=0)
        axis.plot(answers, mean, color=color, label=name, linewidth=2.2 if name == "campaign" else 1.3)
        if len(curves) > 1:
            half = t.ppf(0.975, len(curves) - 1) * curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
            axis.fill_between(answers, mean - half, mean + half, color=color, alpha=0.18, linewidth=0)
    wanted, n = replayed.question.n_wanted, len(replayed.question.wanted)
    axis.set(xlabel="DFT answers", ylabel=f"share of the {wanted} wanted found", ylim=(0, 1.02), xlim=(0, None))
    figure.suptitle(textwrap.fill(printable(replayed.asked), 100), fontsize=9, parse_math=False)
    axis.set_title(f"{n} candidates; bands: 95 % intervals of the mean over seeds", fontsize=9)
    axis.grid(color="#e2e8f0", linewidth=0.6)
    axis.legend(fontsize=8, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
