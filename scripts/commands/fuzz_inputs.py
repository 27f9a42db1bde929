"""Inputs for the fuzzer: random bytes, and good records of every form with something broken."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator

from scripts.sources.aggregated import aggregated
from scripts.sources.bad import FAULTS
from scripts.sources.record import RideRecord
from streaming.aggregation import DIGEST_BYTES, MAGIC

GOOD = b'{"ride": {"PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}, "ride_id": 256}'
NAMED = b'{"ride_id":"r-\xc3\xbc","ride":{"DOLocationID":-1,"PULocationID":100,"trip_distance":0,"more":[{"a":null}]}}'
ESCAPED = (
    rb'{"ride_id":"\ud83d\ude00","ride":{"PULocationID":74,"DOLocationID":75,"trip_distance":1.5E+1},"\u0000":true}'
)

BAD = [spoil(json.loads(GOOD)) for spoil in FAULTS.values()]

SEEDS = [GOOD, NAMED, ESCAPED] * 7 + BAD
"""What is mutated: rides of every form, and as often those that are bad already."""

FRAGMENTS = [
    *rb'NaN -Infinity null true 1e999 -0 1. 0x1 {} [] "" " \ , : \ud800 \udc00 \u0000'.split(),
    *b'"ride": "ride_id": "PULocationID": "trip_distance":'.split(),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xff", b"\x00", MAGIC),
]
"""What JSON, UTF-8 and the contract know as special."""

STRANGE_TEXT = ["=", "==", "-", "_", "+", "/", " ", "\n", "\x00", "ü", "\ud800", "84maw", "\U0001f600"]
"""What base64 is broken with; half a surrogate pair is what an event's JSON can bring in."""


def inputs_of(draw: random.Random) -> Iterator[str]:
    """Yield inputs without end: what Lambda hands on as a record's data."""
    while True:
        (form,) = draw.choices([_noise, _broken_event, _broken_aggregate, _broken_base64], [1, 6, 2, 1])
        yield form(draw)


def _noise(draw: random.Random) -> str:
    return encoded(draw.randbytes(_size(draw, 8)))


def _broken_event(draw: random.Random) -> str:
    return encoded(mutated(draw, draw.choice(SEEDS)))


def _broken_aggregate(draw: random.Random) -> str:
    """Break what is packed, or the protobuf around it too; half of those with the digest that belongs to it."""
    (aggregate,) = aggregated([RideRecord("key", mutated(draw, draw.choice(SEEDS))) for _ in range(draw.randint(1, 3))])
    message = aggregate.data[len(MAGIC) : -DIGEST_BYTES]
    match draw.randrange(4):
        case 0:
            return encoded(MAGIC + mutated(draw, message) + aggregate.data[-DIGEST_BYTES:])
        case 1:
            return encoded(with_digest(mutated(draw, message)))
        case _:
            return encoded(aggregate.data)


def _broken_base64(draw: random.Random) -> str:
    text = draw.choice([_broken_event, _broken_aggregate])(draw)
    place = draw.randint(0, len(text))
    return text[:place] + draw.choice(STRANGE_TEXT) + text[place + draw.randrange(3) :]


def encoded(data: bytes) -> str:
    """Return the data as an event carries it."""
    return base64.b64encode(data).decode()


def with_digest(message: bytes) -> bytes:
    """Return the aggregated record of a message, which may be no protobuf."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Return the data with a few things done to it, or nothing."""
    for _ in range(draw.randrange(4)):
        data = draw.choice(MUTATIONS)(draw, data)
    return data


def _with_flipped_bits(draw: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(min(len(data), draw.randint(1, 4))):
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _cut(draw: random.Random, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:start] + data[end:]


def _cut_off(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randint(0, len(data))]


def _doubled(draw: random.Random, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:end] + data[start:]


def _spliced(draw: random.Random, data: bytes) -> bytes:
    other = draw.choice(SEEDS)
    return data[: draw.randint(0, len(data))] + other[draw.randint(0, len(other)) :]


def _with_a_fragment(draw: random.Random, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:start] + draw.choice(FRAGMENTS) + data[draw.choice([start, end]) :]


def _with_another_number(draw: random.Random, data: bytes) -> bytes:
    numbers = [found.span() for found in re.finditer(rb"-?\d+", data)] or [_slice(draw, data)]
    start, end = draw.choice(numbers)
    digits = b"9" * _size(draw, 13)
    number = draw.choice([digits, b"-" + digits, b"1e" + digits, b"0." + digits, b"1" + b"0" * len(digits)])
    return data[:start] + number + data[end:]


def _nested(draw: random.Random, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    opening, closing = draw.choice([(b"[", b"]"), (b'{"ride":', b"}")])
    depth = _size(draw, 11)
    return data[:start] + opening * depth + data[start:end] + closing * depth + data[end:]


MUTATIONS = [
    _with_flipped_bits,
    _cut,
    _cut_off,
    _doubled,
    _spliced,
    _with_a_fragment,
    _with_another_number,
    _nested,
]


def _slice(draw: random.Random, data: bytes) -> tuple[int, int]:
    start = draw.randint(0, len(data))
    return start, draw.randint(start, len(data))


def _size(draw: random.Random, bits: int) -> int:
    """Return a size of up to so many bits, small ones as often as large ones."""
    return int(2 ** draw.uniform(0, bits))


def starts() -> list[bytes]:
    """Return what atheris begins with: seeds in each form."""
    packed = [
        aggregate.data[len(MAGIC) : -DIGEST_BYTES]
        for seed in SEEDS
        for aggregate in aggregated([RideRecord("key", seed)])
    ]
    return [b"e" + seed for seed in SEEDS] + [b"a" + message for message in packed] + [b"t" + encoded(GOOD).encode()]


def of_any_form(data: bytes) -> str:
    """Return the input that bytes stand for: the first says whether as an event, an aggregated record or as base64."""
    form, rest = data[:1], data[1:]
    if form == b"a":
        return encoded(with_digest(rest))
    return rest.decode("latin-1") if form == b"t" else encoded(rest)
