"""Relaxation of a chunk of candidates, as a Dask worker runs it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from materials.crystals.serialization import structure_from_json
from materials.errors import HullError
from materials.records import Calculation, CalculationStatus, WrittenCalculation, content_hash
from materials.stability.corrections import correct
from materials.store.rows import write_calculation
from models.potentials.registry import load_potential
from models.relaxation.relax import Frame, Relaxed, relax
from models.relaxation.settings import RelaxationSettings

if TYPE_CHECKING:
    from models.potentials.base import Potential, PotentialIdentity


@dataclass(frozen=True, kw_only=True)
class PotentialChoice:
    """Which potential, as a campaign names it; small enough to travel with each chunk."""

    kind: str
    model: str | None = None
    device: str = "cpu"
    precision: str = "float32"
    level_of_theory: str | None = None
    correction: str | None = None
    calculator_arguments: tuple[tuple[str, Any], ...] = field(default=())


# A potential keeps what it works on: a worker of somebody's cluster may have several threads.
_one_at_a_time = threading.Lock()


@lru_cache(maxsize=1)
def loaded(choice: PotentialChoice) -> Potential:
    """Load a potential, once a process."""

    return load_potential(
        choice.kind,
        model=choice.model,
        device=choice.device,
        precision=choice.precision,
        level_of_theory=choice.level_of_theory,
        correction=choice.correction,
        calculator_arguments=dict(choice.calculator_arguments),
    )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What became of a chunk."""

    calculations: list[WrittenCalculation]
    trajectories: Mapping[str, Sequence[Frame]]  # by material_id, where the settings ask for them


def screening_hash(settings: RelaxationSettings, weights_hash: str, precision: str = "float32") -> str:
    """Hash what decides the answer: how it is relaxed, with which weights, in which precision."""
    content = {**settings.content(), "weights": weights_hash}
    return content_hash(content if precision == "float32" else {**content, "precision": precision})


def relax_chunk(choice: PotentialChoice, settings: RelaxationSettings, written: Mapping[str, str]) -> Answers:
    """Relax a chunk and record each structure's end, in the potential's level of theory.

    Structures come as the ledger has them and go as it will have them, for the flow to hand on as they are.

    Args:
        choice: The potential.
        settings: How to relax.
        written: Structures by material_id, as `structure_to_json` wrote them.

    Returns:
        One calculation for each structure, whatever became of it, and the trajectories that were asked for.
    """
    ids = list(written)
    structures = [structure_from_json(text) for text in written.values()]
    with _one_at_a_time:
        potential = loaded(choice)
        results = [(ids[index], relaxed) for index, relaxed in relax(potential, structures, settings)]
    hashed = screening_hash(settings, potential.weights_hash, choice.precision)
    return Answers(
        calculations=[
            write_calculation(_record(potential, material_id, hashed, relaxed)) for material_id, relaxed in results
        ],
        trajectories={material_id: relaxed.trajectory for material_id, relaxed in results if relaxed.trajectory},
    )


def failed_calculations(
    identity: PotentialIdentity,
    hashed: str,
    written: Mapping[str, str],
    message: str,
    status: CalculationStatus = "failed",
) -> list[WrittenCalculation]:
    """Record structures that no worker brought back."""
    lost = [
        Calculation(
            material_id=material_id,
            method=identity.method,
            fidelity="mlip",
            level_of_theory=identity.level_of_theory,
            settings_hash=hashed,
            status=status,
            structure=structure_from_json(text),
            energy=None,
            message=message,
        )
        for material_id, text in written.items()
    ]
    return [write_calculation(calculation) for calculation in lost]


def _record(potential: Potential, material_id: str, hashed: str, relaxed: Relaxed) -> Calculation:
    energy, status, message = relaxed.energy, relaxed.status, relaxed.message
    if energy is not None:
        try:
            energy = correct(potential.correction, relaxed.structure, energy)
        except HullError as error:  # no rule for this one: without it the energy means something else
            energy, status, message = None, "unsupported", str(error)
    properties: dict[str, Any] = {}
    if relaxed.latent is not None:
        properties["latent"] = [float(f"{value:.6g}") for value in relaxed.latent]
    if relaxed.magmoms is not None:
        properties["magmoms"] = [round(float(value), 4) for value in relaxed.magmoms]
    return Calculation(
        material_id=material_id,
        method=potential.method,
        fidelity="mlip",
        level_of_theory=potential.level_of_theory,
        settings_hash=hashed,
        status=status,
        structure=relaxed.structure,
        energy=energy,
        max_force=relaxed.max_force,
        max_stress=relaxed.max_stress,
        n_steps=relaxed.n_steps,
        wall_time_s=relaxed.wall_time_s,
        message=message,
        properties=properties,
    )
