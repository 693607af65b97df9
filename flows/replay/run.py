"""Replay of a campaign on labelled structures, for every strategy, before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.config.cluster import cores
from flows.output.progress import Progress
from flows.replay.request import Request
from flows.replay.targets import ask, in_words, targets_of, wanted_of
from materials.errors import ClusterError, InputError

if TYPE_CHECKING:
    from flows.replay.dataset import Table
    from models.learning.simulation import Played, Question, Strategy


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came out: of each strategy that could be played one campaign a seed, and why others could not.

    Attributes:
        asked: What of, in words.
    """

    asked: str
    question: Question
    played: Mapping[str, Sequence[Played]]
    left_out: Mapping[str, str]


def replay(request: Request, progress: Progress) -> Replayed:
    """Read the table, screen it, and play.

    Raises:
        InputError: The table, a column or a strategy is not there, or nothing is wished for.
    """
    from flows.replay.dataset import read_table
    from flows.replay.labelled_structures import campaign_of
    from models.learning.simulation import STRATEGIES

    unknown = [name for name in request.strategies if name not in STRATEGIES]
    if unknown:
        raise InputError(f"--strategies: no {', '.join(unknown)}; there are {', '.join(STRATEGIES)}")
    if request.campaign is None:
        request = replace(request, campaign=campaign_of(request.table, request.ledger_url))
    targets, wishes = targets_of(request)
    properties = list(dict.fromkeys(target.property for target in targets))
    table = read_table(request, properties, progress, partial(wanted_of, targets, wishes))
    question = ask(table, targets, wishes)
    strategies, left_out = _playable(request, question)
    asked = f"{request.table}: {in_words(targets, wishes)}, {_size(question, table)}; {_scale(request)}"
    progress.say(asked)
    for line in _told(question, strategies, request):
        progress.say(line)
    for name, why in left_out.items():
        progress.say(f"{name}: not played, {why}")
    played = _play_all(request, question, strategies, progress)
    return Replayed(asked=asked, question=question, played=played, left_out=left_out)


def _playable(request: Request, question: Question) -> tuple[dict[str, Strategy], dict[str, str]]:
    """Those of the strategies asked for that can be played, and why the others cannot.

    Raises:
        InputError: None can.
    """
    from models.learning.simulation import STRATEGIES, considered, reasons_against

    strategies, left_out = {}, {}
    for name in dict.fromkeys(request.strategies or STRATEGIES):
        strategy = _strategy(request, name)
        if why := reasons_against(question, STRATEGIES[name]):
            left_out[name] = why
        elif not considered(question, strategy).any():
            left_out[name] = f"no row is known to lie within {strategy.within:g} eV/atom of the potential's hull"
        else:
            strategies[name] = strategy
    if not strategies:
        raise InputError("; ".join(f"--strategies {name}: {why}" for name, why in left_out.items()))
    return strategies, left_out


def _size(question: Question, table: Table) -> str:
    n_left_out = len(next(iter(table.lost.values())))
    lost = f" ({question.lost} of them left out, which nobody can find)" if question.lost else ""
    return f"{question.n_wanted}{lost} of {len(question.wanted) + n_left_out} rows"


def _scale(request: Request) -> str:
    return f"batches of {request.settings['batch']}, {request.budget} answers, {request.seeds} seeds"


def _strategy(request: Request, name: str) -> Strategy:
    """A strategy by name; one that chooses as a campaign does takes the campaign file's settings."""
    from models.learning.simulation import STRATEGIES

    strategy = STRATEGIES[name]
    if request.campaign is None or not strategy.audits:
        return strategy
    learning = request.campaign.learning
    return replace(strategy, within=learning.within, rule=learning.acquisition if name == "campaign" else strategy.rule)


def _told(question: Question, strategies: Mapping[str, Strategy], request: Request) -> Iterator[str]:
    """What helps or does not, and what the campaign file's settings mean here."""
    from models.learning.fit import EXPECTATIONS
    from models.learning.simulation import considered

    for name in dict.fromkeys(target.property for target in question.targets):
        if name not in EXPECTATIONS:
            yield (
                f"{name} is learned from its answers alone: what the potential says, or a floor, helps with columns"
                f" called {', '.join(EXPECTATIONS)}"
            )
    if request.campaign is None:
        return
    limited = next((strategy for strategy in strategies.values() if strategy.within is not None), None)
    if limited is not None:
        rows = considered(question, limited)
        yield (
            f"A campaign considers the {int(np.sum(rows))} rows within {limited.within:g} eV/atom of the potential's"
            f" hull (learning.within), {int(np.sum(question.wanted & rows))} of those to be found"
        )
    if request.campaign.learning.cost == "time":
        yield "Each answer counts one: a table tells no CPU times to weigh odds by (learning.cost)"


def _play_all(
    request: Request, question: Question, strategies: Mapping[str, Strategy], progress: Progress
) -> dict[str, list[Played]]:
    """Play each strategy with each seed, a process a core."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    seeds = {name: 1 if strategy.determined else request.seeds for name, strategy in strategies.items()}
    rounds = [(name, seed) for name in strategies for seed in range(seeds[name])]
    found: dict[tuple[str, int], Played] = {}
    pool = ProcessPoolExecutor(
        max_workers=min(cores(), len(rounds)),
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(question, request.settings),
    )
    with _a_core_each(), progress.counting("Playing", len(rounds), "campaigns") as counter:
        games = {pool.submit(_play, strategies[name], seed): (name, seed) for name, seed in rounds}
        try:
            for game in as_completed(games):
                found[games[game]] = game.result()
                counter.advance()
        except BrokenProcessPool:
            raise ClusterError(
                "A process that played a campaign was killed, most likely for want of memory: give fewer rows"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return {name: [found[name, seed % seeds[name]] for seed in range(request.seeds)] for name in strategies}


@contextmanager
def _a_core_each() -> Iterator[None]:
    """Let the processes that start now compute with a thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_here: list[tuple[Question, Mapping[str, Any]]] = []  # the question and the settings of a process that plays


def _begin(question: Question, settings: Mapping[str, Any]) -> None:
    import threading

    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here[:] = [(question, settings)]


def _end_with_parent() -> None:
    """End when the process that asked is gone, however it went: a pool's processes would wait for it for ever."""
    from multiprocessing import parent_process

    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _play(strategy: Strategy, seed: int) -> Played:
    from models.learning.simulation import play

    ((question, settings),) = _here
    return play(question, strategy, seed=seed, **settings)
