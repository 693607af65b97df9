"""Substitutions against pymatgen's own probabilities, predictor and volumes."""

import re

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_prediction.substitution_probability import SubstitutionProbability
from pymatgen.core.structure_prediction.substitutor import Substitutor
from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

from materials.duplicates.duplicates import material_id
from materials.errors import InputError
from materials.sources.prototypes.library import example
from materials.sources.substitution import default_table, propose, table_from

IONS = ["Li1+", "Na1+", "K1+", "Mg2+", "Ca2+", "Ti4+", "Zr4+", "O2-", "S2-"]


@pytest.fixture(scope="module")
def rows() -> list[list[str | float]]:
    """The part of pymatgen's table between a few ions: its own class takes seconds to sum over all."""
    import json
    from importlib import resources

    text = resources.files("pymatgen.core.structure_prediction").joinpath("data", "lambda.json").read_text()
    return [row for row in json.loads(text) if row[0] in IONS and row[1] in IONS]


def test_probabilities_are_pymatgens(rows: list[list[str | float]]) -> None:
    table, theirs = table_from(rows), SubstitutionProbability(lambda_table=rows)
    assert set(table.species) == set(IONS)
    for i, new in enumerate(table.species):
        for j, old in enumerate(table.species):
            assert table.conditional[i, j] == pytest.approx(theirs.cond_prob(new, old), rel=1e-9)


def test_default_table_is_whole_and_normalised() -> None:
    table = default_table()
    assert len(table.species) > 220
    assert table.conditional.sum(axis=0) == pytest.approx(1)


def test_proposals_are_those_of_the_substitutor(rows: list[list[str | float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("materials.sources.substitution.default_table", lambda: table_from(rows))
    parent = example("perovskite").replace_species({"Sr": "Ca"})
    # Ions may swap places: of several proposals of one formula the likeliest is compared.
    ours: dict[str, float] = {}
    for candidate in propose([("mp-1", parent)], threshold=1e-4):
        probability = float(re.search(r"p=([\d.e-]+)", candidate.parents[0])[1])
        ours[candidate.formula] = max(probability, ours.get(candidate.formula, 0.0))
    charges = {"Ca": 2, "Ti": 4, "O": -2}
    decorated = parent.copy().add_oxidation_state_by_element(charges)
    predictions = Substitutor(threshold=1e-4, lambda_table=rows).pred_from_comp(decorated.composition)
    theirs: dict[str, float] = {}
    for prediction in predictions:
        new = {old.symbol: ion.symbol for old, ion in prediction["substitutions"].items()}
        if len(set(new.values())) == 3 and any(old != ion for old, ion in new.items()):
            formula = parent.copy().replace_species(new).composition.reduced_formula
            theirs[formula] = max(prediction["probability"], theirs.get(formula, 0.0))
    assert set(ours) == set(theirs)
    assert ours
    for formula, probability in ours.items():
        assert probability == pytest.approx(theirs[formula], rel=0.06)  # two digits are printed


def test_likely_ones_first_with_parents_and_volumes() -> None:
    magnesia = Structure.from_spacegroup(225, Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    found = list(propose([("mp-1265", magnesia), ("mp-5229", example("perovskite"))], threshold=5e-3))
    chances = [float(re.search(r"p=([\d.e-]+)", c.parents[0])[1]) for c in found]
    assert chances == sorted(chances, reverse=True)
    assert min(chances) >= 5e-3
    calcia = next(c for c in found if c.formula == "CaO")
    assert re.fullmatch(r"mp-1265: Mg->Ca \(p=0\.0\d+\)", calcia.parents[0])
    assert calcia.source == "substitution"
    assert calcia.chemsys == "Ca-O"
    assert calcia.material_id == material_id(calcia.structure)
    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    assert calcia.structure.volume == pytest.approx(predictor.predict(calcia.structure), rel=1e-6)
    # CaO is 4.81 Å across.
    assert calcia.structure.lattice.a == pytest.approx(4.81, rel=0.05)


def test_elements_and_number_are_limits() -> None:
    parent = [("mp-5229", example("perovskite"))]
    found = list(propose(parent, elements=["Ca", "Sr", "Ba", "Ti", "Zr", "O"], threshold=1e-3))
    assert {c.formula for c in found} >= {"BaTiO3", "CaTiO3", "SrZrO3"}
    assert {e.symbol for c in found for e in c.structure.composition} <= {"Ca", "Sr", "Ba", "Ti", "Zr", "O"}
    few = list(propose(parent, elements=["Ca", "Sr", "Ba", "Ti", "Zr", "O"], threshold=1e-3, max_candidates=2))
    assert few == found[:2]


def test_metals_and_elements_give_nothing_and_states_given_are_used() -> None:
    assert list(propose([("a", example("MgZn2")), ("b", example("fcc"))])) == []
    iron = example("rocksalt").replace_species({"Na": "Fe", "Cl": "O"})
    as_given = iron.copy().add_oxidation_state_by_element({"Fe": 2, "O": -2})
    assert [c.formula for c in propose([("a", as_given)])] == [c.formula for c in propose([("a", iron)])]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="threshold"):
        list(propose([], threshold=0))
    mixed = Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(InputError, match="mp-9"):
        list(propose([("mp-9", mixed)]))
