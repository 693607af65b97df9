"""Where an OPTIMADE provider's answers may lead; a real server's own: tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from materials.errors import IncompleteAnswer, SourceRefused
from materials.sources import web
from materials.sources.optimade import pull
from tests.unit.materials.sources.test_web import Server, server

__all__ = ["server"]


def page(following: object) -> tuple[int, dict[str, str], bytes]:
    documents = [{"id": "x", "type": "structures", "attributes": {}}]
    content = {"data": documents, "links": {"next": following}, "meta": {"more_data_available": True}}
    return 200, {}, json.dumps(content).encode()


def ask(server: Server, folder: Path) -> None:
    pull(
        provider_url=f"http://127.0.0.1:{server.server_address[1]}",
        filter='elements HAS "Li"',
        snapshot_folder=folder,
        attempts=1,
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
