"""The event formats: a Kinesis record in; a ride, a prediction or a rejection out."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from streaming.aggregation import MAGIC_IN_BASE64, BrokenAggregateError, is_aggregated, packed_records

MAX_TRIP_DISTANCE = 100.0
"""Miles. Training leaves longer trips out and serving refuses them: a stuck meter says 120,000."""

MAX_ID_LENGTH = 256
"""Characters: a ride_id becomes a partition key, and PutRecords takes no longer one (API reference)."""


RIDE_ID = "ride_id"
"""What stands beside the predicted value in an output record, so that the value cannot have this name."""

MAX_REASON_LENGTH = 1000
"""Characters: what a model says when it raises can be of any length."""


class Ride(Struct, frozen=True):
    """What a duration is predicted from: two TLC zones and the distance between them in miles."""

    PULocationID: int
    DOLocationID: int
    trip_distance: Annotated[float, Meta(ge=0, le=MAX_TRIP_DISTANCE)]


class RideEvent(Struct, frozen=True):
    """The data of an input record: a ride and the id that its prediction will carry."""

    ride: Ride
    ride_id: int | Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]


class KinesisData(Struct, frozen=True, rename="camel"):
    """The ``kinesis`` part of a record in a Lambda event."""

    sequence_number: str
    data: str
    partition_key: str | None = None
    approximate_arrival_timestamp: float | None = None


class KinesisRecord(Struct, frozen=True):
    """A record as the event source mapping hands it to the function.

    So is a user record that was taken out of an aggregated one: with the partition key and the data that its producer
    gave it, the sequence number of the record that it came in, and that record's ``event_id`` followed by its place.
    """

    kinesis: KinesisData
    event_id: str = msgspec.field(name="eventID")
    stream_arn: str = msgspec.field(name="eventSourceARN", default="")


class ReceivedRide(Struct, frozen=True):
    """A valid ride with the user record that brought it."""

    record: KinesisRecord
    event: RideEvent


RejectionKind = Literal["base64", "aggregate", "utf-8", "json", "ride", "prediction"]


class Rejection(Struct, frozen=True):
    """A record that no delivery will ever turn into a prediction, with the reason."""

    record: KinesisRecord
    kind: RejectionKind
    reason: str


class NotAKinesisEventError(ValueError):
    """The function was called with something else than a Kinesis event."""


class _UndecodableError(Exception):
    """A record's data is not a ride."""

    def __init__(self, kind: RejectionKind, reason: str) -> None:
        self.kind: RejectionKind = kind
        super().__init__(reason)


_ride_events = msgspec.json.Decoder(RideEvent)
_encoder = msgspec.json.Encoder()


def decode(event: Mapping[str, Any]) -> tuple[list[ReceivedRide], list[Rejection]]:
    """Return the rides of a Kinesis event and the rejections of what is none, each in input order.

    An aggregated record gives as many as were packed into it; one rejection, where it cannot be taken apart.

    Raises:
        NotAKinesisEventError: where the event as a whole lacks what every Kinesis event has; the message names it.
    """
    received, rejections = [], []
    for record in _records(event):
        for outcome in _decoded(record):
            if isinstance(outcome, Rejection):
                rejections.append(outcome)
            else:
                received.append(outcome)
    return received, rejections


def encode_prediction(received: ReceivedRide, value: float, *, field: str, model: str, version: str) -> bytes:
    """Return the data of a ride's output record: the predicted value as ``field``, tagged with the model that made it.

    ``event_id`` is the same on every redelivery of the input record.
    """
    return _encoder.encode(
        {
            "model": model,
            "version": version,
            "prediction": {field: value, RIDE_ID: received.event.ride_id},
            "event_id": received.record.event_id,
        }
    )


def partition_key(ride_id: int | str) -> str:
    """Return the partition key of a ride's output record, which is its id.

    Kinesis seems to count as UTF-16 does: an id that is too long in that way, which only rare characters make it, gives
    the first part of itself.
    """
    key = str(ride_id)
    if len(key) <= MAX_ID_LENGTH // 2 or key.isascii():
        return key
    return key.encode("utf-16-le")[: 2 * MAX_ID_LENGTH].decode("utf-16-le", errors="ignore")


def rejections_object(rejections: Sequence[Rejection]) -> tuple[str, bytes]:
    """Return the S3 key and body for what one invocation rejected: JSON lines, with the data base64 as it came.

    The key is the same again when the same is rejected again. It depends on all of the event_ids: where a redelivery
    rejects others, as of the batch's first half alone, neither must overwrite the other, whichever is written last.
    """
    ordered = sorted(rejections, key=lambda rejection: int(rejection.record.kinesis.sequence_number))
    first, last = ordered[0].record, ordered[-1].record
    stream = first.stream_arn.rpartition("/")[2] or "stream"
    shard = first.event_id.partition(":")[0]
    event_ids = "\n".join(rejection.record.event_id for rejection in ordered)
    digest = hashlib.sha256(_encodable(event_ids).encode()).hexdigest()[:12]
    key = f"{stream}/{shard}/{first.kinesis.sequence_number}-{last.kinesis.sequence_number}-{digest}.jsonl"
    return key, _encoder.encode_lines([_rejection_line(rejection) for rejection in ordered])


def _rejection_line(rejection: Rejection) -> dict[str, Any]:
    kinesis = rejection.record.kinesis
    return {
        "kind": rejection.kind,
        "reason": _encodable(rejection.reason[:MAX_REASON_LENGTH]),
        "event_id": rejection.record.event_id,
        "sequence_number": kinesis.sequence_number,
        "partition_key": kinesis.partition_key and _encodable(kinesis.partition_key),
        "arrival": kinesis.approximate_arrival_timestamp,
        "data": _encodable(kinesis.data),
    }


def _encodable(text: str) -> str:
    """Return the text with half surrogate pairs replaced, which JSON can bring in and UTF-8 cannot take out."""
    return text.encode(errors="replace").decode()


def _records(event: Mapping[str, Any]) -> list[KinesisRecord]:
    try:
        return msgspec.convert(event["Records"], list[KinesisRecord])
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        what = "it has no `Records`" if isinstance(error, KeyError | TypeError) else f"in its `Records`: {error}"
        raise NotAKinesisEventError(f"not a Kinesis event: {what}") from error


def _decoded(record: KinesisRecord) -> list[ReceivedRide | Rejection]:
    """Return what becomes of each user record in a record, which is most often the one that it is itself."""
    if not record.kinesis.data.startswith(MAGIC_IN_BASE64):
        return [_decoded_ride(record)]
    try:
        return [_decoded_ride(user_record) for user_record in _user_records(record)]
    except _UndecodableError as error:
        return [Rejection(record, error.kind, str(error))]


def _user_records(record: KinesisRecord) -> list[KinesisRecord]:
    data = _decode_base64(record.kinesis.data)
    if not is_aggregated(data):
        return [record]
    try:
        packed = packed_records(data)
    except BrokenAggregateError as error:
        raise _UndecodableError("aggregate", str(error)) from error
    return [_user_record(record, place, *one) for place, one in enumerate(packed)]


def _user_record(parent: KinesisRecord, place: int, partition_key: str, data: bytes) -> KinesisRecord:
    encoded = base64.b64encode(data).decode()
    kinesis = msgspec.structs.replace(parent.kinesis, partition_key=partition_key, data=encoded)
    return msgspec.structs.replace(parent, kinesis=kinesis, event_id=f"{parent.event_id}:{place}")


def _decoded_ride(record: KinesisRecord) -> ReceivedRide | Rejection:
    try:
        return ReceivedRide(record, _decode_event(_decode_base64(record.kinesis.data)))
    except _UndecodableError as error:
        return Rejection(record, error.kind, str(error))


def _decode_base64(data: str) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError as error:
        raise _UndecodableError("base64", f"the data is not base64: {error}") from error


def _decode_event(data: bytes) -> RideEvent:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _UndecodableError("utf-8", f"the data is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        event = _ride_events.decode(text)
    except msgspec.ValidationError as error:
        raise _UndecodableError("ride", str(error)) from error
    except msgspec.DecodeError as error:
        raise _UndecodableError("json", f"{error}{_non_finite_field(text)}") from error
    except RecursionError as error:
        raise _UndecodableError("json", "JSON is nested too deeply") from error
    if isinstance(event.ride_id, int) and len(str(event.ride_id)) > MAX_ID_LENGTH:
        raise _UndecodableError("ride", f"Expected an `int` of at most {MAX_ID_LENGTH} digits - at `$.ride_id`")
    return event


def _non_finite_field(text: str) -> str:
    """Name the field that holds NaN or Infinity, which Python's own writer puts into JSON; else say nothing."""
    try:
        msgspec.convert(json.loads(text), RideEvent)
    except msgspec.ValidationError as error:
        return f"; read as Python's JSON: {error}"
    except (ValueError, RecursionError):
        pass
    return ""
