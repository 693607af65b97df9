"""Hyperparameters of a Gaussian process: priors where results are few, their posterior's maximum from eight on.

scikit-optimize's `GaussianProcessRegressor` climbs; the priors keep it from the bounds that a marginal likelihood of
few answers runs to.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.learning.gaussian_process import Answers, Kernel, squared_distances

FEWEST_TO_FIT = 8
MOST_TO_FIT = 200  # hyperparameters hardly move beyond it, and each step of the fit costs its cube
PRIOR_WEIGHT = 4.0  # answers that the expected spread weighs as much as
NOISE_SHARE = 0.05  # of the variance of the residuals, as it is expected
LEAST_NOISE_SHARE = 1e-3  # keeps the Cholesky factor sound in float32
MOST_STEPS = 100  # of a fit
LENGTH = 1.5  # expected length scale, in units of the distance between two crystals that share nothing
# Standard deviations of the logarithms about what is expected.
VARIANCE_SPREAD, LENGTH_SPREAD, NOISE_SPREAD = 2.0, 0.5, math.sqrt(2)


def choose_kernel(answers: Answers, widths: tuple[int, ...], *, spread: float, seed: int) -> Kernel:
    """Choose amplitude, length scales and noise.

    Args:
        answers: What is known.
        widths: Features of each group that has a length scale of its own; columns vary by about 1.
        spread: Standard deviation of residuals that is expected before any is known.
        seed: For the choice among very many answers.
    """
    residuals = answers.residuals
    m = len(residuals)
    scale = math.sqrt((PRIOR_WEIGHT * spread**2 + float(np.sum(residuals**2))) / (PRIOR_WEIGHT + m))
    lengths = tuple(LENGTH * math.sqrt(len(widths) * width) for width in widths)
    variance, share = 1 - NOISE_SHARE, NOISE_SHARE
    if m >= FEWEST_TO_FIT and widths and np.ptp(residuals) > 1e-9 * scale:
        variance, lengths, share = _fit(_some(answers, seed), widths, lengths, scale)
    amplitude = scale * math.sqrt(variance)
    least = math.sqrt(LEAST_NOISE_SHARE) * amplitude
    return Kernel(amplitude=amplitude, length_scales=lengths, widths=widths, noise=max(scale * math.sqrt(share), least))


def _some(answers: Answers, seed: int) -> Answers:
    if len(answers) <= MOST_TO_FIT:
        return answers
    return answers[np.sort(np.random.default_rng(seed).choice(len(answers), MOST_TO_FIT, replace=False))]


def _fit(
    answers: Answers, widths: tuple[int, ...], lengths: tuple[float, ...], scale: float
) -> tuple[float, tuple[float, ...], float]:
    """Fit variance, length scales and noise variance of residuals in units of `scale`."""
    from skopt.learning.gaussian_process.kernels import WhiteKernel

    matern, both, regressor = _classes()
    kernel = both(
        matern(
            variance=1.0,
            length_scales=np.array(lengths),
            length_bounds=np.array([(length / 6, length * 30) for length in lengths]),
            widths=widths,
        ),
        WhiteKernel(NOISE_SHARE, (LEAST_NOISE_SHARE, 1.0)),
    )
    fitted = regressor(
        kernel,
        # In the order of the hyperparameters, which is that of their names.
        expected=np.log([*lengths, 1.0, NOISE_SHARE]),
        spreads=np.array([*[LENGTH_SPREAD] * len(lengths), VARIANCE_SPREAD, NOISE_SPREAD]),
        alpha=answers.doubts / scale**2 + 1e-9,
    )
    fitted.fit(np.hstack([answers.features, answers.basis / scale]), answers.residuals / scale)
    found = fitted.kernel_.k1
    return float(found.variance), tuple(np.atleast_1d(found.length_scales).tolist()), float(fitted.noise_)


@cache
def _classes() -> tuple[Any, Any, Any]:
    """Make the kernels and the regressor: they inherit from classes that are slow to import."""
    from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
    from skopt.learning import GaussianProcessRegressor
    from skopt.learning.gaussian_process.kernels import Sum

    class GroupedMatern(Kernel):
        """variance x Matérn-5/2 with a length scale for each group of columns, and a linear term of the columns after.

        Its gradient is with respect to the logarithms of variance and length scales.
        """

        def __init__(
            self,
            variance: float,
            length_scales: NDArray[np.float64],
            length_bounds: NDArray[np.float64],
            widths: tuple[int, ...],
        ) -> None:
            self.variance, self.length_scales = variance, length_scales
            self.length_bounds, self.widths = length_bounds, widths

        @property
        def hyperparameter_length_scales(self) -> Any:
            return Hyperparameter("length_scales", "numeric", self.length_bounds, len(self.widths))

        @property
        def hyperparameter_variance(self) -> Any:
            return Hyperparameter("variance", "numeric", (0.05, 20.0))

        def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
            other = X if Y is None else Y
            edges = np.cumsum([0, *self.widths])
            squares = [
                squared_distances(X[:, low:high], other[:, low:high]) / length**2
                for low, high, length in zip(edges, edges[1:], np.atleast_1d(self.length_scales), strict=False)
            ]
            r = np.sqrt(5 * sum(squares, np.zeros((len(X), len(other)))))
            decay = np.exp(-r)
            smooth = self.variance * (1 + r + r**2 / 3) * decay
            covariance = smooth + X[:, edges[-1] :] @ other[:, edges[-1] :].T
            if not eval_gradient:
                return covariance
            slope = 5 / 3 * self.variance * (1 + r) * decay
            return covariance, np.stack([*(slope * square for square in squares), smooth], axis=-1)

        def diag(self, X: Any) -> Any:
            return self.variance + np.sum(X[:, sum(self.widths) :] ** 2, axis=1)

        def is_stationary(self) -> bool:
            return False

    class Both(Sum):
        """Kernel and noise. A length scale that stops at a bound is an answer: nobody need be warned."""

        def _check_bounds_params(self) -> None: ...

    class Expecting(GaussianProcessRegressor):
        """Adds log-normal priors of the hyperparameters to the marginal likelihood."""

        def __init__(self, kernel: Any, expected: Any, spreads: Any, alpha: Any) -> None:
            super().__init__(kernel=kernel, alpha=alpha, noise="gaussian", optimizer=_climb)
            self.expected, self.spreads = expected, spreads

        def log_marginal_likelihood(
            self, theta: Any = None, eval_gradient: bool = False, clone_kernel: bool = True
        ) -> Any:
            found = super().log_marginal_likelihood(theta, eval_gradient, clone_kernel)
            if theta is None:
                return found
            off = (theta - self.expected) / self.spreads
            penalty = 0.5 * float(off @ off)
            if eval_gradient:
                return found[0] - penalty, found[1] - off / self.spreads
            return found - penalty

    return GroupedMatern, Both, Expecting


def _climb(negative: Any, start: Any, bounds: Any) -> tuple[Any, float]:
    """Find the top; a search that stops short of the very top is an answer, too."""
    from scipy.optimize import minimize

    found = minimize(negative, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": MOST_STEPS})
    return found.x, float(found.fun)
