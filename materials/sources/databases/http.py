"""HTTP client for JSON: with retries and timeouts, and never half an answer for a whole one.

The care sits in a `requests` adapter, so that any client that accepts a `requests.Session` gets it too.
No message, and no exception behind a message, carries a header or a query: keys travel there.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from materials.errors import IncompleteAnswer, SourceError, SourceRefused, SourceUnavailable
from materials.sources.files.usable import printable

_NO_ADDRESS = "an address that is none"
_PAYLOAD = "assay_payload"  # the attribute of a response

# Looks at one page (its address, its JSON) and says what is wrong with it, or None.
Inspect = Callable[[str, dict[str, Any]], str | None]

BUSY = frozenset({408, 425, 429})
SHORT_S = 0.2
LONGEST_WAIT_S = 120.0
# A body's head, and then the rest of it, may take so long: 60 kB/s bring a thousand crystals.
LONGEST_ANSWER_S = 300.0
# Bytes, unpacked. A thousand crystals take some 2**24; JSON of nothing but empty objects takes thirty times its text.
LARGEST_BODY = 2**25
PORTS = {"http": 80, "https": 443}


class KeptPages(Protocol):
    """Where the pages that arrived are kept, so that a pull that broke off goes on."""

    def load(self, url: str) -> bytes | None:
        """The body kept for an address, or None."""

    def keep(self, url: str, body: bytes) -> None:
        """Keep the body of an address."""


class PatientAdapter(HTTPAdapter):
    """Sends a request until a whole, sound JSON answer has arrived, or says why none came.

    Redirects are followed on one server alone, and an answer has a limit: what is asked may be anybody's.

    Tried again: no connection, a timeout, a body cut short, half JSON, a page that `inspect` objects to, and the
    statuses 408, 425, 429 and 5xx, after the wait that `Retry-After` asks for. All other statuses are final.
    """

    def __init__(
        self,
        *,
        source: str,
        attempts: int,
        backoff_s: float,
        timeout_s: float,
        inspect: Inspect | None,
        pages: KeptPages | None,
        follow_redirects: bool,
        parsed: bool,
        check_stop: Callable[[], None],
    ) -> None:
        super().__init__()
        self._source = source
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._timeout_s = timeout_s
        self._inspect = inspect
        self._pages = pages
        self._follow_redirects = follow_redirects
        self._parsed = parsed
        self._check_stop = check_stop

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools of connections, of connections that do not wait for ever."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Answer a request, from the kept pages or from the server.

        Raises:
            SourceUnavailable: Nothing sound came in all attempts.
            SourceRefused: The server does not accept the key or the query.
            IncompleteAnswer: Each attempt brought only a part of the answer, or one that has no end.
        """
        self._check_stop()
        url = request.url or ""
        body = self._pages.load(url) if self._pages else None
        if body is not None:
            return _kept_response(request, body)
        for attempt in range(1, self._attempts + 1):
            response, trouble = self._try(request, verify, cert, proxies)
            if response is not None and trouble is None:
                if self._pages and response.status_code == 200:
                    self._pages.keep(url, response.content)
                return response
            if attempt < self._attempts:
                self._sleep(self._wait_s(attempt, response))
        # Raised outside of any except block: what requests raises carries the request, and that the key.
        assert trouble is not None
        raise type(trouble)(f"{trouble} (tried {self._attempts} times)")

    def _try(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None,
        proxies: Mapping[str, str] | None,
    ) -> tuple[requests.Response | None, SourceError | None]:
        where = f"{self._source} ({without_secrets(request.url or '')})"
        try:
            # stream=False only makes the Session read the body later, outside of these attempts: read it here.
            response = super().send(request, True, self._timeout_s, verify, cert, proxies)
            body, late = _read(response)
        except requests.Timeout:
            return None, SourceUnavailable(f"{where} did not answer within {self._timeout_s:g} s")
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            return None, IncompleteAnswer(f"{where} broke off in the middle of its answer")
        except requests.exceptions.SSLError:
            return None, SourceUnavailable(f"{where} shows a certificate that this machine does not trust")
        except requests.RequestException as error:
            # Reading the rest of a body fails with a plain ConnectionError as well as a refused connection.
            return None, SourceUnavailable(f"{where} cannot be reached: {type(error).__name__}")
        except (HTTPError, ValueError) as error:
            # What urllib3 makes of headers that make no sense reaches us as it is.
            return None, SourceUnavailable(f"{where} sends what is no answer: {type(error).__name__}")
        if late:
            took = f"did not end its answer within {LONGEST_ANSWER_S:g} s"
            raise SourceUnavailable(f"{where} {took}; ask for less at a time, or later")
        if body is None:
            most = f"more than {LARGEST_BODY / 2**20:g} MiB in one answer"
            raise IncompleteAnswer(f"{where} sends {most}, which is not taken in; ask for less at a time")
        if response.status_code in BUSY or response.status_code >= 500:
            reason = printable(str(response.reason))[:100]
            return response, SourceUnavailable(f"{where} answered {response.status_code} {reason}")
        if response.is_redirect and self._follow_redirects:
            there = _target(response)
            if there and on_its_server(request.url or "", there) == there:
                return response, None
        if response.status_code != 200:
            raise _refusal(where, response)
        return response, self._judge(where, response, body)

    def _judge(self, where: str, response: requests.Response, body: bytes) -> SourceError | None:
        try:
            payload = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            if body.lstrip()[:1] == b"<":
                return SourceUnavailable(
                    f"{where} answered with a web page, not with data: a proxy's log-in page, perhaps"
                )
            return IncompleteAnswer(f"{where} answered with {len(body)} bytes that are no whole JSON")
        if not isinstance(payload, dict):
            return IncompleteAnswer(f"{where} answered with a {type(payload).__name__} where an object was due")
        objection = self._inspect(response.request.url or "", payload) if self._inspect else None
        if self._parsed and not objection:
            vars(response)[_PAYLOAD] = payload
        return IncompleteAnswer(f"{where}: {objection}") if objection else None

    def _sleep(self, seconds: float) -> None:
        """Wait in short pieces: a run that is asked to stop ends none the later for it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check_stop()
            time.sleep(min(left, SHORT_S))

    def _wait_s(self, attempt: int, response: requests.Response | None) -> float:
        asked = response.headers.get("Retry-After") if response is not None else None
        if asked:
            try:
                return min(Retry().parse_retry_after(asked), LONGEST_WAIT_S)
            except (HTTPError, ValueError, OverflowError, TypeError):
                pass  # no number and no date, or the date of no calendar
        return min(self._backoff_s * 2 ** (attempt - 1), LONGEST_WAIT_S)


class _Session(requests.Session):
    """One whose redirects end, in one of our errors."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source
        self.max_redirects = 5

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Answer a request, as the adapter does.

        Raises:
            SourceUnavailable: It is sent from one address to the next, or to one that is none.
        """
        try:
            return super().send(request, **options)
        except requests.TooManyRedirects:
            trouble = "redirects too often"  # said below: the exception carries the request
        except (requests.RequestException, ValueError):
            trouble = "redirects to what is no address"
        raise SourceUnavailable(f"{self._source} ({without_secrets(request.url or '')}) {trouble}")


def _get_response(connection: HTTPConnection, wait: Callable[[], HTTPResponse]) -> HTTPResponse:
    """Wait for the head of an answer, which has an end though each of its bytes comes in time."""
    assert connection.sock is not None
    with _at_most(connection.sock.shutdown, socket.SHUT_RD) as late:
        response = wait()
    if late.is_set():
        response.close()
        raise TimeoutError
    return response


class _Connection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        return _get_response(self, super().getresponse)


class _SafeConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        return _get_response(self, super().getresponse)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(HTTPSConnectionPool):
    ConnectionCls = _SafeConnection


@contextmanager
def _at_most(end: Callable[..., Any], *arguments: Any) -> Iterator[threading.Event]:
    """Call `end` from another thread where what is done takes too long; the event tells that it was called."""
    late = threading.Event()

    def cut_off() -> None:
        late.set()
        with suppress(Exception):  # it ended at this very moment
            end(*arguments)

    timer = threading.Timer(LONGEST_ANSWER_S, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _read(response: requests.Response) -> tuple[bytes | None, bool]:
    """Take in a body, unpacked: None if it is larger than any that is due; and whether it took too long."""
    parts, size = [], 0
    # A look at the clock between two reads would not do: one read lasts until its last byte has come.
    with _at_most(response.raw.shutdown) as late:
        try:
            for part in response.iter_content(2**16):
                size += len(part)
                if size > LARGEST_BODY:
                    response.close()
                    return None, False
                parts.append(part)
        except Exception:
            if not late.is_set():
                raise
    if late.is_set():
        response.close()
        return None, True
    response._content = b"".join(parts)  # where `content` keeps it
    return response.content, False


def take_json(response: requests.Response) -> Any:
    """Hand over what an answer says, which the response then forgets: a large page is parsed, and held, once."""
    payload = vars(response).pop(_PAYLOAD, None)
    if payload is None:
        payload = json.loads(response.content)
    response._content = b""
    return payload


def on_its_server(page: str, link: str) -> str | None:
    """Say which address a page's link means, if that is on the page's own server: same scheme, host and port.

    A database behind a proxy may not know that it is asked by https, and one that is asked by http may want https:
    both mean https, on the usual ports.
    """
    try:
        here, there = urlsplit(page), urlsplit(urljoin(page, link))
        ports = here.port or PORTS[here.scheme], there.port or PORTS[there.scheme]
    except (ValueError, KeyError):  # no address, or not of the web
        return None
    if here.hostname != there.hostname or _user(there) not in ((None, None), _user(here)):
        return None
    if here.scheme == there.scheme:
        return there.geturl() if ports[0] == ports[1] else None
    usual = ports == (PORTS[here.scheme], PORTS[there.scheme])
    return there._replace(scheme="https").geturl() if usual and not (here.port or there.port) else None


def _user(parts: SplitResult) -> tuple[str | None, str | None]:
    return parts.username, parts.password


def open_session(
    *,
    source: str,
    headers: Mapping[str, str] | None = None,
    attempts: int = 5,
    backoff_s: float = 1.0,
    timeout_s: float = 60.0,
    inspect: Inspect | None = None,
    pages: KeptPages | None = None,
    follow_redirects: bool = False,
    parsed: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> requests.Session:
    """Open a session whose every request is patient and whose every answer is whole.

    Args:
        source: Who is asked, for messages: "The Materials Project".
        headers: Sent with each request; never shown.
        attempts: How often each request is tried.
        backoff_s: Wait before the second attempt, doubled before each further one, unless the server names a wait.
        timeout_s: Longest silence of the server.
        inspect: Judges each page; what it objects to is asked for again.
        pages: Where sound pages are kept and looked up.
        follow_redirects: Off where a key travels: `requests` would carry it to another host.
        parsed: Keep what was parsed with the response, for `take_json`.
        check_stop: Called before each request and while one waits to be repeated; raises what ends the pull.
    """
    session = _Session(source)
    session.headers.update({"Accept": "application/json", "User-Agent": "assay", **(headers or {})})
    adapter = PatientAdapter(
        source=source,
        attempts=attempts,
        backoff_s=backoff_s,
        timeout_s=timeout_s,
        inspect=inspect,
        pages=pages,
        follow_redirects=follow_redirects,
        parsed=parsed,
        check_stop=check_stop,
    )
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def without_secrets(url: str) -> str:
    """The scheme, host and path of an address: no user, password, query or fragment."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return _NO_ADDRESS
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _refusal(where: str, response: requests.Response) -> SourceRefused:
    if response.is_redirect:
        there = _target(response)
        target = without_secrets(there) if there else _NO_ADDRESS
        if target == _NO_ADDRESS:
            return SourceRefused(f"{where} redirects to {target}; try again later, or ask another provider")
        return SourceRefused(f"{where} redirects to {target}; give that address as the endpoint if you trust it")
    what = "key" if response.status_code in (401, 403) and _key_of(response) else "request"
    said = _reason_given(response)
    reason = f": {said}" if said else ""
    return SourceRefused(f"{where} does not accept the {what} (status {response.status_code}){reason}")


def _reason_given(response: requests.Response) -> str:
    """What the server itself says, from FastAPI's `detail` or OPTIMADE's `errors`; cut to a readable length."""
    try:
        payload = json.loads(response.content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(payload, dict):
        return ""
    said = payload.get("errors") or payload.get("detail") or payload.get("message") or ""
    if isinstance(said, list):
        said = "; ".join(
            str(s.get("detail") or s.get("msg") or s.get("title")) if isinstance(s, dict) else str(s) for s in said
        )
    return printable(str(said).replace(_key_of(response) or "\0", "***")[:500])


def _target(response: requests.Response) -> str | None:
    """Where a redirect leads; None if that is no address."""
    try:
        return urljoin(response.request.url or "", response.headers["Location"])
    except ValueError:
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _key_of(response: requests.Response) -> str:
    return str(response.request.headers.get("x-api-key") or "")


def _kept_response(request: requests.PreparedRequest, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    response.url = request.url or ""
    response.request = request
    response.raw = io.BytesIO(body)
    response.encoding = "utf-8"
    response.headers["Content-Type"] = "application/json"
    return response
