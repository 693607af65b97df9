"""CIF to crystal: pymatgen builds it from a file whose every tag is understood before.

pymatgen is made to get something out of any file: an unknown space group is P1 to it, an occupancy or a letter that it
does not know is left out. Here such a file is trouble that says what it is.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from materials.sources.files.cif_text import MISSING, Block, blocks_of, number, plain
from materials.sources.files.site_names import elements_of
from materials.sources.files.space_groups import (
    FIT,
    Setting,
    check_group,
    contradiction,
    count_operations,
    misfit,
    parse_operation,
    settings_named,
    write_operation,
)
from materials.sources.files.usable import StructureTrouble, check_distance, sound, unreadable, with_moments

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SYMBOLS = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h_m",
    "_space_group_name_h-m",
    "_space_group_name_h-m_ref",
    "_space_group_name_h-m_full",
)
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_MULTIPLICITIES = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity")
_OF_MAGNETISM = ("_space_group_magn", "_space_group_symop_magn", "_atom_site_moment")
_MAGNETIC_SYMMETRY = (  # as pymatgen reads it
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_centering.xyz",
    "_space_group_magn.name_BNS",
    "_space_group_magn.number_BNS",
    "_space_group_magn.transform_BNS_Pp_abc",
    "_magnetic_space_group.transform_to_standard_Pp_abc",
)
_IDENTITY = "x,y,z"
_MOST_LISTED = 5_000  # sites: pymatgen compares each of them with all before it
_SAME_PLACE = 0.01  # fraction of a cell's edge, between an atom and the same one by other operations
_SAME_DENSITY = 0.02  # relative, between a crystal's and what its file says it is
_ROUNDING = 0.01  # between the ratios of a formula's elements: pymatgen's own


def parse_cif(text: str) -> list[Structure | StructureTrouble]:
    """Read each crystal of a CIF, as it stands there (not reduced to its primitive cell); trouble takes its place.

    A CIF whose sites do not add up to the formula it states, with its hydrogen left out for example, is trouble too.

    Raises:
        StructureTrouble: There is no block with a unit cell.
    """
    found: list[Structure | StructureTrouble] = []
    blocks = [block for block in blocks_of(text) if _has_crystal(block)]
    for block in blocks:
        try:
            try:
                found.append(_crystal(block))
            except (ArithmeticError, LookupError, ValueError) as error:  # what nobody foresaw ends no campaign
                raise unreadable("CIF", error) from error
        except StructureTrouble as trouble:
            named = f"{trouble} (block data_{block.name})" if len(blocks) > 1 else str(trouble)
            found.append(StructureTrouble(trouble.error, named))
    if not found:
        raise StructureTrouble("UnreadableStructure", "holds no crystal: no CIF block with a unit cell")
    return found


def _has_crystal(block: Block) -> bool:
    if block.trouble is not None:  # what it hides may be one
        return True
    if "powder_pattern" in block.name and "_atom_site_fract_x" not in block.values:
        return False
    return "_cell_length_a" in block.values or "_atom_site_fract_x" in block.values


def _crystal(block: Block) -> Structure:
    if block.trouble is not None:
        raise block.trouble
    for tag in ("_cell_modulation_dimension", "_cell_wave_vector_seq_id", "_cell_wave_vector_x"):
        if block.first(tag) not in (None, "0"):
            raise StructureTrouble("UnreadableStructure", "is modulated: its cell does not repeat")
    block = _without_dummies(block)
    cell = _cell(block)
    formula = _formula(block)
    sites = _sites(block, formula)
    origins, refused = [], []
    symmetries = _symmetries(block, _metric(cell), formula)
    for symmetry in symmetries:
        try:
            structure = _built(cell, sites, symmetry, _moments(block, sites))
            _check_content(block, structure, formula)
            if operations := symmetry.get(_OPERATIONS[0]):
                _check_multiplicities(block, structure, formula, len(sites), operations)
                _check_names(block, structure, formula, sites, operations, _metric(cell))
            origins.append(structure)
        except StructureTrouble as trouble:
            refused.append(trouble)
    if not origins:
        raise refused[0]
    return origins[0] if len(origins) == 1 else _one_of(origins, block, len(sites))


def _without_dummies(block: Block) -> Block:
    """Leave out the sites that `_atom_site_calc_flag` calls `dum`: points that help a drawing, and no atoms."""
    flags = block.column("_atom_site_calc_flag") or []
    is_atom = [flag.lower() != "dum" for flag in flags]
    if all(is_atom):
        return block
    values = {
        tag: [word for word, kept in zip(words, is_atom, strict=True) if kept]
        if re.fullmatch(r"_atom_site_(?!aniso_|moment_).+", tag) and len(words) == len(flags)
        else words
        for tag, words in block.values.items()
    }
    return replace(block, values=values)


def _cell(block: Block) -> dict[str, float]:
    cell = {}
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"):
        tag = f"_cell_{name}"
        said = (block.column(tag) or ["."])[0]
        # The standard's own value where there is none; whether the symmetry allows it is asked later.
        value = 90.0 if said == "." and "angle" in name else number(said, tag)
        if value <= 0 or ("angle" in name and value >= 180) or value > 1e4:
            raise StructureTrouble("UnreadableStructure", f"gives {said!r} as {tag}, which is impossible")
        cell[tag] = value
    return cell


def _metric(cell: Mapping[str, float]) -> np.ndarray:
    lengths = np.array([cell[f"_cell_length_{name}"] for name in "abc"])
    alpha, beta, gamma = (np.cos(np.radians(cell[f"_cell_angle_{name}"])) for name in ("alpha", "beta", "gamma"))
    cosines = np.array([[1, gamma, beta], [gamma, 1, alpha], [beta, alpha, 1]])
    if np.linalg.det(cosines) <= 0:
        raise StructureTrouble("UnreadableStructure", "gives three angles that no cell has")
    return np.outer(lengths, lengths) * cosines


def _formula(block: Block) -> dict[str, float]:
    """Elements of the formula that the file states, with their amounts; none where it states none that is clear."""
    from pymatgen.core import Composition

    said = block.first("_chemical_formula_sum")
    if said is None:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Composition(re.sub(r"(?<![A-Za-z])[DT](?![a-z])", "H", plain(said))).get_el_amt_dict()
    except Exception as error:
        raise StructureTrouble(
            "UnreadableStructure", f"states {' '.join(said.split())[:80]!r} as its formula, which is none"
        ) from error
    return {symbol: amount for symbol, amount in found.items() if amount > 0}


@dataclass(frozen=True, kw_only=True)
class _Site:
    """A site that the file lists.

    Attributes:
        label: As the file calls it.
        species: As pymatgen writes it: `Fe`, `Fe3+`.
        charge: Its oxidation state; None where the file does not give all of them.
        coords: Fractional.
        occupancy: Above 0.
    """

    label: str
    species: str
    charge: float | None
    coords: tuple[float, float, float]
    occupancy: float


def _sites(block: Block, formula: Mapping[str, float]) -> list[_Site]:
    columns = [block.column(f"_atom_site_fract_{axis}") for axis in "xyz"]
    types = block.column("_atom_site_type_symbol")
    labels = block.column("_atom_site_label") or types
    if not labels or None in columns:
        raise StructureTrouble("UnreadableStructure", "gives no sites with fractional coordinates")
    if len(labels) > _MOST_LISTED:
        raise StructureTrouble("TooManySites", f"lists {len(labels)} sites, more than the {_MOST_LISTED} that are read")
    if any(column is not None and len(column) != len(labels) for column in (*columns, types)):
        raise StructureTrouble(
            "UnreadableStructure", "gives its sites' names and coordinates in loops of unequal length"
        )
    coords = [[number(word, "a coordinate") for word in column or []] for column in columns]
    check_distance(max(abs(x) for column in coords for x in column))
    _refuse_alternatives(block)
    _refuse_implicit_hydrogen(block)
    symbols = elements_of(labels, types, formula)
    charges = _charges(block, symbols, types)
    occupancies = [_occupancy(word) for word in block.column("_atom_site_occupancy") or ["1"] * len(labels)]
    if len(occupancies) != len(labels):
        raise StructureTrouble("UnreadableStructure", "gives its sites' occupancies in a loop of another length")
    return [
        _Site(
            label=labels[n],
            species=symbols[n] + ("" if charge is None else f"{abs(charge):g}{'-' if charge < 0 else '+'}"),
            charge=charge,
            coords=(coords[0][n], coords[1][n], coords[2][n]),
            occupancy=occupancies[n],
        )
        for n, charge in enumerate(charges)
    ]


def _occupancy(word: str) -> float:
    if word in MISSING:  # the standard's own value
        return 1.0
    found = number(word, "an occupancy")
    if not 0 < found < 1.001:
        raise StructureTrouble("UnreadableStructure", f"gives {word} as an occupancy, which is impossible")
    return min(found, 1.0)


def _refuse_alternatives(block: Block) -> None:
    groups = block.column("_atom_site_disorder_group") or []
    assemblies = block.column("_atom_site_disorder_assembly") or ["."] * len(groups)
    alternatives: dict[str, set[str]] = {}
    for assembly, group in zip(assemblies, groups, strict=False):
        if group not in (*MISSING, "0", ""):
            alternatives.setdefault(assembly, set()).add(group)
    for found in alternatives.values():
        if len(found) > 1 or any(plain(group).startswith("-") for group in found):
            raise StructureTrouble("Disordered", f"has alternatives for its sites: groups {', '.join(sorted(found))}")


def _refuse_implicit_hydrogen(block: Block) -> None:
    for word in block.column("_atom_site_attached_hydrogens") or []:
        if word not in MISSING and number(word, "a count of hydrogens") != 0:
            raise StructureTrouble("UnreadableStructure", "has hydrogen without a site (_atom_site_attached_hydrogens)")


def _charges(block: Block, symbols: Sequence[str], types: Sequence[str] | None) -> list[float | None]:
    """Oxidation states of the sites, where the file gives all of them."""
    names, states = block.column("_atom_type_symbol"), block.column("_atom_type_oxidation_number")
    none: list[float | None] = [None] * len(symbols)
    if names is None or states is None or len(names) != len(states):
        return none
    try:
        told = {name: number(state, "an oxidation state") for name, state in zip(names, states, strict=True)}
    except StructureTrouble:
        return none
    known = {re.sub(r"[0-9]?[+-]?$", "", plain(name)): state for name, state in told.items()} | told
    found = [known.get(name, known.get(symbol)) for name, symbol in zip(types or symbols, symbols, strict=True)]
    return none if any(state is None or abs(state) > 9 for state in found) else found


def _symmetries(block: Block, metric: np.ndarray, formula: Mapping[str, float]) -> list[dict[str, list[str]]]:
    """Find the symmetry that the file says it has, as pymatgen reads it: of both origins, where it names none.

    Raises:
        StructureTrouble: It says none, or what it says is not understood.
    """
    magnetic = any(tag.startswith(_OF_MAGNETISM) for tag in block.values)
    if magnetic and (found := _magnetic(block, metric)):
        return [found]
    plain_ones = _operations(block, metric, formula)
    if not magnetic:
        return [{_OPERATIONS[0]: operations} for operations in plain_ones]
    if plain_ones != [[_IDENTITY]]:
        raise StructureTrouble("UnknownSymmetry", "gives magnetic moments, and not which operations turn them round")
    return [{_MAGNETIC_SYMMETRY[0]: [f"{_IDENTITY},+1"]}]


def _operations(block: Block, metric: np.ndarray, formula: Mapping[str, float]) -> list[list[str]]:
    """Operations that the file writes out, or those that its space group has: of both origins, where it names none."""
    if operations := _listed(block):
        if misfit(operations, metric) > FIT:
            raise StructureTrouble(
                "UnknownSymmetry",
                "has symmetry operations that its cell does not have: other axes, or another cell",
            )
        check_group(tuple(operations))
        return [operations]
    settings = settings_named(
        metric,
        symbols=list(dict.fromkeys(_symbols(block).values())),
        hall=block.first(*_HALL),
        number=_group_number(block),
    )
    code = (block.first("_space_group_it_coordinate_system_code") or "").upper()
    settings = [setting for setting in settings if setting.choice == code] or settings
    if settings:
        return [[write_operation(*parse_operation(o)) for o in setting.operations] for setting in settings]
    # Who lists every atom of the cell, and says how many there are, has said that it is P1.
    if formula and _count(block, formula) is not None:
        return [[_IDENTITY]]
    raise StructureTrouble(
        "UnknownSymmetry",
        "names no space group and no symmetry operation; write 'P 1' if all atoms of the cell are there",
    )


def _symbols(block: Block) -> dict[str, str]:
    return {tag: word for tag in _SYMBOLS if (word := block.first(tag)) is not None}


def _group_number(block: Block) -> int | None:
    said = block.first(*_NUMBERS)
    return None if said is None else int(number(said, "a space group's number"))


def _listed(block: Block) -> list[str]:
    """Operations that the file writes out; none where it writes none.

    Raises:
        StructureTrouble: One is none, or two lists have not the same.
    """
    lists = {tag: _written_out(said) for tag in _OPERATIONS if (said := block.column(tag)) and said[0] not in MISSING}
    if not lists:
        return []
    counts = {tag: count_operations(operations) for tag, operations in lists.items()}
    together = count_operations([operation for operations in lists.values() for operation in operations])
    if set(counts.values()) != {together}:
        told = " and ".join(f"{n} as {tag}" for tag, n in counts.items())
        raise StructureTrouble(
            "UnknownSymmetry", f"lists its symmetry operations twice, and not the same: {told}; leave one list"
        )
    return next(iter(lists.values()))


def _written_out(said: Sequence[str]) -> list[str]:
    try:
        found = [parse_operation(word) for word in said]
    except StructureTrouble:
        # Written with blanks and without quotes: `x, y, z`.
        found = [parse_operation(word) for word in re.sub(r"\s*,\s*", ",", " ".join(said)).split()]
    return list(dict.fromkeys(write_operation(*operation) for operation in found))


def _magnetic(block: Block, metric: np.ndarray) -> dict[str, list[str]]:
    """What the file says of magnetic symmetry, under pymatgen's names."""
    found = {}
    for name in _MAGNETIC_SYMMETRY:
        said = block.column(name.lower().replace(".", "_"))
        if said and said[0] not in MISSING:
            found[name] = [plain(word) for word in said]
    for word in [word for name, words in found.items() if name.endswith(".xyz") for word in words]:
        place, _, reversal = word.replace(" ", "").rpartition(",")
        if reversal not in ("1", "+1", "-1") or misfit([place], metric) > FIT:
            raise StructureTrouble("UnknownSymmetry", f"has {word!r} as a magnetic symmetry operation, which is none")
    if operations := found.get(_MAGNETIC_SYMMETRY[0]):
        check_group(_combined(found.get(_MAGNETIC_SYMMETRY[1], [f"{_IDENTITY},+1"]), operations))
    return found


def _combined(centerings: Sequence[str], operations: Sequence[str]) -> tuple[str, ...]:
    """List each magnetic operation after each centering: the whole magnetic group of the cell."""
    made = []
    for centering in centerings:
        place, _, centre_reversal = centering.replace(" ", "").rpartition(",")
        _, centre = parse_operation(place)
        for operation in operations:
            place, _, reversal = operation.replace(" ", "").rpartition(",")
            rotation, shift = parse_operation(place)
            moved = [one + other for one, other in zip(shift, centre, strict=True)]
            made.append(f"{write_operation(rotation, moved)},{int(reversal) * int(centre_reversal)}")
    return tuple(made)


def _moments(block: Block, sites: Sequence[_Site]) -> dict[int, list[float]]:
    """Moments (μB, along the cell's axes) by the site's place in the list."""
    labels = block.column("_atom_site_moment_label")
    if labels is None:
        return {}
    columns = [block.column(f"_atom_site_moment_crystalaxis_{axis}") for axis in "xyz"]
    if any(column is None or len(column) != len(labels) for column in columns):
        raise StructureTrouble("UnreadableStructure", "gives magnetic moments, but not along the axes of its cell")
    places = {site.label: n for n, site in enumerate(sites)}
    if len(places) != len(sites) or len(set(labels)) != len(labels) or not places.keys() >= set(labels):
        raise StructureTrouble(
            "UnreadableStructure", "gives magnetic moments by labels that no, or several, sites have"
        )
    rows = zip(*(column or [] for column in columns), strict=True)
    return {
        places[label]: [0.0 if word == "." else number(word, "a magnetic moment") for word in row]
        for label, row in zip(labels, rows, strict=True)
    }


def _built(
    cell: Mapping[str, float],
    sites: Sequence[_Site],
    symmetry: Mapping[str, Sequence[str]],
    moments: Mapping[int, Sequence[float]],
) -> Structure:
    """Let pymatgen build the crystal, from words of which none is left to guess."""
    from pymatgen.io.cif import CifParser

    lines = ["data_x", *(f"{tag} {value!r}" for tag, value in cell.items())]
    for name, words in symmetry.items():
        if name in _OPERATIONS or name.endswith(".xyz"):
            lines += ["loop_", name, *(f"'{word}'" for word in words)]
        else:
            lines.append(f'{name} "{words[0]}"')
    charges = {site.species: site.charge for site in sites if site.charge is not None}
    if charges:
        lines += ["loop_", "_atom_type_symbol", "_atom_type_oxidation_number"]
        lines += [f"{species} {charge!r}" for species, charge in charges.items()]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    for n, site in enumerate(sites):
        x, y, z = site.coords
        lines.append(f"s{n} {site.species} {x!r} {y!r} {z!r} {site.occupancy!r}")
    if moments:
        lines += ["loop_", "_atom_site_moment_label", *(f"_atom_site_moment_crystalaxis_{axis}" for axis in "xyz")]
        lines += [f"s{n} {' '.join(map(repr, moment))}" for n, moment in moments.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser = CifParser.from_str("\n".join(lines))
            built = parser.parse_structures(primitive=False, on_error="raise")[0]
        except Exception as error:
            raise unreadable("CIF", error) from error
    structure = sound(built)
    return with_moments(structure, structure.site_properties.get("magmom"))


def _check_content(block: Block, structure: Structure, formula: Mapping[str, float]) -> None:
    """Compare the atoms in the cell with the formula that the CIF itself states, and with how many of them fill it."""
    if not formula:
        return
    amounts = structure.composition.element_composition.get_el_amt_dict()
    if amounts.keys() != formula.keys():
        lost = ", ".join(sorted(amounts.keys() ^ formula.keys()))
        raise StructureTrouble(
            "UnreadableStructure", f"its sites do not add up to its formula: only one of them has {lost}"
        )
    ratios = [amounts[symbol] / formula[symbol] for symbol in amounts]
    if max(ratios) - min(ratios) > _ROUNDING:
        raise StructureTrouble(
            "UnreadableStructure",
            f"its sites do not add up to its formula: they are {structure.composition.formula}, it is "
            + " ".join(f"{symbol}{amount:g}" for symbol, amount in formula.items()),
        )
    expected = _count(block, formula)
    if expected is not None and all(abs(len(structure) - n) > 0.5 for n in expected):
        raise StructureTrouble(
            "UnreadableStructure",
            f"has {len(structure)} atoms in its cell, and {expected[0]:g} by its formula and _cell_formula_units_Z: is"
            " its symmetry as it says?",
        )


def _check_multiplicities(
    block: Block, structure: Structure, formula: Mapping[str, float], n_sites: int, operations: Sequence[str]
) -> None:
    """Compare the atoms in the cell with how many the file says each site has, where its formula does not tell."""
    counts = _multiplicities(block, n_sites)
    if not counts or (formula and _count(block, formula) is not None):
        return
    # SHELXL-97 writes under this name how many operations leave the site where it is.
    totals = (sum(counts), sum(count_operations(operations) / count for count in counts))
    if all(abs(len(structure) - total) > 0.5 for total in totals):
        raise StructureTrouble(
            "UnreadableStructure",
            f"has {len(structure)} atoms in its cell by its symmetry, and {totals[0]:g} by {_MULTIPLICITIES[0]} of its"
            " sites; mend its space group and symmetry operations, or leave the multiplicities out",
        )


def _multiplicities(block: Block, n_sites: int) -> list[float]:
    """How many atoms each site stands for by the file's own word; none where it does not say it of all."""
    for tag in _MULTIPLICITIES:
        with contextlib.suppress(StructureTrouble):
            counts = [number(word, tag) for word in block.column(tag) or []]
            if len(counts) == n_sites and all(count > 0 for count in counts):
                return counts
    return []


def _check_names(
    block: Block,
    structure: Structure,
    formula: Mapping[str, float],
    sites: Sequence[_Site],
    operations: Sequence[str],
    metric: np.ndarray,
) -> None:
    """Compare the operations that a file lists with the space group that it names.

    Raises:
        StructureTrouble: They differ, and nothing else in the file says that the operations are right.
    """
    if not _listed(block):
        return
    symbols = _symbols(block)
    number_said = _group_number(block)
    if len(symbols) > 1 or number_said is not None or block.first(*_HALL) is not None:
        symbols.pop("_space_group_name_h-m_ref", None)  # of other axes than the cell's
    found = contradiction(
        operations,
        metric,
        symbols=list(dict.fromkeys(symbols.values())),
        hall=block.first(*_HALL),
        number=number_said,
    )
    if found is None or _is_settled(block, structure, formula, len(sites)):
        return
    if any(_is_same_crystal(structure, sites, setting) for setting in found.settings):
        return
    raise StructureTrouble(
        "UnknownSymmetry",
        f"lists {count_operations(operations)} symmetry operations, and names space group {found.name}, which has"
        f" {found.order}: mend the one that is wrong, or give _chemical_formula_sum and _cell_formula_units_Z, which"
        " tell",
    )


def _is_settled(block: Block, structure: Structure, formula: Mapping[str, float], n_sites: int) -> bool:
    """Whether the file says in another way that the cell has as many atoms as its listed operations make."""
    if formula and _count(block, formula) is not None:  # compared before
        return True
    counts = _multiplicities(block, n_sites)
    # All 1 is what is written by who knows no better.
    if counts and max(counts) > 1 and sum(counts) == len(structure):
        return True
    with contextlib.suppress(StructureTrouble):
        density = number(block.first("_exptl_crystal_density_diffrn") or "?", "a density")
        return abs(structure.density - density) < _SAME_DENSITY * density
    return False


def _is_same_crystal(structure: Structure, sites: Sequence[_Site], setting: Setting) -> bool:
    """Whether a space group makes of the listed sites the atoms that are there: all were listed, for example."""
    places = structure.frac_coords
    elements = np.array([site.specie.symbol for site in structure])
    reached = np.zeros(len(structure), bool)
    turns = [parse_operation(operation) for operation in setting.operations]
    for site in sites:
        own = elements == re.sub(r"[0-9.]*[+-]$", "", site.species)
        for rotation, shift in turns:
            off = rotation @ site.coords + np.array(shift, float) - places
            at = own & np.all(np.abs(off - off.round()) < _SAME_PLACE, axis=1)
            if not at.any():
                return False
            reached |= at
    return bool(reached.all())


def _count(block: Block, formula: Mapping[str, float]) -> list[float] | None:
    """How many atoms the cell has by the file's own word, in each way to read it; None where it gives none."""
    try:
        units = number(block.first("_cell_formula_units_z") or "?", "a count")
    except StructureTrouble:
        return None
    if units <= 0:
        return None
    atoms = sum(formula.values())
    # Some programs write what is in the cell as the formula.
    is_content = math.gcd(*(round(amount) for amount in formula.values())) == units
    return [units * atoms, atoms] if is_content else [units * atoms]


def _one_of(origins: Sequence[Structure], block: Block, n_sites: int) -> Structure:
    """Choose between the crystals that two origins of one space group give.

    Raises:
        StructureTrouble: Both may be meant.
    """
    from materials.crystals.validation import check
    from materials.duplicates.duplicates import group_duplicates

    if counts := _multiplicities(block, n_sites):
        origins = [structure for structure in origins if len(structure) == sum(counts)] or origins
    origins = [structure for structure in origins if check(structure) is None] or origins
    if len(group_duplicates(origins)) > 1:
        raise StructureTrouble(
            "UnknownSymmetry",
            "does not say which origin its space group has: write :1 or :2 behind its symbol, or its operations",
        )
    return origins[0]
