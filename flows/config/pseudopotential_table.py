"""Pseudopotential tables that a campaign names, read and checked against their UPF files."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from flows.config.section import Section
from flows.config.sources import Element
from flows.config.yaml_file import check, read_yaml
from materials.errors import CampaignError
from models.dft.espresso.output import RYDBERG
from models.dft.espresso.pseudopotentials import Family, Pseudopotential, functional_named, read_header, sha256_of


class Entry(Section):
    """One element's pseudopotential."""

    file: str = Field(pattern=r"^[^\s/]{1,80}$", title="File", description="Its name in the folder.")
    cutoff_ry: float = Field(
        gt=0, le=1000, title="Cut-off (Ry)", description="Of the plane waves (ecutwfc; in SSSP's lists cutoff_wfc)."
    )
    density_cutoff_ry: float = Field(
        gt=0,
        le=10_000,
        title="Cut-off of the density (Ry)",
        description="Of its plane waves (ecutrho; in SSSP's lists cutoff_rho): four times the other for a "
        "norm-conserving pseudopotential, more for an ultrasoft one or PAW.",
    )

    @model_validator(mode="after")
    def _density_has_all_waves(self) -> Entry:
        if self.density_cutoff_ry < 4 * self.cutoff_ry:
            raise ValueError(
                f"density_cutoff_ry is {self.density_cutoff_ry:g}; at least four times cutoff_ry is needed"
            )
        return self


class Table(Section):
    """Pseudopotentials that go together, with the cut-offs that their makers found to be enough."""

    family: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        max_length=60,
        title="Family",
        description="Its name and version, such as sssp-1.3-efficiency; with a hash of the files it is part of the "
        "level of theory.",
    )
    functional: str = Field(
        min_length=1, title="Functional", description="That all of them were made for: LDA, PBE, PBEsol, …"
    )
    folder: str = Field(
        default=".", title="Folder", description="Where the files are, as seen from the table. Empty: beside it."
    )
    elements: dict[Element, Entry] = Field(min_length=1, title="Elements")


def load_family(path: Path) -> Family:
    """Read a table, and look at each file that it names.

    Raises:
        CampaignError: With the file, the key, what was found and what to do.
    """
    table = check(Table, read_yaml(path), str(path))
    folder = path.parent / table.folder
    functional = functional_named(table.functional)
    found = {}
    for element, entry in table.elements.items():
        try:
            found[element] = _pseudopotential(folder / entry.file, element, functional, entry)
        except CampaignError as error:
            raise CampaignError(f"{path}: elements.{element}.file: {error}") from None
    return Family(name=table.family, functional=functional, folder=folder, elements=found)


def _pseudopotential(file: Path, element: str, functional: str, entry: Entry) -> Pseudopotential:
    try:
        header = read_header(file)
        digest = sha256_of(file)
    except FileNotFoundError:
        raise CampaignError(f"there is no file {file}") from None
    except (OSError, ValueError) as error:
        raise CampaignError(f"{file} cannot be used: {error}") from None
    if header.element != element:
        raise CampaignError(f"{file} is a pseudopotential of {header.element}, not of {element}")
    if header.functional != functional:
        raise CampaignError(
            f"{file} was made for {header.functional}, and the table's functional is {functional}: "
            "energies of two functionals cannot be compared"
        )
    return Pseudopotential(
        file=entry.file,
        valence=header.valence,
        sha256=digest,
        cutoff_ev=entry.cutoff_ry * RYDBERG,
        density_cutoff_ev=entry.density_cutoff_ry * RYDBERG,
    )
