"""Autobatching: crystals evaluated in as many batches as there is room for, failures isolated to their crystal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from materials.errors import DeviceLost
from materials.records import CalculationStatus
from models.potentials.base import Batch, Evaluation, Potential, scattered

NO_MEMORY = ("out of memory", "allocate memory")  # as torch words it
_learned: dict[tuple[str, str], float] = {}  # potentials that ran out of memory in this process -> what had room


def room_for(potential: Potential) -> float:
    """The most that a batch may cost here: an out-of-memory is not met again."""
    return min(potential.batch_cost, _learned.get((potential.method, potential.weights_hash), np.inf))


Raised = tuple[CalculationStatus, str]  # what to call it, and what was raised


def evaluated(potential: Potential, batch: Batch, costs: Sequence[float]) -> tuple[Evaluation, dict[int, Raised]]:
    """Evaluate a batch in as many parts as there is room for, each in halves where that fails.

    Returns:
        The answer, NaN for crystals at which the potential raised; of those, what it raised: "out_of_memory", "crashed"
        where the system refused something, else "failed".

    Raises:
        DeviceLost: The GPU is in a state in which every further call fails: no crystal's fault.
    """
    parts = _parts(costs, room_for(potential))
    answers: list[tuple[list[int], Evaluation]] = []
    raised: dict[int, Raised] = {}
    overflowed = False
    while parts:
        part = parts.pop()
        try:
            whole = len(part) == len(batch)
            chosen = batch if whole else batch.select(torch.tensor(part, device=batch.sizes.device))
            answers.append((part, potential.evaluate(chosen)))
        except Exception as error:  # a potential may raise anything; it becomes the one crystal's record
            full = isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)
            if not full and "CUDA error" in str(error):
                raise DeviceLost(
                    f"the GPU answers nothing any more ({error}); start again: what had ended is kept"
                ) from error
            if len(part) == 1:
                refused: CalculationStatus = "crashed" if isinstance(error, OSError) else "failed"
                raised[part[0]] = "out_of_memory" if full else refused, f"{type(error).__name__}: {error}"
            else:
                overflowed |= full
                half = len(part) // 2
                parts += [part[:half], part[half:]]
    if overflowed and answers:  # a crystal that fits nowhere says nothing of the others
        fitted = max(sum(costs[k] for k in part) for part, _ in answers)
        _learned[potential.method, potential.weights_hash] = min(room_for(potential), fitted)
    return scattered(answers, batch), raised


def _parts(costs: Sequence[float], room: float) -> list[list[int]]:
    """Part crystals that came together when there seemed to be more room."""
    if sum(costs) <= room:
        return [list(range(len(costs)))]
    parts: list[list[int]] = [[]]
    total = 0.0
    for k, cost in enumerate(costs):
        if parts[-1] and total + cost > room:
            parts.append([])
            total = 0.0
        parts[-1].append(k)
        total += cost
    return parts
