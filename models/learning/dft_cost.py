"""Cost of a DFT calculation, by a law of the work that it is.

    log(core seconds) = level + sum of exponent x log(size) + scatter

The sizes are those of a plane-wave code: irreducible k-points, bands (as many as electrons), plane waves, atoms; spin
and a relaxation multiply. A law ships for each code (`LAWS`), so that the same calculation has the same estimate on
every machine; `learn_cost` fits one to the calculations of this machine, where that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.dft.base import DFTSettings
from models.dft.presets import SYMPREC, cell_of, looks_metallic

if TYPE_CHECKING:
    from pymatgen.core import Structure

Floats = NDArray[np.float64]

# Of log(core seconds): logarithms of k-points, electrons, plane waves, atoms; 1 with spin; 1 for a relaxation. Theory
# has 1, 1, 1, 0 (each band at each k-point is transformed once a step: Payne et al., doi:10.1103/RevModPhys.64.1045);
# small cells, in which much is the same for all bands, ask for less with more electrons. Level and the first four are
# fitted to 56 calculations of GPAW 26.7 on one core of an x86-64 (1 to 12 atoms, 3 to 310 s; 36 of the quickstart's,
# 20 of tests/benchmarks/dft-presets.md), scatter 0.36, when it computed more k-points. 29 others of the quickstart, as
# it computes them now, took 1.36 times the law's time in the median, two at a time on two cores, scatter 0.23.
EXPONENTS = np.array([1.0, 0.42, 1.06, -0.20, math.log(2), math.log(10)])
LEVEL = -16.0
# Code -> level, exponents. Nobody has measured the other two yet: they are taken to be as quick as GPAW.
LAWS: Mapping[str, tuple[float, Floats]] = dict.fromkeys(("gpaw", "espresso", "vasp"), (LEVEL, EXPONENTS))
EXPONENT_SPREAD = 0.3  # how far from the law that ships an exponent of a machine may well lie
LEVEL_SPREAD = 2.0  # of another machine: within a factor of seven
SCATTER = 0.5  # of log(core seconds), expected before any calculation has ended
SCATTER_WEIGHT = 4.0  # calculations that this expectation counts as
LEAST = 0.1  # of what candidates usually cost, which one that costs nothing counts
TAIL = 4.0  # degrees of freedom of Student's t: what took ten times as long as usual teaches little


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What some candidates still cost, and which of them need the same calculations.

    Attributes:
        needs: Which calculations each candidate needs, its own and those of its competing phases, shape (m, p).
        prices: Core seconds of each calculation, shape (p,); 0 once it is paid.
        least: Core seconds that a candidate counts at least: one that is free still takes a place in the batch.
    """

    needs: NDArray[np.bool_]
    prices: Floats
    least: float

    def marginal(self) -> Floats:
        """Core seconds that each candidate adds to what is paid, shape (m,)."""
        return np.maximum(self.needs @ self.prices, self.least)

    def paid(self, place: int) -> Bill:
        """The bill of the rest once a candidate is chosen: what it needs is free for all."""
        return replace(self, prices=np.where(self.needs[place], 0.0, self.prices))


def open_bill(needs: NDArray[np.bool_], prices: Floats) -> Bill:
    """Begin the bill of a batch; the arguments are those of `Bill`."""
    usual = (needs @ prices)[(needs @ prices) > 0]
    return Bill(needs=needs, prices=prices, least=LEAST * float(np.median(usual)) if len(usual) else 1.0)


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """A law of the cost of a calculation.

    Attributes:
        center: Mean of the features that it was learned from, shape (6,); zeros of a law that ships.
        level: Expected log(core seconds) there.
        exponents: Shape (6,).
        scatter: Of log(core seconds) about the law, of the bulk of the calculations: the scale of Student's t.
        n_learned: Calculations that it was learned from.
    """

    center: Floats
    level: float
    exponents: Floats
    scatter: float
    n_learned: int

    def expect(self, features: ArrayLike) -> Floats:
        """Expected core seconds, shape (n,), above 0: the mean of a log-normal belief, not its median.

        Args:
            features: From `features_of`, shape (n, 6).
        """
        rows = np.asarray(features, dtype=np.float64).reshape(-1, len(EXPONENTS))
        logs = self.level + (rows - self.center) @ self.exponents + self.scatter**2 / 2
        return np.exp(np.clip(logs, -30.0, 30.0))


def law_of(code: str) -> CostModel:
    """Give the law that ships for a DFT code: the same calculation costs the same on every machine."""
    level, exponents = LAWS[code]
    return CostModel(center=np.zeros(len(exponents)), level=level, exponents=exponents, scatter=SCATTER, n_learned=0)


def learn_cost(features: ArrayLike, core_s: ArrayLike, law: CostModel) -> CostModel:
    """Fit a law to measured times by ridge regression, robust against a few that took far too long.

    Without a calculation it is the law that it starts from; a few move the level, many the exponents.

    Args:
        features: From `features_of`, shape (m, 6).
        core_s: Core seconds, shape (m,); those that are not finite and above 0 are left out.
        law: From `law_of`.
    """
    seconds = np.asarray(core_s, dtype=np.float64).reshape(-1)
    rows = np.asarray(features, dtype=np.float64).reshape(-1, len(EXPONENTS))
    good = np.isfinite(seconds) & (seconds > 0) & np.isfinite(rows).all(axis=1)
    rows, logs = rows[good], np.log(seconds[good])
    center = rows.mean(axis=0) if len(rows) else law.center
    prior = np.array([law.level + (center - law.center) @ law.exponents, *law.exponents])
    # About the centre level and exponents are told apart: one calculation moves the level alone.
    design = np.column_stack([np.ones(len(rows)), rows - center])
    certainty = np.diag([LEVEL_SPREAD**-2, *[EXPONENT_SPREAD**-2] * len(EXPONENTS)])
    found, scatter, weights = prior, SCATTER, np.ones(len(rows))
    for _ in range(50):
        weighted = design.T * (weights / scatter**2)
        found = np.linalg.solve(weighted @ design + certainty, weighted @ logs + certainty @ prior)
        squared = (logs - design @ found) ** 2
        scatter = math.sqrt((SCATTER_WEIGHT * SCATTER**2 + float(weights @ squared)) / (SCATTER_WEIGHT + len(rows)))
        weights = (TAIL + 1) / (TAIL + squared / scatter**2)
    return CostModel(
        center=center, level=float(found[0]), exponents=found[1:], scatter=scatter, n_learned=int(good.sum())
    )


def features_of(structure: Structure, settings: DFTSettings) -> tuple[float, ...]:
    """Describe the work of a calculation before it is done.

    Args:
        structure: The crystal; what is computed is `cell_of` it.
        settings: Its settings.
    """
    cell = cell_of(structure, settings.magnetic_orders)
    orders = len(settings.magnetic_orders.get("tried", ())) or 1
    electrons = sum(valence(site.specie.Z) for site in cell)
    return (
        math.log(_points(cell, settings)),
        math.log(electrons),
        math.log(cell.volume * settings.cutoff_ev**1.5),
        math.log(len(cell)),
        # One order after the other, each in two spins.
        1.0 + math.log2(orders) if settings.magnetic_moments else 0.0,
        1.0 if settings.mode == "relax" else 0.0,
    )


def _points(cell: Structure, settings: DFTSettings) -> int:
    """Count the k-points to be computed: for the density, and those of the gap's mesh where there may be a gap."""
    points = irreducible(cell, settings.kpoints, settings.kpoint_shift)
    if looks_metallic(element.symbol for element in cell.composition.elements):
        return points
    return points + irreducible(cell, settings.gap_kpoints, (False, False, False))


def relative_cost(structure: Structure, settings: DFTSettings) -> float:
    """About how long a calculation takes: for an order that leaves no slot idle at the end."""
    return float(law_of(settings.code).expect(features_of(structure, settings))[0])


def irreducible(cell: Structure, kpoints: Sequence[int], shift: Sequence[bool]) -> int:
    """Points of a mesh that the crystal's symmetry and time reversal leave to be computed.

    Args:
        cell: From `symmetrised`.
        kpoints: Divisions of the mesh.
        shift: Along which axes it is moved by half a division.
    """
    import moyopy

    numbers = [int(site.specie.Z) for site in cell]
    found = moyopy.MoyoDataset(
        moyopy.Cell(cell.lattice.matrix.tolist(), cell.frac_coords.tolist(), numbers), symprec=SYMPREC
    )
    turned = np.array(found.operations.rotations)
    rotations = np.unique(np.concatenate([turned, -turned]), axis=0)
    divisions, half = np.array(kpoints), np.where(shift, 0.5, 0.0)
    points = np.stack(np.meshgrid(*map(np.arange, divisions), indexing="ij"), axis=-1).reshape(-1, 3)
    images = ((points + half) / divisions) @ rotations
    places = images * divisions - half
    on_mesh = np.abs(places - np.round(places)).max(axis=2) < 1e-6  # a mesh may have less symmetry than the crystal
    rank = np.ravel_multi_index(tuple(np.moveaxis(np.round(places).astype(int) % divisions, -1, 0)), tuple(divisions))
    return len(np.unique(np.where(on_mesh, rank, len(points)).min(axis=0)))


def valence(number: int) -> int:
    """Electrons of an atom that usual frozen cores leave to be computed, semicore ones of the early metals among them.

    Args:
        number: Of the element.
    """
    core = max(z for z in (0, 2, 10, 18, 36, 54, 86) if z < number)
    outside = number - core
    semicore = 8 if core >= 18 and outside <= 3 else 0
    filled = 14 if core >= 54 and outside > 16 else 0  # a full f shell lies in the frozen core
    return outside + semicore - filled - (10 if core >= 18 and outside - filled > 12 else 0)
