"""The real mp-api client against a server on loopback that also misbehaves."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

from materials.errors import IncompleteAnswer, InputError, SourceError, SourceRefused, SourceUnavailable
from materials.sources.databases.http import PatientAdapter
from materials.sources.databases.materials_project import pull
from materials.sources.databases.snapshot import Snapshot
from tests.peers.materials_project import KEY, VERSION, Peer, running

ROOT = Path(__file__).parents[2]
Criteria = dict[str, object]
LI_ZN_P: Criteria = {"chemsys": ["Li-P-Zn"]}


@pytest.fixture(scope="module")
def shared_peer() -> Iterator[Peer]:
    with running() as peer:
        yield peer


@pytest.fixture
def peer(shared_peer: Peer) -> Peer:
    shared_peer.behave()
    shared_peer.asked.clear()
    shared_peer.version = VERSION
    return shared_peer


class Stopped(Exception):
    """Somebody asked the run to stop."""


def ask(peer: Peer, folder: Path, criteria: Criteria = LI_ZN_P, **changes: object) -> Snapshot:
    arguments = {
        "key": KEY,
        "snapshot_folder": folder,
        "endpoint": peer.url,
        "backoff_s": 0.001,
        "attempts": 3,
        "timeout_s": 10.0,
    }
    return pull(**{**arguments, **criteria, **changes})  # type: ignore[arg-type]


def ids(snapshot: Snapshot) -> list[str]:
    return [known.id for known in snapshot.structures]


def test_pulls_candidates_with_their_names_and_the_version(peer: Peer, tmp_path: Path) -> None:
    snapshot = ask(peer, tmp_path)
    assert ids(snapshot) == ["mp-99001", "mp-9950"]  # neither the GNoME entry nor the deprecated one
    assert snapshot.database_version == VERSION
    candidates = snapshot.candidates()
    assert {c.formula for c in candidates} == {"LiZnP"}
    assert candidates[1].parents == candidates[1].known_as == ("mp-9950",)
    assert candidates[1].source_version == VERSION
    assert peer.keys == {KEY}


def test_a_stop_ends_the_pull_and_keeps_its_pages(peer: Peer, tmp_path: Path) -> None:
    def check() -> None:
        if len(peer.asked) == 3:
            raise Stopped("stopped")

    with pytest.raises(Stopped, match="stopped"):
        ask(peer, tmp_path, page_size=1, check_stop=check)
    asked = len(peer.asked)
    assert asked == 3
    kept = len(list(tmp_path.rglob("*.page.gz")))
    assert kept
    ask(peer, tmp_path, page_size=1)
    again = len(peer.asked) - asked
    peer.asked.clear()
    ask(peer, tmp_path / "afresh", page_size=1)
    assert again == len(peer.asked) - kept


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"chemsys": ("Zn-Li-P", "P-Mg-Li")}, {"mp-9950", "mp-99001", "mp-36111"}),
        (
            {"chemsys": ("Li-*-P", "Li-*", "Mg-P")},
            {"mp-9950", "mp-99001", "mp-36111", "mp-736", "mp-757", "mp-1934", "mp-2251", "mp-2514"},
        ),
        ({"elements": ("Li", "As")}, {"mp-757", "mp-9124", "mp-12558"}),
        ({"elements": ("Li",), "exclude_elements": ("P", "As", "N")}, {"mp-135", "mp-1934"}),
        ({"formula": ("LiZnP",), "energy_above_hull": (0.05, 1)}, {"mp-99001"}),
        ({"formula": ("LiZnP",), "energy_above_hull": (0.0, 0.05)}, {"mp-9950"}),
        ({"material_ids": ("mp-9950", "mp-11")}, {"mp-9950", "mp-11"}),
        (
            {"elements": ("Li",), "num_elements": (3, 3), "is_stable": True},
            {"mp-9950", "mp-36111", "mp-9124", "mp-12558", "mp-7575"},
        ),
        ({"elements": ("Li",), "num_elements": (3, 3), "theoretical": True}, {"mp-99001"}),
        ({"elements": ("P",), "num_sites": (5, 5)}, {"mp-2514"}),
        ({"formula": ("LiZnP",), "include_gnome": True}, {"mp-9950", "mp-99001", "mp-3200001"}),
    ],
)
def test_each_criterion_reaches_the_server(peer: Peer, tmp_path: Path, criteria: Criteria, expected: set[str]) -> None:
    assert set(ids(ask(peer, tmp_path, criteria, hull=False))) == expected


def test_the_hull_is_that_of_pymatgen_from_the_same_documents(peer: Peer, tmp_path: Path) -> None:
    snapshot = ask(peer, tmp_path, {"chemsys": ("Li-N-Zn", "Li-P-Zn")})
    systems = {entry.structure.chemical_system for entry in snapshot.hull_entries}
    assert systems == {"Li", "N", "P", "Zn", "Li-N", "Li-P", "Li-Zn", "Li-N-Zn", "Li-P-Zn"}
    assert {entry.level_of_theory for entry in snapshot.hull_entries} == {"PBE+U/MP2020"}
    # emmet computed these distances when the documents were made, with the MP2020 corrections in.
    diagram = PhaseDiagram([PDEntry(e.structure.composition, e.energy, name=e.entry_id) for e in snapshot.hull_entries])
    served = {document["material_id"]: document["energy_above_hull"] for document in peer.summary}
    for entry in diagram.all_entries:
        assert diagram.get_e_above_hull(entry) == pytest.approx(served[entry.name], abs=1e-8)


def test_many_small_pages_give_what_one_page_gives(peer: Peer, tmp_path: Path) -> None:
    criteria = {"elements": ("Li",)}
    whole, small = ask(peer, tmp_path / "a", criteria), ask(peer, tmp_path / "b", criteria, page_size=2)
    assert whole == small
    assert peer.requests("summary") > 5
    assert not list((tmp_path / "b").glob("*.pages"))


def test_a_snapshot_is_taken_from_the_disk_without_key_or_network(peer: Peer, tmp_path: Path) -> None:
    pulled = ask(peer, tmp_path)
    asked = len(peer.asked)
    assert ask(peer, tmp_path) == pulled
    assert len(peer.asked) == asked + 1  # the heartbeat alone
    assert ask(peer, tmp_path, snapshot=VERSION, key=None) == pulled
    assert len(peer.asked) == asked + 1
    with pytest.raises(InputError, match=f"no version 2020.01.01.*{VERSION}"):
        ask(peer, tmp_path, snapshot="2020.01.01")
    with pytest.raises(InputError, match="no database version"):
        ask(peer, tmp_path, snapshot="../../etc")


def test_a_new_database_version_is_pulled_anew_and_the_old_one_stays(peer: Peer, tmp_path: Path) -> None:
    ask(peer, tmp_path)
    peer.version = "2027.01.15"
    assert ask(peer, tmp_path).database_version == "2027.01.15"
    assert ask(peer, tmp_path, snapshot=VERSION).database_version == VERSION


@pytest.mark.parametrize(
    "kind",
    ["429", "500", "502", "503", "504", "cut", "half_json", "html", "short", "empty", "no_data", "no_total", "list"],
)
@pytest.mark.parametrize("where", ["heartbeat", "summary", "thermo"])
def test_a_passing_trouble_is_sat_out(peer: Peer, tmp_path: Path, where: str, kind: str) -> None:
    expected = ask(peer, tmp_path / "good")
    peer.misbehave(where, kind, times=2)
    assert ask(peer, tmp_path / "bad") == expected


LASTING = {
    "429": SourceUnavailable,
    "500": SourceUnavailable,
    "503": SourceUnavailable,
    "html": SourceUnavailable,
    "cut": IncompleteAnswer,
    "half_json": IncompleteAnswer,
    "short": IncompleteAnswer,
    "empty": IncompleteAnswer,
    "no_data": IncompleteAnswer,
    "repeat": IncompleteAnswer,
    "401": SourceRefused,
    "403": SourceRefused,
    "404": SourceRefused,
    "redirect": SourceRefused,
}


@pytest.mark.parametrize("where", ["summary", "thermo"])
@pytest.mark.parametrize("kind", LASTING)
def test_a_lasting_trouble_is_named_and_leaves_nothing_half(
    peer: Peer,
    tmp_path: Path,
    kind: str,
    where: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    peer.misbehave(where, kind, after=1)
    with pytest.raises(LASTING[kind]) as caught:
        ask(peer, tmp_path, {"elements": ("Li",)}, page_size=2)
    assert "go on" in str(caught.value) or "goes on" in str(caught.value)
    assert not list(tmp_path.glob("*.json.gz"))
    assert_silent_about_the_key(caught.value, caplog.text + "".join(capfd.readouterr()))
    assert not capfd.readouterr().err


def assert_silent_about_the_key(error: BaseException, printed: str, key: str = KEY) -> None:
    """Not in what is printed, not in the traceback, not in an exception behind it."""
    assert key not in printed
    assert key not in "".join(traceback.format_exception(error))
    behind: BaseException | None = error
    while behind is not None:
        assert key not in repr(behind.__dict__) + repr(behind.args)
        request = getattr(behind, "request", None)
        assert request is None, "an exception that carries its request carries the key"
        behind = behind.__context__


def test_what_arrived_is_kept_and_the_next_run_goes_on(peer: Peer, tmp_path: Path) -> None:
    criteria = {"elements": ("Li",)}
    expected = ask(peer, tmp_path / "good", criteria, page_size=2)
    calls = len(peer.asked)
    peer.misbehave("thermo", "500", after=2)
    peer.asked.clear()
    with pytest.raises(SourceUnavailable, match=r"\d+ pages were kept"):
        ask(peer, tmp_path / "bad", criteria, page_size=2)
    arrived = peer.requests("summary") + 2
    peer.behave()
    peer.asked.clear()
    assert ask(peer, tmp_path / "bad", criteria, page_size=2) == expected
    assert len(peer.asked) == calls - arrived
    assert not list((tmp_path / "bad").glob("*.pages"))
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_count_that_changes_in_the_middle_is_no_whole_answer(peer: Peer, tmp_path: Path) -> None:
    peer.misbehave("summary", "grow", after=1)
    with pytest.raises(IncompleteAnswer, match="changed from"):
        ask(peer, tmp_path, {"elements": ("Li",)}, page_size=2)


def test_a_wrong_key_is_refused_and_not_repeated(
    peer: Peer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "x" * 31 + "y"
    with pytest.raises(SourceRefused, match="does not accept the key") as caught:
        ask(peer, tmp_path, key=wrong)
    assert peer.requests("summary") == 1
    assert_silent_about_the_key(caught.value, caplog.text + "".join(capfd.readouterr()), wrong)


@pytest.mark.parametrize("key", [None, "", "short", KEY + "x", KEY[:-1] + "\n"])
def test_a_key_that_cannot_be_one_is_an_input_error(peer: Peer, tmp_path: Path, key: str | None) -> None:
    with pytest.raises(InputError, match="key") as caught:
        ask(peer, tmp_path, key=key)
    assert not key or key not in str(caught.value)
    assert not peer.asked


def test_nobody_there_says_how_to_go_on(peer: Peer, tmp_path: Path) -> None:
    ask(peer, tmp_path)
    closed = "http://127.0.0.1:1/"
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        ask(peer, tmp_path, endpoint=closed)
    peer.misbehave("heartbeat", "503")
    with pytest.raises(SourceUnavailable, match=f"snapshot: {VERSION}"):
        ask(peer, tmp_path)


def test_a_server_that_hangs_is_given_up(peer: Peer, tmp_path: Path) -> None:
    peer.slowness_s = 1.0
    peer.misbehave("summary", "slow")
    with pytest.raises(SourceUnavailable, match=r"did not answer within 0\.1 s"):
        ask(peer, tmp_path, timeout_s=0.1, attempts=2)


def test_retry_after_is_honoured(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(PatientAdapter, "_sleep", lambda self, seconds: waits.append(seconds))
    peer.misbehave("summary", "429", times=1, retry_after="7")
    peer.misbehave("thermo", "503", times=1, retry_after="99999")
    peer.misbehave("heartbeat", "503", times=1, retry_after="soon")
    ask(peer, tmp_path, backoff_s=0.5)
    assert waits == [0.5, 7, 120]


def test_the_other_searches_of_the_client_are_never_made(peer: Peer, tmp_path: Path) -> None:
    for criteria in ({}, {"include_gnome": True}):
        with pytest.raises(InputError, match="at least one criterion"):
            ask(peer, tmp_path, criteria)
    with pytest.raises(InputError, match="unencrypted"):
        ask(peer, tmp_path, endpoint="http://example.org/")
    with pytest.raises(SourceRefused, match="cannot be asked so"):
        ask(peer, tmp_path, {"material_ids": ("not an id",)})
    assert peer.requests("materials") == 0


def test_an_unusable_document_is_one_failure(peer: Peer, tmp_path: Path) -> None:
    document = next(d for d in peer.summary if d["material_id"] == "mp-99001")
    structure = document["structure"]
    try:
        document["structure"] = None
        snapshot = ask(peer, tmp_path)
    finally:
        document["structure"] = structure
    assert ids(snapshot) == ["mp-9950"]
    assert [(f.material_id, f.error) for f in snapshot.failures] == [("mp-99001", "UnreadableStructure")]
    assert ask(peer, tmp_path, snapshot=VERSION) == snapshot


def test_energies_that_are_not_what_they_are_called_are_refused(peer: Peer, tmp_path: Path) -> None:
    for name, value in (("energy_per_atom", -99.0), ("energy_per_atom", None), ("entries", {})):
        document = next(d for d in peer.thermo if d["thermo_type"] == "GGA_GGA+U" and d["chemsys"] == "Li-P")
        kept = document[name]
        try:
            document[name] = value
            with pytest.raises(SourceError, match="mp-736"):
                ask(peer, tmp_path / str(value))
        finally:
            document[name] = kept


def test_the_peer_serves_another_process() -> None:
    command = [sys.executable, "-m", "tests.peers.materials_project", "--misbehave", "summary:503:1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
        finally:
            process.terminate()
