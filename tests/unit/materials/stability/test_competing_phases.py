"""Which phases go to DFT with a candidate."""

import pytest

from materials.stability.competing_phases import lost_corners, plan_validation
from materials.stability.stability import HullEntry


def entry(name: str, energy_per_atom: float, **amounts: float) -> HullEntry:
    atoms = sum(amounts.values())
    return HullEntry(
        entry_id=name, amounts=amounts, energy=energy_per_atom * atoms, level_of_theory="toy", method="toy"
    )


# Formation energies: elements at 0, Li3P and Mg3P2 on the hull, LiMgP below their tie line.
ELEMENTS = [entry("Li", 0.0, Li=1), entry("Mg", 0.0, Mg=1), entry("P", 0.0, P=4), entry("P high", 0.04, P=4)]
BINARIES = [
    entry("Li3P", -0.60, Li=3, P=1),
    entry("Li3P second", -0.59, Li=6, P=2),
    entry("Li3P third", -0.58, Li=3, P=1),
    entry("Mg3P2 bixbyite", -0.50, Mg=24, P=16),
    entry("Mg3P2 small", -0.42, Mg=3, P=2),
    entry("LiMg far", +0.30, Li=1, Mg=1),
]
CANDIDATES = [entry("LiMgP", -0.75, Li=1, Mg=1, P=1), entry("LiMgP other", -0.72, Li=2, Mg=2, P=2)]
UNRELATED = [entry("Na", 0.0, Na=1), entry("Na3P", -0.4, Na=3, P=1)]
ENTRIES = [*ELEMENTS, *BINARIES, *CANDIDATES, *UNRELATED]
SIZES = {e.entry_id: int(e.n_atoms) for e in ENTRIES}


def plan(within: float = 0.0, max_sites: int = 8, polymorphs: int = 1, candidate: str = "LiMgP"):  # type: ignore[no-untyped-def]
    return plan_validation(ENTRIES, SIZES, candidate, within=within, max_sites=max_sites, polymorphs=polymorphs)


def test_what_it_decomposes_into_and_the_elements_are_computed() -> None:
    found = plan()
    # Itself left out, the other polymorph is what it decomposes into.
    assert "LiMgP other" in found.phases
    assert {"Li", "Mg", "P"} <= set(found.phases)
    # And into the binaries, which the other polymorph hides: if DFT lifts that one, they decide.
    assert {"Li3P", "Mg3P2 small"} <= set(found.phases)
    assert not {"Na", "Na3P", "LiMg far", "LiMgP", "P high"} & set(found.phases)
    assert len(set(found.phases)) == len(found.phases)


def test_phases_near_the_facet_come_along() -> None:
    far = set(plan(within=0.0, polymorphs=3).phases)
    near = set(plan(within=0.03, polymorphs=3).phases)
    assert near - far == {"Li3P second", "Li3P third"}


def test_a_phase_too_large_has_a_stand_in_and_says_so() -> None:
    entries = [e for e in ENTRIES if e.entry_id != "LiMgP other"]
    found = plan_validation(entries, SIZES, "LiMgP", within=0.0, max_sites=8, polymorphs=1)
    assert "Mg3P2 small" in found.phases
    assert "Mg3P2 bixbyite" not in found.phases
    assert found.stand_ins == {"Mg3P2 bixbyite": "Mg3P2 small"}
    without = [e for e in entries if e.entry_id != "Mg3P2 small"]
    found = plan_validation(without, SIZES, "LiMgP", within=0.0, max_sites=8, polymorphs=1)
    assert found.left_out == ("Mg3P2 bixbyite",)


def test_an_element_is_never_left_out() -> None:
    found = plan(max_sites=2)
    assert "P" in found.phases  # a hull cannot do without its corners, however large


@pytest.mark.parametrize("polymorphs", [1, 2, 3])
def test_only_the_lowest_polymorphs_of_a_composition(polymorphs: int) -> None:
    found = plan(within=0.5, polymorphs=polymorphs)
    of_li3p = [name for name in found.phases if name.startswith("Li3P")]
    assert of_li3p == ["Li3P", "Li3P second", "Li3P third"][:polymorphs]


def test_what_a_database_has_computed_is_not_computed_again() -> None:
    known = {"Li", "Mg", "P", "Li3P", "Mg3P2 bixbyite", "Na"}
    found = plan_validation(ENTRIES, SIZES, "LiMgP", within=0.0, max_sites=8, polymorphs=1, known=known)
    # However large it is, and what it lacks is computed as ever.
    assert found.phases == ("LiMgP other",)
    assert found.stand_ins == {}
    assert found.left_out == ()
    assert found.n_known == 5  # of its own chemical system
    everything = plan_validation(
        ENTRIES, SIZES, "LiMgP", within=0.5, max_sites=2, polymorphs=3, known=[e.entry_id for e in ENTRIES]
    )
    assert everything.phases == ()


@pytest.mark.parametrize(
    ("failed", "lost"),
    [
        ([], []),
        (["Li"], ["Li"]),
        (["P"], ["P"]),
        (["Li3P"], ["Li3P"]),
        (["Li3P", "Li", "Mg3P2 small"], ["Li", "Li3P", "Mg3P2 small"]),
        (["LiMgP other"], []),  # a polymorph of its own is no corner
    ],
)
def test_a_corner_that_failed_is_found(failed: list[str], lost: list[str]) -> None:
    found = plan()
    assert sorted(lost_corners(ENTRIES, found, set(found.phases) - set(failed))) == lost


def test_a_polymorph_keeps_its_corner() -> None:
    found = plan(within=0.03, polymorphs=3)
    kept = set(found.phases)
    assert lost_corners(ENTRIES, found, kept - {"Li3P"}) == []
    assert lost_corners(ENTRIES, found, kept - {"Li3P", "Li3P second", "Li3P third"}) == [
        "Li3P",
        "Li3P second",
        "Li3P third",
    ]
    near = kept - {"Mg3P2 small"}  # it is no corner by itself, but stands for one that is too large
    assert lost_corners(ENTRIES, found, near) == ["Mg3P2 small"]
