"""Eight I-II-V compounds that exist: CHGNet, on the quickstart's own structures, must say so."""

from itertools import product

import pytest

from flows.config.load import load_campaign
from flows.config.sources import Prototypes
from materials.sources.prototypes import source as prototypes
from materials.stability.stability import HullEntry, assess
from models.potentials.registry import load_potential
from models.relaxation.relax import relax
from models.relaxation.settings import RelaxationSettings

KNOWN = ["LiMgN", "LiZnN", "LiMgP", "LiZnP", "LiMgAs", "LiZnAs", "LiCdP", "LiCdAs"]
# Cubic lattice parameters (Å) at room temperature: R. Juza, K. Langer and K. von Benda, Angew. Chem. Int. Ed. 7, 360
# (1968), doi:10.1002/anie.196803601, and the references therein.
MEASURED = {
    "LiMgN": 4.97,
    "LiZnN": 4.88,
    "LiMgP": 6.02,
    "LiZnP": 5.78,
    "LiMgAs": 6.18,
    "LiZnAs": 5.94,
    "LiCdP": 6.09,
    "LiCdAs": 6.26,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def relaxed(root):
    """The quickstart's candidates and competing phases in the eight chemical systems, relaxed."""
    campaign = load_campaign(root / "configs" / "quickstart.yaml")
    systems = [{"Li", *pair} for pair in product(("Mg", "Zn", "Cd"), ("N", "P", "As"))]
    found = {}
    for role, sources in (("candidate", campaign.sources), ("competing", campaign.competing)):
        for source in sources:
            assert isinstance(source, Prototypes)
            for candidate in prototypes.propose(
                roles=source.roles, charges=source.charges, prototypes=source.prototypes, role=role
            ):
                if any(set(candidate.chemsys.split("-")) <= system for system in systems):
                    found[candidate.material_id] = candidate
    candidates = list(found.values())
    results = dict(relax(load_potential("chgnet"), [c.structure for c in candidates], RelaxationSettings()))
    return [(candidate, results[index]) for index, candidate in enumerate(candidates)]


@pytest.fixture(scope="module")
def stabilities(relaxed):
    entries = [
        HullEntry(
            entry_id=candidate.material_id,
            amounts=result.structure.composition.get_el_amt_dict(),
            energy=result.energy,
            level_of_theory="PBE+U/MP2020",
            method="chgnet-0.3.0",
        )
        for candidate, result in relaxed
        if result.status == "converged"
    ]
    return {stability.material_id: stability for stability in assess(entries, fidelity="mlip")}


def arrangements(relaxed, formula):
    """Half-Heusler arrangements of a compound by the element on 4c: (candidate, result)."""
    return {
        candidate.parents[0].split(" on 4c")[0].split()[-1]: (candidate, result)
        for candidate, result in relaxed
        if candidate.formula == formula and candidate.parents[0].startswith("half-Heusler")
    }


@pytest.mark.parametrize("formula", KNOWN)
def test_known_compounds_are_found(relaxed, stabilities, formula: str) -> None:
    by_site = arrangements(relaxed, formula)
    assert len(by_site) == 3
    lowest = min(by_site, key=lambda symbol: by_site[symbol][1].energy)
    assert lowest in ("N", "P", "As")
    candidate, result = by_site[lowest]
    assert result.status == "converged"
    assert stabilities[candidate.material_id].energy_above_hull <= 0.02
    a = (4 * result.structure.volume) ** (1 / 3)
    assert a == pytest.approx(MEASURED[formula], rel=0.02)
