"""Ledger record of a DFT calculation: its key, its level of theory, whether it is final."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from materials.records import Calculation
from models.dft.base import DFTCode, DFTResult, DFTSettings, Limits
from models.dft.hubbard import PROJECTORS, named_in_level
from models.dft.presets import BOTH_MESHES, PRESETS

# What a calculation of this status wanted more of.
_LIMIT_OF = {"walltime": "walltime_s", "out_of_memory": "memory_gib"}


def method_of(code: DFTCode) -> str:
    """Who computes, as `Calculation.method` has it: "gpaw-26.7.0"."""
    return f"{code.name}-{code.version()}"


def level_of_theory(settings: DFTSettings) -> str:
    """What an energy means: everything that shifts totals, so that only comparable ones meet in a hull."""
    if settings.level:
        return settings.level
    functional = f"{settings.functional}{named_in_level(settings.hubbard)}"
    density = f"/RHO{settings.density_cutoff_ev:g}" if settings.density_cutoff_ev else ""
    projectors = f"/{PROJECTORS[settings.code]}" if settings.hubbard else ""
    return f"{functional}/{settings.potentials}/PW{settings.cutoff_ev:g}{density}{projectors}"


def calculation_id(material_id: str, method: str, settings: DFTSettings) -> str:
    """The key that the calculation will have in the ledger, and the name of its folder."""
    return calculation_from(DFTResult(status="failed"), material_id, method, settings).calculation_id


def calculation_from(result: DFTResult, material_id: str, method: str, settings: DFTSettings) -> Calculation:
    """Turn the end of a calculation into the ledger's record.

    Args:
        result: How it ended.
        material_id: Of the material that was asked about.
        method: From `method_of`.
        settings: The question.
    """
    if result.status == "converged" and (result.energy is None or result.structure is None):
        message = f"it converged without an energy or a crystal {result.message}".strip()
        result = replace(result, status="failed", energy=None, message=message)
    properties: dict[str, Any] = dict(result.properties)
    if result.band_gap is not None:
        properties["band_gap"] = result.band_gap
    properties |= {"preset": settings.preset, "mode": settings.mode, "kpoints": list(settings.kpoints)}
    if settings.gap_edges:
        properties["gap_edges"] = settings.gap_edges
    if settings.orders_left_out:
        properties["orders_left_out"] = list(settings.orders_left_out)
    if result.attempts > 1:
        properties["scf_attempts"] = result.attempts
    return Calculation(
        material_id=material_id,
        method=method,
        fidelity="dft",
        level_of_theory=level_of_theory(settings),
        settings_hash=settings.settings_hash,
        status=result.status,
        structure=result.structure,
        energy=result.energy,
        max_force=result.max_force,
        max_stress=result.max_stress,
        n_steps=result.n_steps,
        wall_time_s=result.wall_time_s,
        message=result.message,
        properties=properties,
    )


def has_gap(calculation: Calculation) -> bool:
    """Whether it found a gap, which the empty levels of another mesh could make narrower; no gap stays none."""
    return bool(calculation.properties.get("band_gap"))


def has_gap_of_before(calculation: Calculation) -> bool:
    """Whether it found a gap by the presets of before `DFTSettings.gap_edges`, which may be too wide.

    VASP's gaps are of one mesh in every version, and stand.
    """
    found = calculation.properties
    # The first version that had both meshes did not note it; it was the first to note a magnetic order, too.
    by_both = found.get("gap_edges") == BOTH_MESHES or "magnetic_order" in found
    return found.get("preset") in PRESETS and not by_both and has_gap(calculation)


def with_limits(result: DFTResult, limits: Limits) -> DFTResult:
    """Note which limit a calculation ran into, so that the ledger too knows whether a more generous one is worth a try.

    Args:
        result: How it ended.
        limits: That it had.
    """
    named = _LIMIT_OF.get(result.status)
    if named is None:
        return result
    return replace(result, properties={**result.properties, named: getattr(limits, named)})


def from_outside(result: DFTResult) -> DFTResult:
    """Note that it was ended from outside, so that the ledger too knows that it is no answer to the question."""
    return replace(result, properties={**result.properties, "from_outside": True})


def is_final(calculation: Calculation, limits: Limits) -> bool:
    """Whether the ledger's answer stands: one that ran into a limit does for that limit only, none from outside does.

    Args:
        calculation: As the ledger has it.
        limits: The most that it may be given now.
    """
    if calculation.properties.get("from_outside"):
        return False
    named = _LIMIT_OF.get(calculation.status)
    return named is None or bool(calculation.properties.get(named, 0.0) >= getattr(limits, named))
