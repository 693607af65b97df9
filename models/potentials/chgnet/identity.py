"""Identity of CHGNet checkpoints: their files and levels of theory, without importing torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from materials.errors import PotentialNotInstalled
from models.potentials.base import PotentialIdentity, content_of

CHGNET_MODELS = {  # name -> level of theory, correction still needed, atomic numbers without training data
    "0.3.0": ("PBE+U/MP2020", None, {84, 85, 86, 87, 88}),
    "r2scan": ("r2SCAN", None, {70, 84, 85, 86, 87, 88}),
}


def identify_chgnet(model: str, level_of_theory: str | None, correction: str | None) -> PotentialIdentity:
    """Say what a CHGNet checkpoint is: its level of theory, weights and elements, without loading it.

    Raises:
        PotentialNotInstalled: There is none, or nobody knows its level of theory.
    """
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
