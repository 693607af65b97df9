"""DFT code protocol: settings, limits and results, the same for every code.

A calculation is a folder. The code writes its input there, an external process works in it, and its end is read from
it; nothing of a calculation lives only in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from materials.records import content_hash
from materials.secrets import without_secrets

if TYPE_CHECKING:
    from pymatgen.core import Structure

DFTStatus = Literal[
    "converged",
    "max_steps",  # the relaxation ran out of steps
    "scf_not_converged",  # on any rung of the code's ladder of mixers
    "walltime",
    "out_of_memory",
    "crashed",  # the process died without a word
    "cancelled",  # by a person, in the queue
    "failed",  # the code refused: geometry, missing PAW setup, an energy that rises
]

# Fields of DFTSettings that are not hashed where they are empty.
LATER = frozenset({"density_cutoff_ev", "level", "inputs", "gap_edges", "hubbard", "magnetic_orders"})
# What is said of a calculation, and decides nothing.
SAID = frozenset({"orders_left_out"})

# What a calculation needs: one thread a rank, MPI that runs as root too.
CALCULATION_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # A process on its own must not start MPI's daemon.
    "OMPI_MCA_ess_singleton_isolated": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, kw_only=True)
class DFTSettings:
    """Everything that decides the number that comes out. Hashed, so that an answer is known by its question.

    Attributes:
        code: Name of the code: "gpaw", "espresso", "vasp".
        preset: Where the values come from: "quick", "standard", "accurate", or the name of an input set.
        potentials: Frozen cores and their version: "gpaw-setups-1.2.1".
        functional: "PBE".
        cutoff_ev: Of the plane waves, eV; one for all phases of a hull.
        kpoints: Divisions of the mesh along the reciprocal axes of the cell that is computed: the symmetrised primitive
            one, or the supercell of its magnetic orders.
        kpoint_shift: Along which axes the mesh is moved by half a division (False: it holds Γ).
        gap_kpoints: Divisions of the Γ-centred mesh whose levels are found at fixed density, for the band gap.
        smearing_ev: Width of the Fermi–Dirac occupations, eV; the energy is extrapolated to zero width.
        convergence_energy_ev: Largest change of the energy in the last SCF steps, eV per valence electron.
        convergence_density: Largest change of the density, electrons per valence electron.
        max_scf_steps: Steps of an SCF cycle before the next rung of the ladder of mixers.
        magnetic_moments: Element -> moment to start from, μB an atom, all parallel. Empty: no spin.
        magnetic_orders: The orders that are tried, of which the lowest is kept: `supercell`, lattice vectors in units
            of the symmetrised primitive cell's, and `tried`, for each order its name and the moment (μB) of each site
            of that supercell. Empty: only the parallel one, in the primitive cell.
        orders_left_out: Orders that are not tried, and why.
        mode: "static" on the geometry as it comes, or "relax" of positions and cell, then static.
        fmax: Largest force on an atom (its length) after a relaxation, eV/Å.
        max_stress_gpa: Largest component of the stress after a relaxation, GPa.
        max_steps: Steps of a relaxation.
        geometry: Whose geometry it starts from: the `calculation_id` of the relaxation by the potential, say.
        density_cutoff_ev: Of the plane waves of the density, eV, where it is not what the code makes of the other.
        level: What its energies mean, where the code has rules of its own for that; empty: by functional, potentials
            and cut-off.
        inputs: The very input of a code whose input is made by somebody else's rules: it decides the number, too.
        gap_edges: "both meshes": the band gap is between the highest full and the lowest empty level of the meshes
            `kpoints` and `gap_kpoints` together. Empty: the lowest empty level is that of `gap_kpoints` alone.
        hubbard: Hubbard U of the elements of the whole hull, by shell: "Mn-3d" -> eV.
    """

    code: str
    preset: str
    potentials: str
    functional: str = "PBE"
    cutoff_ev: float
    kpoints: tuple[int, int, int]
    kpoint_shift: tuple[bool, bool, bool]
    gap_kpoints: tuple[int, int, int]
    smearing_ev: float
    convergence_energy_ev: float
    convergence_density: float
    max_scf_steps: int
    magnetic_moments: Mapping[str, float] = field(default_factory=dict)
    mode: Literal["static", "relax"] = "static"
    fmax: float = 0.05
    max_stress_gpa: float = 0.5
    max_steps: int = 60
    geometry: str = ""
    density_cutoff_ev: float | None = None
    level: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    gap_edges: str = ""
    hubbard: Mapping[str, float] = field(default_factory=dict)
    magnetic_orders: Mapping[str, Any] = field(default_factory=dict)
    orders_left_out: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """The settings as JSON-like data; `settings_hash` is its hash."""
        found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        # What came later, at its default, leaves a calculation the one that it was.
        return {key: value for key, value in found.items() if key not in SAID and (key not in LATER or value)}

    @property
    def settings_hash(self) -> str:
        """Short hash of `content`."""
        return content_hash(self.content())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one calculation may use. Not part of the question: another limit gives the same answer, or none."""

    cores: int = 1
    walltime_s: float = 3600.0
    memory_gib: float = 8.0  # all ranks together
    mpi: tuple[str, ...] = ("mpirun", "-np", "{cores}")  # what starts the ranks, word by word

    @property
    def launcher(self) -> tuple[str, ...]:
        """The words that start the ranks, none for a single one."""
        return tuple(word.format(cores=self.cores) for word in self.mpi) if self.cores > 1 else ()


@dataclass(frozen=True, kw_only=True)
class DFTResult:
    """How a calculation ended.

    Attributes:
        status: "converged", or why there is no result.
        energy: Total energy of `structure`, eV, smearing extrapolated to zero, in the convention of its level of
            theory: with corrections in, if that says so.
        structure: The cell that was computed: symmetrised and primitive, relaxed if that was asked for.
        band_gap: eV; 0 for a metal; None where nothing converged.
        max_force: Largest force on an atom (its length), eV/Å. Of GPAW and Quantum ESPRESSO older ledgers have its
            largest component here, which is up to 1.7 times smaller, and `fmax` was compared with that.
        max_stress: Largest component of the stress, eV/Å³; None where the code wrote none.
        n_steps: Geometry steps taken; 0 for a static calculation.
        wall_time_s: Of all attempts that this result took.
        attempts: Rungs of the ladder of mixers that were climbed; 1 if the first one served.
        message: Why there is no result, with the last lines of the log.
        properties: What else the code found, by the Materials Project's names. `stress` is (3, 3), eV/Å³, positive
            where the cell wants to shrink; `forces`, (n, 3), eV/Å, and with spin `magmoms`, (n,), μB within a sphere
            about each atom, are in the order of the sites of `structure`.
    """

    status: DFTStatus
    energy: float | None = None
    structure: Structure | None = None
    band_gap: float | None = None
    max_force: float | None = None
    max_stress: float | None = None
    n_steps: int = 0
    wall_time_s: float = 0.0
    attempts: int = 1
    message: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)


class DFTCode(Protocol):
    """A DFT code, run as an external process in a folder."""

    name: str

    def version(self) -> str:
        """The code's version.

        Raises:
            CodeNotInstalled: It is not on this machine; the message says how to get it.
        """
        ...

    def potentials(self) -> str:
        """Its frozen cores and their version, as `DFTSettings.potentials` has them.

        Raises:
            CodeNotInstalled: It is not on this machine.
        """
        ...

    def find_potentials(self, elements: Iterable[str]) -> None:
        """Make sure that there are frozen cores for these elements, before anything is spent.

        Elements that show only later, in a file or a database's answer, become calculations that fail.

        Raises:
            CampaignError: The campaign's own table has none for some.
            DFTError: They were looked for in vain; the message says where.
        """
        ...

    def settings(
        self,
        preset: str,
        elements: Iterable[str],
        structure: Structure,
        *,
        relax: bool | None = None,
        geometry: str = "",
    ) -> DFTSettings:
        """Settings for one crystal of a hull.

        Args:
            preset: "quick", "standard" or "accurate"; a code with input sets has its own names for that.
            elements: Of the whole hull: what shifts totals is the same for all of its phases.
            structure: The crystal, symmetrised or not.
            relax: Whether positions and cell are relaxed; None: as the preset has it.
            geometry: Whose geometry it is (`DFTSettings.geometry`).

        Raises:
            DFTError: There is no such preset.
            CodeNotInstalled: The code is not on this machine.
        """
        ...

    def write_inputs(self, folder: Path, structure: Structure, settings: DFTSettings, limits: Limits) -> None:
        """Write what `command` will read; a calculation that was interrupted goes on from its checkpoint."""
        ...

    def command(self, folder: Path, mpi: Sequence[str]) -> list[str]:
        """The process that computes what lies in the folder; `mpi` starts its ranks, empty for a single one."""
        ...

    def finished(self, folder: Path, limits: Limits) -> bool:
        """Whether the folder holds a result, good or bad; one that wanted more time or memory than it had, and less
        than `limits` gives, is none."""
        ...

    def worker(self, folder: Path) -> int | None:
        """The process, anybody's, that works in the folder now; 0 if it works on another machine, None if none does."""
        ...

    def parse(self, folder: Path) -> DFTResult:
        """Read how the calculation ended; without a result it is "crashed"."""
        ...

    def give_up(self, folder: Path, result: DFTResult) -> None:
        """Make this the folder's result, where the process itself could not write one."""
        ...


def clean_environment() -> dict[str, str]:
    """This process's environment, made fit for a calculation, and without what is secret in it."""
    return {**without_secrets(os.environ), **CALCULATION_ENVIRONMENT}


def last_lines(paths: Sequence[Path], count: int = 8) -> str:
    """The last lines of the logs that exist, for a message: a reader should not have to look for the folder.

    Args:
        paths: Logs, the one that says most first.
        count: Lines of each.
    """
    parts = []
    for path in paths:
        if path.is_file():
            lines = [line.rstrip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                parts.append("\n".join(lines[-count:]))
    return "\n".join(parts)
