"""An output stream that does not come to an end with its answers."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SlowStream(ThreadingHTTPServer):
    """An endpoint that takes a PutRecords in and does not come to an end with its answer, until it is mended."""

    daemon_threads = True

    def __init__(self, *, dripping: bool) -> None:
        """Listen on a free loopback port; say nothing at all, or a byte of the answer a second."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.dripping = dripping
        self.mended = threading.Event()
        self.accepted: list[str] = []
        """The partition keys of the entries that it took once it was mended."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowStream

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.mended.is_set():
            self._accept(request)
            return
        self.close_connection = True
        if self.server.dripping:
            self._head(10_000)
        while not self.server.mended.wait(1):
            if self.server.dripping:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(b" ")

    def _accept(self, request: dict[str, Any]) -> None:
        keys = [entry["PartitionKey"] for entry in request["Records"]]
        self.server.accepted += keys
        results = [{"SequenceNumber": "1", "ShardId": "shardId-000000000000"} for _ in keys]
        body = json.dumps({"FailedRecordCount": 0, "Records": results}).encode()
        self._head(len(body))
        self.wfile.write(body)

    def _head(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay quiet."""


@contextlib.contextmanager
def serve(*, dripping: bool) -> Iterator[SlowStream]:
    """Run the endpoint for the length of the block."""
    server = SlowStream(dripping=dripping)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.mended.set()
        server.shutdown()
        thread.join()
        server.server_close()
