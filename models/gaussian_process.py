"""One Gaussian process: its kernel, the fit of its hyperparameters, and what it then says of a large pool.

Equations 2.25, 2.26, 4.17 and 5.8 of Rasmussen and Williams (doi:10.7551/mitpress/3206.001.0001).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

FEWEST_TO_FIT = 8  # below it, marginal likelihood runs to its bounds: the kernel stays as it was meant
MOST_TO_FIT = 600  # hyperparameters hardly move beyond it, and each step of the fit costs its cube
PRIOR_WEIGHT = 4.0  # answers that the expected spread weighs as much as
NOISE_SHARE = 0.05  # of the variance of the residuals, where nothing is known better
LEAST_NOISE_SHARE = 1e-3  # keeps the Cholesky factor sound in float32
FLOAT64_ROWS = 50_000  # pools up to this size are predicted in double precision
CHUNK_NUMBERS = 500_000  # covariances held at once: what fits into a cache halves the time


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """amplitude² x Matérn-5/2(distance / length_scale) + noise², the distance being that of two feature vectors."""

    amplitude: float  # in units of the answer
    length_scale: float
    noise: float  # standard deviation of an answer about the process

    def covariance(self, a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
        """Covariance of the process, noise left out.

        Args:
            a: Shape (n, k).
            b: Shape (m, k), of the same precision.

        Returns:
            Shape (n, m), in units of the answer squared, of the precision of `a`.
        """
        squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * a @ b.T
        r = np.sqrt(np.maximum(squared, 0)) * a.dtype.type(math.sqrt(5) / self.length_scale)
        return a.dtype.type(self.amplitude**2) * (1 + r + r**2 / 3) * np.exp(-r)


def choose_kernel(
    x: NDArray[np.float64],
    residuals: NDArray[np.float64],
    *,
    spread: float,
    noise: float | None,
    seed: int,
) -> Kernel:
    """Choose hyperparameters: by expectation where answers are few, by marginal likelihood from eight on.

    Args:
        x: Whitened features of what was answered, shape (m, k).
        residuals: Answers less their trend, shape (m,).
        spread: Standard deviation of residuals that is expected before any is known.
        noise: Standard deviation of an answer's own error, if known; else it is learned.
        seed: For the fit's second start, and for the choice among very many answers.
    """
    m, k = x.shape
    square = float(np.sum(residuals**2))
    scale = math.sqrt((PRIOR_WEIGHT * spread**2 + square) / (PRIOR_WEIGHT + m))
    length = math.sqrt(max(k, 1))  # whitened features lie about sqrt(2 k) apart
    if m < FEWEST_TO_FIT or np.ptp(residuals) < 1e-9 * scale:
        own = scale * math.sqrt(NOISE_SHARE) if noise is None else noise
        rest = math.sqrt(max(scale**2 - own**2, NOISE_SHARE * scale**2))
        return Kernel(amplitude=rest, length_scale=length, noise=_sound(own, rest))
    unit = math.sqrt(square / m)
    if m > MOST_TO_FIT:
        kept = np.sort(np.random.default_rng(seed).choice(m, MOST_TO_FIT, replace=False))
        x, residuals = x[kept], residuals[kept]
    share = None if noise is None else max((noise / unit) ** 2, LEAST_NOISE_SHARE)
    variance, length, share = _fit(x, residuals / unit, length, share, seed)
    amplitude = unit * math.sqrt(variance)
    return Kernel(amplitude=amplitude, length_scale=length, noise=_sound(unit * math.sqrt(share), amplitude))


def _sound(noise: float, amplitude: float) -> float:
    return max(noise, math.sqrt(LEAST_NOISE_SHARE) * amplitude)


def _fit(
    x: NDArray[np.float64], y: NDArray[np.float64], length: float, share: float | None, seed: int
) -> tuple[float, float, float]:
    """Fit variance, length scale and noise variance of standardised residuals; a given noise `share` stays."""
    from sklearn.exceptions import ConvergenceWarning
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    shape = Matern(length_scale=length, length_scale_bounds=(0.3 * length, 20 * length), nu=2.5)
    white = WhiteKernel(NOISE_SHARE, (LEAST_NOISE_SHARE, 1.0)) if share is None else WhiteKernel(share, "fixed")
    regressor = GaussianProcessRegressor(
        kernel=ConstantKernel(1.0, (0.05, 20.0)) * shape + white,
        n_restarts_optimizer=1,
        noise="gaussian",  # scikit-optimize then keeps the white kernel's noise apart, as `noise_`
        random_state=seed,
    )
    with warnings.catch_warnings():
        # The bounds are part of the model: a length scale that stops at one is an answer, no failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(x, y)
    process = regressor.kernel_.k1
    return process.k1.constant_value, process.k2.length_scale, regressor.noise_


def condition(
    features: NDArray[np.floating],
    rows: NDArray[np.int64],
    residuals: NDArray[np.float64],
    kernel: Kernel,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of the process, given answers, in chunks: a million rows need little more memory than a few.

    Args:
        features: Whitened, shape (n, k).
        rows: Which were answered, shape (m,).
        residuals: Their answers less the trend, shape (m,).
        kernel: With its hyperparameters.

    Returns:
        Mean and variance (noise left out), each of shape (n,).
    """
    n = len(features)
    mean, variance = np.zeros(n), np.full(n, kernel.amplitude**2)
    if not len(rows):
        return mean, variance
    precision = np.float64 if n <= FLOAT64_ROWS else np.float32
    learned = np.asarray(features[rows], dtype=np.float64)
    noisy = kernel.covariance(learned, learned) + kernel.noise**2 * np.eye(len(rows))
    lower = np.linalg.cholesky(noisy)
    weights = cho_solve((lower, True), residuals).astype(precision)
    inverse = solve_triangular(lower, np.eye(len(rows)), lower=True).T.astype(precision)
    learned = learned.astype(precision)
    step = max(CHUNK_NUMBERS // len(rows), 256)
    for start in range(0, n, step):
        part = slice(start, start + step)
        cross = kernel.covariance(np.asarray(features[part], dtype=precision), learned)
        mean[part] = cross @ weights
        whitened = cross @ inverse
        variance[part] -= np.einsum("ij,ij->i", whitened, whitened)
    return mean, np.maximum(variance, 0.0)
