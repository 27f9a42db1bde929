"""An endpoint that writes down every request, whoever makes it, before it hands it on to the local AWS."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked for, and with which status it was answered."""

    method: str
    target: str
    """The path and the query, as they were sent."""
    headers: Message
    body: bytes
    status: int

    @property
    def service(self) -> str:
        """The service that it was signed for."""
        found = re.search(r"Credential=[^/]*/\d+/[^/]*/([^/]*)/aws4_request", self.headers.get("Authorization", ""))
        return found[1] if found else ""

    @property
    def path(self) -> str:
        """The path, decoded and without the slash before it."""
        return unquote(urlsplit(self.target).path.removeprefix("/"))

    @property
    def query(self) -> dict[str, str]:
        """The query, decoded."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query, True).items()}

    def __str__(self) -> str:
        """Return what stands on the request's first line, and the operation where a header says it."""
        return " ".join(filter(None, [self.service, self.method, self.target, self.headers.get("X-Amz-Target")]))


class Recorder(ThreadingHTTPServer):
    """The endpoint, which ``record`` runs. ``requests`` holds what it has answered."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[Request] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Recorder

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.closing(HTTPConnection(urlsplit(self.server.upstream).netloc)) as upstream:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            content = answer.read()
        self.server.requests.append(Request(self.command, self.path, self.headers, body, answer.status))
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length") or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _handle

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


@contextlib.contextmanager
def record(upstream: str) -> Iterator[Recorder]:
    """Run a recorder before another endpoint for the length of the block."""
    recorder = Recorder(upstream)
    thread = threading.Thread(target=recorder.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        recorder.shutdown()
        thread.join()
        recorder.server_close()
