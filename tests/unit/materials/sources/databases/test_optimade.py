"""Where an OPTIMADE provider's answers may lead; a real server's own: tests/integration."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from materials.errors import IncompleteAnswer, SourceRefused
from materials.sources.databases import http as web
from materials.sources.databases.optimade import pull
from materials.sources.databases.snapshot import Snapshot
from tests.unit.materials.sources.databases.test_http import Server, server

__all__ = ["server"]


def page(following: object) -> tuple[int, dict[str, str], bytes]:
    documents = [{"id": "x", "type": "structures", "attributes": {}}]
    content = {"data": documents, "links": {"next": following}, "meta": {"more_data_available": True}}
    return 200, {}, json.dumps(content).encode()


def ask(server: Server, folder: Path, **options: Any) -> Snapshot:
    return pull(
        provider_url=f"http://127.0.0.1:{server.server_address[1]}",
        filter='elements HAS "Li"',
        snapshot_folder=folder,
        attempts=1,
        **options,
    )


@pytest.mark.parametrize(
    "there",
    [
        "http://localhost:{port}/v1/structures?key=word",
        "http://127.0.0.1:9/v1/structures?key=word",
        "https://127.0.0.1:{port}/v1/structures?key=word",
        "http://169.254.169.254/v1/structures?key=word",
        "//evil.example/v1/structures?key=word",
        "file:///v1/structures?key=word",
    ],
)
@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("after", [0, 1])
def test_a_next_page_on_another_server_is_not_asked_for(
    server: Server, tmp_path: Path, there: str, as_object: bool, after: int
) -> None:
    there = there.format(port=server.server_address[1])
    good = page("?page_offset=1")
    good = (200, {}, good[2].replace(b'"id": "x"', b'"id": "y"'))
    server.answers = [good] * after + [page({"href": there} if as_object else there)] + [good]
    with pytest.raises(SourceRefused, match=r"its next page is at .*/v1/structures, on another server") as caught:
        ask(server, tmp_path)
    assert "word" not in str(caught.value)
    assert len(server.seen) == after + 1
    assert not list(tmp_path.glob("*.json.gz"))


def test_a_page_without_end_is_not_taken_in(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LARGEST_BODY", 2**20)
    status, headers, body = page(None)
    server.answers = [(status, headers, body + b" " * 2**21)]
    with pytest.raises(IncompleteAnswer, match="more than 1 MiB in one answer"):
        ask(server, tmp_path)


def crystal(name: str, **changes: Any) -> dict[str, Any]:
    attributes = {
        "lattice_vectors": [[3, 0, 0], [0, 3, 0], [0, 0, 3]],
        "cartesian_site_positions": [[0, 0, 0]],
        "species_at_sites": ["Li"],
        "species": [{"name": "Li", "chemical_symbols": ["Li"], "concentration": [1.0]}],
        "nsites": 1,
        "nelements": 1,
        "elements": ["Li"],
        "elements_ratios": [1.0],
        "chemical_formula_reduced": "Li",
        "chemical_formula_anonymous": "A",
        "chemical_formula_descriptive": "Li",
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "structure_features": [],
        "last_modified": "2020-01-01T00:00:00Z",
    }
    return {"id": name, "type": "structures", "attributes": {**attributes, **changes}}


def answer(data: list[dict[str, Any]], **more: Any) -> tuple[int, dict[str, str], bytes]:
    meta = {"api_version": "1.1.0", "provider": {"prefix": "it"}}
    return 200, {}, json.dumps({"data": data, "meta": meta, **more}).encode()


@pytest.mark.parametrize("name", ["x\ud800", "x\0<script>\x1b[31m", "x" * 10_000])
def test_a_name_that_cannot_be_written_is_a_failure(server: Server, tmp_path: Path, name: str) -> None:
    server.answers = [answer([crystal("good"), crystal(name)])]
    pulled = ask(server, tmp_path)
    assert [known.id for known in pulled.structures] == ["it:good"]
    assert [failure.error for failure in pulled.failures] == ["UnreadableId"]
    for failure in pulled.failures:
        assert failure.material_id.isprintable()
        assert failure.message.isprintable()
        assert len(failure.message) < 500


@pytest.mark.parametrize(
    "bad",
    [
        {"attributes": [1]},
        {"attributes": crystal("", structure_features=[1])["attributes"]},
        {"attributes": crystal("", structure_features=5)["attributes"]},
        {"attributes": crystal("", structure_features=["\ud800"])["attributes"]},
        {"attributes": crystal("", nperiodic_dimensions="\ud800" * 999)["attributes"]},
        {"attributes": crystal("", species_at_sites=["\ud800"])["attributes"]},
        {"attributes": {"dimension_types": ["a"]}},
        {"attributes": crystal("", lattice_vectors=[[1e999, 0, 0], [0, 3, 0], [0, 0, 3]])["attributes"]},
    ],
)
def test_a_document_of_nonsense_is_one_failure(server: Server, tmp_path: Path, bad: dict[str, Any]) -> None:
    status, headers, body = answer([crystal("good"), {**crystal("bad"), **bad}])
    server.answers = [(status, headers, body.replace(b"Infinity", b"1e999"))]
    pulled = ask(server, tmp_path)
    assert [known.id for known in pulled.structures] == ["it:good"]
    assert [failure.material_id for failure in pulled.failures] == ["it:bad"]
    assert pulled.failures[0].message.isprintable()


@pytest.mark.parametrize(
    "bad",
    [
        {"meta": [1]},
        {"meta": {"provider": [1]}},
        {"meta": {"api_version": "../../x"}},
        {"meta": {"api_version": {"a": 1}}},
        {"meta": {"api_version": "\ud800"}},
        {"links": [1]},
        {"links": {"next": [1]}},
    ],
)
def test_a_page_of_nonsense_is_the_providers_trouble(server: Server, tmp_path: Path, bad: dict[str, Any]) -> None:
    server.answers = [answer([crystal("good")], **bad)]
    with pytest.raises(IncompleteAnswer, match=r"the OPTIMADE provider 127\.0\.0\.1 .*a page ") as caught:
        ask(server, tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("prefix", ["\ud800", "a\nb", "", "x" * 999, 5])
def test_a_provider_without_a_usable_name_is_called_by_its_host(server: Server, tmp_path: Path, prefix: object) -> None:
    server.answers = [answer([crystal("good")], meta={"provider": {"prefix": prefix}, "api_version": "1.2.0~develop"})]
    pulled = ask(server, tmp_path)
    assert [known.id for known in pulled.structures] == ["127.0.0.1:good"]
    assert pulled.database_version.startswith("1.2.0.develop+")


def test_pages_that_bring_nothing_end(server: Server, tmp_path: Path) -> None:
    server.answers = [answer([], links={"next": f"?n={n}"}) for n in range(1, 20)]
    with pytest.raises(IncompleteAnswer, match=r"sent 4 pages in a row that bring nothing.*to start afresh"):
        ask(server, tmp_path)
    assert len(server.seen) == 4


def test_a_few_empty_pages_are_gone_through(server: Server, tmp_path: Path) -> None:
    empty = [answer([], links={"next": f"?n={n}"}) for n in range(3)]
    server.answers = [*empty, answer([crystal("a")], links={"next": "?n=8"}), answer([crystal("b")])]
    assert len(ask(server, tmp_path).structures) == 2


def test_a_stop_is_heard_between_two_pages(server: Server, tmp_path: Path) -> None:
    server.answers = [answer([crystal(f"x{n}")], links={"next": f"?n={n}"}) for n in range(9)]

    def check() -> None:
        if len(server.seen) == 3:
            raise InterruptedError("stopped")

    with pytest.raises(InterruptedError):
        ask(server, tmp_path, check_stop=check)
    assert len(server.seen) == 3


def test_each_page_is_parsed_once_and_let_go(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[weakref.ref[Page]] = []

    class Page(dict[str, Any]):
        """One that can be watched."""

    def parse(text: bytes, **options: Any) -> Any:
        assert all(page() is None for page in pages)
        page = Page(json.JSONDecoder().decode(text.decode()))
        pages.append(weakref.ref(page))
        return page

    server.answers = [answer([crystal(f"x{n}")], links={"next": f"?n={n}" if n < 2 else None}) for n in range(3)]
    monkeypatch.setattr(web, "json", SimpleNamespace(loads=parse))
    monkeypatch.delattr(requests.Response, "json")  # which parses anew
    assert len(ask(server, tmp_path).structures) == 3
    assert len(pages) == 3
