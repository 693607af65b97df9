"""What DFT will say of every candidate, from what it has said so far.

    answer = center + slope x prior + Gaussian process(features) + noise

The prior is what the potential says of the same quantity (or of a related one); the process learns the rest. All
functions are pure: the same arrays and seed give the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from materials.errors import InputError
from models.gaussian_process import PRIOR_WEIGHT, Kernel, choose_kernel, condition

MOST_TO_KNOW = 4000  # answers that a posterior rests on; beyond it a seeded choice of them
SLOPE_SPREAD = 0.5  # how far from its expected value the slope of the prior may well lie


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What the surrogate believes of one target, row by row of the pool.

    Attributes:
        mean: Shape (n,), in units of the answer.
        std: Shape (n,), of the answer that DFT will give: the noise is included.
        version: Hash of all that it was computed from.
        kernel: The process with its hyperparameters.
        observed: Rows that were learned from, shape (m,).
        slope: How strongly the prior counts.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    version: str
    kernel: Kernel
    observed: NDArray[np.int64]
    slope: float


def predict(
    features: NDArray[np.floating],
    *,
    observed: ArrayLike,
    answers: ArrayLike,
    prior: NDArray[np.floating] | None = None,
    prior_slope_towards: float = 1.0,
    center: float = 0.0,
    spread: float = 1.0,
    noise: float | None = None,
    seed: int = 0,
) -> Posterior:
    """Predict a DFT answer for every row of the pool.

    Without any answer the result is the prior (or `center`) with a standard deviation of `spread`. Up to seven
    answers shift, scale and localise it with the kernel's shape kept; from eight on, scikit-optimize's
    `GaussianProcessRegressor` fits length scale, amplitude and noise by marginal likelihood.

    Args:
        features: Whitened features from `Projection.transform`, shape (n, k).
        observed: Rows whose answer is known, shape (m,); a row may come twice.
        answers: Their answers, shape (m,); those that are not finite (failed calculations) are left out.
        prior: The potential's value of each row, shape (n,); None where it has no say, NaN where it has none.
        prior_slope_towards: 1 where the prior is the same quantity, 0 where it is another one.
        center: What answer minus prior (or the answer, without prior) is expected to be before any is known.
        spread: Standard deviation about it that is expected before any is known; > 0.
        noise: Standard deviation of an answer's own error, if known; else it is learned.
        seed: For the fit's second start, and for the choice among very many answers.

    Raises:
        InputError: Shapes do not fit, a row does not exist, features are not finite, or `spread` or `noise` is not
            positive.
    """
    if not spread > 0 or (noise is not None and not noise > 0):
        raise InputError(f"spread {spread} and noise {noise} are standard deviations: they must be above 0.")
    rows, known = _answered(features, observed, answers, prior)
    version = _version(features, rows, known, prior, (prior_slope_towards, center, spread, noise, seed))
    if len(rows) > MOST_TO_KNOW:
        kept = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_TO_KNOW, replace=False))
        rows, known = rows[kept], known[kept]
    trend, slope, doubt = _trend(prior, len(features), rows, known, prior_slope_towards, center, spread)
    residuals = known - trend[rows]
    learned = np.asarray(features[rows], dtype=np.float64)
    kernel = choose_kernel(learned, residuals, spread=spread, noise=noise, seed=seed)
    mean, variance = condition(features, rows, residuals, kernel)
    return Posterior(
        mean=trend + mean,
        std=np.sqrt(variance + doubt + kernel.noise**2),
        version=version,
        kernel=kernel,
        observed=rows,
        slope=slope,
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
    kernel = posterior.kernel
    shortlist, learned = (np.asarray(features[part], dtype=np.float64) for part in (rows, posterior.observed))
    covariance = kernel.covariance(shortlist, shortlist)
    if len(learned):
        noisy = kernel.covariance(learned, learned) + kernel.noise**2 * np.eye(len(learned))
        explained = solve_triangular(np.linalg.cholesky(noisy), kernel.covariance(learned, shortlist), lower=True)
        covariance -= explained.T @ explained
    variance = np.maximum(np.diag(covariance), 0.0)
    scale = posterior.std[rows] / np.sqrt(variance + kernel.noise**2)
    return covariance * np.outer(scale, scale), (scale * kernel.noise) ** 2


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
    return covariance - np.outer(column, column) / (max(column[pick], 0.0) + noise[pick])


def recalibrated(posterior: Posterior, surprises: ArrayLike) -> Posterior:
    """Rescale standard deviations by what answers said to earlier predictions, shrunken towards no change.

    Args:
        posterior: To be rescaled.
        surprises: (answer - mean) / std of predictions made before the answer was known, best of candidates that
            were picked at random; those that are not finite are left out.
    """
    z = np.asarray(surprises, dtype=np.float64)
    z = z[np.isfinite(z)]
    weight = 2 * PRIOR_WEIGHT
    factor = math.sqrt((weight + float(np.sum(z**2))) / (weight + len(z)))
    return replace(posterior, std=posterior.std * factor)


def _answered(
    features: NDArray[np.floating], observed: ArrayLike, answers: ArrayLike, prior: NDArray[np.floating] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows that have an answer, and the answers."""
    rows = np.asarray(observed, dtype=np.int64).reshape(-1)
    known = np.asarray(answers, dtype=np.float64).reshape(-1)
    n = len(features)
    if rows.shape != known.shape:
        raise InputError(f"{rows.size} observed rows but {known.size} answers; give one answer for each row.")
    if rows.size and (rows.min() < 0 or rows.max() >= n):
        raise InputError(f"observed rows {rows.min()} to {rows.max()} in a pool of {n}; rows count from 0 to {n - 1}.")
    if prior is not None and prior.shape != (n,):
        raise InputError(f"prior: shape {prior.shape} for a pool of {n}; give one value for each row.")
    if not np.isfinite(features).all():
        raise InputError("features hold NaN or infinity; pass them through `freeze(...).transform` first.")
    finite = np.isfinite(known)
    return rows[finite], known[finite]


def _trend(
    prior: NDArray[np.floating] | None,
    n: int,
    rows: NDArray[np.int64],
    known: NDArray[np.float64],
    towards: float,
    center: float,
    spread: float,
) -> tuple[NDArray[np.float64], float, NDArray[np.float64] | float]:
    """Line of answers against prior by ridge regression, its slope, and the variance added where no prior is."""
    finite = np.zeros(0, dtype=bool) if prior is None else np.isfinite(prior)
    if prior is None or not finite.any():
        return np.full(n, center + float(np.sum(known - center)) / (len(known) + 1)), 0.0, 0.0
    filled = np.where(finite, prior, np.mean(prior[finite]))
    scale = max(float(np.std(prior[finite])), 1e-12)
    slope = towards
    if len(rows) > 1:
        x = filled[rows] - np.mean(filled[rows])
        # A slope towards 0 is in units of answer per unit of prior, of which only the scales are known.
        ridge = (scale if towards == 0 else spread) ** 2 / SLOPE_SPREAD**2
        slope = float((x @ (known - np.mean(known)) + ridge * towards) / (x @ x + ridge))
    level = center + slope * (filled - np.mean(filled)) + towards * np.mean(filled)
    # The level is believed less than the slope: as much as one answer.
    level += float(np.sum(known - level[rows])) / (len(rows) + 1)
    return level, slope, np.where(finite, 0.0, (slope * scale) ** 2)


def _version(
    features: NDArray[np.floating],
    rows: NDArray[np.int64],
    known: NDArray[np.float64],
    prior: NDArray[np.floating] | None,
    settings: tuple[float | None, ...],
) -> str:
    learned = np.round(np.asarray(features[rows], dtype=np.float64), 6) + 0.0  # no -0: it has other bytes
    digest = hashlib.sha256(repr(("matern52-1", features.shape, settings)).encode())
    for part in (rows, np.round(known, 9), learned, *(() if prior is None else (np.round(prior, 9),))):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]
