"""A thousand candidates, five of them as bad as they come: each ends as a row of its own, and harms no other."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pymatgen.core import Lattice, Structure

from materials.duplicates.duplicates import Merged
from materials.sources.prototypes import source as prototypes
from tests.integration.conftest import run

ROLES = {
    "I": ["Li", "Na", "K", "Rb", "Cs", "Cu", "Ag"],
    "II": ["Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd"],
    "V": ["N", "P", "As", "Sb", "Bi"],
}
CHARGES = {"I": 1, "II": 2, "V": -3}


def poisons() -> dict[str, Structure]:
    coincident = Structure(Lattice.cubic(4.0), ["Na", "Na", "Cl"], [[0, 0, 0], [0.02, 0, 0], [0.5, 0.5, 0.5]])
    lost = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.4), ["Na", "Ar"], [[0, 0, 0], [0.5] * 3])
    uncovered = Structure.from_spacegroup("Fm-3m", Lattice.cubic(6.0), ["Mg", "Po"], [[0, 0, 0], [0.5] * 3])
    huge = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]) * (6, 6, 6)
    # Two hundred atoms so dense that the angles between their bonds fill a worker's memory, which ends it.
    dense = Structure(Lattice.cubic(6.0), ["H"] * 200, np.indices((6, 6, 6)).reshape(3, -1).T[:200] / 6)
    dense.perturb(0.05, seed=1)
    return {"coincident": coincident, "lost": lost, "uncovered": uncovered, "huge": huge, "killer": dense}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CHGNet, but that it answers NaN wherever there is argon."""
    import chgnet

    (original,) = (Path(chgnet.__file__).parent / "pretrained" / "0.3.0").glob("*.tar")
    checkpoint = torch.load(original, map_location="cpu", weights_only=False)
    checkpoint["model"]["state_dict"]["atom_embedding.embedding.weight"][18 - 1] = float("nan")
    path = tmp_path_factory.mktemp("weights") / "poisoned.pth.tar"
    torch.save(checkpoint, path)
    return path


def screened(folder: Path, weights: Path, structures: dict[str, Structure]) -> dict[str, dict[str, object]]:
    """Run the campaign and give back its rows by the name under which their structure was given."""
    folder.mkdir()
    with (folder / "pool.jsonl").open("w") as lines:
        for name, structure in structures.items():
            lines.write(json.dumps({"name": name, "structure": structure.as_dict()}) + "\n")
    elements = {"roles": ROLES, "charges": CHARGES, "prototypes": ["fcc", "bcc", "hcp", "alpha-As", "alpha-N2"]}
    campaign = {
        "name": "poisons",
        "sources": [{"kind": "files", "path": "pool.jsonl", "id_column": "name"}],
        "competing": [{"kind": "prototypes", **elements}],
        "screening": {"potential": {"kind": "chgnet", "model": str(weights), "level_of_theory": "PBE+U/MP2020"}},
        "dft": {"budget": 0},
    }
    (folder / "poisons.yaml").write_text(yaml.safe_dump(campaign))
    (folder / "cluster.yaml").write_text("workers: {kind: local, count: 2, memory_gib: 2}\n")
    run(folder, "run", "poisons.yaml", "--no-dft", "--cluster", "cluster.yaml")
    rows = json.loads(run(folder, "table", "--format", "json", "--limit", "0", "--columns", "all"))
    names = {}
    for row in rows:
        for parent in row["parents"].split("; "):
            names[parent.rsplit("#", 1)[-1].rsplit("/", 1)[-1]] = row
    return names


@pytest.mark.slow
@pytest.mark.long
def test_a_thousand_rows_and_no_neighbour_harmed(tmp_path: Path, weights: Path) -> None:
    proposed = prototypes.propose(roles=ROLES, charges=CHARGES, n_elements=[3], max_sites=12)
    found = list(Merged(list(proposed)))
    healthy = {candidate.material_id: candidate.structure for candidate in islice(found, 995)}
    clean = screened(tmp_path / "clean", weights, healthy)
    bad = poisons()
    names = list(healthy)
    mixed = {name: healthy[name] for name in names[:500]} | bad | {name: healthy[name] for name in names[500:]}
    rows = screened(tmp_path / "poisoned", weights, mixed)
    assert len(clean) == len(healthy) == 995
    assert len({row["material_id"] for row in rows.values()}) == len(rows) == 1000
    for name in healthy:
        one, other = clean[name], rows[name]
        assert (other["material_id"], other["status"]) == (one["material_id"], one["status"])
        if one["formation_energy_mlip"] is not None:
            assert other["formation_energy_mlip"] == pytest.approx(one["formation_energy_mlip"], abs=1e-3)
    assert sum(row["status"] == "screened" for row in rows.values()) > 900
    for name, says in {
        "coincident": "TooClose",
        "lost": "not a number",
        "uncovered": "UncoveredElement",
        "huge": "TooManySites",
        "killer": "died",
    }.items():
        assert rows[name]["status"] == "failed"
        assert says in str(rows[name]["message"])
        assert rows[name]["decomposition_energy_per_atom"] is None
