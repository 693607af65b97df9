"""Crystal structures as compact JSON text, exact to the last bit, and back.

A tenth of the size of pymatgen's own `as_dict`, and importing this module does not import pymatgen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from materials.crystals.composition import occupant, per_site

if TYPE_CHECKING:
    from pymatgen.core import Structure


def plain(value: Any) -> Any:
    """Turn numpy values, tuples and mappings into what JSON knows.

    NaN and infinity become None: JSON has no word for them, and no comparison of a query should meet them.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        # Most lists are of numbers, and long.
        return [item if type(item) is float and math.isfinite(item) else plain(item) for item in value]
    return value


_LATTICE = '{"lattice":'


class JsonText(str):
    """A value that is written as JSON already, for `dumps` to pass through."""

    __slots__ = ()


def dumps(value: Any) -> str:
    """Write JSON without blanks, numpy and non-finite numbers made plain first."""
    if type(value) is JsonText:
        return value
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def structure_to_json(structure: Structure) -> str:
    """Write a structure as JSON: lattice rows in Å, species, fractional coordinates, site properties, charge.

    Raises:
        ValueError: a coordinate is NaN or infinite.
    """
    content: dict[str, Any] = {
        "lattice": structure.lattice.matrix.tolist(),  # first, as `volume_from_json` expects it
        "species": per_site(structure, _species_content),
        "coords": structure.frac_coords.tolist(),
    }
    if not all(structure.lattice.pbc):
        content["pbc"] = [bool(periodic) for periodic in structure.lattice.pbc]
    if structure._charge is not None:
        content["charge"] = structure._charge
    if properties := {key: plain(values) for key, values in structure.site_properties.items()}:
        content["properties"] = properties
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def structure_from_json(text: str) -> Structure:
    """Read what `structure_to_json` wrote; lattice and coordinates are equal bit by bit."""
    from pymatgen.core import Lattice, Structure

    content = json.loads(text)
    return Structure(
        Lattice(content["lattice"], pbc=tuple(content.get("pbc", (True, True, True)))),
        [occupant(species) if isinstance(species, str) else species for species in content["species"]],
        content["coords"],
        charge=content.get("charge"),
        site_properties=content.get("properties"),
    )


def volume_from_json(text: str) -> float:
    """Read the volume of the cell (Å³) from what `structure_to_json` wrote."""
    # It comes first, and nothing behind it has to be read.
    (a, b, c), (d, e, f), (g, h, i) = json.loads(text[len(_LATTICE) : text.index("]]") + 2])
    return abs((b * f - c * e) * g + (c * d - a * f) * h + (a * e - b * d) * i)


def _species_content(composition: Any) -> str | dict[str, float]:
    if len(composition) == 1:
        species, amount = next(iter(composition.items()))
        if amount == 1:
            return str(species)
    return {str(species): float(amount) for species, amount in composition.items()}
