"""From sources to the ledger: overlapping ones cost nothing, distorted types both stay, and a stop is heard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from flows.run.context import Interrupted, Run
from flows.stages.propose import propose
from materials.duplicates import duplicates
from tests.unit.flows.made_runs import opened_run

SALTS = {"kind": "prototypes", "roles": {"A": ["Na", "K"], "X": ["Cl", "Br"]}}


@contextlib.contextmanager
def opened(folder: Path, sources: list[dict[str, Any]], said: list[str]) -> Iterator[Run]:
    folder.mkdir(exist_ok=True)
    with opened_run(folder, {"name": "made", "sources": sources, "dft": {"budget": 0}}, said.append) as run:
        yield run


def test_overlapping_sources_propose_what_one_of_them_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    cells = duplicates.reduced_cells
    monkeypatch.setattr(
        duplicates,
        "reduced_cells",
        lambda told, **how: compared.append(len(told)) or cells(told, **how),
    )
    found, looked, said = {}, {}, []
    for n in (1, 12):
        compared.clear()
        with opened(tmp_path / str(n), [SALTS] * n, said) as run:
            propose(run)
            found[n] = run.ledger.roles(run.campaign_id)
        looked[n] = sum(compared)
    assert found[12] == found[1]
    assert looked[12] == looked[1]
    merged = [int(line.split("(")[1].split()[0]) for line in said if line.startswith("Proposed")]
    assert merged == [0, 11 * len(found[1])]


@pytest.mark.parametrize("last", ["a", "b"])
def test_a_distorted_type_and_the_undistorted_are_both_proposed(tmp_path: Path, last: str) -> None:
    species = ["Ba", "Ti", "O", "O", "O"]
    cubic = Structure(
        Lattice.cubic(4.0), species, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    polar = Structure(
        Lattice.tetragonal(3.99, 4.03),
        species,
        [[0, 0, 0], [0.5, 0.5, 0.52], [0.5, 0.5, -0.02], [0.5, 0, 0.49], [0, 0.5, 0.49]],
    )
    folder = tmp_path / "files"
    folder.mkdir()
    cubic.to(str(folder / "a.cif"))
    polar.to(str(folder / "c.cif"))
    # The same again, in another cell, is merged with its own.
    ({"a": cubic, "b": polar}[last] * (2, 1, 1)).to(str(folder / "z.cif"))
    with opened(tmp_path / "run", [{"kind": "files", "path": str(folder)}], []) as run:
        assert propose(run) == 2
        parents = {frozenset(Path(p).stem[0] for p in c.parents) for c in run.ledger.proposed(run.campaign_id)}
    assert parents == ({frozenset("az"), frozenset("c")} if last == "a" else {frozenset("a"), frozenset("cz")})


@pytest.mark.parametrize("where", ["reduced_cells", "fits"])
def test_ctrl_c_is_heard_between_two_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with opened(tmp_path, [{**SALTS, "decorate": "all"}], []) as run:
        before = getattr(duplicates, where)

        def pressed(*told: Any, **how: Any) -> Any:
            run.stop.set()
            return before(*told, **how)

        monkeypatch.setattr(duplicates, where, pressed)
        with pytest.raises(Interrupted):
            propose(run)
        assert run.ledger.roles(run.campaign_id) == {}


def test_ctrl_c_is_heard_between_two_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from materials.sources.prototypes import source as prototypes

    with opened(tmp_path, [SALTS], []) as run:
        given = []

        def pressed(**how: Any) -> Iterator[Any]:
            for candidate in plain(**how):
                given.append(candidate)
                if len(given) == 3:
                    run.stop.set()
                yield candidate

        plain = prototypes.propose
        monkeypatch.setattr(prototypes, "propose", pressed)
        with pytest.raises(Interrupted):
            propose(run)
        assert len(given) == 3
