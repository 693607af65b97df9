"""Fit the Gaussian process: values at a lower bound are censored (EP), outliers get extra noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from models.learning.gaussian_process import Answers, Kernel, Process
from models.learning.hyperparameters import FEWEST_TO_FIT, PRIOR_WEIGHT

SUSPICIOUS = 4.0  # standard deviations off what all others say of it: an answer that is hardly believed
SITE_FITS = 3  # of the hyperparameters, with answers at a floor; the first takes them at their word
SITE_ROUNDS = 4  # after each fit, in which those answers and the process come to terms
LEAST_TOLD = 1e-4  # share of its variance by which an answer at the floor narrows a belief, at least


def at_floor(answers: ArrayLike, floor: float) -> NDArray[np.bool_]:
    """Tell which answers lie at the floor, but for rounding."""
    return np.asarray(answers, dtype=np.float64) <= floor + 1e-9


def inverse_mills(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Density over cumulative probability of the standard normal: -E[Z | Z < z], exact in both tails."""
    return np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(z))


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A value that answers cannot be below."""

    at: NDArray[np.bool_]  # (m,): which answers lie at the floor
    residuals: NDArray[np.float64]  # (m,): the floor less the expected trend


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A process, and how it took the answers that are not what they seem.

    Attributes:
        process: What is believed.
        added: Shape (m,): variance in `process.answers.doubts` that says how an answer is to be read, and that no
            answer to come will have.
        suspicious: Shape (m,): whether an answer is hardly believed.
        floor: What answers cannot be below.
    """

    process: Process
    added: NDArray[np.float64]
    suspicious: NDArray[np.bool_]
    floor: Floor | None

    def misfits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How far off each answer is from what the others say of it, in their standard deviations, and those.

        Each of shape (m,); NaN where it lies at the floor as the others expect, which tells nothing of standard
        deviations.
        """
        if not len(self.process.answers):
            return np.empty(0), np.empty(0)
        mean, variance = self.process.left_out
        found, floor = self.process.answers.residuals, self.floor
        if floor is not None:
            found = np.where(floor.at, np.where(mean > floor.residuals, floor.residuals, np.nan), found)
        std = np.sqrt(variance - self.added)
        return (found - mean) / std, std


def learn(
    answers: Answers, of_kind: NDArray[np.int64], floor: Floor | None, choose: Callable[[Answers], Kernel]
) -> Learned:
    """Fit a process to the answers."""
    if floor is not None and floor.at.all():
        # Nothing tells how far the process goes up and down: what is fitted to bounds alone comes out of the bounds.
        choose = _always(choose(answers[:0]))
    process = Process(kernel=choose(answers), answers=answers)
    suspicious = np.zeros(len(answers), dtype=bool)
    if floor is not None and floor.at.any():
        process = _at_terms(process, floor, choose)
    added = process.answers.doubts - answers.doubts
    if len(answers) < FEWEST_TO_FIT:
        return Learned(process=process, added=added, suspicious=suspicious, floor=floor)
    mean, variance = process.left_out
    squares = (process.answers.residuals - mean) ** 2
    doubts = process.answers.doubts.copy()
    for kind in np.setdiff1d(of_kind, [0]):
        own = of_kind == kind
        doubts[own] += max(float(np.sum(squares[own] - variance[own])) / (np.sum(own) + PRIOR_WEIGHT), 0.0)
    if floor is None:  # where most answers lie at one, the rare one above is what is looked for
        suspicious = squares > SUSPICIOUS**2 * (variance + doubts)
        # Left in with the doubt that makes it a likely one: a discovery looks like a mistake at first.
        added = np.where(suspicious, squares, 0.0)
        doubts += added
    if not np.array_equal(doubts, process.answers.doubts):
        told = replace(process.answers, doubts=doubts)
        process = Process(kernel=choose(told), answers=told)
    return Learned(process=process, added=added, suspicious=suspicious, floor=floor)


def _always(kernel: Kernel) -> Callable[[Answers], Kernel]:
    return lambda _: kernel


def _at_terms(process: Process, floor: Floor, choose: Callable[[Answers], Kernel]) -> Process:
    """Read an answer at the floor as "there or lower", by expectation propagation.

    Each becomes a normal answer, of the mean and variance that change the belief about it as the bound does
    (arXiv:1301.2294; section 3.6 of Rasmussen and Williams). So it tells much where something above was expected, and
    next to nothing elsewhere. Hyperparameters follow the evidence of these normal answers: its slope is that of the
    bounds' own.
    """
    given = process.answers.doubts
    for fit in range(SITE_FITS):
        if fit:
            process = replace(process, kernel=choose(process.answers))
        for _ in range(SITE_ROUNDS):
            process = replace(process, answers=_sites(process, floor, given))
    return process


def _sites(process: Process, floor: Floor, given: NDArray[np.float64]) -> Answers:
    """Bring the answers at the floor up to date; `given` are the doubts that they have without it, shape (m,)."""
    answers = process.answers
    mean, variance = process.left_out
    variance = variance - (answers.doubts - given)  # of the answer, were the others all that is known
    std = np.sqrt(variance)
    z = (floor.residuals - mean) / std
    ratio = inverse_mills(z)
    narrowed = np.clip(ratio * (ratio + z), LEAST_TOLD, 1 - 1e-9)
    return replace(
        answers,
        residuals=np.where(floor.at, mean - std * ratio / narrowed, answers.residuals),
        doubts=given + np.where(floor.at, variance * (1 - narrowed) / narrowed, 0.0),
    )
