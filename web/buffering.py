"""The bridge from an asynchronous server (ASGI) to the Flask app (WSGI).

The whole body is read before the app is called, so a slow client blocks no worker and no thread. The app then runs on
the event loop itself, because handing each request to a thread would take longer than predicting a ride.
"""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from web.openapi import MAX_BODY_BYTES
from web.problems import PROBLEM_JSON, make_problem

BODY_SECONDS = 15.0
"""How long a client may take to send a body."""

TOO_SLOW = msgspec.json.encode(
    make_problem(408, f"the body did not come within {BODY_SECONDS:g} seconds: send it again")
)
TOO_SLOW_HEADERS = [
    (b"content-type", PROBLEM_JSON.encode()),
    (b"content-length", str(len(TOO_SLOW)).encode()),
    # The rest of the body may still arrive, and would be read as the next request.
    (b"connection", b"close"),
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

ENVIRON = {
    "SCRIPT_NAME": "",
    "wsgi.version": (1, 0),
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}
"""The part of the environment that all requests share (PEP 3333)."""
LENGTH = (b"content-length", b"transfer-encoding")
"""Headers about the length of a body. The app gets the length of the body that was read instead."""


class BufferingApp:
    """An ASGI application that calls a WSGI application once it has a complete request."""

    def __init__(self, app: WSGIApp, is_closing: Callable[[], bool]) -> None:
        """Call ``app``. Each response closes its connection if ``is_closing`` returns True."""
        self._app = app
        self._is_closing = is_closing

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(receive)
        except TimeoutError:
            await _send(send, 408, TOO_SLOW_HEADERS, TOO_SLOW)
            return
        if body is None:
            return
        status, headers, content = self._call(_make_environ(scope, body))
        if self._is_closing():
            headers.append((b"connection", b"close"))
        await _send(send, status, headers, content)

    def _call(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        status, headers = 0, list[tuple[bytes, bytes]]()

        def start_response(line: str, pairs: Iterable[tuple[str, str]], _: object = None) -> None:
            nonlocal status, headers
            status = int(line[:3])
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]

        parts = self._app(environ, start_response)
        try:
            return status, headers, b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, or None if the client has gone.

    If a body is too large, the rest of it is read and dropped. The app refuses such a body, and a client that reads the
    answer only after it has sent everything gets this answer too.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        if len(body) <= MAX_BODY_BYTES:
            body += message["body"]
        if not message["more_body"]:
            return body


def _make_environ(scope: Message, body: bytes) -> dict[str, Any]:
    host, port = scope["server"] or ("", 0)
    environ = {
        **ENVIRON,
        "REQUEST_METHOD": scope["method"],
        # WSGI's strings hold bytes, one in each character.
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": scope["client"][0] if scope["client"] else "",
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
    }
    for name, value in scope["headers"]:
        # A header with an underscore would get the same variable as the one with a hyphen, and so could forge it.
        if name in LENGTH or b"_" in name:
            continue
        variable = name.decode("latin-1").upper().replace("-", "_")
        variable = variable if name == b"content-type" else f"HTTP_{variable}"
        text = value.decode("latin-1")
        environ[variable] = f"{environ[variable]},{text}" if variable in environ else text
    return environ


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
