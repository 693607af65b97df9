"""Gaussian process: kernel, observations, and predictions for a large pool.

Equations 2.25, 2.26, 2.42 and 5.12 of Rasmussen and Williams (doi:10.7551/mitpress/3206.001.0001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

Floats = NDArray[np.floating[Any]]

FLOAT64_ROWS = 50_000  # pools up to this size are predicted in double precision
CHUNK_NUMBERS = 500_000  # covariances held at once: what fits into a cache halves the time


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """amplitude² x Matérn-5/2(distance) + noise², where each group of features has a length scale of its own.

    distance² is the sum over the groups of |x - x'|² / length_scale².
    """

    amplitude: float  # in units of the answer
    length_scales: tuple[float, ...]  # one a group
    widths: tuple[int, ...]  # features of each group, in their order
    noise: float  # standard deviation of an answer about the process

    def scaled(self, features: Floats) -> Floats:
        """Divide features by their length scales."""
        return features / np.repeat(self.length_scales, self.widths).astype(features.dtype)

    def covariance(self, a: Floats, b: Floats) -> Floats:
        """Covariance of the process, noise left out.

        Args:
            a: Features, shape (n, k).
            b: Features, shape (m, k), of the same precision.

        Returns:
            Shape (n, m), in units of the answer squared, of the precision of `a`.
        """
        return self._of_scaled(self.scaled(a), self.scaled(b))

    def _of_scaled(self, a: Floats, b: Floats) -> Floats:
        r = np.sqrt(squared_distances(a, b)) * a.dtype.type(math.sqrt(5))
        return a.dtype.type(self.amplitude**2) * (1 + r + r**2 / 3) * np.exp(-r)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a process is conditioned on.

    Attributes:
        features: Shape (m, k).
        basis: Shape (m, q): what the trend may change by, each column in units of one standard deviation of its
            coefficient (equation 2.42).
        residuals: Shape (m,): answers less the expected trend.
        doubts: Shape (m,): variance of each answer beyond the kernel's noise.
    """

    features: NDArray[np.float64]
    basis: NDArray[np.float64]
    residuals: NDArray[np.float64]
    doubts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.residuals)

    def __getitem__(self, kept: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Answers:
        return Answers(
            features=self.features[kept],
            basis=self.basis[kept],
            residuals=self.residuals[kept],
            doubts=self.doubts[kept],
        )


@dataclass(frozen=True, kw_only=True)
class Process:
    """A Gaussian process that knows some answers."""

    kernel: Kernel
    answers: Answers

    @cached_property
    def _lower(self) -> NDArray[np.float64]:
        """Cholesky factor of the answers' covariance, shape (m, m)."""
        answers = self.answers
        covariance: NDArray[np.float64] = np.diag(self.kernel.noise**2 + answers.doubts)
        covariance += self.kernel.covariance(answers.features, answers.features) + answers.basis @ answers.basis.T
        return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        return cho_solve((self._lower, True), self.answers.residuals)

    def predict(self, features: Floats, basis: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance of the process, in chunks: a million rows need little more memory than a few.

        Args:
            features: Shape (n, k).
            basis: Shape (n, q).

        Returns:
            Mean, to be added to the expected trend, and variance (noise left out), each of shape (n,).
        """
        n, m = len(features), len(self.answers)
        mean = np.zeros(n)
        variance = self.kernel.amplitude**2 + np.sum(np.asarray(basis, dtype=np.float64) ** 2, axis=1)
        if not m:
            return mean, variance
        precision: type[np.floating[Any]] = np.float64 if n <= FLOAT64_ROWS else np.float32
        weights = self._weights.astype(precision)
        inverse = solve_triangular(self._lower, np.eye(m), lower=True).T.astype(precision)
        learned = self.kernel.scaled(self.answers.features).astype(precision)
        trends = self.answers.basis.T.astype(precision)
        step = max(CHUNK_NUMBERS // m, 256)
        for start in range(0, n, step):
            part = slice(start, start + step)
            some = self.kernel.scaled(np.asarray(features[part], dtype=precision))
            cross = self.kernel._of_scaled(some, learned) + np.asarray(basis[part], dtype=precision) @ trends
            mean[part] = cross @ weights
            whitened = cross @ inverse
            variance[part] -= np.einsum("ij,ij->i", whitened, whitened)
        return mean, np.maximum(variance, 0.0)

    def coefficient(self, column: int) -> float:
        """Likeliest coefficient of a column of the basis."""
        return float(self.answers.basis[:, column] @ self._weights) if len(self.answers) else 0.0

    def covariance(self, features: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariance of the process at some rows, noise left out, shape (r, r); keep it to a few thousand."""
        answers = self.answers
        found = self.kernel.covariance(features, features) + basis @ basis.T
        if len(answers):
            cross = self.kernel.covariance(answers.features, features) + answers.basis @ basis.T
            explained = solve_triangular(self._lower, cross, lower=True)
            found -= explained.T @ explained
        return found

    @cached_property
    def left_out(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What it would say of each answer without it: mean, on the scale of the residuals, and variance with noise."""
        precision = np.diag(cho_solve((self._lower, True), np.eye(len(self.answers))))
        return self.answers.residuals - self._weights / precision, 1 / precision


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared distances of rows, shape (n, m), of the precision of `a`."""
    squared = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None, :] - 2 * a @ b.T
    return np.maximum(squared, 0)
