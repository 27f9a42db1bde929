"""Aggregated records: what the Kinesis Producer Library packs into one Kinesis record, taken apart again.

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
"""No event has room for more rides: 6 MB of base64, and 72 bytes for the smallest."""

MAGIC_IN_BASE64 = "84maw"
"""What the base64 of every aggregated record begins with: as many characters as the magic bytes alone decide."""


class PackedRecord(NamedTuple):
    """What a producer put, one of many in an aggregated record."""

    partition_key: str
    data: bytes


class BrokenAggregateError(ValueError):
    """An aggregated record cannot be taken apart."""


def is_aggregated(data: bytes) -> bool:
    """Return whether a Kinesis record's data is an aggregated record, whole or broken."""
    return data.startswith(MAGIC)


def packed_records(data: bytes) -> list[PackedRecord]:
    """Return what an aggregated record holds, in the order in which it was put.

    Raises:
        BrokenAggregateError: where the digest is another one, or the protobuf is none; then nothing in it is trusted.
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
    """Return a partition key as text; protobuf gives bytes where it is no UTF-8."""
    return key if isinstance(key, str) else key.decode(errors="replace")


@functools.cache
def _message_type() -> Any:
    """Return protobuf's class for an aggregated record: its import takes 50 ms, which most functions never need."""
    path = list(sys.path)
    # This module, and not the one with the messages: it puts its folder on sys.path, without which theirs fails.
    from aws_kinesis_agg import deaggregator

    sys.path[:] = path
    return deaggregator.messages_pb2.AggregatedRecord


def _decode_errors() -> tuple[type[Exception], ...]:
    from google.protobuf.message import DecodeError

    return DecodeError, IndexError
