"""What Kinesis and Lambda put around a producer's data: the records of a Lambda event, and partition keys."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

MAX_KEY_UNITS = 256
"""The longest partition key (API reference, PutRecords). Kinesis seems to count UTF-16 code units, of which emoji and
other rare characters have two."""

MAX_NUMBER_DIGITS = 129
"""Digits of a sequence number (API reference, PutRecord)."""

MAX_ARRIVAL = 1e11
"""Seconds since the epoch, in the year 5138: a larger number counts milliseconds, microseconds or nanoseconds."""

Arrival: TypeAlias = Annotated[float, Meta(ge=0, lt=MAX_ARRIVAL)]


# The limits below cost nothing, because msgspec checks them in C.
class KinesisData(Struct, frozen=True, rename="camel", gc=False):
    """The ``kinesis`` part of a record in a Lambda event."""

    sequence_number: Annotated[str, Meta(min_length=1, max_length=MAX_NUMBER_DIGITS)]
    data: Any = None
    """Base64. Whatever else it is belongs to a record that is rejected."""
    partition_key: str | None = None
    arrival: Arrival | None = msgspec.field(name="approximateArrivalTimestamp", default=None)
    """Seconds since the epoch."""


class KinesisRecord(Struct, frozen=True, gc=False):
    """A record as the event source mapping hands it to the function."""

    kinesis: KinesisData
    event_id: Annotated[str, Meta(min_length=1)] = msgspec.field(name="eventID")
    stream_arn: str = msgspec.field(name="eventSourceARN", default="")


class NotAKinesisEventError(ValueError):
    """The function was called with something other than a Kinesis event."""


def kinesis_records(event: Mapping[str, Any]) -> list[KinesisRecord]:
    """Return the records of a Lambda event. A field that is wrong in a record is left out or gets a value in its place.

    Raises:
        NotAKinesisEventError: if a record has no sequence number, as in other services' events; the message says so.
    """
    try:
        records = event["Records"]
    except (KeyError, TypeError) as error:
        raise NotAKinesisEventError("not a Kinesis event: it has no `Records`") from error
    try:
        found = msgspec.convert(records, list[KinesisRecord])
    except ValueError:  # msgspec's own error, or half a surrogate pair
        return _repair(records)
    # Joined, because one test of a long text is faster than a test of each record.
    numbers = "".join([record.kinesis.sequence_number for record in found])
    ids = "".join([record.event_id for record in found])
    return found if not found or (_is_number(numbers) and _is_event_id(ids)) else _repair(records)


def _repair(records: Any) -> list[KinesisRecord]:
    if not isinstance(records, list):
        raise NotAKinesisEventError("not a Kinesis event: its `Records` is not a list")
    return list(map(_repair_record, records))


def _repair_record(record: Any) -> KinesisRecord:
    """Return a record of which only the sequence number has to be right: without it, Lambda cannot deliver it again."""
    put = record.get("kinesis") if isinstance(record, dict) else None
    if not isinstance(put, dict):
        raise NotAKinesisEventError("not a Kinesis event: a record has no `kinesis`")
    value = put.get("sequenceNumber")
    number = str(value) if isinstance(value, str | int) else ""
    if not (_is_number(number) and len(number) <= MAX_NUMBER_DIGITS):
        shown = repr(value)[:MAX_NUMBER_DIGITS]
        raise NotAKinesisEventError(f"not a Kinesis event: the `sequenceNumber` of a record is {shown}")
    key, event_id, arn = put.get("partitionKey"), record.get("eventID"), record.get("eventSourceARN")
    arrival = arrival_seconds(put.get("approximateArrivalTimestamp"))
    return KinesisRecord(
        KinesisData(number, put.get("data"), str(key) if isinstance(key, str | int) else None, arrival),
        # The id has to be another one for each record, and the same on every redelivery.
        event_id if isinstance(event_id, str) and _is_event_id(event_id) else f"unknown:{number}",
        arn if isinstance(arn, str) else "",
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.encode().isdigit()  # text's own isdigit is twenty times as slow


def _is_event_id(text: str) -> bool:
    """Return whether a text can be an event_id, which predictions carry, and of which a part is in objects' keys."""
    return text != "" and text.isascii() and "/" not in text


def arrival_seconds(value: object) -> float | None:
    """Return an arrival time in seconds since the epoch, whatever unit it is in; None if it cannot be one."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    in_units = (number / unit for unit in (1, 1e3, 1e6, 1e9))
    return next((seconds for seconds in in_units if 0 <= seconds < MAX_ARRIVAL), None)


def text_of(data: object) -> str:
    """Return data that is not text as text, which is not base64."""
    try:
        return f"not text: {json.dumps(data)}"
    except (TypeError, ValueError, RecursionError):
        return "not text"


def is_partition_key(text: str) -> bool:
    """Return whether Kinesis accepts the text as a partition key."""
    if text.isascii():
        return 0 < len(text) <= MAX_KEY_UNITS
    try:
        return len(text.encode("utf-16-le")) <= 2 * MAX_KEY_UNITS
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def partition_key(ride_id: int | str) -> str:
    """Return the partition key of a ride's record: its id, or the first part of an id that is too long."""
    key = str(ride_id)
    if key.isascii() and 0 < len(key) <= MAX_KEY_UNITS:
        return key  # nearly all ids are such keys, and this check is faster
    return key if is_partition_key(key) else key.encode("utf-16-le")[: 2 * MAX_KEY_UNITS].decode("utf-16-le", "ignore")
