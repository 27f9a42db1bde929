"""An endpoint that answers PutRecord and PutRecords with responses like those of Kinesis, at once or after a latency.

It reads only the operation and the number of entries of a request, and stores nothing. Each connection has a thread, so
requests that are in flight at the same time wait side by side.
"""

import contextlib
import functools
import http.client
import json
import socketserver
import sys
import time
from collections.abc import Callable, Iterator

from scripts.localaws import server
from scripts.localaws.server import HOST
from scripts.sources.events import SHARD

SEQUENCE_NUMBER = "49630081666084879290581185630324770398608704880802529282"
"""It is as long as a sequence number of Kinesis. All responses have the same, because no consumer compares them."""
SET_LATENCY = b"SetLatency"
"""An operation that Kinesis does not have. Its body is the number of seconds from each request to its answer."""


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run the endpoint in a process of its own for the length of the block, and yield its URL.

    Raises RuntimeError if the process ends before it listens; its message is on stderr.
    """
    with server.serve("the endpoint", [sys.executable, "-m", "scripts.benchmark.endpoint"]) as url:
        yield url


def set_latency(url: str, seconds: float) -> None:
    """Let the endpoint answer each later request after ``seconds``. Until the first call it answers at once."""
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"))) as connection:
        connection.request("POST", "/", str(seconds), {"X-Amz-Target": SET_LATENCY.decode()})
        connection.getresponse().read()


class Endpoint(socketserver.ThreadingTCPServer):
    """The server, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 64
    """A consumer may open many connections at the same moment."""

    def __init__(self, delay: Callable[[], object] | None = None) -> None:
        """Listen on a free port. ``delay`` is called before each answer to a consumer."""
        self.delay = delay
        super().__init__((HOST, 0), Connection)


class Connection(socketserver.StreamRequestHandler):
    """A connection that stays open for many requests, as Kinesis keeps it."""

    disable_nagle_algorithm = True
    server: Endpoint

    def handle(self) -> None:
        """Answer one request after the other until the client closes the connection."""
        # A measured process is killed while its connection is open.
        with contextlib.suppress(ConnectionError):
            while self.rfile.readline():
                headers = {}
                while line := self.rfile.readline().strip():
                    name, _, value = line.partition(b":")
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get(b"content-length", 0)))
                operation = headers.get(b"x-amz-target", b"")
                response = respond(operation, body)
                if operation == SET_LATENCY:
                    self.server.delay = functools.partial(time.sleep, float(body)) if float(body) else None
                elif self.server.delay:
                    self.server.delay()
                self.wfile.write(response)


def respond(target: bytes, body: bytes) -> bytes:
    """Return the whole HTTP response to a request: 400 unless its operation is known."""
    match target.removeprefix(b"Kinesis_20131202."):
        case b"PutRecord":
            return _accept()
        case b"PutRecords":
            # Only a key of the JSON matches these bytes: quotes inside a string are escaped.
            return _accept(body.count(b'"PartitionKey":'))
        case operation if operation == SET_LATENCY:
            return _http("200 OK", {})
        case _:
            return _http("400 Bad Request", {"__type": "UnknownOperationException", "message": "not measured here"})


@functools.cache  # building a response takes longer than sending it
def _accept(entries: int | None = None) -> bytes:
    accepted = {"ShardId": SHARD, "SequenceNumber": SEQUENCE_NUMBER}
    many = {"FailedRecordCount": 0, "Records": [accepted] * (entries or 0)}
    return _http("200 OK", accepted if entries is None else many)


def _http(status: str, document: object) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    lines = (
        f"HTTP/1.1 {status}",
        "x-amzn-RequestId: c4a3f8a2-6d1e-c1f4-9b0e-2c8f6b1d7e55",
        "Date: Mon, 03 Aug 2026 00:00:00 GMT",
        "Content-Type: application/x-amz-json-1.1",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


if __name__ == "__main__":
    server.end_with_parent()
    with Endpoint() as listening:
        server.announce(listening.server_address[1])
        listening.serve_forever()
