"""Campaign files: pydantic models of all the science of a campaign, and none of its hardware.

Each field's title and description feed the JSON schema, the Prefect form and the documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flows.config.pseudopotential_table import load_family
from flows.config.section import Section, default_or_given
from flows.config.sources import Files, Source, Substitution
from materials.errors import DFTError
from materials.properties import PropertyName
from materials.records import Target
from materials.targets import contradiction
from models.dft.hubbard import check_hubbard
from models.dft.magnetism.orders import Magnetic
from models.dft.registry import CodeChoice


class Learning(Section):
    """How the next candidates for DFT are chosen."""

    batch: int = Field(default=3, ge=1, le=1000, title="Batch", description="Candidates a round.")
    within: float = Field(
        default=0.2,
        ge=0,
        title="Consider within (eV/atom)",
        description="Candidates further above the potential's hull are not considered.",
    )
    audits: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Audits",
        description="Share of all picks drawn at random, to calibrate by and to tell what chance finds.",
    )
    acquisition: Literal["best_odds", "expected_improvement", "lower_confidence_bound"] = Field(
        default="lower_confidence_bound",
        title="Acquisition",
        description="Of a single target that only orders. best_odds: of being among the best 1 % of the pool. Near a "
        "value, a bound has no meaning: the expected improvement is taken.",
    )
    cost: Literal["candidates", "time", "measured_time"] = Field(
        default="candidates",
        title="Cost",
        description="What a pick counts. candidates: each one. time: the CPU time expected of its calculation and of "
        "the competing phases that nobody has paid yet, estimated from atoms, electrons, k-points and cut-off; the "
        "next pick is the one with the largest value for it. measured_time: the same, learned from the times that were "
        "measured, so that another machine may pick others.",
    )
    stop_odds: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        title="Stop at odds",
        description="Targets that only order: stop when the odds that anything left beats the best fall below this.",
    )
    stop_hits: float = Field(
        default=0.05,
        ge=0,
        title="Stop at hits",
        description="Targets that can be met: stop when the next batch can expect fewer hits than this.",
    )
    stop_cpu_hours_per_hit: float | None = Field(
        default=None,
        gt=0,
        title="Stop at CPU hours a hit",
        description="Stop when the next batch is expected to take more for each hit that it can expect. "
        "Empty: whatever it takes.",
    )
    stop_after: int = Field(
        default=40, ge=1, title="Stop not before", description="Answers to wait for before the stop rule is asked."
    )
    seed: int = Field(default=0, ge=0, title="Seed")


class Potential(Section):
    """The machine-learning interatomic potential that screens."""

    kind: Literal["chgnet", "matgl", "ase", "torchsim"] = Field(default="chgnet", title="Family")
    model: str | None = Field(
        default=None,
        title="Model",
        description="A model's name or folder; for ase, the import path of a calculator, for torchsim that of a "
        "torch-sim model, package.module:name. Empty: the family's default.",
    )
    level_of_theory: str | None = Field(
        default=None,
        title="Level of theory",
        description="What its energies mean, such as PBE+U, where the family does not know.",
    )
    correction: Literal["MP2020"] | None = Field(
        default=None,
        title="Correction",
        description="Corrections that its raw energies need, where the family does not know.",
    )
    precision: Literal["float32", "float64"] = Field(
        default="float32",
        title="Precision",
        description="Of the model; geometry and sums are always in double precision. float64 is slow.",
    )
    calculator_arguments: dict[str, str | int | float | bool] = Field(
        default={},
        title="Calculator arguments",
        description="Keyword arguments of an ase calculator or a torchsim model."
        " In a form: Use JSON Input, in the potential's menu.",
        json_schema_extra=default_or_given,
    )


class Screening(Section):
    """How candidates are relaxed with the potential, and what is let in."""

    potential: Potential = Field(default=Potential(), title="Potential")
    fmax: float = Field(
        default=0.05, gt=0, le=1, title="Force threshold (eV/Å)", description="As ASE's FrechetCellFilter judges it."
    )
    max_steps: int = Field(default=500, ge=1, le=10_000, title="Most steps")
    cell: Literal["free", "fixed", "fixed_shape", "fixed_volume"] = Field(default="free", title="Cell")
    positions: Literal["free", "fixed"] = Field(
        default="free", title="Positions", description="fixed: as fractions of the cell, each site stays."
    )
    pressure_gpa: float = Field(
        default=0.0, ge=-10_000, le=10_000, title="Pressure (GPa)", description="Positive compresses."
    )
    max_stress_gpa: float | None = Field(
        default=None,
        gt=0,
        title="Stress threshold (GPa)",
        description="Judge the cell by its stress, less the pressure. Empty: by the force threshold, as ASE does.",
    )
    keep_symmetry: bool = Field(default=False, title="Keep the symmetry")
    trajectories: bool = Field(
        default=False,
        title="Keep trajectories",
        description="Write the steps of each relaxation as extended XYZ, for fine-tuning, beside the reports.",
    )
    max_sites: int = Field(default=200, ge=1, title="Largest cell (sites)", description="Larger cells are left out.")
    charge_balance: bool = Field(
        default=False,
        title="Charge balance",
        description="Leave out compositions without a neutral set of oxidation states.",
    )


# Beyond any value that a property has; a number such as 1e308 would overflow where distances to it are squared.
LARGEST = 1e6


class TargetSection(Section):
    """One wish. Exactly one of near (with within), at_most, at_least, or goal."""

    property: PropertyName = Field(
        title="Property", description="Energies in eV/atom, the gap in eV, the volume in Å³/atom."
    )
    near: float | None = Field(default=None, ge=-LARGEST, le=LARGEST, title="Near")
    within: float | None = Field(
        default=None, gt=0, le=LARGEST, title="Within", description="Half the window around near."
    )
    at_most: float | None = Field(default=None, ge=-LARGEST, le=LARGEST, title="At most")
    at_least: float | None = Field(default=None, ge=-LARGEST, le=LARGEST, title="At least")
    goal: Literal["minimize", "maximize"] | None = Field(default=None, title="Goal")

    @model_validator(mode="after")
    def _one_wish(self) -> TargetSection:
        said = [name for name in ("near", "at_most", "at_least", "goal") if getattr(self, name) is not None]
        if len(said) != 1:
            found = " and ".join(said) if said else "none"
            raise ValueError(f"takes exactly one of near, at_most, at_least or goal; found {found}")
        if (self.near is None) != (self.within is None):
            raise ValueError("near and within go together, such as near: 1.3 with within: 0.3")
        return self

    def record(self) -> Target:
        """Give the plain record that the lower rooms take."""
        if self.near is not None:
            return Target(property=self.property, goal="near", value=self.near, tolerance=self.within)
        if self.at_most is not None:
            return Target(property=self.property, goal="at_most", value=self.at_most)
        if self.at_least is not None:
            return Target(property=self.property, goal="at_least", value=self.at_least)
        assert self.goal is not None  # the validator saw to it
        return Target(property=self.property, goal=self.goal)


NEAR_THE_HULL = TargetSection(property="energy_above_hull", at_most=0.05)  # what is wanted where nothing is said
_NAMED_ONCE = TargetSection(property="decomposition_energy_per_atom", at_most=0.05)


class DFT(Section):
    """How the chosen are validated."""

    code: Literal["gpaw", "espresso", "vasp"] = Field(default="gpaw", title="Code")
    preset: Literal["quick", "standard", "accurate"] = Field(
        default="standard",
        title="Preset",
        description="Cut-off, k-points, convergence: tests/benchmarks/dft-presets.md. Not for vasp.",
    )
    input_set: Literal["MPStaticSet", "MPRelaxSet", "MatPESStaticSet", "MatPESRelaxSet"] = Field(
        default="MPStaticSet",
        title="Input set (vasp)",
        description="pymatgen's. With the MP sets and the Materials Project's POTCARs, energies are corrected by "
        "MP2020 and stand on its hull.",
    )
    functional: Literal["PBE", "r2SCAN"] = Field(
        default="PBE", title="Functional (vasp)", description="r2SCAN: with the MatPES sets only."
    )
    potcars: Literal["", "PBE", "PBE_52", "PBE_54", "PBE_64"] = Field(
        default="",
        title="POTCARs (vasp)",
        description="Which release, by pymatgen's name. Empty: the one that belongs to the input set.",
    )
    pseudopotentials: str | None = Field(
        default=None,
        title="Pseudopotentials (espresso)",
        description="A table of them and of their cut-offs, a YAML file: see models/dft/README.md.",
    )
    hubbard: Literal["none", "materials_project"] | dict[str, float] = Field(
        default="none",
        title="Hubbard U (gpaw, espresso)",
        description="materials_project: that database's values, in hulls with O or F; or element: U (eV), on its d, f "
        "or p shell. U acts on an element in every phase of a hull. VASP's input sets have their own.",
    )
    anion_corrections: bool | None = Field(
        default=None,
        title="Anion corrections",
        description="Whether the Materials Project's fitted terms (MP2020) for anions in compounds are added to PBE "
        "energies when the hull is built. Empty: wherever they are raw PBE.",
    )
    magnetism: Magnetic = Field(
        default="auto",
        title="Magnetic order",
        description="auto: crystals with open shells with spin, in ferromagnetic and collinear antiferromagnetic "
        "orders, of which the lowest is kept. Elements always are computed so. Not for vasp: its input sets start "
        "ferromagnetic, and try neither other orders nor the moments of a file.",
    )
    budget: int = Field(
        default=12, ge=0, title="Budget", description="Candidate validations in all; competing phases come on top."
    )
    competing_within: float = Field(
        default=0.05,
        ge=0,
        title="Competing phases within (eV/atom)",
        description="Phases this near the facet that a candidate decomposes into are computed as well.",
    )
    competing_max_sites: int = Field(
        default=8, ge=1, title="Largest competing phase (sites)", description="Larger ones are left out, and listed."
    )
    competing_polymorphs: int = Field(
        default=3, ge=1, title="Polymorphs", description="Most competing phases of one composition, the lowest first."
    )
    relax_best: int = Field(
        default=1, ge=0, title="Relax the best", description="How many of the best are relaxed with DFT at the end."
    )

    @model_validator(mode="after")
    def _functional_fits(self) -> DFT:
        if self.functional != "PBE" and not self.input_set.startswith("MatPES"):
            raise ValueError(f"functional: {self.functional} goes with input_set: MatPESStaticSet or MatPESRelaxSet")
        return self

    @model_validator(mode="after")
    def _pseudopotentials_go_with_espresso(self) -> DFT:
        if (self.code == "espresso") != (self.pseudopotentials is not None):
            raise ValueError("code: espresso and pseudopotentials: table.yaml go together")
        return self

    @field_validator("hubbard", mode="before")
    @classmethod
    def _hubbard_means_something(cls, value: Any) -> Any:
        if value in ("none", "materials_project"):
            return value
        if not isinstance(value, dict) or not value or {type(u) for u in value.values()} - {int, float}:
            raise ValueError("takes none, materials_project, or U (eV) by element, such as {Mn: 3.9}")
        try:
            check_hubbard(value)
        except DFTError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _vasp_has_its_own_u(self) -> DFT:
        if self.hubbard != "none" and self.code == "vasp":
            raise ValueError(
                "hubbard: VASP's input sets have their own U (the MP sets that of the Materials Project, the MatPES"
                " sets none); leave the key out, or choose another input_set"
            )
        return self

    @model_validator(mode="after")
    def _vasp_has_its_own_moments(self) -> DFT:
        if self.code == "vasp" and self.magnetism != "auto":
            raise ValueError(
                f"magnetism: {self.magnetism} is not for vasp, whose input sets start from their own ferromagnetic "
                "moments; leave the key out"
            )
        return self

    def choice(self) -> CodeChoice:
        """Give the plain record that the lower rooms take.

        Raises:
            CampaignError: The table of pseudopotentials is wrong.
        """
        return CodeChoice(
            name=self.code,
            pseudopotentials=load_family(Path(self.pseudopotentials)) if self.pseudopotentials else None,
            input_set=self.input_set,
            functional=self.functional,
            potcars=self.potcars,
            hubbard=self.hubbard,
            magnetism=self.magnetism,
        )


class Campaign(Section):
    """A campaign: where candidates come from, what is wanted, and how it is looked for."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=60,
        title="Name",
        description="Lower-case letters, digits and dashes.",
    )
    description: str = Field(default="", title="Description", description="The question, in words.")
    sources: list[Source] = Field(min_length=1, title="Sources", description="Where candidates come from.")
    competing: list[Source] = Field(
        default=[], title="Competing phases", description="Phases that candidates must be stable against."
    )
    hull_leaves_out: str = Field(
        default="",
        title="What the hull leaves out",
        description="Phases known to be missing from the competing ones, in words; the report repeats it.",
    )
    screening: Screening = Field(default=Screening(), title="Screening")
    targets: list[TargetSection] = Field(
        default=[], title="Targets", description="What is looked for. Empty: at most 0.05 eV/atom above the hull."
    )
    learning: Learning = Field(default=Learning(), title="Learning")
    dft: DFT = Field(default=DFT(), title="DFT")

    @model_validator(mode="after")
    def _targets_agree(self) -> Campaign:
        if trouble := contradiction([target.record() for target in self.targets]):
            raise ValueError(f"targets: {trouble}")
        return self

    def wanted(self) -> list[Target]:
        """Give the plain records of the targets."""
        return [target.record() for target in self.targets or [NEAR_THE_HULL]]

    def identity(self) -> dict[str, Any]:
        """Tell one campaign from another: a raised budget, or a better description, goes on with the same one."""
        exclude = {"description": True, "hull_leaves_out": True, "dft": {"budget"}, "screening": {"trajectories"}}
        content = self.model_dump(mode="json", exclude=exclude)  # type: ignore[arg-type]
        # What came later, at its default, leaves a campaign the one that it was. One without targets was written down
        # with a decomposition energy, which counted all phases then: the same wish as now.
        if not self.targets:
            content["targets"] = [_NAMED_ONCE.model_dump(mode="json")]
        for name in ("pressure_gpa", "max_stress_gpa", "positions"):
            if getattr(self.screening, name) == Screening.model_fields[name].default:
                del content["screening"][name]
        for name in ("cost", "stop_cpu_hours_per_hit"):
            if getattr(self.learning, name) == Learning.model_fields[name].default:
                del content["learning"][name]
        later = ("pseudopotentials", "input_set", "functional", "potcars", "anion_corrections", "hubbard", "magnetism")
        for name in later:
            if getattr(self.dft, name) == DFT.model_fields[name].default:
                del content["dft"][name]
        if self.learning.acquisition == Learning.model_fields["acquisition"].default:
            del content["learning"]["acquisition"]
        if self.screening.potential.precision == Potential.model_fields["precision"].default:
            del content["screening"]["potential"]["precision"]
        return content


def resolve_paths(campaign: Campaign, folder: Path) -> Campaign:
    """Read relative paths from the campaign file's own folder: of file sources, of the table of pseudopotentials."""

    def resolved(source: Source) -> Source:
        if isinstance(source, Files | Substitution):
            return source.model_copy(update={"path": str(folder / source.path)})
        return source

    update: dict[str, Any] = {
        "sources": [resolved(s) for s in campaign.sources],
        "competing": [resolved(s) for s in campaign.competing],
    }
    if campaign.dft.pseudopotentials is not None:
        table = str(folder / campaign.dft.pseudopotentials)
        update["dft"] = campaign.dft.model_copy(update={"pseudopotentials": table})
    return campaign.model_copy(update=update)
