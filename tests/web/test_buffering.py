"""The bridge between the asynchronous server and the app: time limits, clients that disconnect, and the environment."""

import asyncio
import io
import json
from collections.abc import Iterable
from typing import Any

import pytest

from web import buffering
from web.buffering import BufferingApp

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/grüße",
    "query_string": b"a=%C3%BC",
    "http_version": "1.1",
    "scheme": "http",
    "server": ("127.0.0.1", 9696),
    "client": ("127.0.0.1", 50_000),
    "headers": [
        (b"content-type", b"application/json"),
        (b"content-length", b"999"),
        (b"transfer-encoding", b"chunked"),
        (b"x-request-id", b"one"),
        (b"x-request-id", b"two"),
        (b"x_request_id", b"three"),
    ],
}


class App:
    """A WSGI application that keeps the environment of its request."""

    def __init__(self) -> None:
        """Start without an environment."""
        self.environ: dict[str, Any] = {}
        self.body = b""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer two bytes."""
        self.environ, self.body = environ, environ["wsgi.input"].read()
        start_response("200 OK", [("X-Answer", "yes")])
        return [b"a", b"b"]


def answer(app: App, messages: list[dict[str, Any]], *, is_closing: bool = False) -> list[dict[str, Any]]:
    """Return what is sent to a client that sends these messages, and then nothing more."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(BufferingApp(app, lambda: is_closing)(SCOPE, receive, send))
    return sent


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    """Return the message of a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


def test_the_app_is_called_with_the_whole_body() -> None:
    """The app gets the true length. Headers with another length are dropped, and so is one that forges a header."""
    app = App()
    start, body = answer(app, [part(b"1", more=True), part(b"23", more=False)])
    assert app.body == b"123"
    assert {name: text for name, text in app.environ.items() if not name.startswith("wsgi.")} == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/grüße".encode().decode("latin-1"),
        "QUERY_STRING": "a=%C3%BC",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "3",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "9696",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_REQUEST_ID": "one,two",
    }
    assert (start["status"], start["headers"], body["body"]) == (200, [(b"x-answer", b"yes")], b"ab")
    assert isinstance(app.environ["wsgi.input"], io.BytesIO)


def test_responses_close_their_connections_when_the_server_ends() -> None:
    """The client then knows that it must connect again."""
    start, _ = answer(App(), [part(b"", more=False)], is_closing=True)
    assert (b"connection", b"close") in start["headers"]


def test_a_client_that_goes_gets_no_prediction() -> None:
    """The app is not called for half a body."""
    app = App()
    assert answer(app, [part(b"1", more=True), {"type": "http.disconnect"}]) == []
    assert app.environ == {}


def test_a_body_that_does_not_end_in_time_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed, because the rest of the body could still come."""
    monkeypatch.setattr(buffering, "BODY_SECONDS", 0.01)
    app = App()
    start, body = answer(app, [part(b"1", more=True)])
    assert (start["status"], json.loads(body["body"])["status"], app.environ) == (408, 408, {})
    assert (b"connection", b"close") in start["headers"]


def test_of_a_body_that_is_too_large_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app gets enough of it to refuse it."""
    monkeypatch.setattr(buffering, "MAX_BODY_BYTES", 10)
    app = App()
    answer(app, [*(part(b"123456", more=True) for _ in range(100)), part(b"", more=False)])
    assert len(app.body) == 12
