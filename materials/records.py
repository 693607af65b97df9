"""Frozen records that all parts of the program exchange.

Base units: eV, Å, eV/Å, eV/Å³, K. Any other unit is a suffix of the name (`wall_time_s`, `memory_gib`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # pymatgen takes a second to import; `assay table` does not need it
    from pymatgen.core import Structure

Role = Literal["candidate", "competing"]
Fidelity = Literal["mlip", "dft"]
CalculationStatus = Literal[
    "converged",
    "max_steps",  # ran out of steps: never called converged
    "exploded",  # volume ratio outside 0.25 to 4, a force above 1000 eV/Å, atoms too close, an absurd energy
    "unsupported",  # holds an element, or a geometry, that the method does not cover
    "failed",  # an exception; the message says which
    "scf_not_converged",
    "walltime",
    "out_of_memory",
    "crashed",
    "cancelled",  # by a person, in the queue
]
Goal = Literal["near", "at_most", "at_least", "minimize", "maximize"]


def content_hash(content: Any, length: int = 16) -> str:
    """Hash JSON-like content, the same in every process and on every machine.

    Args:
        content: Anything `json.dumps` takes; keys are sorted.
        length: Number of hexadecimal digits to keep.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A structure that somebody proposed.

    `parents` says what it was made from, or where it was read: `half-Heusler: X on 4c`, `mp-1265`, `set/a.cif`.
    Two proposals of one crystal become one candidate with the parents of both. `known_as` names known
    structures (a source's own ids) that are the same crystal.
    """

    material_id: str
    formula: str  # reduced, as pymatgen writes it
    chemsys: str  # "K-Mg-Sb": symbols in alphabetical order
    structure: Structure
    source: str
    source_version: str
    parents: tuple[str, ...] = ()
    role: Role = "candidate"
    known_as: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenCandidate:
    """A candidate whose structure is written as the ledger keeps it: a tenth of the memory of one that is built."""

    material_id: str
    formula: str
    chemsys: str
    n_sites: int
    structure: str  # JSON, by `materials.crystals.serialization`
    source: str
    source_version: str
    parents: tuple[str, ...] = ()
    role: Role = "candidate"
    known_as: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposed:
    """A candidate as the table needs it: no structure has to be built for it."""

    material_id: str
    formula: str
    chemsys: str
    n_sites: int
    volume_per_atom: float  # Å³, as it was proposed
    parents: tuple[str, ...] = ()
    role: Role = "candidate"
    known_as: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Calculation:
    """One computed truth about a material: by a potential or by DFT, the same kind of fact, trusted differently.

    `energy` is the total energy of `structure` in eV, in the convention that `level_of_theory` names. It is None,
    and `structure` is the last one known, when `status` says that there is no result.
    """

    material_id: str
    method: str  # who computed it: "chgnet-0.3.0", "gpaw-26.7.0"
    fidelity: Fidelity
    level_of_theory: str  # what the energy means: "PBE+U/MP2020", "PBE/gpaw-setups-1.0/PW450"
    settings_hash: str
    status: CalculationStatus
    structure: Structure | None
    energy: float | None  # eV, total
    max_force: float | None = None  # eV/Å, length of the largest (older DFT: its largest component)
    max_stress: float | None = None  # eV/Å³, largest absolute component
    n_steps: int = 0
    wall_time_s: float = 0.0
    message: str = ""  # why it failed, with the last lines of the log
    properties: Mapping[str, Any] = field(default_factory=dict)  # band_gap (eV), latent, magmoms, …

    @property
    def calculation_id(self) -> str:
        """The content key: equal for the same question, whoever asks it and whenever."""
        key = [self.material_id, self.method, self.fidelity, self.level_of_theory, self.settings_hash]
        return content_hash(key)

    @property
    def volume_per_atom(self) -> float | None:
        """Å³; None without a structure."""
        return None if self.structure is None else float(self.structure.volume) / len(self.structure)


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenCalculation:
    """A calculation as the ledger keeps it. Who makes it writes it, so that nobody on the way builds its structure."""

    calculation_id: str
    material_id: str
    method: str
    fidelity: Fidelity
    level_of_theory: str
    settings_hash: str
    status: CalculationStatus
    structure: str | None  # JSON, by `materials.crystals.serialization`
    energy: float | None  # eV, total
    max_force: float | None  # eV/Å
    max_stress: float | None  # eV/Å³
    n_steps: int
    wall_time_s: float | None
    message: str
    properties: str  # JSON
    content_hash: str  # of all but the time


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a calculation: all that is needed of those that are not looked at one by one."""

    calculation_id: str
    material_id: str
    method: str
    status: CalculationStatus
    message: str
    formula: str | None  # reduced; this and what follows only where it converged
    chemsys: str | None
    n_sites: int | None
    volume_per_atom: float | None  # Å³


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Where a material stands against the phases it competes with, at one level of theory. Energies in eV/atom.

    The decomposition energy is against the phases of other compositions, whatever polymorphs there are, negative where
    falling apart into them costs energy (doi:10.1038/s41524-020-00362-y); an element's is that above its ground state.
    The energy above the hull counts all phases: it is the largest of 0, the decomposition energy, and the energy above
    the lowest other phase of the same composition.
    """

    material_id: str
    fidelity: Fidelity
    level_of_theory: str
    energy_above_hull: float  # >= 0, as the Materials Project defines it
    decomposition_energy_per_atom: float  # against all phases of other compositions
    formation_energy_per_atom: float  # from the elements of the same level
    decomposition: Mapping[str, float]  # material_id of each phase of other compositions -> fraction of the atoms
    reference_version: str  # hash of the entries that the hull was made of


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the surrogate expected of a property before a round of DFT.

    Decomposition energies in ledgers of before version 4 were learned against all phases but the material itself, those
    of its composition among them; where the target was the energy above the hull, they are named so.
    """

    material_id: str
    round: int
    target: str
    mean: float  # below the target's floor (`materials.targets.floor_of`): an answer at it is expected
    std: float  # of the answer that DFT will give, noise included
    surrogate_version: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Why a candidate was chosen for DFT.

    `why` holds what else was known at that time, empty in a ledger that is older than it: `odds` of meeting the
    targets; `rank_by_potential`, `of` how many; `neighbours`, the nearest that DFT had answered for, with
    `material_id`, `distance` (1 is the median distance of two candidates) and `answers`; `cautions`, in words;
    `answered`, the properties that were known of it already; `calculations`, the `calculation_id` of each that no
    earlier pick asks for, its own and those of its competing phases.
    """

    material_id: str
    round: int
    acquisition: str  # "probability_of_all_targets", "potential_ranking", "audit", …
    score: float
    rank: int  # within the batch, 1 first
    seed: int
    why: Mapping[str, Any] = field(default_factory=dict)

    def predates(self, name: str) -> bool:
        """Whether it was made before DFT had a property of the candidate: as a competing phase it may have a gap."""
        return name not in self.why.get("answered", ())


READ = "read"  # stage of a failure: what a source holds could not be read, so that there is no material


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong with one structure, as data."""

    material_id: str  # or, where there is no material yet, what it was to be read from
    stage: str
    error: str  # short and countable: "UnreadableStructure", "TooClose", "KilledWorker"
    message: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """A wish: what is to be found.

    `near` value within tolerance, `at_most` or `at_least` value, or simply `minimize` or `maximize`. The first
    three can be met or missed; the last two only order.
    """

    property: str  # "decomposition_energy_per_atom", "band_gap", …
    goal: Goal
    value: float | None = None
    tolerance: float | None = None  # only with "near"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedCandidate:
    """One row of the table that people query: the best evidence, and what it rests on. Energies in eV/atom.

    `energy_above_hull`, `decomposition_energy_per_atom` and `formation_energy_per_atom` are of the fidelity that
    `fidelity` names: DFT where there is a DFT hull, else the potential. The columns that end in `_mlip` are the
    potential's, always. `score` is the probability that the candidate meets every target (0 or 1 once DFT has
    spoken on all of them); None where nothing is known.
    """

    rank: int
    material_id: str
    formula: str
    chemsys: str
    n_sites: int
    parents: str
    status: str  # "validated", "selected", "screened", "proposed" (not screened yet), "failed"
    fidelity: Fidelity | None
    level_of_theory: str | None
    energy_above_hull: float | None
    decomposition_energy_per_atom: float | None
    formation_energy_per_atom: float | None
    band_gap: float | None  # eV, DFT only
    score: float | None
    meets_targets: bool | None  # None until DFT has answered
    energy_above_hull_mlip: float | None
    decomposition_energy_mlip: float | None
    formation_energy_mlip: float | None
    predicted: Mapping[str, tuple[float, float]]  # target -> (mean, std), the latest prediction
    round: int | None  # the round that chose it
    acquisition: str | None
    volume_per_atom: float | None  # Å³
    known_as: str
    message: str
    magnetic_order: str | None = (
        None  # of the lowest that DFT tried: "none", "ferromagnetic", "antiferromagnetic (½ ½ ½)"
    )
    total_magnetization_per_formula_unit: float | None = None  # μB, DFT only
    pareto_front: bool | None = None  # no other validated one is better in one wish and no worse in the others
