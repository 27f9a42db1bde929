"""A proxy before the local AWS that makes PutRecords and PutObject fail, because moto's server never does."""

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from scripts.localaws import faults
from scripts.localaws.faults import Call, Decide, Fault, Operation, no_fault
from scripts.localaws.loopback import LoopbackServer

UPSTREAM_SECONDS = 60
"""How long the local AWS may take for a response."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
"""Headers of a single connection, which a proxy does not hand on (RFC 9110, section 7.6.1)."""
KINESIS_JSON = "application/x-amz-json-1.1"
MESSAGE = "injected by the chaos endpoint"


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a client, and the status of its response: 0 if the connection was closed without one."""

    method: str
    target: str
    """The path and the query as they were sent."""
    headers: Message
    body: bytes
    status: int


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    drips: bool = False


class ChaosEndpoint(LoopbackServer):
    """The proxy, which ``serve`` runs."""

    def __init__(self, upstream: str, decide: Decide, *, keeps_requests: bool, decides_all: bool) -> None:
        """Listen on a free loopback port."""
        self.upstream = upstream
        self.keeps_requests = keeps_requests
        self.decides_all = decides_all
        self.requests: list[Request] = []
        """All requests that were handled, if the endpoint keeps them."""
        self.entry_counts: list[int] = []
        """How many entries each PutRecords call had, in the order of the calls."""
        self.faults: Counter[str] = Counter()
        """How many calls, or entries, got each fault; the key is for people."""
        self.errors: list[BaseException] = []
        """Exceptions of the endpoint itself."""
        self._decide = decide
        self._deciding = threading.Lock()
        self._calls: Counter[Operation] = Counter()
        super().__init__(_Handler)

    def next_fault(self, operation: Operation, entries: Sequence[Mapping[str, Any]], key: str) -> Fault | None:
        """Return the fault for the next call of an operation, and count it."""
        with self._deciding:
            call = Call(operation, self._calls[operation], entries, key)
            self._calls[operation] += 1
            if operation == "PutRecords":
                self.entry_counts.append(len(entries))
            fault = self._decide(call)
            if fault:
                count = len(fault.indexes) if isinstance(fault, faults.FailedEntries) else 1
                self.faults[f"{operation}: {fault.label.format(fault)}"] += count
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error and keep it for ``serve`` to raise. A client that has gone is not an error."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError):
            self.errors.append(error)
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve(
    upstream: str, decide: Decide = no_fault, *, keeps_requests: bool = False, decides_all: bool = False
) -> Iterator[ChaosEndpoint]:
    """Run the endpoint before ``upstream``, a URL, for the length of the block, on a free loopback port.

    ``decide`` is called for each PutRecords and PutObject, or, with ``decides_all``, for each request to S3 as well;
    ``keeps_requests`` keeps all requests with their bodies. The end of the block ends every delay and closes every
    connection at once. Then an exception is raised that ``decide`` raised, or that reading a request did: the client
    only saw its connection closed, and would retry.
    """
    with ChaosEndpoint(upstream, decide, keeps_requests=keeps_requests, decides_all=decides_all).running() as endpoint:
        yield endpoint
    if endpoint.errors:
        raise endpoint.errors[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChaosEndpoint

    def _handle(self) -> None:
        body = self._read_body()
        response = self._respond(body)
        if self.server.keeps_requests:
            status = response.status if response else 0
            self.server.requests.append(Request(self.command, self.path, self.headers, body, status))
        if response:
            self._send(response)
        else:
            self.close_connection = True

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _handle

    def _read_body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise ValueError(f"{self.requestline}: the body needs a Content-Length, which the SDK sends over HTTP")
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError("the client left before its request was complete")
        return body

    def _respond(self, body: bytes) -> _Response | None:
        """Do a request and its fault; return the response, or None to close the connection without one."""
        call = self._read_call(body)
        match self.server.next_fault(*call) if call else None:
            case faults.FailedEntries() as failed:
                return self._put_others(json.loads(body), failed)
            case faults.FailedRequest() as failed:
                return self._fail(failed)
            case faults.Answered(other):
                return _response(200, other)
            case faults.Delayed(seconds):
                response = self._forward(body)
                return None if self.server.closing.wait(seconds) else response
            case faults.Dripping():
                headers = [("Content-Type", KINESIS_JSON), ("Content-Length", "10000")]
                return _Response(200, headers, b"", drips=True)
            case faults.DroppedBefore():
                return None
            case faults.DroppedAfter():
                self._forward(body)
                return None
            case None:
                return self._forward(body)

    def _read_call(self, body: bytes) -> tuple[Operation, Sequence[Mapping[str, Any]], str] | None:
        """Return operation, entries and key of a request that can fail; None for all others."""
        if self.headers.get("X-Amz-Target", "").endswith(".PutRecords"):
            return "PutRecords", json.loads(body)["Records"], ""
        path, _, query = self.path.partition("?")
        bucket_and_key = unquote(path.removeprefix("/"))
        # Buckets, copies, parts and tags are put too, but not by PutObject.
        is_plain = query in ("", "x-id=PutObject") and "x-amz-copy-source" not in self.headers
        if self.command == "PUT" and bucket_and_key.partition("/")[2] and is_plain:
            return "PutObject", (), bucket_and_key
        return ("other", (), bucket_and_key) if self.server.decides_all else None

    def _fail(self, failed: faults.FailedRequest) -> _Response:
        if "X-Amz-Target" in self.headers:
            return _response(failed.status, json.dumps({"__type": failed.code, "message": MESSAGE}).encode())
        xml = f"<Error><Code>{failed.code}</Code><Message>{MESSAGE}</Message></Error>"
        return _response(failed.status, xml.encode(), "application/xml")

    def _put_others(self, request: dict[str, Any], failed: faults.FailedEntries) -> _Response:
        """Hand on all entries but the failed ones, and return a response with the results of all of them."""
        entries = request["Records"]
        others = [entry for index, entry in enumerate(entries) if index not in failed.indexes]
        content: dict[str, Any] = {"Records": []}
        if others:
            response = self._forward(json.dumps({**request, "Records": others}).encode())
            if response.status != 200:
                return response
            content = json.loads(response.body)
        results = iter(content["Records"])
        error = {"ErrorCode": faults.THROTTLED, "ErrorMessage": MESSAGE}
        merged = [error if index in failed.indexes else next(results) for index in range(len(entries))]
        failures = sum("ErrorCode" in result for result in merged)
        return _response(200, json.dumps({**content, "FailedRecordCount": failures, "Records": merged}).encode())

    def _forward(self, body: bytes) -> _Response:
        """Hand the request on with this body, and return the response; 502 if there is none."""
        netloc = urlsplit(self.server.upstream).netloc
        # A connection for each request: a kept one could break in the middle of a PutRecords, a fault nobody asked for.
        with contextlib.closing(HTTPConnection(netloc, timeout=UPSTREAM_SECONDS)) as upstream:
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in _end_to_end(self.headers.items()):
                    upstream.putheader(name, str(len(body)) if name.lower() == "content-length" else value)
                upstream.endheaders(body)
                response = upstream.getresponse()
                is_delimited = response.length is not None
                content = response.read()
            except (OSError, HTTPException) as error:
                return _response(502, f"{self.server.upstream}: {error}".encode(), "text/plain")
        headers = _end_to_end(response.getheaders())
        if not is_delimited:  # kinesis-local sends chunks
            headers.append(("Content-Length", str(len(content))))
        return _Response(response.status, headers, content)

    def _send(self, response: _Response) -> None:
        self.send_response_only(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        while response.drips and not self.server.closing.wait(1):
            self.wfile.write(b" ")


def _end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _response(status: int, body: bytes, content_type: str = KINESIS_JSON) -> _Response:
    return _Response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))], body)
