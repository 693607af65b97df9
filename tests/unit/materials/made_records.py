"""Records for tests: plain ones to change a field of, and hypothesis strategies for any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from materials.records import (
    Calculation,
    Candidate,
    Failure,
    Prediction,
    Proposed,
    RankedCandidate,
    Selection,
    Stability,
)


def salt(a: float = 5.69) -> Structure:
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def candidate(material_id: str = "m1", **changes: Any) -> Candidate:
    made = Candidate(
        material_id=material_id,
        formula="NaCl",
        chemsys="Cl-Na",
        structure=salt(),
        source="prototypes",
        source_version="1",
        parents=("rock salt",),
    )
    return replace(made, **changes)


def proposed(material_id: str = "m1", **changes: Any) -> Proposed:
    made = Proposed(
        material_id=material_id,
        formula="NaCl",
        chemsys="Cl-Na",
        n_sites=2,
        volume_per_atom=salt().volume / 2,
        parents=("rock salt",),
    )
    return replace(made, **changes)


def calculation(material_id: str = "m1", **changes: Any) -> Calculation:
    made = Calculation(
        material_id=material_id,
        method="chgnet-0.3.0",
        fidelity="mlip",
        level_of_theory="PBE+U/MP2020",
        settings_hash="s1",
        status="converged",
        structure=salt(),
        energy=-7.0,
        n_steps=12,
        wall_time_s=0.5,
    )
    return replace(made, **changes)


def stability(material_id: str = "m1", decomposition_energy: float = 0.0, **changes: Any) -> Stability:
    made = Stability(
        material_id=material_id,
        fidelity="mlip",
        level_of_theory="PBE+U/MP2020",
        energy_above_hull=max(0.0, decomposition_energy),
        decomposition_energy_per_atom=decomposition_energy,
        formation_energy_per_atom=-1.0,
        decomposition={"a": 0.25, "b": 0.75},
        reference_version="v1",
    )
    return replace(made, **changes)


def selection(material_id: str = "m1", **changes: Any) -> Selection:
    made = Selection(material_id=material_id, round=1, acquisition="audit", score=0.5, rank=1, seed=7)
    return replace(made, **changes)


def ranked(material_id: str = "m1", **changes: Any) -> RankedCandidate:
    made = RankedCandidate(
        rank=1,
        material_id=material_id,
        formula="NaCl",
        chemsys="Cl-Na",
        n_sites=2,
        parents="rock salt",
        status="screened",
        fidelity="mlip",
        level_of_theory="PBE+U/MP2020",
        energy_above_hull=0.0,
        decomposition_energy_per_atom=-0.1,
        formation_energy_per_atom=-2.0,
        band_gap=None,
        score=0.5,
        meets_targets=None,
        energy_above_hull_mlip=0.0,
        decomposition_energy_mlip=-0.1,
        formation_energy_mlip=-2.0,
        predicted={"band_gap": (5.0, 0.5), "decomposition_energy_per_atom": (-0.1, 0.02)},
        round=None,
        acquisition=None,
        volume_per_atom=22.0,
        known_as="",
        message="",
    )
    return replace(made, **changes)


numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | numbers
# PostgreSQL's text holds any character but NUL; lone surrogates are no characters.
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**31 - 1)
fidelities = st.sampled_from(["mlip", "dft"])


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    n = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.floats(2, 12), min_size=3, max_size=3))
    angles = draw(st.lists(st.floats(70, 110), min_size=3, max_size=3))
    species = draw(st.lists(st.sampled_from(["Li", "Mg", "O", "Fe3+", "Cl-"]), min_size=n, max_size=n))
    coords = draw(st.lists(st.lists(st.floats(-1, 2), min_size=3, max_size=3), min_size=n, max_size=n))
    properties = draw(st.none() | st.lists(st.floats(-5, 5), min_size=n, max_size=n))
    return Structure(
        Lattice.from_parameters(*lengths, *angles),
        species,
        coords,
        site_properties=None if properties is None else {"magmom": properties},
    )


names = st.lists(texts, max_size=3).map(lambda found: tuple(dict.fromkeys(found)))
candidates = st.builds(
    Candidate,
    material_id=st.text("abc0123", min_size=1),
    formula=texts,
    chemsys=texts,
    structure=structures(),
    source=texts,
    source_version=texts,
    parents=names,
    role=st.sampled_from(["candidate", "competing"]),
    known_as=names,
)
calculations = st.builds(
    Calculation,
    material_id=texts,
    method=texts,
    fidelity=fidelities,
    level_of_theory=texts,
    settings_hash=texts,
    status=st.sampled_from(["converged", "failed", "walltime"]),
    structure=st.none() | structures(),
    energy=maybe,
    max_force=maybe,
    max_stress=maybe,
    n_steps=counts,
    wall_time_s=numbers,
    message=texts,
    properties=st.dictionaries(texts, maybe | texts | st.booleans() | st.lists(numbers, max_size=3), max_size=3),
)
stabilities = st.builds(
    Stability,
    material_id=texts,
    fidelity=fidelities,
    level_of_theory=texts,
    energy_above_hull=numbers,
    decomposition_energy_per_atom=numbers,
    formation_energy_per_atom=numbers,
    decomposition=st.dictionaries(texts, numbers, max_size=3),
    reference_version=texts,
)
predictions = st.builds(
    Prediction, material_id=texts, round=counts, target=texts, mean=numbers, std=numbers, surrogate_version=texts
)
selections = st.builds(
    Selection,
    material_id=texts,
    round=counts,
    acquisition=texts,
    score=numbers,
    rank=counts,
    seed=counts,
    why=st.dictionaries(texts, numbers | texts | st.lists(texts | st.dictionaries(texts, numbers)), max_size=3),
)
failures = st.builds(Failure, material_id=texts, stage=texts, error=texts, message=texts, attempts=counts)
rankings = st.builds(
    RankedCandidate,
    rank=counts,
    material_id=texts,
    formula=texts,
    chemsys=texts,
    n_sites=counts,
    parents=texts,
    status=texts,
    fidelity=st.none() | fidelities,
    level_of_theory=st.none() | texts,
    energy_above_hull=maybe,
    decomposition_energy_per_atom=maybe,
    formation_energy_per_atom=maybe,
    band_gap=maybe,
    score=maybe,
    meets_targets=st.none() | st.booleans(),
    energy_above_hull_mlip=maybe,
    decomposition_energy_mlip=maybe,
    formation_energy_mlip=maybe,
    predicted=st.dictionaries(texts | st.just("band_gap"), st.tuples(numbers, numbers), max_size=3),
    round=st.none() | counts,
    acquisition=st.none() | texts,
    volume_per_atom=maybe,
    known_as=texts,
    message=texts,
)
