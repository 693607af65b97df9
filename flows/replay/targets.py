"""Targets of a replay, and which rows of the table are to be found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from materials.errors import InputError
from materials.records import Target
from materials.targets import Wish, all_hold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flows.replay.dataset import Table
    from flows.replay.request import Request
    from models.learning.simulation import Question

Answers = Mapping[str, "NDArray[np.float64]"]

TOP = 0.01  # of all rows, that a single target is to find


def targets_of(request: Request) -> tuple[list[Target], list[Wish]]:
    """Targets to follow, and the wishes that make a hit; without wishes, the best share is a hit.

    Raises:
        InputError: Nothing is wished for, or not one thing.
    """
    if request.target is not None and request.wishes:
        raise InputError("--target and --want: give one of the two")
    if request.target is not None:
        return [request.target], []
    if request.wishes:
        return [wish.target() for wish in request.wishes], list(request.wishes)
    if request.campaign is None:
        raise InputError("nothing is wished for: give --target, --want or --campaign")
    targets = request.campaign.wanted()
    wishes = [wish for target in targets if (wish := _wish_of(target)) is not None]
    if not wishes and len(targets) > 1:
        raise InputError("the campaign's targets only order, and are several: give one of them as --target")
    return targets, wishes


def _wish_of(target: Target) -> Wish | None:
    if target.value is None:
        return None
    match target.goal:
        case "at_most":
            return Wish(property=target.property, high=target.value)
        case "at_least":
            return Wish(property=target.property, low=target.value)
        case "near" if target.tolerance is not None:
            edges = target.value - target.tolerance - 1e-12, target.value + target.tolerance + 1e-12
            return Wish(property=target.property, low=edges[0], high=edges[1])
        case _:
            return None


def wanted_of(targets: Sequence[Target], wishes: Sequence[Wish], answers: Answers) -> NDArray[np.bool_]:
    """Which rows are to be found, shape (n,).

    Raises:
        InputError: None is.
    """
    wanted = all_hold(wishes, answers) if wishes else best_share(targets[0], answers)
    if wanted.any():
        return wanted
    told = []
    for name in dict.fromkeys(target.property for target in targets):
        known = answers[name][np.isfinite(answers[name])]
        told.append(f"{name} goes from {np.min(known):g} to {np.max(known):g}" if len(known) else f"{name} is unknown")
    raise InputError(f"no row of the table is what is wished for: {', '.join(told)}")


def ask(table: Table, targets: Sequence[Target], wishes: Sequence[Wish]) -> Question:
    """Set up the question.

    Raises:
        InputError: All that is to be found is left out.
    """
    from models.learning.simulation import Question

    n = len(table.groups)
    all_rows = {name: np.concatenate([values, table.lost[name]]) for name, values in table.answers.items()}
    wanted = wanted_of(targets, wishes, all_rows)
    lost = int(np.sum(wanted[n:]))
    if lost == np.sum(wanted):
        raise InputError(f"all that is to be found ({lost} rows) is left out: the potential could not relax it")
    return Question(
        features=table.features,
        answers=table.answers,
        priors=table.priors,
        targets=targets,
        wanted=wanted[:n],
        groups=table.groups,
        lost=lost,
    )


def best_share(target: Target, answers: Answers) -> NDArray[np.bool_]:
    """Find the best 1 % of the answered rows, rounded up, and all that tie with the last of them, shape (n,)."""
    from models.learning.target_probability import badness_of

    badness = badness_of(target, answers[target.property])
    known = np.sort(badness[np.isfinite(badness)])
    if not len(known):
        return np.zeros(len(badness), dtype=bool)
    tie = 1e-9 * max(abs(float(known[0])), abs(float(known[-1])))  # sums differ in their last digits
    return badness <= known[math.ceil(TOP * len(known) - 1e-9) - 1] + tie


def in_words(targets: Sequence[Target], wishes: Sequence[Wish]) -> str:
    """Say what is to be found."""
    if wishes:
        return " and ".join(map(str, wishes))
    (target,) = targets
    share = f"{100 * TOP:g} %"
    match target.goal:
        case "near":
            return f"the {share} nearest to {target.value:g} of {target.property}"
        case "maximize":
            return f"the highest {share} of {target.property}"
        case _:
            return f"the lowest {share} of {target.property}"
