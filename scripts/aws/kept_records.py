"""The records that the failures bucket keeps: the function's rejections, and the batches that the mapping discarded.

A rejection is a line of JSON: see ``rides``. What the mapping discards is one JSON object with the whole event in its
``payload``: see ``scripts.localaws.failure_record``.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from scripts.sources.record import RideRecord
from streaming.aggregation import MAX_KEY_LENGTH
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.records import KinesisData

DISCARDED = "discarded"
"""The kind of a record that the mapping gave up; its reason is the mapping's condition."""

_T = TypeVar("_T")


class UnreadableError(Exception):
    """An object in the failures bucket is not what the function or a mapping writes; the message says what is wrong."""


@dataclass(frozen=True)
class Unputtable:
    """Stands for an original that no stream takes; the reason has the same words for all of its sort."""

    reason: str


@dataclass(frozen=True)
class KeptRecord:
    """A record of the input stream as an object in the failures bucket keeps it."""

    kind: str
    reason: str
    stream: str
    """The stream that it came from."""
    arrival: datetime
    """When it came to the stream; where that is not known, when its object was written."""
    original: RideRecord | Unputtable
    """What was put on the stream."""
    source: bytes
    """Its JSON as it stands in the object."""


@dataclass(frozen=True)
class Content:
    """What an object keeps. Its records can be written into other objects just as they stand in this one."""

    records: tuple[KeptRecord, ...]
    envelope: dict[str, Raw] = field(default_factory=dict)
    """What a mapping wrote around its event; empty for rejections."""

    def body_of(self, records: Iterable[KeptRecord]) -> bytes:
        """Return the body of an object of the same form that keeps these records.

        A mapping's ``KinesisBatchInfo`` stays as it is: it tells what was discarded together.
        """
        sources = [record.source for record in records]
        if not self.envelope:
            return b"".join(source + b"\n" for source in sources)
        event = msgspec.json.encode({"Records": [Raw(source) for source in sources]})
        return msgspec.json.encode({**self.envelope, "payload": event.decode()})


class _Rejection(Struct, frozen=True):
    kind: str
    reason: str
    data: str
    partition_key: str | None = None
    arrival: float | None = None


class _RequestContext(Struct, frozen=True):
    condition: str


class _Failure(Struct, frozen=True):
    payload: str
    request_context: _RequestContext = msgspec.field(name="requestContext")


class _Event(Struct, frozen=True):
    records: list[Raw] = msgspec.field(name="Records")


class _EventRecord(Struct, frozen=True):
    kinesis: KinesisData
    stream_arn: str = msgspec.field(name="eventSourceARN", default="")


def rejections(body: bytes, stream: str, written: datetime) -> Content:
    """Return the rejections of a stream's records in the body of an object that was written at that time.

    Raises:
        UnreadableError: where a line is no rejection.
    """
    return Content(tuple(_rejections(body, stream, written)))


def discarded(body: bytes, written: datetime) -> Content:
    """Return the discarded records in the body of an on-failure object that was written at that time.

    Raises:
        UnreadableError: where it is none, or none of a mapping for Kinesis.
    """
    failure = _decoded(body, _Failure, "it")
    event = _decoded(failure.payload.encode(), _Event, "its payload")
    records = tuple(
        _discarded(bytes(source), number, failure.request_context.condition, written)
        for number, source in enumerate(event.records, 1)
    )
    return Content(records, _decoded(body, dict[str, Raw], "it"))


def original(data: str, partition_key: str | None) -> RideRecord | Unputtable:
    """Return the record that was put on a stream, from its data in base64; the data's digest stands in for no key."""
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        return Unputtable("the data is not base64")
    key = partition_key or hashlib.sha256(decoded).hexdigest()
    if len(key) > MAX_KEY_LENGTH:
        return Unputtable(f"the partition key has more than {MAX_KEY_LENGTH} characters")
    if len(decoded) + len(key.encode()) > MAX_ENTRY_BYTES:
        return Unputtable("data and partition key are more than 1 MiB")
    return RideRecord(key, decoded)


def _rejections(body: bytes, stream: str, written: datetime) -> Iterator[KeptRecord]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            found = _decoded(line, _Rejection, f"line {number}")
            record = original(found.data, found.partition_key)
            yield KeptRecord(found.kind, found.reason, stream, _arrival(found.arrival, written), record, line)


def _discarded(source: bytes, number: int, condition: str, written: datetime) -> KeptRecord:
    found = _decoded(source, _EventRecord, f"record {number} of its payload")
    stream = found.stream_arn.rpartition("/")[2]
    arrival = _arrival(found.kinesis.approximate_arrival_timestamp, written)
    record = original(found.kinesis.data, found.kinesis.partition_key)
    return KeptRecord(DISCARDED, condition, stream, arrival, record, source)


def _decoded(data: bytes, form: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"{what} is not what it should be: {error}") from error


def _arrival(seconds: float | None, otherwise: datetime) -> datetime:
    try:
        return otherwise if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return otherwise
