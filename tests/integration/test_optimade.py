"""A real OPTIMADE server, asked directly and through a proxy that spoils its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from materials.errors import IncompleteAnswer, InputError, SourceError, SourceRefused, SourceUnavailable
from materials.sources.databases.optimade import pull
from materials.sources.databases.snapshot import Snapshot
from tests.peers.materials_project import Peer
from tests.peers.optimade import document, serving, spoiling

ALL_WITH_LITHIUM = 'elements HAS "Li"'
METALS = ["Na", "K", "Cu", "Ag", "Rb", "Cs", "Mg"]


def rocksalt(cation: str, anion: str, a: float) -> Structure:
    return Structure(Lattice.cubic(a), [cation] * 4 + [anion] * 4, FCC + [[(x + 0.5) % 1, y, z] for x, y, z in FCC])


FCC = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
GOOD = {f"li-{metal}": rocksalt("Li", metal, 5 + n / 10) for n, metal in enumerate(METALS)}


def documents() -> list[dict[str, object]]:
    sheet = {"dimension_types": [1, 1, 0], "nperiodic_dimensions": 2}
    mixed = {
        "species": [
            {"name": "Li", "chemical_symbols": ["Li", "Na"], "concentration": [0.5, 0.5]},
            {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]},
        ],
        "structure_features": ["disorder"],
    }
    structure = rocksalt("Li", "Cl", 5.1)
    return [
        *(document(name, good) for name, good in GOOD.items()),
        document("sheet", structure, sheet),
        document("mixed", structure, mixed),
        document("implicit", structure, {"structure_features": ["implicit_atoms"]}),
        document("no-lithium", rocksalt("Na", "Cl", 5.6)),
    ]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with serving(documents(), tmp_path_factory.mktemp("optimade")) as url, spoiling(url) as peer:
        yield peer


@pytest.fixture
def peer(proxy: Peer) -> Peer:
    proxy.behave()
    proxy.asked.clear()
    return proxy


def ask(peer: Peer, folder: Path, filter: str = ALL_WITH_LITHIUM, **changes: object) -> Snapshot:
    arguments = {
        "provider_url": peer.url,
        "filter": filter,
        "page_size": 3,
        "attempts": 3,
        "backoff_s": 0.001,
        "timeout_s": 30.0,
    }
    return pull(snapshot_folder=folder, **{**arguments, **changes})  # type: ignore[arg-type]


def test_follows_every_page_and_builds_the_crystals(peer: Peer, tmp_path: Path) -> None:
    snapshot = ask(peer, tmp_path)
    assert len(peer.asked) == 4  # ten structures, three a page
    assert [known.id for known in snapshot.structures] == sorted(f"exmpl:{name}" for name in GOOD)
    for known in snapshot.structures:
        written = GOOD[known.id.removeprefix("exmpl:")]
        assert known.structure.composition == written.composition
        assert np.allclose(known.structure.distance_matrix, written.distance_matrix, atol=1e-9)
    candidate = snapshot.candidates()[0]
    assert (candidate.source, candidate.parents, candidate.known_as) == ("optimade", ("exmpl:li-Ag",), ("exmpl:li-Ag",))
    assert candidate.source_version == snapshot.database_version
    assert list(snapshot) == [*snapshot.candidates(), *snapshot.failures]


def test_what_is_no_ordered_crystal_is_a_failure(peer: Peer, tmp_path: Path) -> None:
    failures = {failure.material_id: failure.error for failure in ask(peer, tmp_path).failures}
    assert failures == {
        "exmpl:sheet": "NotPeriodic",
        "exmpl:mixed": "Disordered",
        "exmpl:implicit": "UnreadableStructure",
    }


def test_a_filter_reaches_the_server(peer: Peer, tmp_path: Path) -> None:
    found = ask(peer, tmp_path, 'elements HAS ALL "Li","Cu" AND nelements=2')
    assert [known.id for known in found.structures] == ["exmpl:li-Cu"]
    assert ask(peer, tmp_path, 'elements HAS "Xe"').structures == ()


def test_stops_after_as_many_as_asked_for(peer: Peer, tmp_path: Path) -> None:
    found = ask(peer, tmp_path, max_results=4)
    assert len(found.structures) + len(found.failures) == 4
    assert len(peer.asked) == 2


def test_a_snapshot_repeats_without_the_network(peer: Peer, tmp_path: Path) -> None:
    pulled = ask(peer, tmp_path)
    assert ask(peer, tmp_path, page_size=50) == pulled  # the same answer is the same version, however it came
    peer.asked.clear()
    assert ask(peer, tmp_path, snapshot=pulled.database_version) == pulled
    assert not peer.asked
    with pytest.raises(InputError, match=pulled.database_version.replace("+", r"\+")):
        ask(peer, tmp_path, snapshot="1.0")
    peer.misbehave("structures", "503")
    with pytest.raises(SourceUnavailable, match="which is at hand"):
        ask(peer, tmp_path)


@pytest.mark.parametrize("kind", ["429", "500", "503", "cut", "half_json", "html", "no_data", "list"])
def test_a_passing_trouble_is_sat_out(peer: Peer, tmp_path: Path, kind: str) -> None:
    peer.misbehave("structures", kind, times=2, after=1)
    assert len(ask(peer, tmp_path).structures) == len(GOOD)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", SourceUnavailable),
        ("500", SourceUnavailable),
        ("html", SourceUnavailable),
        ("cut", IncompleteAnswer),
        ("no_data", IncompleteAnswer),
        ("short", IncompleteAnswer),
        ("empty", IncompleteAnswer),
        ("repeat", IncompleteAnswer),
        ("403", SourceRefused),
    ],
)
def test_a_lasting_trouble_in_the_middle_loses_nothing_silently(
    peer: Peer, tmp_path: Path, kind: str, error: type[SourceError]
) -> None:
    peer.misbehave("structures", kind, after=1)
    with pytest.raises(error):
        ask(peer, tmp_path)
    assert not list(tmp_path.glob("*.json.gz"))


def test_what_arrived_is_kept_and_the_next_run_goes_on(peer: Peer, tmp_path: Path) -> None:
    peer.misbehave("structures", "500", after=3)
    with pytest.raises(SourceUnavailable, match="3 pages came"):
        ask(peer, tmp_path)
    peer.behave()
    peer.asked.clear()
    assert len(ask(peer, tmp_path).structures) == len(GOOD)
    assert len(peer.asked) == 2  # the first page again, to see that nothing changed, and the one that was missing
    assert not list(tmp_path.glob("*.pages"))


def test_a_filter_that_is_none_is_an_input_error_and_not_sent(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="elements HAS ALL Li"):
        ask(peer, tmp_path, "elements HAS ALL Li")
    assert not peer.asked


def test_a_filter_that_the_server_does_not_know_is_refused_in_its_words(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match=r"(?i)nonsense"):
        ask(peer, tmp_path, "nonsense = 3")


def test_an_unknown_provider_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean alexandria"):
        pull(provider_url="alexandira", filter=ALL_WITH_LITHIUM, snapshot_folder=tmp_path)
