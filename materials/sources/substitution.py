"""Candidates from known crystals by substitution of ions for similar ones.

Probabilities are those mined from the ICSD by Hautier and others (DOI 10.1021/ic102031h), from pymatgen's table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core import Species, Structure

from materials.duplicates.duplicates import material_id
from materials.errors import InputError
from materials.records import Candidate, Role
from materials.sources.prototypes.volume import mined_lengths, shortest_contacts

if TYPE_CHECKING:
    from pymatgen.core import Composition

_UNSEEN = -5.0  # weight of a substitution that was never observed, as in the paper


@dataclass(frozen=True, kw_only=True)
class SubstitutionTable:
    """Chances that one ion takes another's place.

    `species` are ions with their charges ("Fe3+", "Na1+"), `conditional` (n, n) holds in row i, column j the
    probability of finding ion i where ion j was; each column adds up to one.
    """

    species: tuple[str, ...]
    conditional: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Swap:
    """One way to replace the elements of a known crystal, all at once."""

    probability: float
    parent: int  # which of the known
    new: tuple[str, ...]  # element for each of the parent's


@dataclass(frozen=True, kw_only=True, eq=False)
class _Parent:
    name: str
    structure: Structure
    elements: tuple[str, ...]
    species: tuple[str, ...]


def propose(
    known: Sequence[tuple[str, Structure]],
    *,
    elements: Collection[str] | None = None,
    threshold: float = 1e-3,
    max_candidates: int | None = None,
    role: Role = "candidate",
) -> Iterator[Candidate]:
    """Propose crystals by replacing ions in known ones, the likeliest first.

    Charges stay balanced: a replacement may change them only if the sum stays zero. Cells are rescaled to mined bond
    lengths (DLS, as pymatgen's DLSVolumePredictor without its limits). Known structures for which no oxidation states
    can be guessed (metals, elements) give nothing.

    Args:
        known: Pairs of an id and an ordered structure, with or without oxidation states.
        elements: Symbols that proposals may contain; None: all that the table knows.
        threshold: Least probability of all replacements together, 0 to 1.
        max_candidates: Stop after so many.
        role: What the proposals are for.

    Yields:
        Candidates, whose parents say what was replaced: `mp-1265: Mg->Ca (p=0.031)`.

    Raises:
        InputError: The threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise InputError(f"threshold: {threshold} is not between 0 and 1; 0.001 is usual")
    table = default_table()
    parents = [_parent(name, structure) for name, structure in known]
    swaps = [
        swap
        for place, parent in enumerate(parents)
        if parent is not None
        for swap in _swaps(parent, place, table, elements, threshold)
    ]
    swaps.sort(key=lambda swap: (-swap.probability, swap.parent, swap.new))
    for swap in swaps[:max_candidates]:
        parent = parents[swap.parent]
        assert parent is not None
        yield _build(parent, swap, role)


@lru_cache(maxsize=1)
def default_table() -> SubstitutionTable:
    """Load pymatgen's table of 230 ions."""
    folder = resources.files("pymatgen.core.structure_prediction")
    return table_from(json.loads(folder.joinpath("data", "lambda.json").read_text(encoding="utf-8")))


def table_from(rows: Sequence[Sequence[str | float]]) -> SubstitutionTable:
    """Work out the probabilities from the weights of pairs.

    Args:
        rows: Two ions and the weight of their substitution for each other.
    """
    weights = {(str(a), str(b)): float(w) for a, b, w in rows if "D1+" not in (a, b)}
    species = tuple(sorted({ion for pair in weights for ion in pair}))
    place = {ion: i for i, ion in enumerate(species)}
    matrix = np.full((len(species), len(species)), _UNSEEN)
    for (a, b), weight in weights.items():
        matrix[place[a], place[b]] = matrix[place[b], place[a]] = weight
    odds = np.exp(matrix)
    return SubstitutionTable(species=species, conditional=odds / odds.sum(axis=0))


def _parent(name: str, structure: Structure) -> _Parent | None:
    if not structure.is_ordered:
        raise InputError(f"{name}: sites are partly occupied; only ordered structures can be substituted")
    plain = structure.copy()
    plain.remove_oxidation_states()
    charges = _oxidation_states(structure)
    if charges is None:
        return None
    elements = tuple(charges)
    return _Parent(
        name=name,
        structure=plain,
        elements=elements,
        species=tuple(_ion(e, charges[e]) for e in elements),
    )


def _oxidation_states(structure: Structure) -> dict[str, float] | None:
    """One state for each element, electropositive first; None if there is no neutral guess or an element has two."""
    decorated: dict[str, set[float]] = {}
    for specie in structure.composition:
        decorated.setdefault(specie.symbol, set()).add(getattr(specie, "oxi_state", None) or 0)
    if any(state for states in decorated.values() for state in states):
        if any(len(states) > 1 for states in decorated.values()):
            return None
        return {symbol: states.pop() for symbol, states in decorated.items()}
    return _guess(structure.composition.element_composition)


def _guess(composition: Composition) -> dict[str, float] | None:
    reduced = composition.reduced_composition
    if len(reduced) < 2 or all(e.is_metal for e in reduced):
        return None
    guesses = reduced.oxi_state_guesses()
    return dict(guesses[0]) if guesses else None


def _ion(symbol: str, charge: float) -> str:
    """The table's own spelling, which writes the 1 of Na1+."""
    return f"{symbol}{abs(charge):g}{'+' if charge >= 0 else '-'}"


def _swaps(
    parent: _Parent, place: int, table: SubstitutionTable, elements: Collection[str] | None, threshold: float
) -> Iterator[_Swap]:
    """All replacements that are likely enough, by branch and bound."""

    index = {ion: i for i, ion in enumerate(table.species)}
    if any(ion not in index for ion in parent.species):
        return
    counts = [parent.structure.composition[e] for e in parent.elements]
    ions = [Species.from_str(ion) for ion in table.species]
    allowed = [elements is None or ion.symbol in elements for ion in ions]
    columns = [table.conditional[:, index[ion]] for ion in parent.species]
    best_rest = np.cumprod([1.0, *(column.max() for column in reversed(columns))])[::-1][1:]

    def extend(chosen: tuple[int, ...], probability: float) -> Iterator[_Swap]:
        depth = len(chosen)
        if depth == len(columns):
            new = tuple(ions[i].symbol for i in chosen)
            charge = sum(n * (ions[i].oxi_state or 0) for n, i in zip(counts, chosen, strict=True))
            if abs(charge) < 1e-6 and new != parent.elements and len(set(new)) == len(new):
                yield _Swap(probability=probability, parent=place, new=new)
            return
        likely = np.flatnonzero(probability * columns[depth] * best_rest[depth] >= threshold)
        for i in likely:
            if allowed[i]:
                yield from extend((*chosen, int(i)), probability * float(columns[depth][i]))

    yield from extend((), 1.0)


def _build(parent: _Parent, swap: _Swap, role: Role) -> Candidate:

    place = {e: i for i, e in enumerate(parent.elements)}
    slots = np.array([place[site.specie.symbol] for site in parent.structure])
    matrix, coords = parent.structure.lattice.matrix, parent.structure.frac_coords
    contacts = shortest_contacts(matrix, coords, slots, len(place))
    counts = [int((slots == i).sum()) for i in range(len(place))]
    scale = float(np.max(mined_lengths(swap.new, counts) / contacts))
    structure = Structure(matrix * scale, [swap.new[slot] for slot in slots], coords)
    replaced = ", ".join(f"{a}->{b}" for a, b in zip(parent.elements, swap.new, strict=True) if a != b)
    return Candidate(
        material_id=material_id(structure),
        formula=structure.composition.reduced_formula,
        chemsys="-".join(sorted(swap.new)),
        structure=structure,
        source="substitution",
        source_version=f"pymatgen-{metadata.version('pymatgen')}",
        parents=(f"{parent.name}: {replaced} (p={swap.probability:.2g})",),
        role=role,
    )
