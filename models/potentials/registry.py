"""Finds, identifies and loads potentials by family and name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from materials.errors import PotentialNotInstalled
from models.potentials.base import Potential, PotentialIdentity

KINDS = ("chgnet", "matgl", "ase", "torchsim")
CHGNET_MODELS = {  # name -> level of theory, correction still needed, atomic numbers without training data
    "0.3.0": ("PBE+U/MP2020", None, {84, 85, 86, 87, 88}),
    "r2scan": ("r2SCAN", None, {70, 84, 85, 86, 87, 88}),
}


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
        return _identify_chgnet(model or "0.3.0", level_of_theory, correction)
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


def content_of(paths: Iterable[Path]) -> str:
    """Hash of the content of files, whatever they are called and wherever they are."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _identify_chgnet(model: str, level_of_theory: str | None, correction: str | None) -> PotentialIdentity:
    from pymatgen.core import Element

    path = chgnet_path(model)
    known_level, known_correction, untrained = CHGNET_MODELS.get(model, (None, None, CHGNET_MODELS["0.3.0"][2]))
    if level_of_theory is None:
        if known_level is None:
            raise PotentialNotInstalled(
                f"{model} is a checkpoint of your own: say its level_of_theory, and correction if its energies are raw"
            )
        level_of_theory, correction = known_level, known_correction
    return PotentialIdentity(
        method=f"chgnet-{model if model in CHGNET_MODELS else path.name.split('.')[0]}",
        level_of_theory=level_of_theory,
        correction=correction,
        weights_hash=content_of([path]),
        elements=frozenset(Element.from_Z(number).symbol for number in set(range(1, 95)) - untrained),
    )


def chgnet_path(model: str) -> Path:
    """Find a checkpoint of the chgnet package by its name there, or by its path.

    Raises:
        PotentialNotInstalled: If there is none.
    """
    if model not in CHGNET_MODELS:
        path = Path(model)
        if path.is_file():
            return path
        raise PotentialNotInstalled(
            f"chgnet has no model {model!r}, nor is it a file: choose {', '.join(CHGNET_MODELS)} or a checkpoint's path"
        )
    spec = find_spec("chgnet")
    if spec is None or spec.origin is None:
        raise PotentialNotInstalled("the package chgnet is not installed: pip install chgnet")
    paths = sorted((Path(spec.origin).parent / "pretrained" / model).glob("*.pth.tar"))
    if len(paths) != 1:
        raise PotentialNotInstalled(f"the package chgnet carries no weights {model!r}: pip install -U chgnet")
    return paths[0]


def cuda_devices() -> list[str]:
    """Name the CUDA devices that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
