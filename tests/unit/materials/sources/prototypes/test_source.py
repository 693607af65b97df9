"""The library against spglib, pymatgen's AFLOW matcher and measured crystals; proposals against their promises."""

import re
from collections import Counter

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition, Element, Structure
from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from materials.crystals.validation import check
from materials.errors import InputError
from materials.sources.prototypes import library as type_library
from materials.sources.prototypes.library import example, find, library_names
from materials.sources.prototypes.source import propose
from materials.sources.prototypes.structure_type import StructureType

# spglib itself announces that its error handling will change; pymatgen calls it.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")

QUICKSTART = {"I": ["Li", "Na", "K", "Cu", "Ag"], "II": ["Mg", "Zn", "Cd", "Ca", "Be"], "V": ["N", "P", "As", "Sb"]}
CHARGES = {"I": 1, "II": 2, "V": -3}
TERNARIES = ["half-Heusler", "PbFCl", "ZrBeSi", "LiGaGe", "ZrNiAl", "TiNiSi"]


def entry(name: str) -> dict:
    return type_library._specification()[name]


@pytest.mark.parametrize("name", library_names())
def test_library_type_is_the_crystal_it_says(name: str) -> None:
    crystal, says = example(name), entry(name)
    assert crystal.composition.reduced_formula == Composition(says["example"]).reduced_formula
    assert SpacegroupAnalyzer(crystal, symprec=0.01).get_space_group_number() == says["group"]
    pearson = re.fullmatch(r"([a-z][A-Z])(\d+)", says["pearson"])
    assert len(crystal) == int(pearson[2]) * (3 if pearson[1] == "hR" else 1)
    orbits = sum(int(re.match(r"\d+", site.split()[1])[0]) for site in says["sites"])
    assert orbits == len(crystal)
    assert check(crystal) is None


@pytest.mark.parametrize("name", library_names())
def test_primitive_template_is_the_same_crystal(name: str) -> None:
    (kind,) = find(name)
    crystal = example(name)
    template = kind.decorate(tuple(slot.label for slot in kind.slots))
    assert template.volume / len(template) == pytest.approx(crystal.volume / len(crystal))
    assert len(template) == len(crystal.get_primitive_structure())
    matcher = StructureMatcher(ltol=0.01, stol=0.01, angle_tol=0.1, scale=False)
    assert len(template) > 30 or matcher.fit(template, crystal)


def test_library_agrees_with_aflow() -> None:
    """The AFLOW structure of the same label is the same crystal, judged by pymatgen, not by us."""
    # AFLOW's set takes these from other compounds, farther away than pymatgen's matching reaches.
    matcher = StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5)
    tagged = [name for name in library_names() if "aflow" in entry(name)]
    assert len(tagged) > 60
    for name in tagged:
        label = entry(name)["aflow"]
        theirs = [t.decorate(tuple(s.label for s in t.slots)) for t in find(label)]
        assert any(matcher.fit_anonymous(example(name), t) for t in theirs), (name, label)


# Densities in g/cm³ and first-neighbour distances in Å, from handbooks and the mineralogical literature.
@pytest.mark.parametrize(
    ("name", "density"),
    [
        ("fcc", 8.93), ("bcc", 19.3), ("hcp", 1.74), ("hcp-Zn", 7.14), ("alpha-Ga", 5.91), ("alpha-Mn", 7.47),
        ("alpha-As", 5.78), ("black-P", 2.70), ("alpha-N2", 1.03), ("beta-Sn", 7.29), ("In", 7.31), ("I2", 5.0),
        ("rocksalt", 2.17), ("fluorite", 3.18), ("rutile", 4.25), ("anatase", 3.89), ("pyrite", 5.02),
        ("marcasite", 4.89), ("cotunnite", 5.90), ("corundum", 3.99), ("stibnite", 4.63), ("alpha-quartz", 2.65),
        ("V2O5", 3.36), ("bixbyite", 5.03), ("Zn3P2", 4.55), ("spinel", 3.58), ("olivine", 3.22), ("zircon", 4.66),
        ("scheelite", 6.1), ("calcite", 2.71), ("ilmenite", 4.79), ("garnet", 3.58), ("triphylite", 3.6),
        ("perovskite", 5.12), ("MgZn2", 5.16), ("MgCu2", 5.74), ("CdSb", 6.9), ("elpasolite", 2.99),
    ],
)  # fmt: skip
def test_densities_are_the_measured_ones(name: str, density: float) -> None:
    assert float(example(name).density) == pytest.approx(density, rel=0.035)


@pytest.mark.parametrize(
    ("name", "centre", "ligand", "number", "distance"),
    [
        ("rutile", "Ti", "O", 6, 1.96), ("anatase", "Ti", "O", 6, 1.95), ("zircon", "Si", "O", 4, 1.62),
        ("scheelite", "W", "O", 4, 1.78), ("scheelite", "Ca", "O", 8, 2.46), ("spinel", "Mg", "O", 4, 1.92),
        ("spinel", "Al", "O", 6, 1.93), ("garnet", "Al", "O", 6, 1.89), ("garnet", "Mg", "O", 8, 2.27),
        ("calcite", "C", "O", 3, 1.28), ("triphylite", "P", "O", 4, 1.55), ("triphylite", "Fe", "O", 6, 2.16),
        ("olivine", "Si", "O", 4, 1.64), ("perovskite", "Ti", "O", 6, 1.95), ("delafossite", "Cu", "O", 2, 1.83),
        ("chalcopyrite", "Fe", "S", 4, 2.26), ("alpha-quartz", "Si", "O", 4, 1.61), ("corundum", "Al", "O", 6, 1.91),
        ("CaC2", "C", "C", 1, 1.19), ("pyrite", "S", "S", 1, 2.16), ("alpha-N2", "N", "N", 1, 1.10),
        ("graphite", "C", "C", 3, 1.42), ("MoS2", "Mo", "S", 6, 2.42), ("Zn3P2", "Zn", "P", 4, 2.4775),
        ("cuprite", "Cu", "O", 2, 1.85), ("K2PtCl6", "Pt", "Cl", 6, 2.34), ("LiGaO2", "Ga", "O", 4, 1.85),
        ("beta-Si3N4", "Si", "N", 4, 1.73), ("LiNbO3", "Nb", "O", 6, 2.00), ("CaAl2Si2", "Al", "Si", 4, 2.51),
        ("elpasolite", "Al", "F", 6, 1.78), ("kesterite", "Sn", "S", 4, 2.41), ("MgCu2", "Mg", "Cu", 12, 2.92),
        ("black-P", "P", "P", 3, 2.23), ("LaCl3", "La", "Cl", 9, 2.95), ("ReO3", "Re", "O", 6, 1.87),
    ],
)  # fmt: skip
def test_coordination_is_the_known_one(name: str, centre: str, ligand: str, number: int, distance: float) -> None:
    crystal = example(name)
    for site in crystal:
        if site.specie.symbol == centre:
            near = sorted(n.nn_distance for n in crystal.get_neighbors(site, 5.5) if n.specie.symbol == ligand)
            assert np.mean(near[:number]) == pytest.approx(distance, abs=0.02)
            # Zn3P2, olivine and garnet are distorted; still, the next shell is clearly farther off than the first.
            assert near[number] > near[number - 1] + 0.15


def test_names_are_unique_and_there_are_enough() -> None:
    library, aflow = find("library"), find("aflow")
    names = [t.name for t in library + aflow]
    assert len(set(names)) == len(names)
    assert len(library) >= 120
    assert len(aflow) > 280
    assert {len(t.slots) for t in library} == {1, 2, 3, 4}


def test_versions_tell_the_collections_apart() -> None:
    assert find("rocksalt")[0].version.startswith("library-")
    assert find("AB_cF8_225_a_b")[0].version.startswith("pymatgen-")


def test_an_ambiguous_aflow_label_finds_all_of_its_types() -> None:
    assert {t.example for t in find("A_oC8_64_f")} == {"Ga", "P", "I"}
    assert [t.example for t in find("A_oC8_64_f:P")] == ["P"]


def test_unknown_prototype_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'half-heusler'.*half-Heusler"):
        list(propose(roles=QUICKSTART, prototypes=["half-heusler"]))


def test_half_heusler_has_three_arrangements_of_six() -> None:
    kwargs = {"roles": {"I": ["Li"], "II": ["Zn"], "V": ["P"]}, "charges": CHARGES, "prototypes": ["half-Heusler"]}
    found = list(propose(**kwargs))
    assert len(found) == 3
    assert sorted(re.search(r"(\w+) on 4c", c.parents[0])[1] for c in found) == ["Li", "P", "Zn"]
    matcher = StructureMatcher(primitive_cell=True)
    assert not any(matcher.fit(a.structure, b.structure) for a in found for b in found if a is not b)
    # The other three are these again.
    (kind,) = find("half-Heusler")
    for order in ("LiZnP", "ZnLiP", "LiPZn", "PLiZn", "ZnPLi", "PZnLi"):
        elements = tuple(re.findall("[A-Z][a-z]?", order))
        assert sum(matcher.fit(kind.decorate(elements), c.structure) for c in found) == 1


def test_the_quickstart_pool() -> None:
    pool = list(propose(roles=QUICKSTART, charges=CHARGES, prototypes=TERNARIES))
    assert Counter(c.parents[0].split(":")[0] for c in pool) == {"half-Heusler": 300} | dict.fromkeys(
        TERNARIES[1:], 200
    )
    assert len({c.material_id for c in pool}) == len(pool) == 1300
    assert len({c.formula for c in pool}) == 100
    assert all(c.role == "candidate" and check(c.structure) is None for c in pool)
    for c in pool:
        amounts = c.structure.composition
        assert (
            sum(
                {**dict.fromkeys(QUICKSTART["I"], 1), **dict.fromkeys(QUICKSTART["II"], 2)}.get(e.symbol, -3) * n
                for e, n in amounts.items()
            )
            == 0
        )


def test_competing_phases_are_elements_and_binaries() -> None:
    pool = list(propose(roles=QUICKSTART, charges=CHARGES, role="competing"))
    assert {len(c.chemsys.split("-")) for c in pool} == {1, 2}
    assert all(c.role == "competing" for c in pool)
    systems = {c.chemsys for c in pool}
    assert set().union(*QUICKSTART.values()) <= systems
    assert {"As-Na", "Mg-P", "Ag-Mg"} <= systems
    assert "As-P" not in systems  # within one role
    types = {c.parents[0].split(":")[0] for c in pool if c.chemsys == "Sb"}
    assert {"alpha-As", "black-P"} <= types
    assert not types & {"fcc", "hcp"}
    # Salts are neutral, save where the type has its own formal charge.
    assert {c.formula for c in pool if c.chemsys == "As-Na"} == {"Na3As"}
    assert {c.formula for c in pool if c.chemsys == "Cd-Sb"} == {"Cd3Sb2", "CdSb", "CdSb2", "CdSb6"}


def test_anions_stay_on_anion_sites_unless_all_is_asked_for() -> None:
    kwargs = {"roles": {"A": ["Na"], "X": ["Cl"]}, "charges": {"A": 1, "X": -1}, "prototypes": ["GeS"]}
    typical = list(propose(**kwargs))
    assert [c.parents for c in typical] == [("GeS: Na on 4c, Cl on 4c",)]
    assert len(list(propose(**kwargs, decorate="all"))) == 2


def test_larger_atoms_take_the_larger_site_of_an_alloy() -> None:
    kwargs = {"roles": {"A": ["K"], "B": ["Zn"]}, "prototypes": ["MgZn2"], "charges": {"A": 1, "B": 2}}
    assert [c.formula for c in propose(**kwargs)] == ["KZn2"]
    assert {c.formula for c in propose(**kwargs, decorate="all")} == {"KZn2", "K2Zn"}


def test_charges_default_to_known_oxidation_states() -> None:
    roles = {"A": ["Cu", "Mg"], "B": ["Fe", "Al"], "X": ["O"]}
    formulas = {c.formula for c in propose(roles=roles, prototypes=["delafossite", "spinel"])}
    assert {"FeCuO2", "MgAl2O4"} <= formulas  # Cu+ and Fe3+, Mg2+ and Al3+
    assert "MgAlO2" not in formulas
    loose = {c.formula for c in propose(roles=roles, prototypes=["delafossite"], charge_neutral=False)}
    assert "MgAlO2" in loose


def test_max_sites_and_n_elements() -> None:
    small = list(propose(roles=QUICKSTART, charges=CHARGES, role="competing", max_sites=8))
    assert max(len(c.structure) for c in small) <= 8
    only = propose(roles=QUICKSTART, charges=CHARGES, role="competing", n_elements=[1], max_sites=8)
    assert {len(c.structure.composition) for c in only} == {1}


def test_a_named_type_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="spinel"):
        list(propose(roles={"A": ["Na"], "B": ["K"], "X": ["F"]}, prototypes=["spinel"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": {"A": ["Xx"]}}, r"roles\.A: 'Xx'"),
        ({"roles": {"A": []}}, "at least one element"),
        ({"roles": {"A": ["Na"]}, "charges": {"B": 1}}, r"charges\.B"),
    ],
)
def test_impossible_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(propose(**arguments))


def test_the_order_and_the_ids_are_always_the_same() -> None:
    kwargs = {"roles": QUICKSTART, "charges": CHARGES, "prototypes": ["LiGaGe", "half-Heusler"]}
    first, second = list(propose(**kwargs)), list(propose(**kwargs))
    assert [c.material_id for c in first] == [c.material_id for c in second]
    assert first[0].material_id.startswith("LiMgN-")


def test_radii_volumes_are_near_the_measured_ones() -> None:
    """Compounds decorated from another compound's type: lengths within 8 % of experiment."""
    # a of the cubic cell in Å.
    known = {("rocksalt", "Mg", "O"): 4.21, ("rocksalt", "K", "Br"): 6.60, ("zincblende", "Ga", "As"): 5.65,
             ("zincblende", "Cd", "Te"): 6.48, ("antifluorite", "Na", "O"): 5.55, ("CsCl", "Ag", "Mg"): 3.31,
             ("MgCu2", "Ca", "Al"): 8.04, ("Cu3Au", "Ni", "Al"): 3.57}  # fmt: skip
    for (name, a, b), length in known.items():
        found = propose(roles={"A": [a], "B": [b]}, prototypes=[name], decorate="typical", n_elements=[2])
        template = example(name)
        lengths = [(c.structure.volume / len(c.structure) * len(template)) ** (1 / 3) for c in found]
        assert any(abs(x / length - 1) < 0.08 for x in lengths), (name, a, b, lengths)


@pytest.mark.parametrize("name", ["half-Heusler", "TiNiSi", "LiGaGe", "PbFCl"])
def test_dls_volume_equals_pymatgens(name: str) -> None:
    kwargs = {"roles": {"I": ["Na"], "II": ["Cd"], "V": ["As"]}, "charges": CHARGES, "prototypes": [name]}
    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    for candidate in propose(**kwargs, volume="dls"):
        assert candidate.structure.volume == pytest.approx(predictor.predict(candidate.structure), rel=1e-6)


def test_contacts_are_the_shortest_distances() -> None:
    for kind in find("TiNiSi") + find("MgNi2") + find("Zn3P2"):
        distances = _shortest(kind)
        assert np.allclose(kind.contacts, distances)
        assert np.allclose(kind.contacts, kind.contacts.T)


def _shortest(kind: StructureType) -> np.ndarray:
    crystal: Structure = kind.decorate(tuple(slot.label for slot in kind.slots)) * (2, 2, 2)
    labels = [slot.label for slot in kind.slots]
    far = crystal.distance_matrix + 1e9 * np.eye(len(crystal))
    of = np.array([labels.index(site.specie.symbol) for site in crystal])
    return np.array([[far[np.ix_(of == i, of == j)].min() for j in range(len(labels))] for i in range(len(labels))])


def test_metals_keep_their_atomic_volume_in_close_packing() -> None:
    # Measured volumes per atom, Å³.
    for symbol, volume in {"Cu": 11.8, "Ag": 17.1, "Mg": 23.2, "Ca": 43.6, "Na": 37.8, "Al": 16.6}.items():
        assert Element(symbol).is_metal
        (candidate,) = propose(roles={"A": [symbol]}, prototypes=["fcc"])
        assert candidate.structure.volume == pytest.approx(volume, rel=0.12)
