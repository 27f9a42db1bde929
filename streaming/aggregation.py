"""Aggregated records: unpacking what the Kinesis Producer Library (KPL) packed into one Kinesis record.

The KPL's ``aggregation-format.md`` describes the format: four magic bytes, a protobuf ``AggregatedRecord``, its MD5. It
is read here without the protobuf library, which makes objects of all packed records first: for tiny ones, they take
twenty times the memory of the data.
"""

import hashlib
from array import array
from collections.abc import Iterator

from rides import InvalidRideError
from streaming.envelope import is_partition_key

MAGIC = b"\xf3\x89\x9a\xc2"
DIGEST_BYTES = 16

MIN_PART_BYTES, SPARE_PARTS = 16, 100
"""An aggregated record may have a packed record or a key for each 16 bytes, and 100 more. A packed ride takes 80 bytes,
and each record that is not a ride becomes a line in the failures bucket."""

MAX_KEY_SHARE = 4
"""With each record's key written out, the keys may take four times the size of the aggregated record, which has a key
just once for all its records. The longest key, shared by the smallest rides, takes three times."""

MAX_KEY_BYTES = 1024
"""No partition key takes more, and the text of one that does could take four times as much."""

KEY, RECORD = 0x0A, 0x1A
"""Tags in an aggregated record, of a partition key and of a packed record. Other parts are ignored."""
KEY_INDEX, DATA = 0x08, 0x1A
"""Tags in a packed record, of its key's index and of its data."""


class _ProtobufError(Exception):
    """The message is not the protobuf of an aggregated record."""


def is_aggregated(data: bytes) -> bool:
    """Return whether a Kinesis record's data is an aggregated record, intact or broken."""
    return data.startswith(MAGIC)


def packed_records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Return partition key and data of each record in an aggregated record, in the order in which they were put.

    The whole aggregated record is checked first, but each packed record is copied only when the iterator comes to it.

    Raises:
        InvalidRideError: if the digest or the protobuf is wrong, or if few of the packed records can be rides. Then
            nothing in the record is trusted.
    """
    start, end = len(MAGIC), len(data) - DIGEST_BYTES
    if hashlib.md5(memoryview(data)[start:end], usedforsecurity=False).digest() != data[-DIGEST_BYTES:]:
        raise InvalidRideError("aggregate", "the aggregated record's MD5 does not match its content")
    try:
        keys, records = _find_parts(data, start, end)
        repeated = sum(map(list(map(len, keys)).__getitem__, records[2::3]))
    except (IndexError, OverflowError, _ProtobufError) as error:
        raise InvalidRideError("aggregate", f"the aggregated record's protobuf is broken: {error}") from error
    if not records:
        raise InvalidRideError("aggregate", "the aggregated record holds nothing")
    _check_keys(keys, repeated, len(data))
    places = zip(*3 * [iter(records)], strict=True)
    return ((keys[index], data[start:end]) for start, end, index in places)


def _check_keys(keys: list[str], repeated: int, size: int) -> None:
    """Refuse keys that no stream takes, and keys that are too long if each record repeats its key."""
    if not all(map(is_partition_key, keys)):
        length = next(len(key) for key in keys if not is_partition_key(key))
        reason = f"the aggregated record has a partition key of {length} characters, which no stream accepts"
        raise InvalidRideError("aggregate", reason)
    if repeated > MAX_KEY_SHARE * size:
        reason = f"the aggregated record of {size} bytes holds records with {repeated} characters of partition keys"
        raise InvalidRideError("aggregate", f"{reason}, too many for rides")


def _find_parts(data: bytes, at: int, end: int) -> tuple[list[str], "array[int]"]:
    """Return the keys; and where the data of each record begins and ends, followed by the index of its key."""
    keys: list[str] = []
    records = array("I")
    left = most = SPARE_PARTS + len(data) // MIN_PART_BYTES
    while at < end:
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            size, at = _read_number(data, at - 1)
        if tag == RECORD:
            records.extend(_find_record(data, at, at := at + size))
        elif tag == KEY:
            if at + size > end:
                raise _ProtobufError("a key is cut off")
            if size > MAX_KEY_BYTES:
                raise InvalidRideError("aggregate", f"the aggregated record has a partition key of {size} bytes")
            keys.append(data[at : at + size].decode("utf-8", "replace"))
            at += size
        else:
            at += _size_of(tag, size)
        left -= 1
        if left < 0:
            reason = f"the aggregated record of {len(data)} bytes holds more than {most} records and keys"
            raise InvalidRideError("aggregate", f"{reason}, too many for rides")
    if at > end:
        raise _ProtobufError("it is cut off")
    return keys, records


def _find_record(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return where a packed record's data begins and ends, and the index of its key."""
    start = stop = index = 0  # as protobuf reads a record without data or key
    while at < end:
        tag, size = data[at], data[at + 1]
        at += 2
        if size >= 0x80:
            size, at = _read_number(data, at - 1)
        if tag == DATA:
            start = at
            at = stop = at + size
        elif tag == KEY_INDEX:
            index = size
        else:
            at += _size_of(tag, size)
    if at > end:
        raise _ProtobufError("a record is cut off")
    return start, stop, index


def _size_of(tag: int, size: int) -> int:
    """Return the size of a part's content, after its size or its number."""
    # The format has numbers and texts only, and none of its tags takes two bytes.
    if not 8 <= tag < 0x80 or tag & 7 not in (0, 2):
        raise _ProtobufError(f"there is no part with the tag {tag}")
    return size if tag & 7 else 0


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of up to ten bytes, seven bits in each, lowest first; and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _ProtobufError("a number has no end")
