"""Import paths `package.module:callable` of potentials: identifying and making them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from materials.errors import PotentialNotInstalled
from materials.records import content_hash
from models.potentials.base import PotentialIdentity

EXAMPLES = {"ase": "mace.calculators:mace_mp", "torchsim": "my_models:mace"}


def identify_import(
    kind: str, model: str | None, level_of_theory: str | None, correction: str | None, arguments: Mapping[str, Any]
) -> PotentialIdentity:
    """Say what a potential is: its import path, its arguments and the version of its package.

    Raises:
        PotentialNotInstalled: If `model` is no import path, or `level_of_theory` is not said.
    """
    from pymatgen.core import Element

    if not model or ":" not in model:
        article = "an" if kind == "ase" else "a"
        raise PotentialNotInstalled(
            f"{article} {kind} potential is an import path such as {EXAMPLES[kind]}, not {model!r}"
        )
    if level_of_theory is None:
        raise PotentialNotInstalled(
            f"nobody knows what the energies of {model} mean: say its level_of_theory (and correction, if they are raw)"
        )
    package = model.split(":")[0].split(".")[0]
    try:
        release = version(packages_distributions().get(package, [package])[0])
    except PackageNotFoundError:
        release = "unknown"
    return PotentialIdentity(
        method=f"{kind}-{model.replace(':', '.')}-{release}",
        level_of_theory=level_of_theory,
        correction=correction,
        weights_hash=content_hash({"path": model, "arguments": dict(arguments), "version": release}),
        elements=frozenset(Element.from_Z(number).symbol for number in range(1, 119)),
    )


def imported(model: str) -> Callable[..., Any]:
    """Import what an import path names.

    Raises:
        PotentialNotInstalled: If there is no such thing here.
    """
    module, _, name = model.partition(":")
    try:
        factory: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PotentialNotInstalled(
            f"{model} cannot be imported ({error}): install its package in this environment"
        ) from error
    return factory


def made(model: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call what was imported.

    Raises:
        PotentialNotInstalled: If it raises.
    """
    try:
        return factory(**arguments)
    except Exception as error:
        raise PotentialNotInstalled(f"{model} with {dict(arguments)} raised {type(error).__name__}: {error}") from error
