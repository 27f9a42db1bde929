"""An HTTP endpoint before moto's Kinesis that fails PutRecords as AWS does and moto never will."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

Fault = Callable[[int, Sequence[dict[str, Any]]], "set[int] | tuple[int, str] | bytes"]
"""Says for the n-th PutRecords (from 0) and its entries which entries to throttle, or a failure's status and code, or
the body of an answer that is not as it should be."""

THROTTLED = {
    "ErrorCode": "ProvisionedThroughputExceededException",
    "ErrorMessage": "Rate exceeded for shard shardId-000000000000",
}


class FlakyKinesis(ThreadingHTTPServer):
    """Hands requests on to moto, less what the fault takes out of them, and remembers the PutRecords requests."""

    daemon_threads = True

    def __init__(self, upstream: str, fault: Fault) -> None:
        """Listen on a free loopback port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.fault = fault
        self.requests: list[list[dict[str, Any]]] = []

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyKinesis

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("X-Amz-Target", "").endswith(".PutRecords"):
            self._put_records(json.loads(body))
        else:
            self._answer(200, self._forward(body))

    def _put_records(self, request: dict[str, Any]) -> None:
        entries = request["Records"]
        self.server.requests.append(entries)
        fault = self.server.fault(len(self.server.requests) - 1, entries)
        if isinstance(fault, tuple):
            status, code = fault
            self._answer(status, json.dumps({"__type": code, "message": "injected"}).encode())
            return
        if isinstance(fault, bytes):
            self._answer(200, fault)
            return
        accepted = [entry for index, entry in enumerate(entries) if index not in fault]
        answers: Iterator[Any] = iter(())
        if accepted:
            answers = iter(json.loads(self._forward(json.dumps({**request, "Records": accepted}).encode()))["Records"])
        results = [THROTTLED if index in fault else next(answers) for index in range(len(entries))]
        self._answer(200, json.dumps({"FailedRecordCount": len(fault), "Records": results}).encode())

    def _forward(self, body: bytes) -> bytes:
        headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Content-Length")}
        with urlopen(Request(self.server.upstream, body, headers)) as response:  # noqa: S310
            content: bytes = response.read()
        return content

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


@contextlib.contextmanager
def flaky_kinesis(upstream: str, fault: Fault) -> Iterator[FlakyKinesis]:
    """Run the endpoint for the length of the block."""
    server = FlakyKinesis(upstream, fault)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
