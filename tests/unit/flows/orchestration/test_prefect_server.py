"""Whom the server of `assay up` hears: pages of its own and programs of this machine."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from flows.orchestration.prefect_server import LOG_IN, own_only


async def anything(scope: Any, receive: Any, send: Any) -> None:
    """Does what it is asked to, whoever asks."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
    else:
        await send({"type": "websocket.accept"})


def ask(*headers: tuple[str, str], kind: str = "http", path: str = "/api/x", origins: str = "") -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {
        "type": kind,
        "method": "POST",
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }

    async def answered() -> None:
        await own_only(anything, origins.split(","))(scope, receive, send)

    asyncio.run(answered())
    return said


def heard(*headers: tuple[str, str], origins: str = "") -> bool:
    """Whether it is heard, as a request and as a WebSocket alike."""
    status = ask(*headers, origins=origins)[0]["status"]
    [first] = ask(*headers, origins=origins, kind="websocket")
    assert status in (200, 403)
    assert first["type"] == ("websocket.accept" if status == 200 else "websocket.close")
    return bool(status == 200)


HERE = ("Host", "127.0.0.1:4200")


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "127.0.0.1", "localhost:4200", "LocalHost:9999", "[::1]:4200"])
def test_programs_and_own_pages_are_heard_through_a_tunnel_too(host: str) -> None:
    assert heard(("Host", host))
    assert heard(("Host", host), ("Origin", f"http://{host.lower()}"))


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1:8888",  # another server of this machine, of another user perhaps
        "http://127.0.0.1",
        "http://localhost:4200",  # another site to a browser
        "http://127.0.0.1:4200.evil.example",
        "http://127.0.0.1:4200@evil.example",
        "file://",
    ],
)
def test_a_page_of_another_site_is_not_heard(origin: str) -> None:
    assert not heard(HERE, ("Origin", origin))
    assert not heard(HERE, ("Origin", "http://127.0.0.1:4200"), ("Origin", origin))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example:4200",
        "localhost.evil.example",
        "evil.example#127.0.0.1:4200",
        "127.0.0.1:4200@evil.example",
        "192.168.1.5:4200",
        "",
    ],
)
def test_a_name_that_is_not_this_machines_is_not_heard(host: str) -> None:
    assert not heard(("Host", host))
    assert not heard(("Host", host), ("Origin", f"http://{host}"))  # a page whose own name was led here


def test_no_name_and_two_names_are_not_heard() -> None:
    assert not heard()
    assert not heard(HERE, ("Host", "evil.example"))


def test_a_proxy_that_the_user_names_is_heard() -> None:
    origins = "https://assay.example.org/, http://127.0.0.1:4200"
    assert heard(("Host", "assay.example.org"), ("Origin", "https://assay.example.org"), origins=origins)
    assert heard(HERE, ("Origin", "https://assay.example.org"), origins=origins)
    assert not heard(HERE, ("Origin", "https://evil.example"), origins=origins)
    assert not heard(("Host", "evil.example"), origins=origins)
    # All pages, if that is what somebody has asked for: but by no foreign name.
    assert heard(HERE, ("Origin", "https://evil.example"), origins="*")
    assert not heard(("Host", "evil.example"), origins="*")


def test_the_log_in_page_takes_the_word_from_where_no_server_sees_it() -> None:
    start, body = ask(HERE, path=LOG_IN)
    assert start["status"] == 200
    page = body["body"].decode()
    assert "location.hash" in page
    assert not re.search(r"https?://", page)  # it loads nothing
    assert ask(("Host", "evil.example"), path=LOG_IN)[0]["status"] == 403
