"""The failures bucket: what the function rejected, and what the event source mapping discarded.

An object of rejections has a line of JSON for each: see ``streaming.records.RejectionLine``. It is compressed if its
name ends with ``.gz``. An object of discarded records is a batch, one JSON object that has the whole event in its
``payload``.
"""

import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from msgspec import Raw, Struct

from arns import stream_name
from scripts.sources.records import RideRecord
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.envelope import NotAKinesisEventError, arrival_seconds, is_partition_key, kinesis_records, text_of
from streaming.records import GZIP, MAX_OBJECT_BYTES, RejectionLine

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ON_FAILURE_PREFIX = "aws/lambda/"
"""Where mappings write what they discard. AWS fixes this prefix, which is relative to the bucket's root."""
REPLAYED = "replayed/"
REJECTIONS_KEY = re.compile(r"[^/]+/[^/]+/[^/]+\.jsonl(\.gz)?")
"""Stream, shard and sequence numbers, relative to the prefix. The keys of replayed rejections have one level more."""
COMPRESSED = ".gz"
MAX_LINES_BYTES = 16 * MAX_OBJECT_BYTES
"""The lines of a compressed object may take no more. The function writes far fewer; replay adds objects of one key."""
CHANGED_CODES = {"ConditionalRequestConflict", "NoSuchKey", "PreconditionFailed"}
"""S3's error codes if an object is not, or no longer, the one that a condition names (conditional requests)."""
ARCHIVED_CODE = "InvalidObjectState"
"""S3's error code for an object that a lifecycle rule has moved to Glacier (API reference, GetObject)."""
LASTING_CODES = {
    *("AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket", "RequestTimeTooSkewed"),
    *("SignatureDoesNotMatch", "TokenRefreshRequired"),
}
"""S3's error codes that requests for all other objects would get too (API reference, error responses)."""
DISCARDED = "discarded"
"""The kind of a record that the mapping discarded; its reason is the mapping's condition."""

Envelope: TypeAlias = Mapping[str, Raw]
"""The fields that a mapping wrote around its event; empty for rejections."""
_T = TypeVar("_T")


class ChangedError(Exception):
    """Somebody else has written or removed an object since it was found or read."""


class UnreadableError(Exception):
    """S3 refuses to return or to move an object, or its content cannot be read; the message says what is wrong."""


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
    obstacle: str
    """The reason why a stream would not accept the original."""
    source: bytes
    """The record's JSON, exactly as the object has it."""


class _RequestContext(Struct, frozen=True):
    condition: str


class _BatchInfo(Struct, frozen=True):
    stream_arn: str = msgspec.field(name="streamArn", default="")


class _Failure(Struct, frozen=True):
    payload: str
    request_context: _RequestContext = msgspec.field(name="requestContext")
    batch: _BatchInfo = msgspec.field(name="KinesisBatchInfo", default=_BatchInfo())


class _Event(Struct, frozen=True):
    records: list[Raw] = msgspec.field(name="Records")


@dataclass(frozen=True)
class KeptObject:
    """An object as it was when it was read."""

    key: str
    etag: str
    records: Sequence[KeptRecord]
    envelope: Envelope = field(default_factory=dict)


class KeptObjects:
    """The objects of a failures location: its rejections, and the on-failure objects of its bucket."""

    def __init__(self, client: "S3Client", location: str) -> None:
        """Take an ``s3://bucket/prefix`` URI, as FAILURES_LOCATION has it; the prefix may be empty."""
        self._client = client
        self._bucket, _, prefix = location.removeprefix("s3://").rstrip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def find(self, page_size: int = 1000) -> Iterator[str]:
        """Yield the keys of all objects, rejections first; each request lists at most ``page_size`` objects."""
        for key in self._list(self._prefix, page_size):
            if REJECTIONS_KEY.fullmatch(key.removeprefix(self._prefix)):
                yield key
        yield from self._list(ON_FAILURE_PREFIX, page_size)

    def uri(self, key: str) -> str:
        """Return the URI of an object."""
        return f"s3://{self._bucket}/{key}"

    def read(self, key: str) -> KeptObject:
        """Return an object. Raises ChangedError if it does not exist any more, and UnreadableError."""
        response = self._unless_changed(key, self._client.get_object)
        etag, written = response["ETag"], response["LastModified"]
        try:
            body = response["Body"].read()
        except (HTTPClientError, IncompleteReadError) as error:
            raise UnreadableError(str(error)) from error
        if key.removeprefix(REPLAYED).startswith(ON_FAILURE_PREFIX):
            return KeptObject(key, etag, *decode_discarded(body, written))
        if key.endswith(COMPRESSED):
            body = _decompress(body)
        *_, stream, _, _ = key.split("/")
        return KeptObject(key, etag, decode_rejections(body, stream, written))

    def move(self, kept: KeptObject, records: Sequence[KeptRecord]) -> None:
        """Move records of an object to the replayed ones: write them there, then remove them from the object.

        An interruption leaves each record in at least one place. An object that loses its last record is deleted. It is
        left alone if ChangedError is raised, because it is no longer the one that was read, or UnreadableError, because
        the object of replayed records cannot be read.
        """
        self._add(self._replayed_key(kept.key), kept.envelope, records)
        moved = set(records)
        rest = [record for record in kept.records if record not in moved]
        if rest:
            body = _body(kept.key, rest, kept.envelope)
            self._unless_changed(kept.key, self._client.put_object, Body=body, IfMatch=kept.etag)
        else:
            self._unless_changed(kept.key, self._client.delete_object, IfMatch=kept.etag)

    def _add(self, key: str, envelope: Envelope, records: Sequence[KeptRecord]) -> None:
        """Add records to the object of replayed ones, which exists if others were replayed or after an interruption."""
        try:
            there = self.read(key)
        except UnreadableError as error:
            raise UnreadableError(f"what was moved to {self.uri(key)} cannot be read: {error}") from error
        except ChangedError:
            body = _body(key, records, envelope)
            self._unless_changed(key, self._client.put_object, Body=body, IfNoneMatch="*")
            return
        # A record that is there already, because a replay was interrupted, is not added twice.
        every = {record.source: record for record in (*there.records, *records)}
        body = _body(key, every.values(), envelope)
        self._unless_changed(key, self._client.put_object, Body=body, IfMatch=there.etag)

    def _replayed_key(self, key: str) -> str:
        if key.startswith(ON_FAILURE_PREFIX):
            return f"{REPLAYED}{key}"
        return f"{self._prefix}{REPLAYED}{key.removeprefix(self._prefix)}"

    def _list(self, prefix: str, page_size: int) -> Iterator[str]:
        pages: Any = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": page_size}
        )
        for key in pages.search("Contents[].Key || `[]`"):
            if not key.endswith("/"):  # S3's console creates such objects to show folders
                yield key

    def _unless_changed(self, key: str, call: Callable[..., Any], **arguments: object) -> Any:
        try:
            return call(Bucket=self._bucket, Key=key, **arguments)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in CHANGED_CODES:
                raise ChangedError("it was changed or removed meanwhile") from error
            if code == ARCHIVED_CODE:
                raise UnreadableError("it is archived: restore it first") from error
            if code in LASTING_CODES:
                raise
            raise UnreadableError(f"S3 says {code}: {error.response['Error'].get('Message')}") from error
        except HTTPClientError as error:
            raise UnreadableError(str(error)) from error


def decode_rejections(body: bytes, stream: str, written: datetime) -> list[KeptRecord]:
    """Return the rejections in the body of an object that was written at that time. Raises UnreadableError."""
    records = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            found = _decode(line, RejectionLine, f"line {number}")
            arrival, original = _time(found.arrival, written), _original(found.data, found.partition_key)
            records.append(KeptRecord(found.kind, found.reason, stream, arrival, *original, line))
    return records


def decode_discarded(body: bytes, written: datetime) -> tuple[list[KeptRecord], Envelope]:
    """Return the discarded records and the envelope in the body of such an object. Raises UnreadableError."""
    failure = _decode(body, _Failure, "it")
    event = _decode(failure.payload.encode(), _Event, "its payload")
    records = []
    for number, source in enumerate(map(bytes, event.records), 1):
        try:
            (found,) = kinesis_records({"Records": [msgspec.json.decode(source)]})
        except NotAKinesisEventError as error:
            raise UnreadableError(f"record {number} of its payload is not what it should be: {error}") from error
        stream, condition = stream_name(found.stream_arn or failure.batch.stream_arn), failure.request_context.condition
        arrival, data = _time(found.kinesis.arrival, written), found.kinesis.data
        original = _original(data if isinstance(data, str) else text_of(data), found.kinesis.partition_key)
        records.append(KeptRecord(DISCARDED, condition, stream, arrival, *original, source))
    return records, _decode(body, dict[str, Raw], "it")


def encode_records(records: Iterable[KeptRecord], envelope: Envelope) -> bytes:
    """Return the body of an object that keeps these records, in the form of the object that they come from.

    The ``KinesisBatchInfo`` of an envelope stays as it is: it describes the batch that was discarded.
    """
    if not envelope:
        return b"".join(record.source + b"\n" for record in records)
    event = msgspec.json.encode({"Records": [Raw(record.source) for record in records]})
    return msgspec.json.encode({**envelope, "payload": event.decode()})


def _body(key: str, records: Iterable[KeptRecord], envelope: Envelope) -> bytes:
    """Return the body of an object with this key, compressed if the key says so."""
    body = encode_records(records, envelope)
    # Without the time, the same records give the same bytes.
    return gzip.compress(body, mtime=0) if key.endswith(COMPRESSED) and not envelope else body


def _decompress(body: bytes) -> bytes:
    """Return the lines of a compressed object. Raises UnreadableError."""
    decompressor = zlib.decompressobj(GZIP)
    try:
        lines = decompressor.decompress(body, MAX_LINES_BYTES)
    except zlib.error as error:
        raise UnreadableError(f"it is not compressed as its name says: {error}") from error
    if not decompressor.eof:
        raise UnreadableError(f"it is cut off, or its lines take more than {MAX_LINES_BYTES} bytes")
    return lines


def _original(data: str, partition_key: str | None) -> tuple[RideRecord | None, str]:
    """Return the record that was put on the stream, or else None and the reason why a stream would not accept it."""
    try:
        decoded = base64.b64decode(data, validate=True)
    except ValueError:
        return None, "the data is not base64"
    # A record has no key if the stream distributes records by itself. The digest keeps equal records on one shard.
    key = partition_key or hashlib.sha256(decoded).hexdigest()
    if not is_partition_key(key):
        return None, f"Kinesis refuses its partition key of {len(key)} characters"
    if len(decoded) + len(key.encode()) > MAX_ENTRY_BYTES:
        return None, "data and partition key are more than 1 MiB"
    return RideRecord(key, decoded), ""


def _decode(data: bytes, form: type[_T], subject: str) -> _T:
    try:
        return msgspec.json.decode(data, type=form)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{subject} is not what it should be: {error}") from error


def _time(arrival: float | None, default: datetime) -> datetime:
    seconds = arrival_seconds(arrival)
    return default if seconds is None else datetime.fromtimestamp(seconds, UTC)
