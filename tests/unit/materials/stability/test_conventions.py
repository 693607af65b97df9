"""Changes of convention against the published terms of MP2020 (Wang et al., doi:10.1038/s41598-021-94550-5)."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import HullError
from materials.stability.conventions import Change, change_between, rule_in
from materials.stability.corrections import ANIONS, MP2020_LEVEL, correction
from materials.stability.hull import HullEntry
from tests.unit.materials.stability.test_corrections import rock_salt

GPAW = "PBE/gpaw-setups-1.2.1/PW450"


def peroxide() -> Structure:
    lattice = Lattice.hexagonal(3.14, 7.7)
    coords = [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    oxygen = [[1 / 3, 2 / 3, 0.649], [1 / 3, 2 / 3, 0.851], [2 / 3, 1 / 3, 0.149], [2 / 3, 1 / 3, 0.351]]
    return Structure(lattice, ["Li"] * 4 + ["O"] * 4, coords + oxygen)


def phase(structure: Structure, energy: float = -10.0) -> HullEntry:
    amounts = {str(element): float(n) for element, n in structure.composition.items()}
    return HullEntry(entry_id="it", amounts=amounts, energy=energy, level_of_theory=MP2020_LEVEL, method="chgnet")


def test_a_level_names_the_rule_that_its_energies_have_in() -> None:
    assert rule_in(MP2020_LEVEL) == "MP2020"
    assert rule_in(f"{GPAW}/{ANIONS}") == ANIONS
    for raw in ("PBE", "PBE+U", GPAW, "PBE+U(Ni3d=6.2)/gpaw-setups-1.2.1/PW450"):
        assert rule_in(raw) is None
    for other in ("r2SCAN", "PBEsol", "RPBE/gpaw-setups-1.2.1/PW450"):
        with pytest.raises(HullError, match="PBE"):
            rule_in(other)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (MP2020_LEVEL, MP2020_LEVEL),
        ("PBE+U", GPAW),
        ("PBE", "PBE/vasp"),
        (MP2020_LEVEL, "r2SCAN"),
        ("r2SCAN", f"{GPAW}/{ANIONS}"),
    ],
)
def test_what_is_one_convention_already_or_another_functional_is_left_alone(own: str, wanted: str) -> None:
    assert change_between(own, wanted) is None


@pytest.mark.parametrize(
    ("structure", "raw", "anions"),
    # eV per formula unit: what MP2020 added is taken out.
    [
        (rock_salt("Mg", "O", 4.24), 0.687, 0.0),
        (rock_salt("Na", "Cl", 5.69), 0.614, 0.0),
        (rock_salt("Ni", "O", 4.18), 0.687 + 2.541, 2.541),
        (rock_salt("Co", "F", 4.3), 0.462 + 1.638, 1.638),
        (rock_salt("Li", "N", 4.3), 0.361, 0.0),
        (rock_salt("Ni", "S", 4.8), 0.503, 0.0),
        (rock_salt("Ga", "As", 5.6), 0.0, 0.0),
    ],
    ids=["MgO", "NaCl", "NiO", "CoF", "LiN", "NiS", "GaAs"],
)
def test_the_published_terms_are_taken_out(structure: Structure, raw: float, anions: float) -> None:
    for wanted, due in ((GPAW, raw), (f"{GPAW}/{ANIONS}", anions)):
        change = change_between(MP2020_LEVEL, wanted)
        assert change is not None
        before = phase(structure)
        after = change.entry(before, lambda: structure)
        assert (after.energy - before.energy) / 4 == pytest.approx(due, abs=1e-3)
        assert rule_in(after.level_of_theory) == rule_in(wanted)


def test_the_terms_for_anions_are_put_into_raw_energies() -> None:
    change = change_between("PBE", f"{GPAW}/{ANIONS}")
    assert change is not None
    assert change.entry(phase(peroxide()), peroxide).energy == pytest.approx(-10.0 - 4 * 0.465, abs=4e-3)
    oxide = rock_salt("Ni", "O", 4.18)
    assert change.entry(phase(oxide), lambda: oxide).energy == pytest.approx(-10.0 - 4 * 0.687, abs=4e-3)


def test_a_composition_is_asked_about_once_and_atoms_add_up() -> None:
    change, built = Change(out="MP2020", into=None), []

    def build(n: int) -> Structure:
        built.append(n)
        return rock_salt("Na", "Cl", 5.69) * (n, 1, 1)

    shifts = [change.of({"Na": 4.0 * n, "Cl": 4.0 * n}, lambda n=n: build(n)) for n in (1, 2, 3)]
    assert shifts == pytest.approx([n * -correction("MP2020", rock_salt("Na", "Cl", 5.69)) for n in (1, 2, 3)])
    assert built == [1]


def test_elements_and_what_no_term_touches_are_not_even_built() -> None:
    def never() -> Structure:
        raise AssertionError

    for change in (Change(out="MP2020", into=None), Change(out="MP2020", into=ANIONS), Change(out=None, into=ANIONS)):
        for amounts in ({"O": 2.0}, {"Ni": 1.0}, {"Ga": 1.0, "As": 1.0}):
            assert change.of(amounts, never) == 0
    assert Change(out="MP2020", into=ANIONS).of({"Mg": 1.0, "O": 1.0}, never) == 0
