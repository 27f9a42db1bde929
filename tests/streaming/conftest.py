"""Servers for tests of delivery, besides the servers that play AWS."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answering = Callable[[int, bytes | Callable[[bytes], bytes]], str]
"""The type of the ``answering`` fixture."""


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Give a function that starts a server with one response to all requests, and returns its URL.

    The response's body may also be a function of the request's body, which may wait for other requests.
    """

    def answer(status: int, body: bytes | Callable[[bytes], bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # with 1.0, the SDK would wait a second for the server's "100 Continue"

            def do_PUT(self) -> None:
                request = self.rfile.read(int(self.headers["Content-Length"]))
                response = body if isinstance(body, bytes) else body(request)
                self.send_response(status)
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            do_POST = do_PUT

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stack.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    with ExitStack() as stack:
        yield answer
