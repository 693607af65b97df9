"""What a worker brings back of a chunk."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materials.crystals.serialization import structure_to_json
from materials.records import content_hash
from models.relaxation import worker as screening
from models.relaxation.relax import Relaxed
from models.relaxation.settings import RelaxationSettings

NACL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
WRITTEN = structure_to_json(NACL)
CHOICE = screening.PotentialChoice(kind="toy")


def relaxed(**changes: Any) -> Relaxed:
    fields = {
        "structure": NACL,
        "energy": -27.0,
        "max_force": 0.01,
        "max_stress": 0.001,
        "n_steps": 3,
        "status": "converged",
        "message": "",
        "wall_time_s": 0.1,
        "latent": np.array([0.123456789, 2e-9], dtype=np.float32),
        "magmoms": None,
    }
    return Relaxed(**{**fields, **changes})


@pytest.fixture
def potential(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(method="toy-1", level_of_theory="toy", correction=None, weights_hash="w", results=[])
    monkeypatch.setattr(screening, "loaded", lambda choice: made)
    monkeypatch.setattr(screening, "relax", lambda *arguments: enumerate(made.results))
    return made


def test_each_structure_becomes_a_calculation_of_the_potentials_level(potential: SimpleNamespace) -> None:
    potential.results = [relaxed(), relaxed(status="failed", energy=None, message="NaN", latent=None)]
    settings = RelaxationSettings()
    one, two = screening.relax_chunk(CHOICE, settings, {"a": WRITTEN, "b": WRITTEN}).calculations
    assert (one.material_id, one.method, one.level_of_theory, one.energy) == ("a", "toy-1", "toy", -27.0)
    assert json.loads(one.properties)["latent"] == [0.123457, 2e-09]
    assert (two.status, two.energy, two.message) == ("failed", None, "NaN")
    assert one.settings_hash == screening.screening_hash(settings, "w") != screening.screening_hash(settings, "v")
    assert one.settings_hash == content_hash({**settings.content(), "weights": "w"})
    assert one.settings_hash != screening.screening_hash(settings, "w", "float64")


def test_raw_energies_are_corrected_to_the_level_they_claim(potential: SimpleNamespace) -> None:
    potential.correction = "MP2020"
    potential.results = [relaxed()]
    (found,) = screening.relax_chunk(CHOICE, RelaxationSettings(), {"a": WRITTEN}).calculations
    # Chlorides: -0.614 eV for each anion (https://doi.org/10.1038/s41598-021-94550-5, table 1).
    assert found.energy == pytest.approx(-27.0 - 4 * 0.614, abs=1e-6)


def test_without_a_rule_an_energy_means_nothing(potential: SimpleNamespace) -> None:
    potential.correction = "nobody's"
    potential.results = [relaxed()]
    (found,) = screening.relax_chunk(CHOICE, RelaxationSettings(), {"a": WRITTEN}).calculations
    assert (found.status, found.energy) == ("unsupported", None)
    assert "nobody's" in found.message


def test_threads_of_one_worker_take_turns() -> None:
    choice = screening.PotentialChoice(kind="chgnet")
    chunks = [{f"{k}-{n}": structure_to_json(NACL.copy().perturb(0.05)) for n in range(4)} for k in range(6)]
    settings = RelaxationSettings(max_steps=5)
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda chunk: screening.relax_chunk(choice, settings, chunk), chunks))
    for chunk, answers in zip(chunks, together, strict=True):
        alone = screening.relax_chunk(choice, settings, chunk)
        energies = [{c.material_id: c.energy for c in found.calculations} for found in (alone, answers)]
        assert energies[0] == pytest.approx(energies[1], abs=1e-6)
