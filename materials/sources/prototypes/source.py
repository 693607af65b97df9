"""Candidates from structure types: every sensible way to put given elements into known structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product
from typing import Literal

import numpy as np
from pymatgen.core import Element

from materials.crystals.composition import reduced_formula
from materials.crystals.validation import oxidation_states
from materials.duplicates.duplicates import material_id
from materials.errors import InputError
from materials.records import Candidate, Role
from materials.sources.prototypes.library import find, library_names
from materials.sources.prototypes.site_rules import Decorate, accept
from materials.sources.prototypes.structure_type import StructureType, element_kinds
from materials.sources.prototypes.volume import covalent_radius, metallic_radius, mined_lengths, radius_sums

Volume = Literal["radii", "dls"]


@dataclass(frozen=True, kw_only=True)
class _Decoration:
    structure_type: StructureType
    elements: tuple[str, ...]  # one for each slot
    anions: frozenset[str]


def propose(
    *,
    roles: Mapping[str, Sequence[str]],
    prototypes: Sequence[str] | None = None,
    charges: Mapping[str, int] | None = None,
    n_elements: Sequence[int] | None = None,
    decorate: Decorate = "typical",
    charge_neutral: bool = True,
    volume: Volume = "radii",
    max_sites: int | None = None,
    role: Role = "candidate",
) -> Iterator[Candidate]:
    """Propose crystals by putting elements into structure types.

    A compound takes one element from each of its roles. Compounds with anions (salts) must be charge neutral and go
    into types that know salts, compounds of cations only into types that know alloys; elements into types for metals
    or for nonmetals, as they are. Decorations that a symmetry of the type makes equal are proposed once.

    Args:
        roles: Name of each role -> element symbols it may be played by.
        prototypes: Names of structure types of the library, AFLOW labels, or `library` or `aflow` for all of a
            collection. None: the library.
        charges: Ionic charge of a role, or of a single element, in units of e. What is not given takes any of
            the element's known oxidation states.
        n_elements: Numbers of roles that make a compound. None: all roles for candidates; for competing phases, all
            smaller numbers too, less than all.
        decorate: `typical` keeps anions on the sites where the type has them, and the larger atom of a packed alloy
            (a Laves phase, say) on the larger site; `all` tries every slot.
        charge_neutral: False lets through what is not neutral, into types of either sort.
        volume: `radii` scales a cell until its tightest pair touches the sum of its radii (elements: by the ratio of
            the radii); `dls` until that pair has a mined bond length (pymatgen's DLSVolumePredictor).
        max_sites: Types with more sites in their primitive cells are passed over.
        role: What the proposals are for.

    Yields:
        Candidates, in an order that depends on the arguments alone, each id once.

    Raises:
        InputError: A prototype is unknown, or was asked for by its own name and fits none of the compounds; a symbol
            is no element; a charge is for no role and no element.
    """
    _check(roles, charges or {})
    sizes = tuple(n_elements) if n_elements is not None else _default_sizes(len(roles), role)
    seen: set[str] = set()
    for decoration in _plan(roles, prototypes, charges or {}, sizes, decorate, charge_neutral, max_sites):
        candidate = _build(decoration, volume, role)
        if candidate.material_id not in seen:
            seen.add(candidate.material_id)
            yield candidate


def _check(roles: Mapping[str, Sequence[str]], charges: Mapping[str, int]) -> None:

    if not roles or not all(roles.values()):
        raise InputError("roles: give each role at least one element, such as {A: [Na, K], X: [Cl]}")
    for name, symbols in roles.items():
        for symbol in symbols:
            if not Element.is_valid_symbol(symbol):
                raise InputError(f"roles.{name}: {symbol!r} is no chemical element")
    known = {*roles, *(symbol for symbols in roles.values() for symbol in symbols)}
    for name in charges:
        if name not in known:
            raise InputError(f"charges.{name}: neither a role nor an element of one; roles are {', '.join(roles)}")


def _default_sizes(n_roles: int, role: Role) -> tuple[int, ...]:
    return (n_roles,) if role == "candidate" else tuple(range(1, max(n_roles, 2)))


def _plan(
    roles: Mapping[str, Sequence[str]],
    prototypes: Sequence[str] | None,
    charges: Mapping[str, int],
    sizes: tuple[int, ...],
    decorate: Decorate,
    charge_neutral: bool,
    max_sites: int | None,
) -> Iterator[_Decoration]:
    """Yield every decoration to build, type by type."""
    named = prototypes if prototypes is not None else library_names()
    # All of them first: a wrong name shall not be told after half of the structures are built.
    for name, structure_types in [(name, find(name)) for name in named]:
        found: list[_Decoration] = []
        for structure_type in structure_types:
            if max_sites is not None and len(structure_type.slot_of_site) > max_sites:
                continue
            if len(structure_type.slots) in sizes:
                found += _decorations(structure_type, roles, charges, decorate, charge_neutral)
        if not found and prototypes is not None and name not in ("library", "aflow"):
            raise InputError(
                f"prototypes: {name!r} fits no compound of the roles {', '.join(roles)} "
                f"({'/'.join(map(str, sizes))} elements); remove it, or look at charges, max_sites and decorate"
            )
        yield from found


def _decorations(
    structure_type: StructureType,
    roles: Mapping[str, Sequence[str]],
    charges: Mapping[str, int],
    decorate: Decorate,
    charge_neutral: bool,
) -> Iterator[_Decoration]:
    n_slots = len(structure_type.slots)
    for chosen in combinations(roles, n_slots):
        for symbols in product(*(roles[name] for name in chosen)):
            if len(set(symbols)) < n_slots:
                continue
            options = [_charges(name, symbol, charges) for name, symbol in zip(chosen, symbols, strict=True)]
            done: set[tuple[str, ...]] = set()
            for order in permutations(range(n_slots)):
                elements = tuple(symbols[i] for i in order)
                if elements in done:
                    continue
                anions = accept(structure_type, elements, [options[i] for i in order], decorate, charge_neutral)
                if anions is not None:
                    done |= {tuple(elements[i] for i in swap) for swap in structure_type.swaps}
                    yield _Decoration(structure_type=structure_type, elements=elements, anions=anions)


def _charges(role: str, symbol: str, charges: Mapping[str, int]) -> tuple[int, ...]:
    if symbol in charges or role in charges:
        return (charges.get(symbol, charges.get(role, 0)),)
    return _common_charges(symbol)


@cache
def _common_charges(symbol: str) -> tuple[int, ...]:

    # The textbook states of a metal leave out Cu+; those of a nonmetal in the ICSD run from -3 to 5.
    element = Element(symbol)
    return oxidation_states(symbol) if element.is_metal else tuple(element.common_oxidation_states) or (0,)


def _build(decoration: _Decoration, volume: Volume, role: Role) -> Candidate:
    structure_type, elements = decoration.structure_type, decoration.elements
    structure = structure_type.decorate(elements, scale=_scale(decoration, volume))
    where = ", ".join(f"{e} on {slot.site}" for e, slot in zip(elements, structure_type.slots, strict=True))
    return Candidate(
        material_id=material_id(structure),
        formula=reduced_formula(structure),
        chemsys="-".join(sorted(elements)),
        structure=structure,
        source="prototypes",
        source_version=structure_type.version,
        parents=(f"{structure_type.name}: {where}",),
        role=role,
    )


def _scale(decoration: _Decoration, volume: Volume) -> float:
    """Factor from the lengths of the type's example to those of the decoration."""
    structure_type, elements = decoration.structure_type, decoration.elements
    if volume == "dls":
        counts = tuple(slot.count for slot in structure_type.slots)
        return float(np.max(mined_lengths(elements, counts) / structure_type.contacts))
    if len(elements) > 1:
        return float(np.max(radius_sums(elements, decoration.anions) / structure_type.contacts))
    # Elements bind in too many ways, from N2 to lead, for one rule: they grow from the example as their radii do.
    pair = (elements[0], structure_type.slots[0].label)
    radius = metallic_radius if all("metal" in element_kinds(e) for e in pair) else covalent_radius
    return radius(pair[0]) / radius(pair[1])
