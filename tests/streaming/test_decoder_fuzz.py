"""The decoder with random and mutated inputs, and with the largest inputs that Kinesis accepts."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rides import RejectionKind, RideEvent, decode_ride
from scripts.sources.bad import FAULTS
from scripts.sources.records import RideRecord, aggregate
from streaming.aggregation import MAGIC
from streaming.records import RejectionLine, decode_event, rejections_objects
from tests.builders import encoded, kinesis_event, ride_event
from tests.tools import PATIENCE, ROOT

VALID = [
    json.dumps(ride_event()).encode(),
    json.dumps(ride_event(pickup_datetime="2023-11-05T01:30:00.5-04:00")).encode(),
    b'{"ride_id":"r-\xc3\xbc","ride":{"DOLocationID":-1,"PULocationID":9,"trip_distance":0,"more":[{"a":null}]}}',
    rb'{"ride_id":"\ud83d\ude00","ride":{"PULocationID":74,"DOLocationID":75,"trip_distance":1.5E+1},"\u0000":true}',
]
BAD = [fault(ride_event()) for fault in FAULTS.values()]
FRAGMENTS = [
    *rb'NaN -Infinity null true 1e999 -0 1. 0x1 {} [] "" " \ , : \ud800 \u0000 "ride": "ride_id":'.split(),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xff", b"\x00", b"9" * 300, b"[" * 2000, b'{"ride":' * 2000, MAGIC),
]
"""Parts that JSON, UTF-8 or the contract treat specially."""

BASE64_FRAGMENTS = ["=", "==", "-", "_", "+", "/", " ", "\n", "\x00", "ü", "\ud800", "84maw", "\U0001f600"]


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace up to three slices of the data with fragments, random bytes, other parts of it, or nothing."""
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        other = st.sampled_from([data[start:], data[start:end] * 2, b""])
        data = data[:start] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=8) | other) + data[end:]
    return data


def pack(rides: Sequence[bytes]) -> bytes:
    """Build an aggregated record."""
    (record,) = aggregate([RideRecord("key", data) for data in rides])
    return record.data


def with_digest(message: bytes) -> bytes:
    """Build an aggregated record whose digest is right and whose message may not be protobuf."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


ride_data = st.sampled_from(VALID + BAD).flatmap(mutated)
packs = st.lists(ride_data, min_size=1, max_size=3).map(pack)
broken_packs = packs.flatmap(mutated) | packs.flatmap(lambda data: mutated(data[len(MAGIC) : -16])).map(with_digest)
data_of_records = (st.binary() | ride_data | packs | broken_packs).map(encoded)
broken_base64 = st.tuples(data_of_records, st.sampled_from(BASE64_FRAGMENTS), st.integers(0, 60)).map(
    lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] :]
)


@given(st.lists(data_of_records | broken_base64, min_size=1, max_size=4))
def test_every_input_becomes_a_ride_or_a_rejection(inputs: list[str]) -> None:
    """No exception occurs, each user record is there once, and S3 can hold all rejections.

    To let coverage guide it, install atheris and run ``atheris.Setup(sys.argv,
    test_every_input_becomes_a_ride_or_a_rejection.hypothesis.fuzz_one_input)``, then ``atheris.Fuzz()``.
    """
    event = kinesis_event(*inputs)
    received, rejections = decode_event(event)

    for ride in received:
        assert decode_ride(msgspec.json.encode(ride.event)) == ride.event
    for rejection in rejections:
        assert rejection.kind in get_args(RejectionKind)
        assert rejection.reason.strip()
    if rejections:
        (stored,) = rejections_objects(rejections)
        lines = [msgspec.json.decode(line, type=RejectionLine) for line in stored.body.splitlines()]
        assert sorted(line.event_id for line in lines) == sorted(one.record.event_id for one in rejections)

    ids: dict[str, list[str]] = {record["kinesis"]["sequenceNumber"]: [] for record in event["Records"]}
    for user_record in [*(one.record for one in received), *(one.record for one in rejections)]:
        ids[user_record.sequence_number].append(user_record.event_id)
    for record in event["Records"]:
        found = ids[record["kinesis"]["sequenceNumber"]]
        packed = {f"{record['eventID']}:{index}" for index in range(len(found))}
        assert found == [record["eventID"]] or (found and set(found) == packed and len(found) == len(packed))


@pytest.mark.parametrize("data", VALID)
def test_the_rides_are_valid_before_they_are_mutated(data: bytes) -> None:
    """Mutations of invalid rides would test little."""
    assert isinstance(decode_ride(data), RideEvent)


RIDE = b'{"ride":{"PULocationID":1,"DOLocationID":2,"trip_distance":%b},"ride_id":%b}'
MEBIBYTE = 2**20
"""The most data that Kinesis accepts in a record."""
LARGEST = {
    "a million brackets": b"[" * 1_000_000,
    "a million brackets as a ride": b'{"ride":' + b"[" * 1_000_000 + b"]" * 40_000 + b"}",
    "objects in objects": b'{"ride":' * 131_000,
    "an unknown field that is nested": b'{"more":%b}' % (b"[" * 500_000 + b"]" * 500_000),
    "one number": b"9" * MEBIBYTE,
    "one string": b'"' + b"x" * (MEBIBYTE - 2) + b'"',
    "a distance of a million digits": RIDE % (b"0." + b"1" * 1_000_000, b"1"),
    "a huge exponent": RIDE % (b"1e" + b"9" * 1_000_000, b"1"),
    "a ride_id of a million digits": RIDE % (b"1", b"1" * 1_000_000),
    "a ride_id of a million characters": RIDE % (b"1", b'"%b"' % (b"x" * 1_000_000)),
    "many keys": b"{%b}" % b",".join(b'"%d":0' % number for number in range(95_000)),
    "many values that are no JSON": b'{"more":[%b]}' % b",".join([b"NaN"] * 260_000),
    "brackets behind what is no JSON": b'{"more":NaN,"deep":%b' % (b"[" * 1_000_000),
}

MEASURE = """
import json, sys, tracemalloc
from streaming.records import decode_event, rejections_objects

event = json.load(sys.stdin)
tracemalloc.start()
received, rejections = decode_event(event)
for stored in rejections_objects(rejections):
    pass
_, peak = tracemalloc.get_traced_memory()
reasons = [rejection.reason for rejection in rejections]
print(json.dumps({"rides": len(received), "reasons": reasons, "peak": peak}))
"""


@pytest.mark.parametrize("data", LARGEST.values(), ids=LARGEST)
def test_the_largest_records_are_decoded_in_bounded_memory(data: bytes) -> None:
    """It runs in a process of its own, which a stack overflow would end, and an endless loop would time out."""
    assert len(data) <= MEBIBYTE
    event, command = json.dumps(kinesis_event(data)), [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, input=event, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["rides"] + len(measured["reasons"]) == 1
    assert all(0 < len(reason) < 1000 for reason in measured["reasons"])
    assert measured["peak"] < 100 * MEBIBYTE
