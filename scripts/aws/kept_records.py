"""The records in the failures bucket: what the function rejected, and what the event source mapping discarded.

A rejection is a line of JSON: see ``streaming.records.RejectionLine``. A discarded batch is one JSON object that has
the whole event in its ``payload``.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from scripts.sources.records import RideRecord
from streaming.aggregation import MAX_KEY_LENGTH
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.records import KinesisRecord, RejectionLine

DISCARDED = "discarded"
"""The kind of a record that the mapping discarded; its reason is the mapping's condition."""

Envelope: TypeAlias = Mapping[str, Raw]
"""The fields that a mapping wrote around its event; empty for rejections."""

_T = TypeVar("_T")


class UnreadableError(Exception):
    """An object is not what the function or a mapping writes; the message says what is wrong."""


@dataclass(frozen=True)
class KeptRecord:
    """A record of the input stream as an object in the failures bucket keeps it."""

    kind: str
    reason: str
    stream: str
    """The stream that it came from."""
    arrival: datetime
    """When Kinesis received it; if that is not known, when the object was written."""
    original: RideRecord | None
    """The record that was put on the stream; None if a stream would not accept it."""
    source: bytes
    """The record's JSON, exactly as the object has it."""
    obstacle: str = ""
    """The reason why a stream would not accept the original."""


class _RequestContext(Struct, frozen=True):
    condition: str


class _Failure(Struct, frozen=True):
    payload: str
    request_context: _RequestContext = msgspec.field(name="requestContext")


class _Event(Struct, frozen=True):
    records: list[Raw] = msgspec.field(name="Records")


def decode_rejections(body: bytes, stream: str, written: datetime) -> list[KeptRecord]:
    """Return the rejections of a stream's records, from the body of an object that was written at that time.

    Raises:
        UnreadableError: if a line is not a rejection.
    """
    records = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            found = _decode(line, RejectionLine, f"line {number}")
            original, obstacle = _original(found.data, found.partition_key)
            arrival = _time(found.arrival, written)
            records.append(KeptRecord(found.kind, found.reason, stream, arrival, original, line, obstacle))
    return records


def decode_discarded(body: bytes, written: datetime) -> tuple[list[KeptRecord], Envelope]:
    """Return the discarded records and the envelope, from the body of an object that was written at that time.

    Raises:
        UnreadableError: if the object is not one that a mapping for Kinesis writes.
    """
    failure = _decode(body, _Failure, "it")
    event = _decode(failure.payload.encode(), _Event, "its payload")
    records = []
    for number, source in enumerate(map(bytes, event.records), 1):
        found = _decode(source, KinesisRecord, f"record {number} of its payload")
        stream = found.stream_arn.rpartition("/")[2]
        arrival = _time(found.kinesis.approximate_arrival_timestamp, written)
        original, obstacle = _original(found.kinesis.data, found.kinesis.partition_key)
        condition = failure.request_context.condition
        records.append(KeptRecord(DISCARDED, condition, stream, arrival, original, source, obstacle))
    return records, _decode(body, dict[str, Raw], "it")


def encode_records(records: Iterable[KeptRecord], envelope: Envelope) -> bytes:
    """Return the body of an object that keeps these records, in the form of the object that they come from.

    The ``KinesisBatchInfo`` of an envelope stays as it is: it describes the batch that was discarded.
    """
    if not envelope:
        return b"".join(record.source + b"\n" for record in records)
    event = msgspec.json.encode({"Records": [Raw(record.source) for record in records]})
    return msgspec.json.encode({**envelope, "payload": event.decode()})


def _original(data: str, partition_key: str | None) -> tuple[RideRecord | None, str]:
    """Return the record that was put on the stream, or else None and the reason why a stream would not accept it."""
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        return None, "the data is not base64"
    # A record has no key if the stream distributes records by itself. The digest keeps equal records on one shard.
    key = partition_key or hashlib.sha256(decoded).hexdigest()
    if len(key) > MAX_KEY_LENGTH:
        return None, f"the partition key has more than {MAX_KEY_LENGTH} characters"
    if len(decoded) + len(key.encode()) > MAX_ENTRY_BYTES:
        return None, "data and partition key are more than 1 MiB"
    return RideRecord(key, decoded), ""


def _decode(data: bytes, form: type[_T], subject: str) -> _T:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"{subject} is not what it should be: {error}") from error


def _time(seconds: float | None, default: datetime) -> datetime:
    try:
        return default if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return default
