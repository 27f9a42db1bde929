"""The invariant: every user record is predicted, rejected or reported, whatever comes in and whatever fails.

With ``HYPOTHESIS_PROFILE=thorough`` each run tries thousands of other examples.
"""

import base64
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import Features
from rides import Ride
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.faults import (
    Answered,
    Call,
    Delayed,
    DroppedAfter,
    DroppedBefore,
    FailedEntries,
    FailedRequest,
    Fault,
)
from scripts.localaws.rules import Batch, EventRecord, MappingSettings, decide, event_of
from scripts.sources.bad import FAULTS
from streaming import delivery
from streaming.delivery import DeliveryError
from tests.builders import encoded, packed, record, ride_event, signed
from tests.flow import Chaos

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

EXAMPLES = 3000 if (is_thorough := os.environ.get("HYPOTHESIS_PROFILE") == "thorough") else 100

tried = settings(
    settings() if is_thorough else settings(derandomize=True, database=None),
    max_examples=EXAMPLES,
    deadline=None,
    # One cold start serves all examples of a test, because each has its own shard, and so its own event ids.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RAISING_ZONE, ENDLESS_ZONE = 13, 14
"""Pickup zones for which the model raises an exception, and for which it predicts NaN."""
FIRST_NUMBER = 8
"""From the third record on, the order of the sequence numbers as text differs from their order as numbers."""
CALM = 600_000
"""The milliseconds of an invocation that does not run out of time, however slow the machine is."""
SMALL_REQUEST, AT_ONCE = 3, 3
"""The entries of a request and the requests in flight: so small that a small batch takes several requests."""


@dataclass(frozen=True)
class Produced:
    """The data of a producer, and the ride event in it if the model can predict it."""

    data: bytes
    event: dict[str, Any] | None = None


@dataclass(frozen=True)
class Put:
    """A record on the input stream: its base64, and the user records in it."""

    data: str
    holds: tuple[Produced, ...]
    is_aggregated: bool = False

    def by_event_id(self, event_id: str) -> dict[str, Produced]:
        """Return the user records by event id, for a record with the given one."""
        if self.is_aggregated:
            return {f"{event_id}:{place}": one for place, one in enumerate(self.holds)}
        return {event_id: self.holds[0]}


Pattern = tuple[bool, ...]
"""A fault that throttles the entries of a request for which the repeated pattern is True."""


@dataclass(frozen=True)
class Weather:
    """The conditions of an invocation: its remaining milliseconds, and the faults of its first calls."""

    milliseconds: int | None = None
    stream: tuple[Fault | Pattern | None, ...] = ()
    bucket: tuple[Fault | None, ...] = ()


DENIED = FailedRequest(400, "AccessDeniedException")
"""A fault that retries do not end."""


def pack(user_records: Sequence[Produced]) -> bytes:
    """Build the data of an aggregated record."""
    return packed(*(one.data for one in user_records))


def put(data: bytes, event: dict[str, Any] | None = None) -> Put:
    """Build a record with one user record, which must become one rejection if there is no event."""
    return Put(encoded(data), (Produced(data, event),))


def mostly(usual: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw from ``usual`` as often as from all the others together."""
    return st.booleans().flatmap(lambda is_usual: usual if is_usual else st.one_of(others))


ride_ids = mostly(st.sampled_from([1, "1", "ü"]), st.integers(-(2**70), 2**70), st.text(min_size=1, max_size=5))
good_events = st.builds(
    ride_event, ride_ids, PULocationID=st.integers(-1, RAISING_ZONE - 1), trip_distance=st.floats(0, 100)
)
unpredictable_events = st.builds(ride_event, ride_ids, PULocationID=st.sampled_from([RAISING_ZONE, ENDLESS_ZONE]))
user_records = mostly(
    good_events.map(lambda event: Produced(json.dumps(event).encode(), event)),
    unpredictable_events.map(lambda event: Produced(json.dumps(event).encode())),
    st.builds(lambda event, fault: Produced(FAULTS[fault](event)), good_events, st.sampled_from(sorted(FAULTS))),
    st.binary(max_size=30).map(Produced),
)
packs = st.lists(user_records, min_size=1, max_size=5)
puts = mostly(
    user_records.map(lambda one: put(one.data, one.event)),
    packs.map(lambda pack_of: Put(encoded(pack(pack_of)), tuple(pack_of), is_aggregated=True)),
    packs.map(pack).map(lambda data: put(data[:-1] + bytes([data[-1] ^ 1]))),  # another digest
    st.binary(max_size=30).map(signed).map(put),  # most often not protobuf
    st.sampled_from(["eyJ", "*", "ü", "84maw", "84maw*=="]).map(lambda text: Put(text, (Produced(b""),))),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Put]:
    """Draw a batch, with some of its records twice."""
    first = draw(st.lists(puts, min_size=1, max_size=4) | st.lists(puts, min_size=8, max_size=16))
    return first + draw(st.lists(st.sampled_from(first), max_size=4))


errors = [FailedRequest(503, "ServiceUnavailable"), FailedRequest(500, "InternalFailure")]
passing_faults: st.SearchStrategy[Fault | None] = st.sampled_from([None, *errors, DroppedBefore(), DroppedAfter()])
stream_faults = st.one_of(
    passing_faults,
    st.lists(st.booleans(), min_size=1, max_size=SMALL_REQUEST).map(tuple),
    st.sampled_from(
        [FailedRequest(400, "ProvisionedThroughputExceededException"), Answered(b'{"Records": []}'), DENIED]
    ),
)


def scripts(faults: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw the faults of the first calls, or an outage that outlasts all attempts."""
    outages = st.builds(lambda before, fault: (*before, *[fault] * 10), st.lists(faults, max_size=3), faults)
    return st.lists(faults, max_size=12).map(tuple) | outages


calm = st.builds(Weather, st.sampled_from([None, CALM]), scripts(stream_faults), scripts(passing_faults))
hurried = st.builds(
    Weather,
    st.sampled_from([0, 20, 80, 140, 200]),
    scripts(stream_faults | st.just(Delayed(60))),
    scripts(passing_faults | st.just(Delayed(60))),
)
weathers = mostly(calm, calm, hurried)


class Script:
    """Causes the faults of an example, and records what it let the services confirm."""

    def __init__(self) -> None:
        """Cause no fault until ``begin``."""
        self.begin(Weather())

    def begin(self, weather: Weather) -> None:
        """Cause other faults from now on, and forget what was confirmed."""
        self._faults = {"PutRecords": iter(weather.stream), "PutObject": iter(weather.bucket)}
        self.predicted: set[str] = set()
        """Event ids of entries that the stream confirmed."""
        self.stored: set[str] = set()
        """Buckets and keys of objects that S3 confirmed."""
        self.repeated_keys: set[str] = set()
        """Partition keys that a request held more than once."""

    def __call__(self, call: Call) -> Fault | None:
        """Return the fault of a call."""
        keys = Counter(entry["PartitionKey"] for entry in call.entries)
        self.repeated_keys |= {key for key, times in keys.items() if times > 1}
        fault = next(self._faults[call.operation], None)
        if isinstance(fault, tuple):
            indexes = frozenset(index for index in range(len(call.entries)) if fault[index % len(fault)])
            fault = FailedEntries(indexes) if indexes else None
        if fault is None and call.key:
            self.stored.add(call.key)
        if fault is None or isinstance(fault, FailedEntries):
            failed = fault.indexes if fault else ()
            taken = [entry for index, entry in enumerate(call.entries) if index not in failed]
            self.predicted |= {json.loads(base64.b64decode(entry["Data"]))["event_id"] for entry in taken}
        return fault


@dataclass(frozen=True)
class Consumer:
    """The function after its cold start, with its stream and its bucket."""

    function: ModuleType
    script: Script
    output: ShardReader
    s3: "S3Client"
    bucket: str
    shards: Iterator[int] = field(default_factory=itertools.count)

    def invoke(self, event: dict[str, Any], milliseconds: int | None) -> Any:
        """Return the response to an event, or the DeliveryError that Lambda would see."""
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds)
        try:
            return self.function.lambda_handler(event, None if milliseconds is None else context)
        except DeliveryError as error:
            return error

    def new_predictions(self, shard: str) -> list[dict[str, Any]]:
        """Return the new predictions for a shard, not those of abandoned requests of earlier examples."""
        found = [{**json.loads(one["Data"]), "key": one["PartitionKey"]} for one in self.output.read()]
        return [prediction for prediction in found if prediction["event_id"].startswith(f"{shard}:")]

    def rejections(self, shard: str) -> dict[str, list[dict[str, Any]]]:
        """Return the lines of each object in the failures bucket for a shard, by bucket and key."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"rejections/ride_events/{shard}/")
        objects = {}
        for key in (found["Key"] for found in listed.get("Contents", [])):
            body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            objects[f"{self.bucket}/{key}"] = [json.loads(line) for line in body.splitlines()]
        return objects


class Shard:
    """A shard of the input stream with a batch on it, and the results so far."""

    def __init__(self, consumer: Consumer, batch: Sequence[Put]) -> None:
        """Put the batch on a shard of its own, so that its results differ from those of other examples."""
        self._consumer = consumer
        self._name = f"shardId-{next(consumer.shards):012}"
        self.records = [record(item.data, number, self._name) for number, item in enumerate(batch, FIRST_NUMBER)]
        self.user_records: dict[str, Produced] = {}
        """The user records by event id, in input order."""
        for item, one in zip(batch, self.records, strict=True):
            self.user_records |= item.by_event_id(one["eventID"])
        self.predictions: list[dict[str, Any]] = []
        self.rejections: dict[str, list[dict[str, Any]]] = {}
        self.confirmed: set[str] = set()
        """The event ids that the stream or the bucket confirmed in the last invocation."""

    def deliver(self, records: Sequence[EventRecord], weather: Weather) -> Any:
        """Invoke the function with some of the records, read its results, and return its response."""
        script = self._consumer.script
        script.begin(weather)
        answer = self._consumer.invoke(event_of(records), weather.milliseconds)
        self.predictions += self._consumer.new_predictions(self._name)
        self.rejections = self._consumer.rejections(self._name)
        stored = {line["event_id"] for key in script.stored for line in self.rejections.get(key, ())}
        self.confirmed = script.predicted | stored
        # Kinesis does not promise any order within a request, although moto keeps one.
        assert script.repeated_keys == set()
        return answer

    def predicted(self) -> set[str]:
        """Return the event ids of the predictions on the stream."""
        return {prediction["event_id"] for prediction in self.predictions}

    def rejected(self) -> set[str]:
        """Return the event ids of the rejections in the bucket."""
        return {line["event_id"] for lines in self.rejections.values() for line in lines}

    def numbers_but(self, event_ids: set[str]) -> set[int]:
        """Return the sequence numbers of all user records but these."""
        return {int(event_id.split(":")[1]) for event_id in self.user_records if event_id not in event_ids}


@pytest.fixture
def consumer(
    chaos: Chaos,
    cold_start: Callable[..., ModuleType],
    kinesis: "KinesisClient",
    stream: str,
    s3: "S3Client",
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Consumer]:
    """Start the function with a model that fails for some zones, and with endpoints that cause the script's faults."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.0001)
    monkeypatch.setattr(delivery, "MIN_REQUEST_SECONDS", 0.05)  # hanging requests end sooner
    monkeypatch.setattr(delivery, "MAX_ENTRIES", SMALL_REQUEST)
    monkeypatch.setattr(delivery, "MAX_IN_FLIGHT", AT_ONCE)
    script = Script()
    with chaos(script), chaos(script, "s3"):
        function = cold_start(
            PREDICTIONS_STREAM_NAME=stream, FAILURES_LOCATION=f"s3://{bucket}/rejections", LOG_LEVEL="CRITICAL"
        )
        monkeypatch.setattr(function.MODEL, "_call", picky(function.MODEL._call))
        output = ShardReader(kinesis, stream, shard_ids(kinesis, stream)[0])
        yield Consumer(function, script, output, s3, bucket)


def picky(call: Callable[[list[Features]], Any]) -> Callable[[list[Features]], list[float]]:
    """Make a model raise for one zone, and predict NaN for another."""

    def predict(features: list[Features]) -> list[float]:
        zones = [ride["PU_DO"].partition("_")[0] for ride in features]
        if str(RAISING_ZONE) in zones:
            raise ZeroDivisionError("no such zone")
        durations = zip(zones, call(features), strict=True)
        return [math.nan if zone == str(ENDLESS_ZONE) else duration for zone, duration in durations]

    return predict


def reported(answer: dict[str, Any]) -> list[int]:
    """Return the sequence numbers that a response reports, after checking its form."""
    identifiers = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    assert answer == {"batchItemFailures": [{"itemIdentifier": str(identifier)} for identifier in identifiers]}
    return [int(identifier) for identifier in identifiers]


def check_what_was_written(consumer: Consumer, shard: Shard) -> None:
    """Check that only good rides are predicted, as the model predicts them, and that no good ride is rejected."""
    events = {event_id: one.event for event_id, one in shard.user_records.items() if one.event}
    assert shard.predicted() <= events.keys()
    assert shard.rejected() <= shard.user_records.keys() - events.keys()
    function = consumer.function
    for prediction in shard.predictions:
        event = events[prediction["event_id"]]
        (duration,) = function.MODEL.predict([Ride(**event["ride"])])
        assert prediction == {
            "model": function.SETTINGS.model.name,
            "version": function.MODEL.version,
            "prediction": {"ride_duration": pytest.approx(duration), "ride_id": event["ride_id"]},
            "event_id": prediction["event_id"],
            "key": str(event["ride_id"]),
        }
    kept = [line for lines in shard.rejections.values() for line in lines]
    assert all(line["kind"] and line["reason"] for line in kept)


def check_order(shard: Shard) -> None:
    """Check that the first predictions of each partition key are on the stream in input order."""
    first: dict[str, list[str]] = defaultdict(list)
    for event_id, key in {one["event_id"]: one["key"] for one in shard.predictions}.items():
        first[key].append(event_id)
    places = {event_id: place for place, event_id in enumerate(shard.user_records)}
    assert [keys for keys in first.values() if sorted(keys, key=places.__getitem__) != keys] == []


@tried
@given(batch=batches(), weather=weathers)
def test_one_delivery_accounts_for_every_user_record(consumer: Consumer, batch: list[Put], weather: Weather) -> None:
    """The reported records are those that neither the stream nor the bucket has confirmed."""
    shard = Shard(consumer, batch)
    answer = shard.deliver(shard.records, weather)
    check_what_was_written(consumer, shard)
    check_order(shard)
    if isinstance(answer, DeliveryError):
        assert DENIED in weather.stream
        return
    numbers = reported(answer)
    assert numbers == sorted(set(numbers))
    assert shard.numbers_but(shard.predicted() | shard.rejected()) <= set(numbers) <= shard.numbers_but(set())
    if weather.milliseconds in (None, CALM):
        assert set(numbers) == shard.numbers_but(shard.confirmed)


@settings(tried, max_examples=EXAMPLES // 2)
@given(batch=batches(), weather=st.lists(weathers, max_size=3))
def test_redelivery_ends_with_every_user_record_predicted_or_rejected(
    consumer: Consumer, batch: list[Put], weather: list[Weather]
) -> None:
    """Redelivery starts at the checkpoint, by the mapping's rules, whatever failed in the first deliveries."""
    shard = Shard(consumer, batch)
    mapping = MappingSettings(report_batch_item_failures=True, bisect_on_error=True)
    waiting = [Batch(tuple(shard.records))]
    for now in [*weather, *[Weather()] * len(batch)]:
        if waiting:
            waiting = [*decide(waiting[0], shard.deliver(waiting[0].records, now), mapping).again, *waiting[1:]]
    assert waiting == []
    assert shard.predicted() | shard.rejected() == set(shard.user_records)
    check_what_was_written(consumer, shard)
    check_order(shard)
