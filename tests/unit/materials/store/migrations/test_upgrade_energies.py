"""Decomposition energies of ledgers of before version 4, which counted phases of the same composition."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from materials.crystals.serialization import structure_to_json
from materials.store.ledger import Ledger
from materials.store.migrations import upgrade

HERE = Path(__file__).parent
PHASES = {
    "Li": ("Li", -2.0),
    "Li-fcc": ("Li", -1.9),
    "O": ("O", -5.0),
    "a": ("Li2O", -5.0),
    "b": ("Li2O", -4.9),
    "c": ("Li2O2", -5.1),
    "d": ("Li2O2", -4.7),
    "e": ("Li3O", -3.9),
}
LEVELS = {"mlip": "PBE+U", "dft": "PBE/gpaw"}


ENTRIES = {n: ComputedEntry(Composition(f), e * Composition(f).num_atoms, entry_id=n) for n, (f, e) in PHASES.items()}
WHOLE = PhaseDiagram(list(ENTRIES.values()))


def as_it_was(name: str) -> tuple[float, float, float]:
    """Energy above the hull, decomposition energy against all phases but itself, formation energy."""
    mine, others = ENTRIES[name], [entry for n, entry in ENTRIES.items() if n != name]
    against = 0.0 if name == "O" else PhaseDiagram(others).get_e_above_hull(mine, allow_negative=True)
    return WHOLE.get_e_above_hull(mine), against, WHOLE.get_form_energy_per_atom(mine)


def as_it_is(name: str) -> float:
    return float(WHOLE.get_phase_separation_energy(ENTRIES[name]))


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def judged(connection: sqlite3.Connection, name: str, fidelity: str, shift: float = 0.0) -> None:
    above, against, formation = as_it_was(name)
    insert(
        connection,
        "stabilities",
        campaign_id="q-1",
        material_id=name,
        fidelity=fidelity,
        level_of_theory=LEVELS[fidelity],
        energy_above_hull=above,
        decomposition_energy_per_atom=against + shift,
        formation_energy_per_atom=formation,
        decomposition='{"a": 1.0}',
        reference_version="v",
    )


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of version 3: eight phases by the potential, three of them by DFT, with a table of four rows."""
    path = tmp_path / "assay.db"
    cubic = Lattice.cubic(4)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((HERE / "schema-3-sqlite.sql").read_text())
        connection.execute("INSERT INTO campaigns VALUES ('q-1', 'q', 'h', '{}', '2026-01-01')")
        for name, (formula, energy) in PHASES.items():
            composition = Composition(formula)
            species = [str(e) for e, n in composition.items() for _ in range(int(n))]
            crystal = Structure(cubic, species, [[i / len(species)] * 3 for i in range(len(species))])
            insert(
                connection,
                "candidates",
                material_id=name,
                formula=formula,
                chemsys=composition.chemical_system,
                n_sites=len(species),
                structure="{}",
            )
            insert(
                connection,
                "proposals",
                campaign_id="q-1",
                material_id=name,
                role="candidate",
                source="s",
                source_version="1",
                content_hash="h",
            )
            insert(
                connection,
                "calculations",
                calculation_id=f"dft {name}",
                attempt=1,
                material_id=name,
                method="gpaw-26.7",
                fidelity="dft",
                level_of_theory=LEVELS["dft"],
                settings_hash="s",
                status="converged",
                structure=structure_to_json(crystal),
                energy=energy * len(species),
                n_steps=1,
                message="",
                content_hash="h",
                created_at="2026-01-01",
            )
        judged(connection, "a", "mlip", shift=0.3)  # an earlier word on it
        for name in PHASES:
            judged(connection, name, "mlip")
        for name in ("a", "b", "e"):
            judged(connection, name, "dft", shift=1.0 if name == "e" else 0.0)  # of a hull that is not there any more
        for rank, (name, fidelity) in enumerate((("a", "dft"), ("b", "dft"), ("e", "dft"), ("c", "mlip")), start=1):
            above, against, formation = as_it_was(name)
            insert(
                connection,
                "rankings",
                campaign_id="q-1",
                material_id=name,
                rank=rank,
                formula=PHASES[name][0],
                chemsys="Li-O",
                n_sites=3,
                parents="",
                status="validated",
                known_as="",
                message="",
                fidelity=fidelity,
                level_of_theory=LEVELS[fidelity],
                energy_above_hull=above,
                decomposition_energy_per_atom=against,
                formation_energy_per_atom=formation,
                energy_above_hull_mlip=above,
                decomposition_energy_mlip=against,
            )
        connection.commit()
    return path


def test_they_are_against_phases_of_other_compositions_afterwards(old: Path) -> None:
    assert as_it_was("a")[1] == pytest.approx(-0.1)  # against b, which is no other composition
    done = upgrade.upgrade(str(old))
    assert done is not None
    (note,) = [note for note in done.notes if "ecomposition energies" in note]
    changed = {name for name in PHASES if abs(as_it_is(name) - as_it_was(name)[1]) > 1e-4}
    assert changed == {"Li", "a", "b", "d"}
    assert "of 11, 6 changed and 1 could not be worked out again" in note
    assert "rows of the tables: 2 changed, 1 left empty" in note
    with Ledger.open(str(old)) as ledger:
        by_potential, by_dft = ledger.stabilities("q-1", "mlip"), ledger.stabilities("q-1", "dft")
        assert by_potential.keys() == PHASES.keys()
        assert by_dft.keys() == {"a", "b"}
        for found in (by_potential, by_dft):
            for name, stability in found.items():
                assert stability.decomposition_energy_per_atom == pytest.approx(as_it_is(name), abs=1e-6)
                assert stability.energy_above_hull == pytest.approx(as_it_was(name)[0], abs=1e-9)
                formula = PHASES[name][0]
                assert all(PHASES[n][0] != formula or len(formula) < 3 for n in stability.decomposition)
        rows = {row["material_id"]: row for row in ledger.rows("q-1")}
        for name, row in rows.items():
            expected = None if name == "e" else pytest.approx(as_it_is(name), abs=1e-6)
            assert row["decomposition_energy_per_atom"] == expected
            assert row["decomposition_energy_mlip"] == pytest.approx(as_it_is(name), abs=1e-6)
    with closing(sqlite3.connect(old)) as connection:
        numbers = "SELECT decomposition_energy_per_atom, decomposition FROM stabilities WHERE material_id = 'a'"
        earlier, latest, _ = connection.execute(f"{numbers} ORDER BY sequence").fetchall()
        assert earlier == (None, None)
        assert json.loads(latest[1]).keys() == {"Li", "c"} or json.loads(latest[1]).keys() == {"c", "e"}


def test_what_relaxed_into_another_is_of_no_hull(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        # Of an earlier hull: it would lie below all others.
        connection.execute("UPDATE stabilities SET formation_energy_per_atom = -9 WHERE material_id = 'b'")
        insert(connection, "equivalences", campaign_id="q-1", material_id="b", duplicate_of="a", stage="relaxed")
        for name in ("a", "e"):
            connection.execute(
                "UPDATE stabilities SET decomposition_energy_per_atom = ? WHERE material_id = ? AND fidelity = 'mlip'",
                (as_it_is(name), name),  # without its polymorph it is the same
            )
        connection.commit()
    upgrade.upgrade(str(old))
    with Ledger.open(str(old)) as ledger:
        found = ledger.stabilities("q-1", "mlip")
    assert "b" not in found
    assert found["a"].decomposition_energy_per_atom == pytest.approx(as_it_is("a"), abs=1e-6)
    assert found["c"].decomposition_energy_per_atom == pytest.approx(as_it_is("c"), abs=1e-6)
