"""A fault-injecting endpoint: it stands before the local AWS, which never fails, and fails PutRecords and PutObject."""

import contextlib
import json
import math
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from scripts.localaws.server import HOST

Operation = Literal["PutRecords", "PutObject"]
"""The operations that are ever failed. Everything else passes through unchanged."""

EntryErrorCode = Literal["ProvisionedThroughputExceededException", "InternalFailure"]
"""What Kinesis says of an entry that it did not take (API reference, PutRecordsResultEntry)."""

UPSTREAM_SECONDS = 60
"""How long the local AWS may take for an answer."""

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}
"""Headers that concern one connection, not what is carried over it (RFC 9110, section 7.6.1)."""

KINESIS_JSON = "application/x-amz-json-1.1"

MESSAGE = "injected by the chaos endpoint"
"""The message of every error that was made here."""

Entry = Mapping[str, Any]
"""An entry of PutRecords as JSON has it: its ``Data`` is base64."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be failed: the ``number``-th of its operation, counted from 0.

    ``entries`` are those of a PutRecords call, and ``key`` is the bucket and key of a PutObject call, ``bucket/a/key``.
    """

    operation: Operation
    number: int
    entries: Sequence[Entry] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class FailedEntries:
    """PutRecords takes all entries but these, by their index from 0, and answers 200 with an error for each of them."""

    indexes: frozenset[int]
    code: EntryErrorCode = "ProvisionedThroughputExceededException"

    def __str__(self) -> str:
        """Return what a count of such entries is called."""
        return f"entries answered {self.code}"


@dataclass(frozen=True, slots=True)
class FailedRequest:
    """Nothing is applied, and the answer is an error, as Kinesis or S3 shapes it."""

    status: int
    code: str

    def __str__(self) -> str:
        """Return what a count of such calls is called."""
        return f"answered {self.status} {self.code}"


@dataclass(frozen=True, slots=True)
class DroppedBefore:
    """Nothing is applied, and the connection is closed without an answer."""

    def __str__(self) -> str:
        """Return what a count of such calls is called."""
        return "dropped before it was applied"


@dataclass(frozen=True, slots=True)
class DroppedAfter:
    """The call is applied, but the connection is closed without an answer."""

    def __str__(self) -> str:
        """Return what a count of such calls is called."""
        return "dropped after it was applied"


@dataclass(frozen=True, slots=True)
class Delayed:
    """The call is applied at once and answered after so many seconds."""

    seconds: float

    def __str__(self) -> str:
        """Return what a count of such calls is called."""
        return "answered late"


@dataclass(frozen=True, slots=True)
class Answered:
    """Nothing is applied, and the answer is 200 with this body, whatever it is."""

    body: bytes

    def __str__(self) -> str:
        """Return what a count of such calls is called."""
        return "answered with another body"


Fault = FailedEntries | FailedRequest | DroppedBefore | DroppedAfter | Delayed | Answered

Decide = Callable[[Call], Fault | None]
"""Says what is to happen to a call; None lets it through. It is asked for one call at a time, in order of number."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each fault strikes, from 0 (never) to 1 (always).

    A PutRecords call meets one of the faults of whole requests or none; where it meets none, each of its entries is
    throttled at the rate of ``throttled_entries``. ``failed_s3_puts`` is all that strikes PutObject.

    Raises:
        ValueError: where one is no such rate, where those of whole PutRecords requests make more than 1 together, or
            where the delay is not a number of seconds.
    """

    throttled_entries: float = 0.0
    throttled_requests: float = 0.0
    server_errors: float = 0.0
    dropped_before: float = 0.0
    dropped_after: float = 0.0
    delayed: float = 0.0
    failed_s3_puts: float = 0.0
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check the rates and the delay."""
        *rates, delay = astuple(self)
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError(f"a rate is a number from 0 to 1: {self}")
        if self.passing_requests < 0:
            raise ValueError(f"the rates of whole requests make more than 1 together: {self}")
        if not 0 <= delay <= threading.TIMEOUT_MAX:
            raise ValueError(f"a delay is a number of seconds: {self}")

    @property
    def passing_requests(self) -> float:
        """Return the rate of PutRecords calls that meet no fault of whole requests."""
        failing = (self.throttled_requests, self.server_errors, self.dropped_before, self.dropped_after, self.delayed)
        return 1 - math.fsum(failing)


HARD = Rates(
    throttled_entries=0.3,
    throttled_requests=0.05,
    server_errors=0.05,
    dropped_before=0.05,
    dropped_after=0.05,
    delayed=0.05,
    failed_s3_puts=0.05,
    delay_seconds=2.0,
)
"""Far worse than AWS at its worst; a client whose read timeout is under two seconds loses the late answers too."""


def seeded(rates: Rates, seed: int) -> Decide:
    """Return a function that draws faults at these rates.

    What it draws for a call depends on nothing but the seed and the call's operation, number and count of entries: in
    another run with the same seed the n-th call meets the same fault, whatever came between.
    """

    def decide(call: Call) -> Fault | None:
        draw = random.Random(f"{seed} {call.operation} {call.number}")
        if call.operation == "PutObject":
            return _s3_fault(rates, draw)
        return _request_fault(rates, draw) or _entries_fault(rates, draw, len(call.entries))

    return decide


def _s3_fault(rates: Rates, draw: random.Random) -> Fault | None:
    if draw.random() >= rates.failed_s3_puts:
        return None
    faults: list[Fault] = [FailedRequest(500, "InternalError"), FailedRequest(503, "SlowDown"), DroppedBefore()]
    return draw.choices(faults, [1, 1, 2])[0]


def _request_fault(rates: Rates, draw: random.Random) -> Fault | None:
    rated: list[tuple[Fault | None, float]] = [
        (FailedRequest(400, "ProvisionedThroughputExceededException"), rates.throttled_requests),
        (FailedRequest(500, "InternalFailure"), rates.server_errors / 2),
        (FailedRequest(503, "ServiceUnavailable"), rates.server_errors / 2),
        (DroppedBefore(), rates.dropped_before),
        (DroppedAfter(), rates.dropped_after),
        (Delayed(rates.delay_seconds), rates.delayed),
        (None, rates.passing_requests),
    ]
    faults: list[Fault | None] = [fault for fault, _ in rated]
    return draw.choices(faults, [rate for _, rate in rated])[0]


def _entries_fault(rates: Rates, draw: random.Random, count: int) -> Fault | None:
    indexes = frozenset(index for index in range(count) if draw.random() < rates.throttled_entries)
    return FailedEntries(indexes) if indexes else None


class ChaosEndpoint(ThreadingHTTPServer):
    """The endpoint, which ``serve`` runs.

    ``entry_counts`` says how many entries each PutRecords call had, in the order of the calls' numbers. ``faults``
    counts what was done to calls, in words for people, by operation and fault: the calls, or their ``FailedEntries``.
    ``errors`` holds what the endpoint itself stumbled over, and ``closing`` is set once it ends.
    """

    request_queue_size = 128
    """The default, 5, makes clients wait a second where many come at once."""

    def __init__(self, upstream: str, decide: Decide) -> None:
        """Listen on a free loopback port."""
        self.upstream = upstream
        self.entry_counts: list[int] = []
        self.faults: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._decide = decide
        self._deciding = threading.Lock()
        self._calls: Counter[Operation] = Counter()
        self._serving: dict[Any, threading.Thread] = {}
        super().__init__((HOST, 0), _Handler)

    @property
    def url(self) -> str:
        """Return the endpoint's URL."""
        return f"http://{HOST}:{self.server_port}"

    def fault_for(self, operation: Operation, entries: Sequence[Entry] = (), key: str = "") -> Fault | None:
        """Return what is to happen to the next call of an operation, and count it."""
        with self._deciding:
            call = Call(operation, self._calls[operation], entries, key)
            self._calls[operation] += 1
            if operation == "PutRecords":
                self.entry_counts.append(len(entries))
            fault = self._decide(call)
            if fault:
                self.faults[f"{operation}: {fault}"] += len(fault.indexes) if isinstance(fault, FailedEntries) else 1
            return fault

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread that ``server_close`` can wait for."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._serving[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection whose thread is done."""
        self._serving.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close every connection, those that clients keep as well, once what the upstream was asked is answered."""
        super().server_close()
        self.closing.set()
        for connection, thread in list(self._serving.items()):
            with contextlib.suppress(OSError):  # it was closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show an error and keep it for ``serve`` to raise; that a client is gone is none."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError):
            self.errors.append(error)
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve(upstream: str, decide: Decide) -> Iterator[ChaosEndpoint]:
    """Run an endpoint before another one, on a free loopback port, for the length of the block.

    It numbers the PutRecords and PutObject calls that come, asks ``decide`` for each, and does to it what it says.
    Leaving ends every delay and closes every connection at once.

    Raises:
        Exception: at the end of the block, what ``decide`` raised, or that a request could not be read. The client saw
            its connection closed.
    """
    endpoint = ChaosEndpoint(upstream, decide)
    thread = threading.Thread(target=endpoint.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        thread.join()
        endpoint.server_close()
    if endpoint.errors:
        raise endpoint.errors[0]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes
    reason: str | None = None


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChaosEndpoint

    def _handle(self) -> None:
        body = self._body()
        if self._is_put_records():
            answer = self._put_records(body)
        elif self._is_put_object():
            answer = self._put_object(body)
        else:
            answer = self._forward(body)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise ValueError(f"{self.requestline}: a body has to have a Content-Length, as the SDK's have over HTTP")
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError("the client was gone before its request was complete")
        return body

    def _is_put_records(self) -> bool:
        return self.command == "POST" and self.headers.get("X-Amz-Target", "").endswith(".PutRecords")

    def _is_put_object(self) -> bool:
        """Return whether the request is a PutObject: no bucket's, copy's, part's or tag's."""
        _, _, query = self.path.partition("?")
        _, _, key = self._bucket_and_key().partition("/")
        is_plain = query in ("", "x-id=PutObject") and "x-amz-copy-source" not in self.headers
        return self.command == "PUT" and bool(key) and is_plain

    def _bucket_and_key(self) -> str:
        path, _, _ = self.path.partition("?")
        return unquote(path.removeprefix("/"))

    def _put_records(self, body: bytes) -> _Answer | None:
        request = _decoded(body)
        fault = self.server.fault_for("PutRecords", entries=request["Records"])
        if isinstance(fault, FailedEntries):
            return self._put_others(request, fault)
        if isinstance(fault, FailedRequest):
            return _kinesis_answer(fault.status, {"__type": fault.code, "message": MESSAGE})
        return self._put(body, fault)

    def _put_others(self, request: dict[str, Any], failed: FailedEntries) -> _Answer:
        """Forward all entries but those that are to fail, and return the answer with the results of all of them."""
        entries = request["Records"]
        if not failed.indexes <= set(range(len(entries))):
            raise ValueError(f"{sorted(failed.indexes)} cannot fail in a call of {len(entries)} entries")
        others = [entry for index, entry in enumerate(entries) if index not in failed.indexes]
        answered: dict[str, Any] = {"Records": []}
        if others:
            answer = self._forward(json.dumps({**request, "Records": others}).encode())
            if answer.status != HTTPStatus.OK:
                return answer
            answered = json.loads(answer.body)
        results = iter(answered["Records"])
        error = {"ErrorCode": failed.code, "ErrorMessage": MESSAGE}
        merged = [error if index in failed.indexes else next(results) for index in range(len(entries))]
        failures = sum("ErrorCode" in result for result in merged)
        return _kinesis_answer(200, {**answered, "FailedRecordCount": failures, "Records": merged})

    def _put_object(self, body: bytes) -> _Answer | None:
        fault = self.server.fault_for("PutObject", key=self._bucket_and_key())
        if isinstance(fault, FailedEntries):
            raise TypeError(f"a PutObject has no entries that could fail: {fault!r}")
        if isinstance(fault, FailedRequest):
            return _s3_answer(fault)
        return self._put(body, fault)

    def _put(self, body: bytes, fault: Answered | Delayed | DroppedBefore | DroppedAfter | None) -> _Answer | None:
        """Do what the fault leaves of the request, and return the answer, or None where there is to be none."""
        match fault:
            case Answered(other):
                return _made(200, KINESIS_JSON, other)
            case Delayed(seconds):
                answer = self._forward(body)
                return None if self.server.closing.wait(seconds) else answer
            case DroppedBefore():
                return None
            case DroppedAfter():
                self._forward(body)
                return None
            case None:
                return self._forward(body)

    def _forward(self, body: bytes) -> _Answer:
        """Hand the request on with this body, and return the answer; 502 where none comes."""
        netloc = urlsplit(self.server.upstream).netloc
        # A connection for each request: moto's server closes it after the answer anyway, and one that were kept could
        # break in the middle of a PutRecords, which would be a fault that nobody asked for.
        with contextlib.closing(HTTPConnection(netloc, timeout=UPSTREAM_SECONDS)) as upstream:
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in _end_to_end(self.headers.items()):
                    upstream.putheader(name, str(len(body)) if name.lower() == "content-length" else value)
                upstream.endheaders(body)
                return _received(upstream.getresponse())
            except (OSError, HTTPException) as error:
                return _made(502, "text/plain", f"{self.server.upstream}: {error}".encode())

    def _send(self, answer: _Answer) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        request: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise ValueError(f"a PutRecords that is not JSON, as the SDK's are: {body[:100]!r}") from error
    return request


def _received(response: HTTPResponse) -> _Answer:
    """Return the upstream's answer, with a Content-Length where only the end of its chunks or connection ended it."""
    headers = _end_to_end(response.getheaders())
    is_delimited = response.length is not None
    body = response.read()
    if not is_delimited:
        headers.append(("Content-Length", str(len(body))))
    return _Answer(response.status, headers, body, response.reason)


def _end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _kinesis_answer(status: int, content: Mapping[str, Any]) -> _Answer:
    return _made(status, KINESIS_JSON, json.dumps(content).encode())


def _s3_answer(failed: FailedRequest) -> _Answer:
    error = f"<Error><Code>{failed.code}</Code><Message>{MESSAGE}</Message></Error>"
    return _made(failed.status, "application/xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'.encode())


def _made(status: int, content_type: str, body: bytes) -> _Answer:
    return _Answer(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))], body)
