"""The Kinesis envelope: a Lambda event's records in, rides and rejections out, and the object that keeps rejections."""

import base64
import binascii
import functools
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from arns import stream_name
from artifacts import MAX_MESSAGE_LENGTH
from rides import InvalidRideError, RejectionKind, Ride, RideEvent, decode_ride, encodable, with_time
from streaming.aggregation import is_aggregated, packed_records
from streaming.envelope import kinesis_records, text_of
from streaming.wrappings import explain

MAX_USER_RECORDS = 4_000
"""User records of a part, unless the event has more Kinesis records. Each takes about a kilobyte until it is put."""

RECORDS_BETWEEN_CHECKS = 100
"""How many records are decoded between two looks at the clock."""

MAX_OBJECT_BYTES = 2_097_152
"""An object takes no more lines once it has this number of bytes."""

MAX_PLAIN_BYTES = 262_144
"""An object is compressed from here on. A rejection with more data has an object of its own, which is not compressed:
base64 hardly shrinks, and both forms at once would take memory."""

SPARE_BYTES = 8_192
"""The size of a rejection's line without its data, usually."""

GZIP, COMPRESSION_LEVEL = 16 + zlib.MAX_WBITS, 1
"""zlib's number for the gzip format. Lines are so much alike that a higher level takes longer and gains little."""

_encoder = msgspec.json.Encoder()


class UserRecord(Struct, frozen=True, gc=False):
    """A record as a producer put it: a Kinesis record, or one of the records packed into an aggregated record.

    A packed record has its own partition key and data, the sequence number of the Kinesis record that it came in, and
    that record's ``event_id`` followed by its index.
    """

    sequence_number: str
    event_id: str
    partition_key: str | None
    arrival: float | None
    stream_arn: str
    data: str | bytes
    """Base64 as Lambda handed it over; for a packed record, the bytes themselves."""


class ReceivedRide(Struct, frozen=True, gc=False):
    """A valid ride event with the user record that brought it."""

    record: UserRecord
    event: RideEvent


def rides_of(received: Iterable[ReceivedRide], *, with_times: bool) -> list[Ride]:
    """Return the rides themselves. If ``with_times``, a ride without a pickup gets its record's arrival time."""
    if not with_times:
        return [one.event.ride for one in received]
    # A redelivered record has the same arrival, and so the same prediction. Only an event that was written by hand, or
    # by an emulator, has none.
    now = datetime.now(UTC)
    return [with_time(one.event.ride, _arrival_time(one.record, now)) for one in received]


def _arrival_time(record: UserRecord, now: datetime) -> datetime:
    """Return when the record arrived; now, if its arrival is not known."""
    return now if record.arrival is None else datetime.fromtimestamp(record.arrival, UTC)


class Rejection(Struct, frozen=True):
    """A user record that no redelivery will ever turn into a prediction, with the reason."""

    record: UserRecord
    kind: RejectionKind
    reason: str

    @property
    def summary(self) -> dict[str, str]:
        """The rejection in the response of a dry run, without the data, which could make a response too large."""
        reason, record = encodable(self.reason[:MAX_MESSAGE_LENGTH]), self.record
        names = {"event_id": record.event_id, "sequence_number": record.sequence_number}
        return {"kind": self.kind, "reason": reason, **names}

    @property
    def line(self) -> "RejectionLine":
        """The rejection as the failures bucket keeps it."""
        record, data = self.record, self.record.data
        return RejectionLine(
            **self.summary,
            partition_key=record.partition_key and encodable(record.partition_key),
            arrival=record.arrival,
            data=base64.b64encode(data).decode() if isinstance(data, bytes) else encodable(data),
        )


class RejectionLine(Struct, frozen=True, kw_only=True):
    """A rejection as a line of JSON in the failures bucket. The function writes it, and the tools read it."""

    kind: str
    reason: str
    event_id: str = ""
    sequence_number: str = ""
    partition_key: str | None = None
    arrival: float | None = None
    data: str
    """Base64 of what the producer put; as Lambda handed it over if that was not base64."""


class DecodedPart(Struct, frozen=True):
    """The rides and the rejections of a part of an event, each in input order."""

    received: list[ReceivedRide]
    rejections: list[Rejection]
    rest: Sequence[str]
    """The sequence numbers of the Kinesis records that have user records in no part so far."""


def decode_event(event: Mapping[str, Any]) -> tuple[list[ReceivedRide], list[Rejection]]:
    """Return the rides and the rejections of a whole event, as ``decode_parts`` yields them."""
    received: list[ReceivedRide] = []
    rejections: list[Rejection] = []
    for part in decode_parts(event):
        received += part.received
        rejections += part.rejections
    return received, rejections


def decode_parts(event: Mapping[str, Any], is_over: Callable[[], bool] = lambda: False) -> Iterator[DecodedPart]:
    """Yield the rides of a Kinesis event and the rejections of everything else, in parts of bounded size.

    An aggregated record gives a ride or a rejection for each packed record, or one rejection if it cannot be unpacked.
    Only such records make an event larger than a part. The lists of a part are emptied when the next one is asked for,
    so that parts do not add up in memory. Once ``is_over`` returns True, the rest is left undecoded.

    Raises:
        NotAKinesisEventError: as in ``kinesis_records``.
    """
    records = kinesis_records(event)
    numbers = [record.kinesis.sequence_number for record in records]
    most = max(MAX_USER_RECORDS, len(records))
    received: list[ReceivedRide] = []
    rejections: list[Rejection] = []
    data = b""
    for place, record in enumerate(records):
        if place % RECORDS_BETWEEN_CHECKS == 0 and is_over():
            yield DecodedPart(received, rejections, numbers[place:])
            return
        put, event_id, arn = record.kinesis, record.event_id, record.stream_arn
        number, arrival = put.sequence_number, put.arrival
        user_record = UserRecord(number, event_id, put.partition_key, arrival, arn, put.data)
        try:
            data = binascii.a2b_base64(put.data, strict_mode=True)
            if not is_aggregated(data):
                received.append(ReceivedRide(user_record, decode_ride(data)))
                continue
            packed_in_it = packed_records(data)
        except (TypeError, ValueError) as error:
            rejections.append(_reject(user_record, data, error))
            continue
        free = most - len(received) - len(rejections)
        for index, (key, packed) in enumerate(packed_in_it):
            if free <= 0:
                yield DecodedPart(received, rejections, numbers[place:])
                received.clear()
                rejections.clear()
                free = most
            free -= 1
            user_record = UserRecord(number, f"{event_id}:{index}", key, arrival, arn, packed)
            try:
                received.append(ReceivedRide(user_record, decode_ride(packed)))
            except InvalidRideError as error:
                rejections.append(_reject(user_record, packed, error))
    data = b""  # the last record's data may be large, and takes no memory while the part is processed
    yield DecodedPart(received, rejections, [])


def _reject(record: UserRecord, data: bytes, error: Exception) -> Rejection:
    """Return the rejection for an error of decoding the record's base64, or of decoding the data in it."""
    if isinstance(error, InvalidRideError):
        return Rejection(record, error.kind, explain(data) or error.reason)
    if isinstance(error, TypeError):
        record = msgspec.structs.replace(record, data=text_of(record.data))
        return Rejection(record, "base64", "the data is missing, or not text")
    return Rejection(record, "base64", f"the data is not base64: {error}")


class RejectionsObject(Struct, frozen=True):
    """An S3 object of rejections: JSON lines, compressed if they are many."""

    key: str
    body: bytes | bytearray
    rejections: Sequence[Rejection]


def rejections_objects(rejections: Iterable[Rejection]) -> Iterator[RejectionsObject]:
    """Yield the S3 objects for rejections, lowest sequence number first, each when it is asked for."""
    part: list[Rejection] = []
    lines = _Lines()
    for rejection in sorted(rejections, key=lambda rejection: int(rejection.record.sequence_number)):
        if len(rejection.record.data) > MAX_PLAIN_BYTES:
            yield _single_object(rejection)
            continue
        part.append(rejection)
        lines.add(rejection.line)
        if lines.size >= MAX_OBJECT_BYTES:
            yield lines.finish(part)
            part, lines = [], _Lines()
    if part:
        yield lines.finish(part)


class _Lines:
    """The lines of an object. When they are many, they are compressed as they are added."""

    def __init__(self) -> None:
        self.size = 0
        self._plain, self._compressed = bytearray(), bytearray()

    @functools.cached_property
    def _compressor(self) -> "zlib._Compress":
        """The compressor. Few lines do not need it, and making it takes time and a quarter of a megabyte."""
        return zlib.compressobj(COMPRESSION_LEVEL, wbits=GZIP)

    def add(self, line: RejectionLine) -> None:
        before = len(self._plain)
        _encoder.encode_into(line, self._plain, -1)
        self._plain += b"\n"
        self.size += len(self._plain) - before
        if len(self._plain) > MAX_PLAIN_BYTES:
            self._compressed += self._compressor.compress(self._plain)
            self._plain.clear()

    def finish(self, rejections: Sequence[Rejection]) -> RejectionsObject:
        """Return the object for the lines of these rejections, which are in order."""
        key = _object_key(rejections)
        if self.size <= MAX_PLAIN_BYTES:
            return RejectionsObject(key, self._plain, rejections)
        self._compressed += self._compressor.compress(self._plain) + self._compressor.flush()
        return RejectionsObject(f"{key}.gz", self._compressed, rejections)


def _single_object(rejection: Rejection) -> RejectionsObject:
    line = rejection.line
    # Allocated for the whole line at once, because msgspec would reserve half as much again when it extends a buffer.
    body = bytearray(len(line.data) + SPARE_BYTES)
    _encoder.encode_into(line, body, 0)
    body += b"\n"
    return RejectionsObject(_object_key([rejection]), body, [rejection])


def _object_key(rejections: Sequence[Rejection]) -> str:
    """Return the key of the object for rejections that are in order. The same rejections give the same key.

    It depends on all event_ids: a redelivery may reject other records, such as those of the batch's first half alone,
    and neither object may overwrite the other, whichever is written last.
    """
    first, last = rejections[0].record, rejections[-1].record
    stream = stream_name(first.stream_arn)
    shard = first.event_id.partition(":")[0]
    event_ids = "\n".join(rejection.record.event_id for rejection in rejections)
    digest = hashlib.sha256(encodable(event_ids).encode()).hexdigest()[:12]
    return f"{stream}/{shard}/{first.sequence_number}-{last.sequence_number}-{digest}.jsonl"
