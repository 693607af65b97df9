"""What is said of hulls whose level of theory cannot be relied on for their elements."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.config.campaign import DFT
from flows.report import report
from flows.report.level_caveats import caveats
from materials.records import RankedCandidate
from materials.stability.competing_phases import ValidationPlan
from tests.unit.materials import made_records as made

PBE = "PBE/gpaw-setups-1.2.1/PW600"
CORRECTED = f"{PBE}/MP2020-anions"
WITH_U = "PBE+U(Mn3.9)/gpaw-setups-1.2.1/PW600/U-in-spheres"


def judged(chemsys: str, level: str) -> RankedCandidate:
    return made.ranked(chemsys, chemsys=chemsys, fidelity="dft", status="validated", level_of_theory=level)


@pytest.mark.parametrize(
    ("chemsys", "level", "words"),
    [
        ("Li-Mn-O", CORRECTED, ["no U on Mn,"]),
        ("Cu-F-K", CORRECTED, ["no U on Cu,"]),
        ("Ce-O", CORRECTED, ["no U on Ce,"]),
        ("Fe-Mn-O", f"{WITH_U}/MP2020-anions", ["no U on Fe,", "U acts on Mn in every phase", "fitted without this U"]),
        ("Li-Mn-O", f"{WITH_U}/MP2020-anions", ["U acts on Mn in every phase", "fitted without this U"]),
        ("Li-Mn-O", WITH_U, ["U acts on Mn in every phase", "the reference of O is a molecule (O2)"]),
        ("Li-Mg-N", PBE, ["the reference of N is a molecule (N2)"]),
        ("Cl-H-Na-O", PBE, ["the reference of Cl, H, O is a molecule (Cl2, H2, O2)"]),
        ("Li-O", "r2SCAN/POTCAR-PBE_64/MatPESStaticSet", ["the reference of O is a molecule (O2)"]),
        ("Mn-S", CORRECTED, []),
        ("Li-Mg-O", CORRECTED, []),
        ("O-Zn", CORRECTED, []),
        ("As-Li-Mg", PBE, []),
        ("Li-Mn-O", "PBE+U/MP2020", []),  # VASP as the Materials Project runs it
    ],
)
def test_a_line_for_each_weakness_and_none_without(chemsys: str, level: str, words: list[str]) -> None:
    lines = caveats([judged(chemsys, level)])
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        assert word in line
        assert "\n" not in line


def test_several_hulls_share_a_line_and_the_potentials_are_not_spoken_of() -> None:
    rows = [judged("Fe-O", CORRECTED), judged("Mn-O", CORRECTED), made.ranked("Ni-O", chemsys="Ni-O")]
    (line,) = caveats(rows)
    assert "no U on Fe, Mn," in line


def test_vasp_has_tried_one_magnetic_order() -> None:
    found = {"ferromagnetic": True, "ferrimagnetic (0 0 0)": True, "none": False, None: False}
    for order, told in found.items():
        for level in ("PBE+U/MP2020", "r2SCAN/POTCAR-PBE_64/MatPESStaticSet"):
            lines = caveats([replace(judged("Mn-S", level), magnetic_order=order)])
            assert [("ferromagnetic start alone" in line, "Mn-S" in line) for line in lines] == [(True, True)] * told
    assert caveats([replace(judged("Mn-S", CORRECTED), magnetic_order="ferromagnetic")]) == []


def test_the_report_and_the_terminal_say_it(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(
        folder=tmp_path,
        campaign_id="c",
        progress=SimpleNamespace(seconds={}),
        ledger=SimpleNamespace(
            url="u", unread=lambda _: [], selections=lambda _: [], missing=lambda *_: {"screened": 0}
        ),
        targets=[],
        campaign=SimpleNamespace(name="made", description="", hull_leaves_out="", dft=DFT()),
    )
    plan = ValidationPlan(material_id="Mn-O", phases=("a",), stand_ins={}, left_out=(), n_known=0)
    evidence = report.Evidence(
        rows=[judged("Mn-O", CORRECTED)],
        distances=[],
        plans=[plan],
        relaxed={},
        names={},
        n_answers=0,
        cautions={},
        verdict="",
    )
    text = report.write(run, evidence).read_text()
    assert "no U on Mn" in text.split("## What the hull leaves out")[1]
    assert any("no U on Mn" in line for line in report.closing_lines(run))
