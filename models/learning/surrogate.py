"""Surrogate model of DFT: predictions for every candidate, from the DFT results so far.

    answer = center + slope x prior + Gaussian process(features) + noise

The prior is what the potential says of the same quantity (or of a related one); the process learns the rest. Level and
slope are uncertain too, and what is uncertain about them is part of each standard deviation. All functions are pure:
the same arrays and seed give the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from materials.errors import InputError
from models.learning.censored import Floor, at_floor, learn
from models.learning.gaussian_process import Answers, Kernel, Process
from models.learning.hyperparameters import choose_kernel
from models.learning.rivals import Rivals

SLOPE_SPREAD = 0.5  # how far from 1, for the prior is the same quantity, its slope may well lie
MOST_TO_KNOW = 4000  # answers that a posterior rests on; beyond it a seeded choice of them


@dataclass(frozen=True, kw_only=True)
class Trend:
    """What is expected without the process, and how it may be off."""

    expected: NDArray[np.float64]  # (n,)
    basis: NDArray[np.float64]  # (n, 1 or 2): level, and slope of the prior, each times its spread
    doubts: NDArray[np.float64]  # (n,): variance added where no prior is

    def slope(self, process: Process) -> float:
        """What the answers made of the slope."""
        if self.basis.shape[1] == 1:
            return 0.0
        return 1.0 + SLOPE_SPREAD * process.coefficient(1)


def trend_of(prior: NDArray[np.floating] | None, n: int, *, center: float, spread: float) -> Trend:
    """Say what is expected of n rows.

    Args:
        prior: The potential's value of each row, shape (n,); None where it has no say, NaN where it has none.
        n: Rows.
        center: Expected answer, less the prior.
        spread: Standard deviation of the level.
    """
    finite = np.zeros(0, dtype=bool) if prior is None else np.isfinite(prior)
    level = np.full((n, 1), spread)
    if prior is None or not finite.any():
        nothing = np.zeros(n)
        return Trend(expected=nothing + center, basis=level, doubts=nothing)
    middle, scale = float(np.mean(prior[finite])), max(float(np.std(prior[finite])), 1e-12)
    filled = np.where(finite, prior, middle)
    return Trend(
        expected=center + filled,
        basis=np.hstack([level, SLOPE_SPREAD * (filled - middle)[:, None]]),
        doubts=np.where(finite, 0.0, scale**2),
    )


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What the surrogate believes of one target, row by row of the pool.

    Attributes:
        mean: Shape (n,), in units of the answer.
        std: Shape (n,), of the answer that DFT will give: the noise is included.
        fitted: Shape (n,), the same as the process was fitted, before random picks had their say.
        version: Hash of all that it was computed from.
        process: The Gaussian process, with its hyperparameters and what it learned from.
        basis: Shape (n, q), of the process's trend.
        observed: Rows that were learned from, shape (m,).
        misfits: Shape (m,): how far off each of their answers is from what all others say of it, in standard
            deviations; NaN where that tells nothing.
        left_out: Shape (m,): those standard deviations, in units of the answer.
        suspicious: Those of them whose answer is so far off that it is hardly believed.
        slope: How strongly the prior counts.
        floor: Value below which an answer cannot lie (a gap below 0): beliefs below it mean an answer at it.
        rivals: Of an energy above the hull: phases of the same composition that count in it and are not known either
            (`models.learning.polymorphs`).
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    fitted: NDArray[np.float64]
    version: str
    process: Process
    basis: NDArray[np.float64]
    observed: NDArray[np.int64]
    misfits: NDArray[np.float64]
    left_out: NDArray[np.float64]
    suspicious: NDArray[np.int64]
    slope: float
    floor: float | None = None
    rivals: Rivals | None = None

    @property
    def kernel(self) -> Kernel:
        """The process's hyperparameters."""
        return self.process.kernel

    @property
    def expected(self) -> NDArray[np.float64]:
        """Likeliest answer of each row, shape (n,): the mean, or the floor where that lies below it."""
        return self.mean if self.floor is None else np.maximum(self.mean, self.floor)


def predict(
    features: NDArray[np.floating],
    *,
    observed: ArrayLike,
    answers: ArrayLike,
    widths: Sequence[int] | None = None,
    prior: NDArray[np.floating] | None = None,
    center: float = 0.0,
    spread: float = 1.0,
    floor: float | None = None,
    kinds: ArrayLike | None = None,
    seed: int = 0,
) -> Posterior:
    """Predict a DFT answer for every row of the pool.

    Without any answer the result is the prior (or `center`) with a standard deviation of `spread` and what the doubt
    about the prior's slope adds. Up to seven answers shift, scale and localise it with the kernel's shape kept; from
    eight on hyperparameters are fitted.

    Args:
        features: From `Projection.transform`, shape (n, k): columns that vary by about 1.
        observed: Rows whose answer is known, shape (m,); a row may come twice.
        answers: Their answers, shape (m,); those that are not finite (failed calculations) are left out.
        widths: Numbers of columns that share a length scale, in their order; None: all columns share one.
        prior: The potential's value of each row, shape (n,); None where it has no say, NaN where it has none.
        center: What answer minus prior (or the answer, without prior) is expected to be before any is known.
        spread: Standard deviation about it that is expected before any is known, half of whose variance all rows have
            in common; > 0.
        floor: Value that answers cannot be below; those at it say only that the process is there or lower (a Tobit
            model, doi:10.2307/1907382).
        kinds: Kind of each answer, shape (m,): 0 is what is to be predicted; each other kind (a quicker preset, another
            code) has an offset and a noise of its own, which are learned.
        seed: For the choice among very many answers.

    Raises:
        InputError: Shapes do not fit, a row does not exist, features are not finite, or `spread` is not positive.
    """
    if not spread > 0:
        raise InputError(f"spread {spread} is a standard deviation: it must be above 0.")
    rows, known, of_kind = _answered(features, observed, answers, prior, kinds)
    groups = tuple(width for width in ((features.shape[1],) if widths is None else widths) if width)
    if sum(groups) != features.shape[1]:
        raise InputError(f"widths {groups} add up to {sum(groups)}, but there are {features.shape[1]} features.")
    settings = (center, spread, floor, *groups, seed)
    version = _version(features, rows, known, of_kind, prior, settings)
    if len(rows) > MOST_TO_KNOW:
        kept = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_TO_KNOW, replace=False))
        rows, known, of_kind = rows[kept], known[kept], of_kind[kept]
    half = spread / math.sqrt(2)  # of what is expected, in variance: the level's doubt, and that about single ones
    trend = trend_of(prior, len(features), center=center, spread=half)
    others = np.setdiff1d(of_kind, [0])
    learned = Answers(
        features=np.asarray(features[rows], dtype=np.float64),
        basis=np.hstack([trend.basis[rows], half * (of_kind[:, None] == others[None, :])]),
        residuals=known - trend.expected[rows],
        doubts=trend.doubts[rows],
    )
    bound = None if floor is None else Floor(at=at_floor(known, floor), residuals=floor - trend.expected[rows])
    found = learn(
        learned,
        of_kind,
        bound,
        lambda answers: choose_kernel(answers, groups, spread=half, seed=seed),
    )
    process = found.process
    basis = np.hstack([trend.basis, np.zeros((len(features), len(others)))])
    mean, variance = process.predict(features, basis)
    misfits, left_out = found.misfits()
    std = np.sqrt(variance + trend.doubts + process.kernel.noise**2)
    return Posterior(
        mean=trend.expected + mean,
        std=std,
        fitted=std,
        version=version,
        process=process,
        basis=basis,
        observed=rows,
        misfits=misfits,
        left_out=left_out,
        suspicious=rows[found.suspicious],
        slope=trend.slope(process),
        floor=floor,
    )


def joint(
    posterior: Posterior, features: NDArray[np.floating], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How what is believed of some rows hangs together, for `believe`.

    Args:
        posterior: Made from these features.
        features: The same as in `predict`, shape (n, k).
        rows: Which to tell, shape (r,); keep it to a few thousand.

    Returns:
        Covariance of the process without noise, shape (r, r), and variance of each answer's noise, shape (r,), both
        scaled so that together they give `posterior.std`.
    """
    covariance = posterior.process.covariance(np.asarray(features[rows], dtype=np.float64), posterior.basis[rows])
    noise = posterior.kernel.noise
    scale = posterior.std[rows] / np.sqrt(np.maximum(np.diag(covariance), 0.0) + noise**2)
    return covariance * np.outer(scale, scale), (scale * noise) ** 2


def believe(covariance: NDArray[np.float64], noise: NDArray[np.float64], pick: int) -> NDArray[np.float64]:
    """Covariance of the rest once the answer for one has come.

    With the kernel kept it does not depend on what the answer will be: so a batch is chosen as if each pick were
    already answered, at its mean (the kriging believer, doi:10.1007/978-3-642-10701-6_6).

    Args:
        covariance: Shape (r, r), as `joint` or `believe` gave it.
        noise: Shape (r,), variance of each answer's noise.
        pick: Index of what will be answered, 0 to r - 1.
    """
    column = covariance[:, pick]
    doubt = max(column[pick], 0.0) + noise[pick]
    return covariance - np.outer(column, column) / doubt if doubt > 0 else covariance


def certain_of(posterior: Posterior, answers: NDArray[np.float64]) -> Posterior:
    """Leave no doubt about answers that are known, where the surrogate believes them as far as their noise.

    Args:
        posterior: Of n rows.
        answers: Shape (n,), NaN where there is none.
    """
    known = np.isfinite(answers)
    return replace(posterior, mean=np.where(known, answers, posterior.mean), std=np.where(known, 0.0, posterior.std))


def first_rows(posterior: Posterior, n: int) -> Posterior:
    """Keep what is believed of the first n rows; what was learned from the others stays learned."""
    return replace(
        posterior,
        mean=posterior.mean[:n],
        std=posterior.std[:n],
        fitted=posterior.fitted[:n],
        basis=posterior.basis[:n],
        observed=posterior.observed[posterior.observed < n],
        misfits=posterior.misfits[posterior.observed < n],
        left_out=posterior.left_out[posterior.observed < n],
        suspicious=posterior.suspicious[posterior.suspicious < n],
    )


def _answered(
    features: NDArray[np.floating],
    observed: ArrayLike,
    answers: ArrayLike,
    prior: NDArray[np.floating] | None,
    kinds: ArrayLike | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows that have an answer, the answers, and their kinds."""
    rows = np.asarray(observed, dtype=np.int64).reshape(-1)
    known = np.asarray(answers, dtype=np.float64).reshape(-1)
    of_kind = np.zeros(len(rows), dtype=np.int64) if kinds is None else np.asarray(kinds, dtype=np.int64).reshape(-1)
    n = len(features)
    if rows.shape != known.shape or rows.shape != of_kind.shape:
        raise InputError(
            f"{rows.size} observed rows but {known.size} answers of {of_kind.size} kinds; give one answer for each row."
        )
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise InputError(f"observed rows {rows.min()} to {rows.max()} in a pool of {n}; rows count from 0 to {n - 1}.")
    if prior is not None and prior.shape != (n,):
        raise InputError(f"prior: shape {prior.shape} for a pool of {n}; give one value for each row.")
    if not np.isfinite(features).all():
        raise InputError("features hold NaN or infinity; pass them through `freeze(...).transform` first.")
    finite = np.isfinite(known)
    return rows[finite], known[finite], of_kind[finite]


def _version(
    features: NDArray[np.floating],
    rows: NDArray[np.int64],
    known: NDArray[np.float64],
    of_kind: NDArray[np.int64],
    prior: NDArray[np.floating] | None,
    settings: tuple[float | None, ...],
) -> str:
    learned = np.round(np.asarray(features[rows], dtype=np.float64), 6) + 0.0  # no -0: it has other bytes
    digest = hashlib.sha256(repr(("matern52-2", features.shape, settings)).encode())
    for part in (rows, np.round(known, 9), of_kind, learned, *(() if prior is None else (np.round(prior, 9),))):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
