"""Sections of the sources of candidates that a campaign file may name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from flows.config.section import Section
from materials.crystals.elements import SYMBOLS

Element = Literal[SYMBOLS]  # type: ignore[valid-type]  # a select in the Prefect form


class Prototypes(Section):
    """Known structure types, decorated with elements."""

    kind: Literal["prototypes"] = Field("prototypes", title="Kind")
    roles: dict[str, list[Element]] = Field(
        title="Roles",
        description="The elements that may take each role, such as {I: [Li, Na], V: [P, As]}. "
        "Each candidate takes one element for each role, all of them different.",
        min_length=1,
    )
    charges: dict[str, int] = Field(
        default={},
        title="Ionic charges",
        description="Ionic charge (e) of a role or of one element; else the element's common oxidation states.",
    )
    prototypes: list[str] = Field(
        default=["library"],
        title="Structure types",
        description="Names of structure types, AFLOW labels, or library or aflow for all of a collection that fit.",
    )
    n_elements: list[int] = Field(
        default=[],
        title="Numbers of elements",
        description="How many roles make a compound. Empty: all of them for candidates; for competing phases, fewer.",
    )
    decorate: Literal["typical", "all"] = Field(
        default="typical",
        title="Decorations",
        description="typical: anions on the sites where the type has them; all: every distinct assignment to sites.",
    )
    charge_neutral: bool = Field(
        default=True,
        title="Neutral only",
        description="Leave out decorations whose ionic charges do not add up to zero.",
    )
    volume: Literal["radii", "dls"] = Field(
        default="radii",
        title="First volume",
        description="radii: the tightest pair touches the sum of its radii; dls: pymatgen's DLSVolumePredictor.",
    )
    max_sites: int | None = Field(
        default=None, ge=1, title="Largest type (sites)", description="In its primitive cell."
    )


class Substitution(Section):
    """Elements of known structures replaced by chemically similar ones."""

    kind: Literal["substitution"] = Field("substitution", title="Kind")
    path: str = Field(title="Known structures", description="A structure file, a folder, a glob or a table.")
    elements: list[Element] = Field(
        default=[], title="Elements", description="Only candidates of these elements; empty: any."
    )
    threshold: float = Field(
        default=1e-3, gt=0, lt=1, title="Threshold", description="Least substitution probability (Hautier's table)."
    )
    max_candidates: int = Field(default=1000, ge=1, title="Most candidates")


class Files(Section):
    """Structures from files: CIF, POSCAR, extxyz, pymatgen JSON, a folder, a glob, or a table."""

    kind: Literal["files"] = Field("files", title="Kind")
    path: str = Field(
        title="Path", description="A structure file, a folder, a glob or a table (CSV, JSON lines, Parquet)."
    )
    structure_column: str | None = Field(
        default=None, title="Structure column", description="Of a table; found by itself where there is only one."
    )
    id_column: str | None = Field(
        default=None,
        title="Id column",
        description="Of a table: names its rows; found if called id or the like.",
    )


class MaterialsProject(Section):
    """Structures and competing phases from the Materials Project. The key comes from MP_API_KEY."""

    model_config = ConfigDict(title="Materials Project")
    kind: Literal["materials_project"] = Field("materials_project", title="Kind")
    chemsys: list[str] = Field(
        default=[],
        title="Chemical systems",
        description='Such as "Li-Mg-P"; their sub-systems give the competing phases.',
    )
    elements: list[Element] = Field(default=[], title="Elements", description="Holds all of these.")
    exclude_elements: list[Element] = Field(default=[], title="Without elements")
    formula: list[str] = Field(default=[], title="Formulas", description='Such as "LiZnP" or "ABC3".')
    material_ids: list[str] = Field(default=[], title="Material ids")
    num_sites: tuple[int, int] | None = Field(default=None, title="Sites in the cell", description="[least, most].")
    num_elements: tuple[int, int] | None = Field(default=None, title="Number of elements", description="[least, most].")
    energy_above_hull: tuple[float, float] | None = Field(
        default=None, title="Energy above hull (eV/atom)", description="[least, most], the Materials Project's own."
    )
    band_gap: tuple[float, float] | None = Field(
        default=None, title="Band gap (eV)", description="[least, most], the Materials Project's own."
    )
    is_stable: bool | None = Field(
        default=None, title="Stable", description="On the Materials Project's own hull, or not. Empty: either."
    )
    theoretical: bool | None = Field(
        default=None, title="Theoretical", description="Never seen in experiment, or seen. Empty: either."
    )
    include_gnome: bool = Field(
        default=False, title="With GNoME", description="Also GNoME's structures, whose licence is CC BY-NC."
    )
    hull: bool = Field(
        default=True,
        title="Competing phases",
        description="Also the corrected GGA/GGA+U entries of each chemical system.",
    )
    snapshot: str = Field(
        default="latest",
        title="Snapshot",
        description="latest, or a database version that was pulled before: then nothing is asked of the network.",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> MaterialsProject:
        if not (self.chemsys or self.elements or self.formula or self.material_ids):
            raise ValueError(
                "asks for the whole database: give at least one of chemsys, elements, formula or material_ids"
            )
        for name in ("num_sites", "num_elements", "energy_above_hull", "band_gap"):
            bounds = getattr(self, name)
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the least ({bounds[0]}) is above the most ({bounds[1]}); swap them")
        if both := sorted(set(self.elements) & set(self.exclude_elements)):
            raise ValueError(f"both in elements and in exclude_elements: {', '.join(both)}; nothing can meet both")
        return self


class Optimade(Section):
    """Structures from any OPTIMADE provider."""

    model_config = ConfigDict(title="OPTIMADE")
    kind: Literal["optimade"] = Field("optimade", title="Kind")
    provider: str = Field(title="Provider", description="A base URL, or a provider's short name.")
    filter: str = Field(min_length=1, title="Filter", description='Such as: elements HAS ALL "Li","P" AND nelements=3')
    snapshot: str = Field(
        default="latest",
        title="Snapshot",
        description="latest, or a version that was pulled before: then nothing is asked of the network.",
    )
    max_results: int | None = Field(default=None, ge=1, title="Most results")


def _any_of(schema: dict[str, Any]) -> None:
    """Say anyOf for oneOf: Prefect's form then offers the kinds, each with its fields, and not a box for JSON."""
    schema["anyOf"] = schema.pop("oneOf")


# The form opens the first kind that has all the keys of what a file says: files, which has fewer, before substitution.
Source = Annotated[
    Prototypes | Files | Substitution | MaterialsProject | Optimade,
    Field(discriminator="kind", title="Source", json_schema_extra=_any_of),
]


def elements_of(sources: Iterable[Source]) -> set[str]:
    """Name the elements that sources will bring for certain, as far as their sections say."""
    return set().union(*map(_named, sources))


def _named(source: Source) -> set[str]:
    match source:
        case Prototypes():
            return {element for elements in source.roles.values() for element in elements}
        case Substitution():
            return set(source.elements)
        case MaterialsProject():
            systems = {element for chemsys in source.chemsys for element in chemsys.split("-")}
            return (systems | set(source.elements)) - {"*"}
        case _:
            return set()
