"""Aggregated records: unpacking what the Kinesis Producer Library (KPL) packed into one Kinesis record.

The format is that of the KPL's ``aggregation-format.md``: four magic bytes, a protobuf ``AggregatedRecord``, its MD5.
"""

import functools
import hashlib
import sys
from typing import Any, NamedTuple

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16

MAX_KEY_LENGTH = 256
"""Characters of a partition key (API reference, PutRecords)."""

MAX_PACKED = 65_536
"""No event has room for more rides: it has 6 MB of base64, and the smallest ride takes 72 bytes."""


class PackedRecord(NamedTuple):
    """One of the records in an aggregated record, as its producer put it."""

    partition_key: str
    data: bytes


class BrokenAggregateError(ValueError):
    """An aggregated record cannot be unpacked. The message says why."""


def is_aggregated(data: bytes) -> bool:
    """Return whether a Kinesis record's data is an aggregated record, intact or broken."""
    return data.startswith(MAGIC)


def packed_records(data: bytes) -> list[PackedRecord]:
    """Return the records in an aggregated record, in the order in which they were put.

    Raises:
        BrokenAggregateError: if the digest or the protobuf is wrong. Then nothing in it is trusted.
    """
    message, digest = data[len(MAGIC) : -DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.md5(message, usedforsecurity=False).digest() != digest:
        raise BrokenAggregateError("the aggregated record's MD5 does not match its content")
    try:
        aggregate = _message_type().FromString(message)
        keys = [_text(key) for key in aggregate.partition_key_table]
        packed = [PackedRecord(keys[record.partition_key_index], record.data) for record in aggregate.records]
    except _decode_errors() as error:
        raise BrokenAggregateError(f"the aggregated record's protobuf is broken: {error}") from error
    if not packed:
        raise BrokenAggregateError("the aggregated record holds nothing")
    if len(packed) > MAX_PACKED:
        raise BrokenAggregateError(f"the aggregated record holds {len(packed)} records, more than there can be rides")
    longest = max(map(len, keys))
    if longest > MAX_KEY_LENGTH:
        # Thousands of records may share one key, and each of their rejections would repeat it.
        raise BrokenAggregateError(f"the aggregated record has a partition key of {longest} characters")
    return packed


def _text(key: str | bytes) -> str:
    """Return a partition key as text. protobuf gives bytes if it is not UTF-8."""
    return key if isinstance(key, str) else key.decode(errors="replace")


@functools.cache
def _message_type() -> Any:
    """Return protobuf's class for an aggregated record. Its import takes 50 ms, and most functions never need it."""
    path = list(sys.path)
    # Not the module with the messages itself: its imports work only after this one has changed sys.path.
    from aws_kinesis_agg import deaggregator

    sys.path[:] = path
    return deaggregator.messages_pb2.AggregatedRecord


def _decode_errors() -> tuple[type[Exception], ...]:
    from google.protobuf.message import DecodeError

    return DecodeError, IndexError
