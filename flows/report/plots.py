"""Plots of the report: hull distances, potential and surrogate against DFT, hits against cost."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flows.report.reliability import AT_RANDOM, CHOSEN, FIRST, Foretold, compare
from materials.properties import learned_as, spoken, unit_of
from materials.records import RankedCandidate, Selection, Target
from models.learning.calibration import FAR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_A_ROW = 3  # panels
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"


def draw(
    rows: Sequence[RankedCandidate],
    distances: Sequence[float],
    selections: Sequence[Selection],
    targets: Sequence[Target],
) -> dict[str, bytes]:
    """Draw the plots for which there are data; file name -> PNG.

    Args:
        rows: All that were chosen or validated, at least.
        distances: Energies above the potential's hull, of all, eV/atom.
        selections: Of all rounds.
        targets: What is wanted.
    """
    from matplotlib.figure import Figure

    panels: list[Callable[[Axes], None]] = []
    if distances:
        panels.append(lambda axis: _distances(axis, distances))
    if any(_pair(row) is not None for row in rows):
        panels.append(lambda axis: _parity(axis, rows))
    foretold = compare(rows, selections)
    panels += [partial(_foretold, pairs=[p for p in foretold if p.target == name]) for name in _targets(foretold)]
    if selections:
        panels.append(lambda axis: _progress(axis, rows, selections, targets))
    if not panels:
        return {}
    n_rows = math.ceil(len(panels) / IN_A_ROW)
    n_columns = math.ceil(len(panels) / n_rows)
    figure = Figure(figsize=(5.2 * n_columns, 3.9 * n_rows), layout="constrained", dpi=110)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return {"overview.png": picture.getvalue()}


def _pair(row: RankedCandidate) -> tuple[float, float] | None:
    if row.fidelity != "dft" or row.decomposition_energy_mlip is None or row.decomposition_energy_per_atom is None:
        return None
    return row.decomposition_energy_mlip, row.decomposition_energy_per_atom


def _distances(axis: Axes, values: Sequence[float]) -> None:
    shown = [min(value, 1.0) for value in values]
    axis.hist(shown, bins=50, range=(0, 1.0), color=BLUE)
    axis.set_xlabel("energy above hull by the potential (eV/atom)")
    axis.set_ylabel("candidates")
    beyond = sum(value > 1.0 for value in values)
    near = sum(value <= 0.05 for value in values)
    axis.set_title(
        f"{near} of {len(values)} within 0.05 eV/atom; {beyond} beyond 1 eV/atom, in the last bar", fontsize=9
    )


def _parity(axis: Axes, rows: Sequence[RankedCandidate]) -> None:
    from matplotlib.ticker import MaxNLocator

    pairs = [(row, pair) for row in rows if (pair := _pair(row)) is not None]
    xs, ys = [pair[0] for _, pair in pairs], [pair[1] for _, pair in pairs]
    low, high = min(xs + ys) - 0.02, max(xs + ys) + 0.02
    axis.plot([low, high], [low, high], color=GREY, linewidth=1)
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    colors = [ORANGE if row.meets_targets else BLUE for row, _ in pairs]
    axis.scatter(xs, ys, c=colors, s=28)
    for row, (x, y) in pairs:
        axis.annotate(row.formula, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    difference = sum(abs(x - y) for x, y in zip(xs, ys, strict=True)) / len(pairs)
    axis.set_xlabel("decomposition energy by the potential (eV/atom)")
    axis.set_ylabel("by DFT (eV/atom)")
    axis.set_title(f"mean absolute difference {1000 * difference:.0f} meV/atom; orange meets all targets", fontsize=9)


def _targets(pairs: Sequence[Foretold]) -> list[str]:
    # Energies stand beside the potential's.
    return sorted({pair.target for pair in pairs}, key=lambda name: (name == "band_gap", name))


def _foretold(axis: Axes, *, pairs: Sequence[Foretold]) -> None:
    """Draw what the surrogate said of one target before DFT did, with one standard deviation."""
    from matplotlib.ticker import MaxNLocator

    ends = [end for p in pairs for end in (p.low, p.high, p.answer)]
    margin = 0.05 * (max(ends) - min(ends))
    low, high = min(ends) - margin, max(ends) + margin
    axis.plot([low, high], [low, high], color=GREY, linewidth=1)
    axis.set(xlim=(low, high), ylim=(low, high))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    for group, color in ((FIRST, GREY), (CHOSEN, BLUE), (AT_RANDOM, ORANGE)):
        mine = [p for p in pairs if p.group == group]
        if mine:
            means, answers = ([getattr(p, name) for p in mine] for name in ("expected", "answer"))
            bars = ([p.expected - p.low for p in mine], [p.high - p.expected for p in mine])
            axis.errorbar(means, answers, xerr=bars, fmt="o", color=color, markersize=5, elinewidth=1, label=group)
    for p in pairs:
        if abs(p.surprise) > FAR:
            axis.annotate(p.formula, (p.expected, p.answer), fontsize=7, xytext=(3, 3), textcoords="offset points")
    inside = sum(abs(p.surprise) <= 1 for p in pairs)
    name, unit = spoken(learned_as(pairs[0].target)), unit_of(pairs[0].target)
    axis.set_xlabel(f"{name} as predicted before DFT ({unit})")
    axis.set_ylabel(f"by DFT ({unit})")
    axis.set_title(f"{inside} of {len(pairs)} within 1 σ (68 % should be)", fontsize=9)
    axis.legend(fontsize=7, loc="best")


def _progress(
    axis: Axes, rows: Sequence[RankedCandidate], selections: Sequence[Selection], targets: Sequence[Target]
) -> None:
    """Hits against DFT calculations spent; beside it, how near the best came to a value to be hit."""
    from matplotlib.ticker import MaxNLocator

    by_id = {row.material_id: row for row in rows}
    picked = [by_id.get(s.material_id) for s in selections]
    hits, found = 0, [0]
    for row in picked:
        hits += bool(row and row.meets_targets)
        found.append(hits)
    axis.step(range(len(found)), found, where="post", color=ORANGE)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("candidates validated with DFT")
    axis.set_ylabel("that meet all targets", color=ORANGE)
    axis.set_title("found against spent", fontsize=9)
    near = next((t for t in targets if t.goal == "near" and t.value is not None and t.property == "band_gap"), None)
    if near is None or near.value is None:
        return
    best, distances = math.inf, []
    for row in picked:
        if row is not None and row.band_gap is not None:
            best = min(best, abs(row.band_gap - near.value))
        distances.append(best)
    twin = axis.twinx()
    known = [(i, d) for i, d in enumerate(distances, start=1) if math.isfinite(d)]
    twin.plot([i for i, _ in known], [d for _, d in known], color=BLUE, marker=".")
    twin.set_ylabel(f"nearest gap to {near.value:g} eV so far (eV)", color=BLUE)
    twin.set_ylim(bottom=0)
