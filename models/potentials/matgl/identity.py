"""Identity of matgl models: their files and levels of theory, without importing matgl."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from materials.errors import PotentialNotInstalled
from models.potentials.base import PotentialIdentity, content_of
from models.potentials.chgnet.identity import identify_chgnet

FILES = ("model.json", "model.pt", "state.pt")
ORGANISATION = "materialyze"  # where matgl itself looks for a bare name
LEVELS = {  # what stands in a model's name -> level of theory, correction that its energies still need
    "MatPES-PBE": ("PBE", None),
    "MatPES-r2SCAN": ("r2SCAN", None),
    "MP-2021": ("PBE+U/MP2020", "MP2020"),
}
OF_PACKAGE = {  # name -> the chgnet package's name of the weights that matgl's CHGNet gets
    "CHGNet-0.3.0": "0.3.0",
    "CHGNet-r2scan": "r2scan",
}


def identify_matgl(model: str | None, level_of_theory: str | None, correction: str | None) -> PotentialIdentity:
    """Say what a matgl model is.

    Raises:
        PotentialNotInstalled: If its files are not found, hold no potential, or its level of theory is unknown.
    """
    if model in OF_PACKAGE:
        package = identify_chgnet(OF_PACKAGE[model], level_of_theory, correction)
        return replace(package, method=f"matgl-{model}")
    folder = matgl_folder(model)
    name = folder.resolve().name if Path(str(model)).is_dir() else str(model)
    if level_of_theory is None:
        known = [level for part, level in LEVELS.items() if part in name]
        if not known:
            raise PotentialNotInstalled(
                f"nobody knows what the energies of the matgl model {name!r} mean: "
                "say its level_of_theory (and correction, if they are raw)"
            )
        level_of_theory, correction = known[0]
    content = json.loads((folder / "model.json").read_text())
    return PotentialIdentity(
        method=f"matgl-{name}",
        level_of_theory=level_of_theory,
        correction=correction,
        weights_hash=content_of(folder / file for file in FILES),
        elements=frozenset(_elements(content, folder)),
    )


def matgl_folder(model: str | None) -> Path:
    """Find the folder with a model's files: the one that is named, or the hub's, fetched if need be.

    Raises:
        PotentialNotInstalled: If there is none.
    """
    if not model:
        raise PotentialNotInstalled(
            "matgl needs a model: a folder, or a name such as TensorNet-PES-MatPES-PBE-2025.2 or CHGNet-0.3.0"
        )
    path = Path(model)
    if path.is_dir():
        missing = [file for file in FILES if not (path / file).is_file()]
        if missing:
            raise PotentialNotInstalled(
                f"{path} lacks {', '.join(missing)}: give a folder that matgl's save has written"
            )
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository = model if "/" in model else f"{ORGANISATION}/{model}"
    try:
        found = [Path(hf_hub_download(repository, file)) for file in FILES]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise PotentialNotInstalled(
            f"the matgl model {model!r} is neither a folder nor in the Hugging Face cache, and {repository} could not "
            f"be fetched ({type(error).__name__}): fetch it where there is a network and give its folder"
        ) from error
    return found[0].parent


def _elements(content: dict[str, Any], folder: Path) -> list[str]:
    """The element list of a model, wherever its `model.json` keeps it."""
    waiting: list[Any] = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("element_types"), list):
                return [str(symbol) for symbol in item["element_types"]]
            waiting.extend(item.values())
    raise PotentialNotInstalled(f"{folder / 'model.json'} names no element_types: this is no potential of matgl 4")
