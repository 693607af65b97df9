from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from materials.errors import AnchorMismatch, PotentialNotInstalled
from models.potentials.registry import identify, load_potential


def test_identity_needs_no_torch() -> None:
    program = (
        "import sys; from models.potentials.registry import identify; "
        "print(identify().weights_hash); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == identify().weights_hash


def test_what_chgnet_is() -> None:
    identity, newer = identify(), identify(model="r2scan")
    assert (identity.method, identity.level_of_theory, identity.correction) == ("chgnet-0.3.0", "PBE+U/MP2020", None)
    assert newer.level_of_theory == "r2SCAN"
    assert len(identity.elements) == 89
    assert identity.weights_hash != newer.weights_hash


def test_a_loaded_potential_is_what_was_said(tmp_path: Path) -> None:
    from dataclasses import fields

    from models.potentials.chgnet.identity import chgnet_path

    copy = tmp_path / "mine.pth.tar"
    copy.write_bytes(chgnet_path("0.3.0").read_bytes())
    potential = load_potential(model=str(copy), level_of_theory="PBE+U/MP2020")
    said = identify(model=str(copy), level_of_theory="PBE+U/MP2020")
    assert {f.name: getattr(potential, f.name) for f in fields(said)} == {
        f.name: getattr(said, f.name) for f in fields(said)
    }
    assert said.weights_hash == identify().weights_hash
    with pytest.raises(PotentialNotInstalled, match="level_of_theory"):
        identify(model=str(copy))


@pytest.mark.parametrize(
    ("level_of_theory", "correction"), [("PBE+U/MP2020", "MP2020"), ("PBE", None), ("PBE+U", None)]
)
def test_a_wrong_convention_is_caught(level_of_theory: str, correction: str | None) -> None:
    with pytest.raises(AnchorMismatch, match=r"MgO -0\.3"):
        load_potential(level_of_theory=level_of_theory, correction=correction)


def test_unknown_names_are_told_what_there_is() -> None:
    with pytest.raises(PotentialNotInstalled, match=r"0\.3\.0, r2scan"):
        identify(model="0.9")
    with pytest.raises(PotentialNotInstalled, match="chgnet, matgl, ase"):
        identify("mace")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "other.pth.tar"
    torch.save({"model": {"state_dict": {}, "model_args": {"n_conv": 2}}}, path)
    with pytest.raises(PotentialNotInstalled, match="architecture"):
        load_potential(model=str(path), level_of_theory="PBE")
