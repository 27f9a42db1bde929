"""Data that was wrapped once too often: the reason names what is inside."""

import base64
import gzip
import json

import pytest

from streaming.records import decode_event
from streaming.wrappings import explain
from tests.builders import kinesis_event, packed, ride_event

RIDE = json.dumps(ride_event()).encode()
ONCE = base64.b64encode(RIDE)

WRAPPED = {
    "with a BOM": (base64.b64encode(b"\xef\xbb\xbf" + RIDE), "base64 of JSON"),
    "base64": (ONCE, "base64 of JSON"),
    "base64 in lines": (base64.encodebytes(RIDE), "base64 of JSON"),
    "base64 for URLs": (base64.urlsafe_b64encode(b'{"a": "\xc3\xbf\xc3\xbe?>"}').rstrip(b"="), "base64 of JSON"),
    "base64 twice": (base64.b64encode(ONCE), "base64 of base64 of JSON"),
    "base64 in quotes": (json.dumps(ONCE.decode()).encode(), "a JSON string that holds base64 of JSON"),
    "JSON in a string": (json.dumps(RIDE.decode()).encode(), "a JSON string that holds JSON"),
    "an aggregated record": (base64.b64encode(packed(RIDE, RIDE)), "base64 of an aggregated record"),
    "compressed": (base64.b64encode(gzip.compress(RIDE)), "base64 of gzip"),
}


@pytest.mark.parametrize(("data", "content"), WRAPPED.values(), ids=WRAPPED)
def test_what_is_wrapped_twice_is_named(data: bytes, content: str) -> None:
    """It is named in a record of its own, and as a part of an aggregated record."""
    _, (plain,) = decode_event(kinesis_event(data))
    (ride,), (in_pack,) = decode_event(kinesis_event(packed(RIDE, data)))
    assert plain.reason == in_pack.reason == f"the data is {content}: encoded twice?"
    assert ride.event.ride_id == 256


def test_compressed_data_is_named() -> None:
    """It was not encoded twice."""
    assert explain(gzip.compress(RIDE)) == "the data is gzip"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"ride 25", b"null", b"1234", b"text", RIDE[:-1], b"{}", b"[]", b'"hello"', b'"', rb'"\ud800"', b"\xff"),
        *(b'"' * 10, b"[" * 100_000, base64.b64encode(b"[" * 100_000), packed(RIDE)[:-1], b"A" * 1_048_576),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_other_data_has_no_such_reason(data: bytes) -> None:
    """Its own reason says more."""
    assert explain(data) is None
