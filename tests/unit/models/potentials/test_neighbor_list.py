"""Both ways to find pairs find the same ones: vesin's cells, and trying every image as a GPU does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.potentials import neighbor_list
from models.potentials.base import Batch, Crystal, batch_of
from models.potentials.neighbor_list import Pairs, half_list


def batch(seed: int, sizes: list[int]) -> Batch:
    """Crystals in skewed cells of any handedness, their atoms spread over several cells."""
    rng = np.random.default_rng(seed)
    crystals = []
    for size in sizes:
        cell = np.diag(rng.uniform(2.5, 6.0, 3)) + rng.normal(scale=1.0, size=(3, 3))
        while abs(np.linalg.det(cell)) < 10:
            cell = np.diag(rng.uniform(2.5, 6.0, 3)) + rng.normal(scale=1.0, size=(3, 3))
        positions = rng.uniform(-2, 2, (size, 3)) @ cell
        crystals.append(Crystal(numbers=rng.integers(1, 90, size), positions=positions, cell=cell))
    return batch_of(crystals)


def as_set(pairs: Pairs) -> set[tuple[int, ...]]:
    """Pairs whichever end comes first."""
    found = set()
    for first, second, shift in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.shift.tolist(), strict=True):
        back = (second, first, *(-s for s in shift))
        found.add(max((first, second, *shift), back))
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    cutoff=st.floats(1.0, 7.0),
    room=st.sampled_from([1, 5000, 1 << 23]),
)
def test_trying_all_images_finds_what_vesin_finds(seed: int, sizes: list[int], cutoff: float, room: int) -> None:
    crystals = batch(seed, sizes)
    expected = half_list(crystals, cutoff)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbor_list, "MOST_CANDIDATES", room)
        found = neighbor_list._by_trial(crystals, cutoff)
    assert len(found.first) == len(expected.first)
    assert as_set(found) == as_set(expected)
    ends = (
        crystals.positions[found.second]
        + (found.shift.double()[:, None] @ crystals.cells[crystals.owner[found.first]])[:, 0]
    )
    assert torch.allclose(ends - crystals.positions[found.first], found.vector, atol=1e-9)
    assert (torch.diff(crystals.owner[found.first]) >= 0).all()  # the pairs of one crystal stand together


def test_crystals_are_selected_in_any_order() -> None:
    whole = batch(3, [4, 1, 7, 2])
    some = whole.select(torch.tensor([2, 0]))
    crystals = whole.crystals()
    for taken, k in zip(some.crystals(), (2, 0), strict=True):
        assert (taken.positions == crystals[k].positions).all()
        assert (taken.cell == crystals[k].cell).all()
    assert torch.allclose(whole.volumes, torch.linalg.det(whole.cells).abs())
    assert whole.select(torch.tensor([], dtype=torch.int64)).crystals() == []
