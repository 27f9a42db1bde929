"""Bounds of one event: nothing small becomes huge, in memory or in the failures bucket, whatever a producer sends."""

import base64
import json
import math
import os
import tracemalloc
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from features import Features
from scripts.aws.kept_objects import KeptObjects
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import FailedEntries
from scripts.sources.records import RideRecord, aggregate
from streaming import delivery
from streaming.aggregation import KEY, RECORD
from streaming.records import decode_event, decode_parts, rejections_objects
from tests.builders import encoded, kinesis_event, ride_event, signed
from tests.flow import Chaos

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

SEARCHED = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 5
EVENT_BYTES = 5_500_000
"""About the largest event that Lambda hands to a function."""
MAX_MEMORY, MAX_STORED = 1.5, 5.0
"""The memory and the stored bytes that an event may take beside the event itself, as multiples of its JSON's size.

The memory of a part does not depend on the event, so a smaller event may take as much as one of ``EVENT_BYTES``."""


def packed_rides(count: int, first: int = 0, **changes: Any) -> bytes:
    """Build an aggregated record of rides with ids from ``first``."""
    rides = [json.dumps(ride_event(number, **changes)).encode() for number in range(first, first + count)]
    (record,) = aggregate([RideRecord("key", ride) for ride in rides], most=count)
    return record.data


def number(value: int) -> bytes:
    """Build a protobuf number below 16,384."""
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80, value >> 7])


def part(tag: int, content: bytes) -> bytes:
    """Build a part of a protobuf message."""
    return bytes([tag]) + number(len(content)) + content


def packed_alike(count: int, data: bytes, keys: list[str], spread: int) -> bytes:
    """Build an aggregated record of records with equal data, which share some of the keys in turn."""
    records = [part(RECORD, part(0x08, b"")[:1] + number(index % spread) + part(0x1A, data)) for index in range(spread)]
    repeated = b"".join(records) * math.ceil(count / spread)
    return signed(b"".join(part(KEY, key.encode()) for key in keys) + repeated)


fillers = st.sampled_from([b"", b"{", b"[]", b"\xff", b"\x00", b'{"ride":', b"NaN,", b'"\\u0000"', "ü€😀".encode()])
characters = st.sampled_from("k\x00ü€")


@st.composite
def worst_data(draw: st.DrawFn) -> bytes:
    """Draw the data of a record that repeats something small often."""
    filler = draw(fillers)
    if draw(st.booleans()):
        return filler * (draw(st.integers(1, 1_000_000)) // max(1, len(filler)))
    data = filler * draw(st.integers(0, 100))
    spread = draw(st.integers(1, 2_000))
    length = draw(st.integers(1, 256))
    keys = [f"{index}{draw(characters) * 256}"[:length] for index in range(spread)]
    size = 8 + len(data)
    return packed_alike(draw(st.integers(1, 1_000_000)) // size + 1, data, keys, spread)


def measure(event: str) -> tuple[float, float]:
    """Return the memory and the stored bytes that decoding an event takes, as multiples of its JSON's size.

    For the memory, an event counts as at least ``EVENT_BYTES``.
    """
    parsed = json.loads(event)
    tracemalloc.start()
    try:
        stored = 0
        for decoded in decode_parts(parsed):
            stored += sum(len(one.body) for one in rejections_objects(decoded.rejections))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak / max(EVENT_BYTES, len(event)), stored / len(event)


@settings(max_examples=SEARCHED, deadline=None, derandomize=SEARCHED < 100, database=None)
@given(st.lists(worst_data(), min_size=1, max_size=3))
def test_no_event_takes_much_more_than_its_size(data: list[bytes]) -> None:
    """The search looks for the events that take most. Each of them is as large as Lambda's largest."""
    texts = [encoded(one) for one in data]
    some = texts * (EVENT_BYTES // sum(len(text) + 500 for text in texts))
    memory, stored = measure(json.dumps(kinesis_event(*(some or texts))))
    target(memory, label="memory")
    target(stored, label="stored")
    assert memory < MAX_MEMORY
    assert stored < MAX_STORED


@pytest.fixture
def function(cold_start: Callable[..., ModuleType], stream: str, bucket: str) -> ModuleType:
    """Start the function with a stream and a bucket of the test's own."""
    return cold_start(PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}/rejections")


def test_a_large_aggregate_is_predicted_in_parts(
    function: ModuleType, kinesis: "KinesisClient", stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ride is predicted once, and no call of the model has more rides than a part."""
    calls = []
    predict = function.MODEL._call

    def counting(features: list[Features]) -> Any:
        calls.append(len(features))
        return predict(features)

    monkeypatch.setattr(function.MODEL, "_call", counting)
    event = kinesis_event(packed_rides(5_000), packed_rides(4_000, first=5_000))
    assert function.lambda_handler(event) == {"batchItemFailures": []}
    assert calls == [4_000, 4_000, 1_000]
    reader = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
    ids = [json.loads(one["Data"])["prediction"]["ride_id"] for one in reader.read()]
    assert sorted(ids) == list(range(9_000))


def test_rejections_of_a_large_aggregate_are_objects_of_bounded_size(
    function: ModuleType, s3: "S3Client", bucket: str
) -> None:
    """Each rejection can be replayed with its own data, and a redelivery overwrites the objects."""
    event = kinesis_event(packed_rides(9_000, trip_distance=300))
    for _ in range(2):
        assert function.lambda_handler(event) == {"batchItemFailures": []}
    objects = KeptObjects(s3, f"s3://{bucket}/rejections")
    kept = [objects.read(key) for key in objects.find()]
    assert all(one.key.endswith(".jsonl.gz") for one in kept)
    assert 3 <= len(kept) <= 6
    assert sorted(
        json.loads(record.original.data)["ride_id"] for one in kept for record in one.records if record.original
    ) == list(range(9_000))
    (first, *_) = kept
    objects.move(first, first.records[:10])
    assert len(objects.read(first.key).records) == len(first.records) - 10
    assert len(objects.read(first.key.replace("rejections/", "rejections/replayed/")).records) == 10


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(packed_alike(60_000, b"", ["k" * 256], 1), id="empty records with one long key"),
        pytest.param(
            packed_alike(60_000, b"{}", ["k" * 200 + str(index) for index in range(300)], 300), id="many keys"
        ),
        pytest.param(packed_rides(10)[:-1] + b"?", id="broken"),
    ],
)
def test_a_broken_or_absurd_aggregate_is_one_rejection(data: bytes) -> None:
    """It has the whole record, so that a replay puts the whole record back."""
    received, (rejection,) = decode_event(kinesis_event(data))
    assert received == []
    assert (rejection.kind, rejection.record.data) == ("aggregate", encoded(data))


def test_a_large_rejection_has_an_object_of_its_own() -> None:
    """It is not compressed, and the others share an object."""
    large = b"\xff" * 300_000
    _, rejections = decode_event(kinesis_event(b"{", large, b"{"))
    single, shared = rejections_objects(rejections)
    assert [rejection.record.sequence_number for rejection in single.rejections] == ["2"]
    assert base64.b64decode(json.loads(single.body)["data"]) == large
    assert [json.loads(line)["sequence_number"] for line in shared.body.splitlines()] == ["1", "3"]


@pytest.mark.parametrize("checks", [0, 1, 2])
def test_what_is_not_decoded_in_time_is_left(checks: int) -> None:
    """The rest has the numbers of the records that were not decoded. Every hundredth record looks at the clock."""
    answers = iter([False] * checks + [True])
    *_, last = decode_parts(kinesis_event(*(ride_event(number) for number in range(250))), lambda: next(answers))
    assert len(last.received) == 100 * checks
    assert last.rest == [str(number) for number in range(100 * checks + 1, 251)]


def test_records_that_are_not_decoded_are_reported(
    chaos: Chaos, cold_start: Callable[..., ModuleType], stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing after an undelivered part is predicted, so the order of rides holds."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.001)
    with chaos(lambda call: FailedEntries(frozenset(range(len(call.entries))))) as server:
        module = cold_start(PREDICTIONS_STREAM_NAME=stream)
        response = module.lambda_handler(
            kinesis_event(ride_event(1), packed_rides(4_000, first=5), b"{", ride_event(4))
        )
    assert [one["itemIdentifier"] for one in response["batchItemFailures"]] == ["1", "2", "3", "4"]
    # The first attempt sends all rides of the part side by side, and each later attempt sends one request.
    assert sum(server.entry_counts) == 4_000 + 500 * (delivery.MAX_ATTEMPTS_WITHOUT_PROGRESS - 1)
