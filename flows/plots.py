"""The report's plots: how far from the hull, potential against DFT, and what the DFT calculations bought."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from materials.records import RankedCandidate, Selection, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    if selections:
        panels.append(lambda axis: _progress(axis, rows, selections, targets))
    if not panels:
        return {}
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained", dpi=110)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axis)
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
