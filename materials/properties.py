"""Properties that a campaign can ask for: one entry each, and the only place that says what a property is.

To add one: an entry here, the code that computes its value by the potential (`flows.stages.pool`) and by DFT
(`flows.stages.predict`), and a migration if it is to be a column of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PropertyName = Literal[
    "decomposition_energy_per_atom", "energy_above_hull", "formation_energy_per_atom", "band_gap", "volume_per_atom"
]


@dataclass(frozen=True, kw_only=True)
class Property:
    """A property of a material, as it is named, shown and learned.

    Attributes:
        name: In campaign files, the ledger and the table.
        label: For a person, without the unit.
        unit: Of every number of it.
        heading: Of its column in a terminal's table, with the unit; empty: its name.
        least: No value lies below, whatever is computed; None where there is no such bound.
        floor: Value at which a DFT result says "so or less": a metal's gap. None where there is none.
        learned_as: The property that is learned in its place.
        prior: The potential's value that DFT's is expected to follow; None where the potential has none.
        center: Expected DFT value less the prior, before any DFT result.
        spread: Standard deviation about it.
        by_potential: Whether the potential gives it too; otherwise DFT alone.
        prediction: Columns of its prediction in the table, that of the error bar with `_std` behind; empty: none.
    """

    name: PropertyName
    label: str
    unit: str
    heading: str = ""
    least: float | None = None
    floor: float | None = None
    learned_as: PropertyName
    prior: PropertyName | None = None
    center: float = 0.0
    spread: float
    by_potential: bool = True
    prediction: str = ""


_ALL = (
    Property(
        name="decomposition_energy_per_atom",
        label="decomposition energy",
        unit="eV/atom",
        heading="decomposition\n(eV/atom)",
        learned_as="decomposition_energy_per_atom",
        prior="decomposition_energy_per_atom",
        spread=0.1,
        prediction="predicted_decomposition_energy",
    ),
    Property(
        name="energy_above_hull",
        label="energy above hull",
        unit="eV/atom",
        heading="E above hull\n(eV/atom)",
        least=0.0,
        # It follows from the decomposition energies of a composition's phases, which are smoother to learn and do not
        # change when another phase is computed. A table without those learns it itself.
        learned_as="decomposition_energy_per_atom",
        prior="decomposition_energy_per_atom",
        spread=0.1,
    ),
    Property(
        name="formation_energy_per_atom",
        label="formation energy",
        unit="eV/atom",
        heading="formation\n(eV/atom)",
        learned_as="formation_energy_per_atom",
        prior="formation_energy_per_atom",
        spread=0.2,
    ),
    Property(
        name="volume_per_atom",
        label="volume",
        unit="Å³/atom",
        least=0.0,
        learned_as="volume_per_atom",
        prior="volume_per_atom",
        spread=1.0,
    ),
    Property(
        name="band_gap",
        label="band gap",
        unit="eV",
        heading="gap\n(eV)",
        least=0.0,
        floor=0.0,
        learned_as="band_gap",
        # About half of the known crystals are metals, the others' gaps are some eV (doi:10.1038/s41524-020-00406-3).
        spread=2.0,
        by_potential=False,
        prediction="predicted_band_gap",
    ),
)
PROPERTIES: Mapping[str, Property] = {one.name: one for one in _ALL}


def learned_as(name: str) -> str:
    """Name the property that is learned in place of one; that of a replay's own table is learned as it is."""
    return PROPERTIES[name].learned_as if name in PROPERTIES else name


def spoken(name: str) -> str:
    """Write a property's name for a person."""
    return PROPERTIES[name].label if name in PROPERTIES else name.replace("_per_atom", "").replace("_", " ")


def unit_of(name: str) -> str:
    """Name a property's unit; one of a replay's own table counts as an energy."""
    return PROPERTIES[name].unit if name in PROPERTIES else "eV/atom"


def floor_of(name: str) -> float | None:
    """Value at which a DFT result says "so or less", None where there is none."""
    return PROPERTIES[name].floor if name in PROPERTIES else None


def is_of_dft_alone(name: str) -> bool:
    """Whether the potential has no value of a property, so that any there is comes from DFT."""
    return name in PROPERTIES and not PROPERTIES[name].by_potential
