"""Absurd energies: those that cannot be right, whatever their zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from materials.stability.hull import HullEntry, fractions_of

# eV/atom off what its elements have in the other phases. No crystal is bound by more than 9 eV/atom against free atoms
# (tungsten, and carbides of its neighbours), and none stays one that is higher than them: sane phases of one make-up
# are within 10 of one another, whatever zero a potential or a code counts from.
ABSURD = 20.0
# eV/atom, in size: more than all electrons of the heaviest atoms have, so no total energy of anything.
NO_ENERGY = 2e6

_REWEIGHTINGS = (20, 5_000)  # at least, and at most: a contest of two nearly equal weights is decided slowly
_SETTLED = 1e-3  # eV/atom by which the fit moves, no more
_DOUBT = 0.9  # of a phase's weight: less than a pure phase has, more than a compound adds to it


def absurd_energies(entries: Sequence[HullEntry]) -> dict[str, str]:
    """Find the phases whose energy cannot be one, and would draw a hull after it.

    What each element has in the phases is fitted so that the sum of the deviations' sizes is least: a few absurd
    energies do not move it, be they an element's own. Where all energies are near one another nothing is fitted.

    Args:
        entries: Phases of one level of theory.

    Returns:
        By `entry_id`, what is wrong: no finite number, more than 2 MeV/atom, or more than 20 eV/atom off the fit.
    """
    energies = np.array([entry.energy_per_atom for entry in entries])
    numbers = np.isfinite(energies) & (np.abs(energies) < NO_ENERGY)
    found = {
        entry.entry_id: f"an absurd energy of {entry.energy_per_atom:.4g} eV/atom"
        for entry, is_number in zip(entries, numbers, strict=True)
        if not is_number
    }
    kept = [entry for entry, is_number in zip(entries, numbers, strict=True) if is_number]
    if len(kept) < 2 or np.ptp(energies[numbers]) <= ABSURD:  # then so are all energies of formation
        return found
    for entry, off in zip(kept, _deviations(kept, energies[numbers]), strict=True):
        if abs(off) > ABSURD:
            found[entry.entry_id] = (
                f"an absurd energy: {entry.energy_per_atom:.4g} eV/atom is {abs(off):.3g} eV/atom"
                f" {'above' if off > 0 else 'below'} what its elements have in the other phases"
            )
    return found


def _deviations(entries: Sequence[HullEntry], energies: np.ndarray) -> np.ndarray:
    """Energies less the elements' shares, eV/atom, shape (n_entries,): least absolute deviations, by reweighting."""
    elements = sorted(set().union(*(entry.elements for entry in entries)))
    fractions, middle = fractions_of(entries, elements), float(np.median(energies))
    off = energies - middle
    # Of an element and its only compound either could be wrong. Where most energies are alike, what is near them is
    # right; a total energy with core electrons in says nothing of another element's, nor anything of an element that
    # has no phase of its own.
    pure = np.eye(len(elements))[(fractions > 1 - 1e-9).any(axis=0)]
    doubt = _DOUBT if np.median(np.abs(off)) <= ABSURD else 0.0
    rows = np.vstack([fractions, pure])
    wanted = np.append(energies, np.full(len(pure), middle))
    trust = np.append(np.ones(len(entries)), np.full(len(pure), doubt))
    off, (least, most) = wanted - middle, _REWEIGHTINGS
    for step in range(most):
        weighted = rows * (trust / np.maximum(np.abs(off), 1.0))[:, None]
        shares = np.linalg.lstsq(weighted.T @ rows, weighted.T @ wanted, rcond=1e-12)[0]
        before, off = off, wanted - rows @ shares
        if step >= least and np.abs(off - before).max() < _SETTLED:
            break
    return off[: len(entries)]
