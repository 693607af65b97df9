"""How a run of VASP ended, by what lies in its folder and what custodian tells; no program runs."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from custodian.vasp.handlers import VaspErrorHandler

from models.dft.runtime.calculation import Died, Ended
from models.dft.vasp import calculation as vasp_physics
from models.dft.vasp.calculation import Errors, end_of
from models.dft.vasp.output import energy_of

GAVE_UP = "Max errors per job reached: 5."


def seen(*errors: str) -> list[dict[str, Any]]:
    """Of three runs."""
    return [{"errors": list(errors), "actions": [{"dict": "INCAR", "action": {"_set": {"ALGO": "All"}}}]}] * 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("brmix", "scf_not_converged"),
        ("dentet", "scf_not_converged"),
        ("subspacematrix", "scf_not_converged"),
        ("eddrmm", "scf_not_converged"),
        ("edddav", "scf_not_converged"),
        ("zheev", "scf_not_converged"),
        ("Non-converging job", "scf_not_converged"),
        ("brions", "failed"),
        ("zbrent", "failed"),
        ("rot_matrix", "failed"),
        ("read_error", "failed"),
        ("zpotrf", "failed"),
    ],
)
def test_what_custodian_gave_up_is_called_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, status: str
) -> None:
    monkeypatch.chdir(tmp_path)
    end = end_of(GAVE_UP, seen(error))
    assert isinstance(end, Ended)
    assert end.status == status
    assert f"custodian saw {error}, {error}" in str(end)


class Converged:
    """A run that VASP calls converged."""

    converged_electronic = converged_ionic = True
    parameters: ClassVar = {"NELM": 100}
    ionic_steps: ClassVar = [{"e_0_energy": -10.0, "electronic_steps": []}]

    def __init__(self, *_: object, **__: object) -> None: ...


@pytest.mark.parametrize(
    ("error", "second", "status"),
    [
        ("brions", True, "converged"),
        ("brions", False, "failed"),  # the cell of the first relaxation has the plane waves of another
        ("brmix", True, "scf_not_converged"),
        ("zpotrf", True, "failed"),
    ],
)
def test_what_vasp_calls_converged_is_asked_of_custodian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, second: bool, status: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vasp_physics, "Vasprun", Converged)
    monkeypatch.setattr(vasp_physics, "read_run", lambda *_: {"energy": -10.0, "numbers": [14, 14], "properties": {}})
    if second:
        Path("vasprun.xml.relax1").touch()
    try:
        found = vasp_physics.result_of({"mode": "relax"}, seen(error), GAVE_UP, 3)["status"]
    except Ended as end:
        found = end.status
    assert found == status


@pytest.mark.parametrize(
    ("said", "repaired", "words", "kind"),
    [
        ("Validation failed: VasprunXMLValidator", [], "", Died),
        # Mended before, and then killed.
        ("Validation failed: VasprunXMLValidator", seen("brmix"), "RMM:   9", Died),
        ("Validation failed: VasprunXMLValidator", [], "I REFUSE TO CONTINUE WITH THIS SICK JOB", "failed"),
        (GAVE_UP, seen("edddav"), "forrtl: severe (41): insufficient virtual memory", "out_of_memory"),
    ],
)
def test_a_death_is_told_from_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, repaired: list[dict[str, Any]], words: str, kind: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vasp.out").write_text(f" entering main loop\n{words}\n")
    end = end_of(said, repaired)
    assert isinstance(end, Died) if kind is Died else getattr(end, "status", "") == kind


@pytest.mark.parametrize(
    ("words", "lreal", "found"),
    [
        ("WARNING: Sub-Space-Matrix is not hermitian in DAV    1 -0.03", "Auto", {"subspacematrix"}),
        # No cure is known, and VASP goes on.
        ("WARNING: Sub-Space-Matrix is not hermitian in DAV    1 -0.03", ".FALSE.", set()),
        ("BRMIX: very serious problems", ".FALSE.", {"brmix"}),
        (" BRIONS problems: POTIM should be increased", ".FALSE.", {"brions"}),
        ("  WARNING: DENTET: can't reach specified precision", ".FALSE.", {"dentet"}),
        ("WARNING in EDDRMM: call to ZHEGV failed, returncode =   8  4  1", ".FALSE.", {"eddrmm"}),
        ("DAV:   1", "Auto", set()),
    ],
)
def test_what_can_be_mended_is_looked_for(tmp_path: Path, words: str, lreal: str, found: set[str]) -> None:
    (tmp_path / "INCAR").write_text(f"LREAL = {lreal}\n")
    (tmp_path / "vasp.out").write_text(f" entering main loop\n{words}\n")
    handler = Errors()
    assert handler.check(str(tmp_path)) is bool(found)
    assert handler.errors == found
    assert issubclass(Errors, VaspErrorHandler)


def test_the_energy_of_an_ionic_step_is_that_of_zero_width_in_any_version() -> None:
    last = {"e_fr_energy": -10.2, "e_wo_entrp": -10.0, "e_0_energy": -10.1}
    electronic = [{**last, "e_0_energy": -9.0}, last]
    new = {**last, "electronic_steps": electronic}
    old = {"e_fr_energy": -10.2, "e_wo_entrp": -10.1, "e_0_energy": 0.0, "electronic_steps": electronic}
    dispersed = {**new, "e_fr_energy": -10.7, "e_0_energy": -10.6}
    assert energy_of(new) == pytest.approx(-10.1)
    assert energy_of(old) == pytest.approx(-10.1)
    assert energy_of(dispersed) == pytest.approx(-10.6)
    assert energy_of({**last, "electronic_steps": []}) == pytest.approx(-10.1)
