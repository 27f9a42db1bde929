"""An endpoint that answers PutRecord and PutRecords as Kinesis does, at once.

It looks at nothing of a request but its operation and the number of its entries, and keeps nothing.
"""

import asyncio
import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterator

from scripts.localaws import server
from scripts.localaws.server import HOST
from scripts.sources.events import SHARD

SEQUENCE_NUMBER = "49630081666084879290581185630324770398608704880802529282"
"""As long as those of Kinesis are; always the same one, since nobody looks at it here."""

HEAD_END = b"\r\n\r\n"

_length = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
_operation = re.compile(rb"^x-amz-target: *Kinesis_20131202\.(\w+)\r$", re.IGNORECASE | re.MULTILINE)


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run the endpoint in a process of its own for the length of the block, and yield its URL.

    Raises:
        RuntimeError: where it ends before it listens; what it said stands on stderr.
    """
    with server.serve("the endpoint", [sys.executable, "-m", "scripts.benchmark.endpoint"]) as url:
        yield url


class Connection(asyncio.Protocol):
    """A connection, which is kept open for request after request as Kinesis keeps it."""

    def __init__(self) -> None:
        """Have received nothing yet."""
        self._received = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write to."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while (end := self._request_end()) is not None:
            request = bytes(self._received[:end])
            del self._received[:end]
            self._transport.write(answer(request))

    def _request_end(self) -> int | None:
        head = self._received.find(HEAD_END)
        if head < 0:
            return None
        length = _length.search(self._received, 0, head + 2)
        end = head + len(HEAD_END) + (int(length[1]) if length else 0)
        return end if len(self._received) >= end else None


def answer(request: bytes) -> bytes:
    """Return the whole HTTP response to a request: 400 to one that is neither PutRecord nor PutRecords."""
    head = request.find(HEAD_END)
    operation = _operation.search(request, 0, head + 2)
    match operation and operation[1]:
        case b"PutRecord":
            return one_accepted()
        case b"PutRecords":
            # No other key or value of the JSON can hold these bytes: in a string, the quotes would be escaped.
            return all_accepted(request.count(b'"PartitionKey":', head))
        case _:
            return _response("400 Bad Request", {"__type": "UnknownOperationException", "message": "not measured here"})


@functools.cache
def one_accepted() -> bytes:
    """Return the response to PutRecord."""
    return _response("200 OK", {"ShardId": SHARD, "SequenceNumber": SEQUENCE_NUMBER})


@functools.cache
def all_accepted(entries: int) -> bytes:
    """Return the response to PutRecords of so many entries."""
    accepted = [{"SequenceNumber": SEQUENCE_NUMBER, "ShardId": SHARD}] * entries
    return _response("200 OK", {"FailedRecordCount": 0, "Records": accepted})


def _response(status: str, document: object) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    lines = (
        f"HTTP/1.1 {status}",
        "x-amzn-RequestId: c4a3f8a2-6d1e-c1f4-9b0e-2c8f6b1d7e55",
        "Date: Mon, 03 Aug 2026 00:00:00 GMT",
        "Content-Type: application/x-amz-json-1.1",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


async def listen() -> None:
    """Listen on a free port, print it, and answer until stdin ends."""
    server = await asyncio.get_running_loop().create_server(Connection, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(listen())
