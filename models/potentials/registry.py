"""Registry of potentials: identify and load them by family and name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from materials.errors import PotentialNotInstalled
from models.potentials.base import Potential, PotentialIdentity
from models.potentials.chgnet.identity import chgnet_path, identify_chgnet

KINDS = ("chgnet", "matgl", "ase", "torchsim")


def identify(
    kind: str = "chgnet",
    *,
    model: str | None = None,
    level_of_theory: str | None = None,
    correction: str | None = None,
    calculator_arguments: Mapping[str, Any] | None = None,
) -> PotentialIdentity:
    """Say what a potential is without loading its model, or torch.

    Args:
        kind: The family: `chgnet`, `matgl`, `ase` or `torchsim`.
        model: The family's name of it, or a path; for `ase` and `torchsim` an import path `package.module:callable`.
        level_of_theory: What its energies mean; needed where the family does not know.
        correction: The correction that its raw energies need to reach that level; with `level_of_theory`.
        calculator_arguments: Keyword arguments of an `ase` calculator or a `torchsim` model.

    Raises:
        PotentialNotInstalled: If there is no such potential here, or nobody knows its level of theory.
    """
    if kind == "chgnet":
        return identify_chgnet(model or "0.3.0", level_of_theory, correction)
    if kind == "matgl":
        from models.potentials.matgl.identity import identify_matgl

        return identify_matgl(model, level_of_theory, correction)
    if kind in ("ase", "torchsim"):
        from models.potentials.import_path import identify_import

        return identify_import(kind, model, level_of_theory, correction, calculator_arguments or {})
    raise PotentialNotInstalled(f"no family of potentials is called {kind!r}; there are {', '.join(KINDS)}")


def load_potential(
    kind: str = "chgnet",
    *,
    model: str | None = None,
    device: str = "cpu",
    precision: str = "float32",
    level_of_theory: str | None = None,
    correction: str | None = None,
    calculator_arguments: Mapping[str, Any] | None = None,
) -> Potential:
    """Load a potential and check it on compounds whose formation energies are known.

    Args:
        kind: As in `identify`, and so `model`, `level_of_theory`, `correction` and `calculator_arguments`.
        model: See `identify`.
        device: Where to evaluate: `cpu`, `cuda`, `cuda:1`. An `ase` calculator sees to that itself.
        precision: `float32` or `float64`, of the model; geometry and sums are always in double precision.
        level_of_theory: See `identify`.
        correction: See `identify`.
        calculator_arguments: See `identify`.

    Raises:
        PotentialNotInstalled: If the potential, its package or its weights are not here.
        AnchorMismatch: If it gets the known compounds wrong.
    """
    from models.potentials.reference_compounds import check_anchors

    identity = identify(
        kind,
        model=model,
        level_of_theory=level_of_theory,
        correction=correction,
        calculator_arguments=calculator_arguments,
    )
    potential: Potential
    if kind == "chgnet":
        from models.potentials.chgnet.potential import load_chgnet

        potential = load_chgnet(identity, chgnet_path(model or "0.3.0"), device=device, precision=precision)
    elif kind == "matgl":
        from models.potentials.matgl.potential import load_matgl

        potential = load_matgl(identity, str(model), device=device, precision=precision)
    elif kind == "torchsim":
        from models.potentials.torch_sim_model import load_torchsim

        potential = load_torchsim(identity, str(model), calculator_arguments or {}, device=device, precision=precision)
    else:
        from models.potentials.ase_calculator import load_ase

        potential = load_ase(identity, str(model), calculator_arguments or {})
    check_anchors(potential)
    return potential


def cuda_devices() -> list[str]:
    """Name the CUDA devices that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
