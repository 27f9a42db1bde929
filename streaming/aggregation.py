"""Aggregated records: unpacking what the Kinesis Producer Library (KPL) packed into one Kinesis record.

The KPL's ``aggregation-format.md`` describes the format: four magic bytes, a protobuf ``AggregatedRecord``, its MD5.
"""

import functools
import hashlib
import sys
from typing import Any, NamedTuple

from rides import InvalidRideError
from streaming.envelope import is_partition_key

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16

MAX_PACKED = 65_536
"""No event has room for more rides: it has 6 MB of base64, and the smallest ride takes 72 bytes."""


class PackedRecord(NamedTuple):
    """One of the records in an aggregated record, as its producer put it."""

    partition_key: str
    data: bytes


def is_aggregated(data: bytes) -> bool:
    """Return whether a Kinesis record's data is an aggregated record, intact or broken."""
    return data.startswith(MAGIC)


def packed_records(data: bytes) -> list[PackedRecord]:
    """Return the records in an aggregated record, in the order in which they were put.

    Raises:
        InvalidRideError: if the digest or the protobuf is wrong. Then nothing in the record is trusted.
    """
    message, digest = data[len(MAGIC) : -DIGEST_BYTES], data[-DIGEST_BYTES:]
    if hashlib.md5(message, usedforsecurity=False).digest() != digest:
        raise InvalidRideError("aggregate", "the aggregated record's MD5 does not match its content")
    message_type, decode_error = _protobuf()
    try:
        aggregate = message_type.FromString(message)
        # protobuf gives a key as bytes if it is not UTF-8.
        keys = [key if isinstance(key, str) else key.decode(errors="replace") for key in aggregate.partition_key_table]
        packed = [PackedRecord(keys[record.partition_key_index], record.data) for record in aggregate.records]
    except (decode_error, IndexError) as error:
        raise InvalidRideError("aggregate", f"the aggregated record's protobuf is broken: {error}") from error
    if not packed:
        raise InvalidRideError("aggregate", "the aggregated record holds nothing")
    if len(packed) > MAX_PACKED:
        reason = f"the aggregated record holds {len(packed)} records, more than there can be rides"
        raise InvalidRideError("aggregate", reason)
    if not all(map(is_partition_key, keys)):
        # Thousands of records may share one key, and each of their rejections would repeat it.
        longest = max(map(len, keys))
        raise InvalidRideError("aggregate", f"the aggregated record has a partition key of {longest} characters")
    return packed


@functools.cache
def _protobuf() -> tuple[Any, type[Exception]]:
    """Return the class of an aggregated record, and the error of a message that is not one."""
    # Imported here because it takes 50 ms, and most functions never need it. The messages are reached through
    # deaggregator, because their own module can be imported only after deaggregator has changed sys.path.
    path = list(sys.path)
    from aws_kinesis_agg import deaggregator
    from google.protobuf.message import DecodeError

    sys.path[:] = path
    return deaggregator.messages_pb2.AggregatedRecord, DecodeError
