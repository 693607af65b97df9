"""The patient session, against a server in this process. The sources' own tests go through every trouble there is."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from materials.errors import IncompleteAnswer, SourceRefused, SourceUnavailable
from materials.sources.databases import http as web
from materials.sources.databases.http import open_session, without_secrets

SECRET = "s3cret-key-of-thirty-two-letters"


class Server(HTTPServer):
    answers: list[tuple[int, dict[str, str], bytes]]
    seen: list[str | None]


class Scripted(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("x-api-key"))
        status, headers, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # whoever has heard enough
            self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Scripted)
    server.answers, server.seen = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/data?key={SECRET}"


GOOD: tuple[int, dict[str, str], bytes] = (200, {}, b'{"data": [1]}')


def test_hands_back_a_good_answer(server: Server) -> None:
    server.answers = [GOOD]
    with open_session(source="it") as session:
        assert session.get(url(server)).json() == {"data": [1]}


def test_what_the_page_check_objects_to_is_asked_for_again(server: Server) -> None:
    server.answers = [(200, {}, b'{"data": []}'), GOOD]
    check = lambda where, page: None if page["data"] else "an empty page"  # noqa: E731
    with open_session(source="it", inspect=check, backoff_s=0) as session:
        assert session.get(url(server)).json() == {"data": [1]}
    server.answers = [(200, {}, b'{"data": []}')] * 2
    with (
        open_session(source="it", inspect=check, backoff_s=0, attempts=2) as session,
        pytest.raises(IncompleteAnswer, match=r"an empty page.*tried 2 times"),
    ):
        session.get(url(server))


def test_a_body_cut_short_is_asked_for_again(server: Server) -> None:
    server.answers = [(200, {"Content-Length": "999"}, b'{"data": [1]}'), GOOD]
    with open_session(source="it", backoff_s=0) as session:
        assert session.get(url(server)).json() == {"data": [1]}
    assert len(server.seen) == 2


def test_numbers_that_are_no_json_are_refused(server: Server) -> None:
    server.answers = [(200, {}, b'{"data": [NaN]}')]
    with open_session(source="it", attempts=1) as session, pytest.raises(IncompleteAnswer, match="no whole JSON"):
        session.get(url(server))


def test_a_stop_ends_a_wait_for_the_next_attempt(server: Server) -> None:
    server.answers = [(503, {"Retry-After": "100"}, b""), GOOD]
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise InterruptedError("stopped")
        if server.seen:
            asked.set()  # somebody stops the run while it waits

    session = open_session(source="it", check_stop=check)
    with session, pytest.raises(InterruptedError, match="stopped"):
        session.get(url(server))
    assert len(server.seen) == 1


def test_a_stop_comes_before_the_next_request(server: Server) -> None:
    def check() -> None:
        raise InterruptedError("stopped")

    with open_session(source="it", check_stop=check) as session, pytest.raises(InterruptedError):
        session.get(url(server))
    assert not server.seen


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_final_and_repeats_what_was_said_but_no_key(server: Server, status: int) -> None:
    server.answers = [(status, {}, f'{{"detail": "no {SECRET} here"}}'.encode())]
    session = open_session(source="it", headers={"x-api-key": SECRET}, backoff_s=0)
    with session, pytest.raises(SourceRefused, match=rf"status {status}.*no \*\*\* here") as caught:
        session.get(url(server))
    assert SECRET not in str(caught.value)
    assert server.seen == [SECRET]


def test_the_key_does_not_follow_a_redirect(server: Server) -> None:
    server.answers = [(302, {"Location": f"http://thief.invalid/?{SECRET}"}, b"")]
    session = open_session(source="it", headers={"x-api-key": SECRET})
    with session, pytest.raises(SourceRefused, match=r"redirects to http://thief\.invalid/;") as caught:
        session.get(url(server))
    assert SECRET not in str(caught.value)


def test_a_redirect_is_followed_where_no_key_travels(server: Server) -> None:
    server.answers = [(301, {"Location": url(server)}, b""), GOOD]
    with open_session(source="it", follow_redirects=True) as session:
        assert session.get(url(server)).json() == {"data": [1]}


@pytest.mark.parametrize(
    "there",
    [
        "http://127.0.0.1:9/data",  # another port
        "http://localhost:{port}/data",  # another name
        "https://127.0.0.1:{port}/data",
        "http://169.254.169.254/latest/meta-data",
        "//evil.example/data",
        "http://127.0.0.1:{port}@evil.example/data",
    ],
)
def test_a_redirect_to_another_server_is_not_followed(server: Server, there: str) -> None:
    target = there.format(port=server.server_address[1])
    server.answers = [(302, {"Location": target}, b""), GOOD]
    session = open_session(source="it", follow_redirects=True)
    with session, pytest.raises(SourceRefused, match=r"redirects to .*give that address as the endpoint if you trust"):
        session.get(url(server))
    assert len(server.seen) == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}, {"Content-Length": "999999999999"}])
@pytest.mark.parametrize("status", [200, 302, 400, 503])
def test_a_body_has_a_limit(
    server: Server, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    monkeypatch.setattr(web, "LARGEST_BODY", 2**20)
    body = b'{"data": ["' + b" " * 2**22 + b'"]}'
    sent = gzip.compress(body) if headers.get("Content-Encoding") else body
    server.answers = [(status, {"Location": "/elsewhere", **headers}, sent)] * 2
    session = open_session(source="it", follow_redirects=True, attempts=2, backoff_s=0)
    with session, pytest.raises(IncompleteAnswer, match=r"more than 1 MiB in one answer"):
        session.get(url(server))
    assert len(server.seen) == 1  # it would send as much again


def test_redirects_in_a_circle_end(server: Server) -> None:
    server.answers = [(302, {"Location": url(server)}, b"")] * 100
    with (
        open_session(source="it", follow_redirects=True) as session,
        pytest.raises(SourceUnavailable, match=r"it \(http://127\.0\.0\.1:\d+/data\) redirects too often") as caught,
    ):
        session.get(url(server))
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


HERE = "https://db.example/optimade/v1/structures?page=1"


@pytest.mark.parametrize(
    ("page", "link", "followed"),
    [
        (HERE, "https://db.example/other?page=2", "https://db.example/other?page=2"),
        (HERE, "?page=2", "https://db.example/optimade/v1/structures?page=2"),
        (HERE, "https://DB.example:443/x", "https://DB.example:443/x"),
        # A proxy before it that the server does not know of: the same pages, and no step back to what anybody can read.
        (HERE, "http://db.example/x?page=2", "https://db.example/x?page=2"),
        (HERE.replace("https", "http"), "https://db.example/x", "https://db.example/x"),
        (HERE, "https://db.example:8443/x", None),
        (HERE, "http://db.example:8080/x", None),
        (HERE, "http://db.example:443/x", None),
        ("http://127.0.0.1:5000/x", "https://127.0.0.1:5000/x", None),
        (HERE, "https://evil.example/x", None),
        (HERE, "//evil.example/x", None),
        (HERE, "https://db.example.evil.example/x", None),
        (HERE, "https://db.example@evil.example/x", None),
        (HERE, "https://user:word@db.example/x", None),
        (HERE, "file:///etc/passwd", None),
        (HERE, "ftp://db.example/x", None),
        (HERE, "https://db.example:port/x", None),
        (HERE, "https://[::1/x", None),
        (HERE, "http://169.254.169.254/latest", None),
    ],
)
def test_a_link_stays_on_its_server(page: str, link: str, followed: str | None) -> None:
    assert web.on_its_server(page, link) == followed


def test_nobody_listening_is_said_without_the_query() -> None:
    with (
        open_session(source="it", attempts=2, backoff_s=0) as session,
        pytest.raises(SourceUnavailable, match=r"http://127\.0\.0\.1:1/x\) cannot be reached.*tried 2 times") as caught,
    ):
        session.get(f"http://127.0.0.1:1/x?key={SECRET}")
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pw@host.org:8080/a/b?key=1#x", "https://host.org:8080/a/b"),
        ("http://host/", "http://host/"),
        ("http://host:port/", "an address that is none"),
        ("http://[::1/", "an address that is none"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


@pytest.mark.parametrize("location", ["http://[bad", "http://127.0.0.1:999999/x", "\xff", "http://127.0.0.1:x/"])
@pytest.mark.parametrize("follow", [True, False])
def test_a_redirect_to_no_address_is_the_servers_trouble(server: Server, location: str, follow: bool) -> None:
    server.answers = [(302, {"Location": location}, b"")] * 2
    session = open_session(source="it", follow_redirects=follow, attempts=1)
    with session, pytest.raises((SourceRefused, SourceUnavailable), match="redirects to"):
        session.get(url(server))


@pytest.mark.parametrize("wait", ["9" * 5000, "Mon, 99 Jan 999999 00:00:00 GMT", "later", "1, 2"])
def test_a_wait_that_is_none_is_not_waited_for(server: Server, wait: str) -> None:
    server.answers = [(503, {"Retry-After": wait}, b"{}"), GOOD]
    with open_session(source="it", backoff_s=0, attempts=2) as session:
        assert session.get(url(server)).json() == {"data": [1]}


def test_a_reason_of_nonsense_can_be_printed(server: Server) -> None:
    server.answers = [(400, {}, b'{"errors": [{"detail": "\\ud800 \\u001b[31m"}]}'), (400, {}, b"[" * 100_000)]
    for _ in range(2):
        with open_session(source="it") as session, pytest.raises(SourceRefused, match="status 400") as caught:
            session.get(url(server))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", ["Content-Length: 9999\r\n", "Transfer-Encoding: chunked\r\n", "", None])
def test_an_answer_that_drips_ends(monkeypatch: pytest.MonkeyPatch, length: str | None) -> None:
    monkeypatch.setattr(web, "LONGEST_ANSWER_S", 0.5)
    head = b"HTTP/1.1 200 OK\r\n" + (b"X: " if length is None else f"{length}\r\n".encode())
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(2**16)
            connection.sendall(head)
            while not ended.wait(0.05):
                connection.sendall(b"1")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began = time.monotonic()
        with (
            open_session(source="it", attempts=1, timeout_s=5) as session,
            pytest.raises(SourceUnavailable, match=r"it \(http://127\.0\.0\.1:\d+/x\) (did not|cannot)"),
        ):
            session.get(f"http://127.0.0.1:{listening.getsockname()[1]}/x")
        assert time.monotonic() - began < 4
        ended.set()
        thread.join(5)
