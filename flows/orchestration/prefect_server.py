"""Prefect's server as `assay up` starts it: requests from other sites and under other names are refused.

Prefect itself takes a request from any page and by any name, and a page that somebody has open elsewhere can send
requests to this machine, or have its own name lead here. What such a page could ask for is to run a command.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
OWN_NAMES = frozenset({HOST, "localhost", "[::1]"})  # with any port, for one may come through a tunnel
LOG_IN = "/log-in"
# The UI keeps in the browser what its log-in form was told. What follows # is sent to no server.
LOG_IN_PAGE = b"""<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Log in</title>
<script>
const told = decodeURIComponent(location.hash.slice(1));
if (told) localStorage.setItem("prefect-password", btoa(told));
location.replace("/");
</script>
"""
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]  # as ASGI defines it


def own_only(app: App, origins: Iterable[str] = ()) -> App:
    """Refuse what comes from a page of another site, or by a name that is not this machine's own.

    Args:
        app: What answers the others.
        origins: Further sites whose pages may ask, such as `https://assay.example.org`; their hosts are names, too.
    """
    allowed = {told for origin in origins if (told := origin.strip().rstrip("/").lower())}
    names = OWN_NAMES | {_name(urlsplit(origin).netloc) for origin in allowed if "://" in origin}

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        told: dict[str, list[str]] = {"host": [], "origin": []}
        for key, value in scope["headers"]:
            told.get(key.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts = told["host"]
        if len(hosts) != 1 or _name(hosts[0]) not in names:
            await _refuse(scope, send, "This server answers as localhost only.")
        elif "*" not in allowed and not allowed.union([f"http://{hosts[0]}"]).issuperset(told["origin"]):
            await _refuse(scope, send, "This server answers its own pages only.")
        elif scope["type"] == "http" and scope["path"] == LOG_IN:
            await _send(send, 200, b"text/html; charset=utf-8", LOG_IN_PAGE)
        else:
            await app(scope, receive, send)

    return answer


def _name(host: str) -> str:
    """Leave out the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


async def _refuse(scope: Message, send: Send, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
    else:
        await _send(send, 403, b"text/plain; charset=utf-8", sentence.encode())


async def _send(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(port: int) -> None:
    """Run the server on loopback until it is told to end, as `prefect server start` does."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import (
        PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
        PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
        PREFECT_SERVER_LOGGING_LEVEL,
    )

    uvicorn.run(
        own_only(create_app(final=True), PREFECT_SERVER_CORS_ALLOWED_ORIGINS.value().split(",")),
        host=HOST,
        port=port,
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        log_level=PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
