"""Answers -> a process that knows them: those at a floor sink to where they may be, those far off are believed less."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from models.gaussian_process import Answers, Kernel, Process
from models.hyperparameters import FEWEST_TO_FIT, PRIOR_WEIGHT

SUSPICIOUS = 4.0  # standard deviations off what all others say of it: an answer that is hardly believed
IMPUTATIONS = 4  # rounds in which answers at a floor and the process come to terms
DEEPEST = 3.0  # how far below the floor an answer may be imagined, in units of the scatter of the answers


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A value that answers cannot be below."""

    at: NDArray[np.bool_]  # (m,): which answers lie at the floor
    residuals: NDArray[np.float64]  # (m,): the floor less the expected trend


def learn(
    answers: Answers,
    of_kind: NDArray[np.int64],
    floor: Floor | None,
    choose: Callable[[Answers], Kernel],
) -> tuple[Process, NDArray[np.float64]]:
    """Fit a process to the answers; give also the variance added to those that are hardly believed, shape (m,)."""
    process = Process(kernel=choose(answers), answers=answers)
    if floor is not None and floor.at.any() and len(answers) > 1:
        for _ in range(IMPUTATIONS):
            process = replace(process, answers=_sunk(process, floor))
        process = replace(process, kernel=choose(process.answers))
    disbelief = np.zeros(len(answers))
    if len(answers) < FEWEST_TO_FIT:
        return process, disbelief
    mean, variance = process.left_out()
    squares = (process.answers.residuals - mean) ** 2
    doubts = answers.doubts.copy()
    for kind in np.setdiff1d(of_kind, [0]):
        own = of_kind == kind
        doubts[own] += max(float(np.sum(squares[own] - variance[own])) / (np.sum(own) + PRIOR_WEIGHT), 0.0)
    if floor is None:  # where most answers lie at one, the rare one above is what is looked for
        suspicious = squares > SUSPICIOUS**2 * (variance + doubts)
        # Left in with the doubt that makes it a likely one: a discovery looks like a mistake at first.
        disbelief[suspicious] = squares[suspicious]
    if not np.any(disbelief) and np.array_equal(doubts, answers.doubts):
        return process, disbelief
    told = replace(process.answers, doubts=doubts + disbelief)
    return Process(kernel=choose(told), answers=told), disbelief


def misfits(
    process: Process, floor: Floor | None, disbelief: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far off each answer is from what the others say of it, in their standard deviations, and those, shape (m,).

    NaN where it lies at the floor as the others expect, which tells nothing of standard deviations.
    """
    if not len(process.answers):
        return np.empty(0), np.empty(0)
    mean, variance = process.left_out()
    found = process.answers.residuals
    if floor is not None:
        found = np.where(floor.at, np.where(mean > floor.residuals, floor.residuals, np.nan), found)
    std = np.sqrt(variance - disbelief)
    return (found - mean) / std, std


def _sunk(process: Process, floor: Floor) -> Answers:
    """Put each answer at the floor to where the others expect it, given that it is not above."""
    answers = process.answers
    mean, variance = process.left_out()
    std = np.sqrt(variance)
    z = (floor.residuals - mean) / std
    inside = mean - std * np.exp(-0.5 * z**2 - 0.5 * math.log(2 * math.pi) - log_ndtr(z))
    deepest = floor.residuals - DEEPEST * float(np.std(answers.residuals))
    sunk = np.clip(inside, np.minimum(deepest, floor.residuals), floor.residuals)
    return replace(answers, residuals=np.where(floor.at, sunk, answers.residuals))
