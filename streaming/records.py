"""The Kinesis envelope: a Lambda event's records in, rides and rejections out, and the object that keeps rejections."""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from arns import stream_name
from rides import InvalidRideError, RejectionKind, RideEvent, decode_ride
from streaming.aggregation import is_aggregated, packed_records
from streaming.envelope import kinesis_records, text_of
from streaming.wrappings import explain

MAX_REASON_LENGTH = 1000
"""Characters: the message of a model's exception can be of any length."""


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


class Rejection(Struct, frozen=True):
    """A user record that no redelivery will ever turn into a prediction, with the reason."""

    record: UserRecord
    kind: RejectionKind
    reason: str

    @property
    def summary(self) -> dict[str, str]:
        """The rejection in the response of a dry run, without the data, which could make a response too large."""
        reason, record = _encodable(self.reason[:MAX_REASON_LENGTH]), self.record
        names = {"event_id": record.event_id, "sequence_number": record.sequence_number}
        return {"kind": self.kind, "reason": reason, **names}

    @property
    def line(self) -> "RejectionLine":
        """The rejection as the failures bucket keeps it."""
        record, data = self.record, self.record.data
        return RejectionLine(
            **self.summary,
            partition_key=record.partition_key and _encodable(record.partition_key),
            arrival=record.arrival,
            data=base64.b64encode(data).decode() if isinstance(data, bytes) else _encodable(data),
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


def decode_event(event: Mapping[str, Any]) -> tuple[list[ReceivedRide], list[Rejection]]:
    """Return the rides of a Kinesis event and the rejections of everything else, each in input order.

    An aggregated record gives a ride or a rejection for each packed record, or one rejection if it cannot be unpacked.

    Raises:
        NotAKinesisEventError: as in ``kinesis_records``.
    """
    received: list[ReceivedRide] = []
    rejections: list[Rejection] = []
    for record in kinesis_records(event):
        put, event_id, arn = record.kinesis, record.event_id, record.stream_arn
        user_record = UserRecord(put.sequence_number, event_id, put.partition_key, put.arrival, arn, put.data)
        try:
            data = binascii.a2b_base64(put.data, strict_mode=True)
        except TypeError:
            user_record = msgspec.structs.replace(user_record, data=text_of(put.data))
            rejections.append(Rejection(user_record, "base64", "the data is missing, or not text"))
            continue
        except ValueError as error:
            rejections.append(Rejection(user_record, "base64", f"the data is not base64: {error}"))
            continue
        try:
            if is_aggregated(data):
                _decode_packed(user_record, data, received, rejections)
            else:
                received.append(ReceivedRide(user_record, decode_ride(data)))
        except InvalidRideError as error:
            rejections.append(Rejection(user_record, error.kind, explain(data) or error.reason))
    return received, rejections


def _decode_packed(record: UserRecord, data: bytes, received: list[ReceivedRide], rejections: list[Rejection]) -> None:
    """Add the rides and the rejections of an aggregated record's user records."""
    for index, packed in enumerate(packed_records(data)):
        event_id, key = f"{record.event_id}:{index}", packed.partition_key
        user_record = msgspec.structs.replace(record, event_id=event_id, partition_key=key, data=packed.data)
        try:
            received.append(ReceivedRide(user_record, decode_ride(packed.data)))
        except InvalidRideError as error:
            rejections.append(Rejection(user_record, error.kind, explain(packed.data) or error.reason))


def rejections_object(rejections: Sequence[Rejection]) -> tuple[str, bytes]:
    """Return the S3 key and body for the rejections of one invocation: JSON lines, lowest sequence number first.

    The same rejections give the same key. It depends on all event_ids: a redelivery may reject other records, such as
    those of the batch's first half alone, and neither object may overwrite the other, whichever is written last.
    """
    ordered = sorted(rejections, key=lambda rejection: int(rejection.record.sequence_number))
    first, last = ordered[0].record, ordered[-1].record
    stream = stream_name(first.stream_arn)
    shard = first.event_id.partition(":")[0]
    event_ids = "\n".join(rejection.record.event_id for rejection in ordered)
    digest = hashlib.sha256(_encodable(event_ids).encode()).hexdigest()[:12]
    key = f"{stream}/{shard}/{first.sequence_number}-{last.sequence_number}-{digest}.jsonl"
    return key, msgspec.json.Encoder().encode_lines([rejection.line for rejection in ordered])


def _encodable(text: str) -> str:
    """Return the text with lone surrogates replaced: JSON can bring them in, and UTF-8 cannot encode them."""
    return text.encode(errors="replace").decode()
