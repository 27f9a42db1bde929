"""The invariant, whatever comes in and whatever fails: every user record ends as a prediction, a rejection or reported.

``HYPOTHESIS_PROFILE=thorough`` tries thousands of other examples each time.
"""

import base64
import hashlib
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model import Features
from rides import Ride
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.chaos import ChaosEndpoint
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
from scripts.sources import records
from scripts.sources.bad import FAULTS
from scripts.sources.records import RideRecord
from streaming import delivery
from streaming.aggregation import MAGIC
from streaming.delivery import DeliveryError
from tests.builders import encoded, record, ride_event

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

PROFILES = {
    "quick": settings(max_examples=100, derandomize=True, database=None),
    "thorough": settings(max_examples=3000),
}
PROFILE = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "quick")]

tried = settings(
    PROFILE,
    deadline=None,
    # One cold start for all examples of a test: each of them has a shard, and so event ids, of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RAISING_ZONE, ENDLESS_ZONE = 13, 14
"""Pickups that the model raises for, and that it predicts NaN for."""

FIRST_NUMBER = 8
"""Two more, and the order of sequence numbers as text is no longer their order."""

SMALL_REQUEST = 3
"""Entries of a request, so that a small batch takes several."""


@dataclass(frozen=True)
class UserRecord:
    """What a producer puts: data, and the ride event in it where that can be predicted."""

    data: bytes
    event: dict[str, Any] | None = None


@dataclass(frozen=True)
class Put:
    """A record on the input stream: base64, and the user records that come out of it."""

    data: str
    holds: tuple[UserRecord, ...]
    is_aggregated: bool = False

    def by_event_id(self, event_id: str) -> dict[str, UserRecord]:
        """Return the user records by the event ids that they get in a record of that id."""
        if self.is_aggregated:
            return {f"{event_id}:{place}": one for place, one in enumerate(self.holds)}
        return {event_id: self.holds[0]}


@dataclass(frozen=True)
class Throttled:
    """A fault that fails every entry of a request at whose place the pattern, repeated, says so."""

    pattern: tuple[bool, ...]

    def of(self, call: Call) -> Fault | None:
        """Return the fault for a call with its number of entries."""
        places = zip(range(len(call.entries)), itertools.cycle(self.pattern), strict=False)
        indexes = frozenset(place for place, fails in places if fails)
        return FailedEntries(indexes) if indexes else None


@dataclass(frozen=True)
class Weather:
    """What an invocation has to stand: its remaining milliseconds, and a fault for each call until they run out."""

    milliseconds: int | None = None
    stream: tuple[Fault | Throttled | None, ...] = ()
    bucket: tuple[Fault | None, ...] = ()

    @property
    def is_hurried(self) -> bool:
        """Whether the time may end while an answer is under way."""
        return self.milliseconds is not None and self.milliseconds < 10_000


DENIED = FailedRequest(400, "AccessDeniedException")
"""What no wait can cure."""


def spoiled(event: dict[str, Any], fault: str) -> UserRecord:
    """Build a user record that is to be rejected from a good one."""
    return UserRecord(FAULTS[fault](event))


def aggregate(packed: Sequence[UserRecord]) -> bytes:
    """Build an aggregated record."""
    (only,) = records.aggregate([RideRecord("key", one.data) for one in packed])
    return only.data


def with_another_digest(data: bytes) -> bytes:
    """Break an aggregated record's last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


def with_its_digest(message: bytes) -> bytes:
    """Build an aggregated record around what may be no protobuf."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def single(one: UserRecord) -> Put:
    """Put a user record as it is."""
    return Put(encoded(one.data), (one,))


def broken(data: bytes) -> Put:
    """Put what is to be one rejection."""
    return single(UserRecord(data))


def mostly(usual: st.SearchStrategy[Any], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw from the one as often as from all the others together."""
    return st.booleans().flatmap(lambda is_usual: usual if is_usual else st.one_of(others))


ride_ids = mostly(st.sampled_from([1, "1", "ü"]), st.integers(-(2**70), 2**70), st.text(min_size=1, max_size=5))
good_events = st.builds(
    ride_event, ride_ids, PULocationID=st.integers(-1, RAISING_ZONE - 1), trip_distance=st.floats(0, 100)
)
unpredictable_events = st.builds(ride_event, ride_ids, PULocationID=st.sampled_from([RAISING_ZONE, ENDLESS_ZONE]))
user_records = mostly(
    good_events.map(lambda event: UserRecord(json.dumps(event).encode(), event)),
    unpredictable_events.map(lambda event: UserRecord(json.dumps(event).encode())),
    st.builds(spoiled, good_events, st.sampled_from(sorted(FAULTS))),
    st.binary(max_size=30).map(UserRecord),
)
packs = st.lists(user_records, min_size=1, max_size=5)
puts = mostly(
    user_records.map(single),
    packs.map(lambda packed: Put(encoded(aggregate(packed)), tuple(packed), is_aggregated=True)),
    packs.map(lambda packed: broken(with_another_digest(aggregate(packed)))),
    st.binary(max_size=30).map(lambda message: broken(with_its_digest(message))),
    st.sampled_from(["eyJ", "*", "ü", "84maw", "84maw*=="]).map(lambda text: Put(text, (UserRecord(b""),))),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Put]:
    """Draw what is put, with some of it put again."""
    first = draw(st.lists(puts, min_size=1, max_size=4) | st.lists(puts, min_size=8, max_size=16))
    return first + draw(st.lists(st.sampled_from(first), max_size=4))


passing_faults: st.SearchStrategy[Fault | None] = st.sampled_from(
    [
        None,
        FailedRequest(503, "ServiceUnavailable"),
        FailedRequest(500, "InternalFailure"),
        DroppedBefore(),
        DroppedAfter(),
    ]
)
stream_faults = st.one_of(
    passing_faults,
    st.lists(st.booleans(), min_size=1, max_size=SMALL_REQUEST).map(lambda pattern: Throttled(tuple(pattern))),
    st.sampled_from(
        [FailedRequest(400, "ProvisionedThroughputExceededException"), Answered(b'{"Records": []}'), DENIED]
    ),
)


def scripts(faults: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Draw some faults, one after the other, or an outage that outlasts all tries."""
    outages = st.builds(lambda before, fault: (*before, *[fault] * 10), st.lists(faults, max_size=3), faults)
    return st.lists(faults, max_size=12).map(tuple) | outages


calm = st.builds(Weather, st.sampled_from([None, 60_000]), scripts(stream_faults), scripts(passing_faults))
hurried = st.builds(
    Weather,
    st.sampled_from([0, 100, 400, 700, 1000]),
    scripts(stream_faults | st.just(Delayed(60))),
    scripts(passing_faults | st.just(Delayed(60))),
)
weathers = mostly(calm, calm, hurried)


class Script:
    """Plays the faults of an example to the calls that come, and keeps what it let the services acknowledge."""

    def __init__(self) -> None:
        """Let every call through, until ``begin``."""
        self.begin(Weather())

    def begin(self, weather: Weather) -> None:
        """Play other faults from now on, and forget what was acknowledged."""
        self._faults = {"PutRecords": iter(weather.stream), "PutObject": iter(weather.bucket)}
        self.predicted: set[str] = set()
        """Event ids."""
        self.stored: set[str] = set()
        """Buckets and keys of objects."""
        self.repeated_keys: set[str] = set()
        """Partition keys that a request held more than once."""

    def __call__(self, call: Call) -> Fault | None:
        """Say what is to happen to a call."""
        keys = Counter(entry["PartitionKey"] for entry in call.entries)
        self.repeated_keys |= {key for key, times in keys.items() if times > 1}
        fault = next(self._faults[call.operation], None)
        fault = fault.of(call) if isinstance(fault, Throttled) else fault
        if fault is None and call.key:
            self.stored.add(call.key)
        if fault is None or isinstance(fault, FailedEntries):
            failed = fault.indexes if fault else ()
            taken = [entry for index, entry in enumerate(call.entries) if index not in failed]
            self.predicted |= {json.loads(base64.b64decode(entry["Data"]))["event_id"] for entry in taken}
        return fault


@dataclass(frozen=True)
class Consumer:
    """The function after its cold start, with what stands around it."""

    function: ModuleType
    script: Script
    output: ShardReader
    s3: "S3Client"
    bucket: str
    shards: Iterator[int] = field(default_factory=itertools.count)

    def invoke(self, event: dict[str, Any], milliseconds: int | None) -> Any:
        """Return the answer to an event, or the DeliveryError that Lambda would see."""
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds)
        try:
            return self.function.lambda_handler(event, None if milliseconds is None else context)
        except DeliveryError as error:
            return error

    def new_predictions(self, shard: str) -> list[dict[str, Any]]:
        """Return what came to the output stream for a shard since the last time, with the partition keys.

        What comes for another one was left behind by an invocation whose time was over.
        """
        found = [{**json.loads(one["Data"]), "key": one["PartitionKey"]} for one in self.output.read()]
        return [prediction for prediction in found if prediction["event_id"].startswith(f"{shard}:")]

    def rejections(self, shard: str) -> dict[str, list[dict[str, Any]]]:
        """Return the lines of each object that the failures bucket holds of a shard, by bucket and key."""
        prefix = f"rejections/ride_events/{shard}/"
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {f"{self.bucket}/{found['Key']}": self._lines(found["Key"]) for found in listed}

    def _lines(self, key: str) -> list[dict[str, Any]]:
        body = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return [json.loads(line) for line in body.splitlines()]

    def prediction(self, event_id: str, event: dict[str, Any]) -> dict[str, Any]:
        """Return what has to come to the output stream for a ride that the model is asked for alone."""
        (duration,) = self.function.MODEL.predict([Ride(**event["ride"])])
        return {
            "model": self.function.SETTINGS.model.name,
            "version": self.function.MODEL.version,
            "prediction": {"ride_duration": pytest.approx(duration), "ride_id": event["ride_id"]},
            "event_id": event_id,
            "key": str(event["ride_id"]),
        }


class Shard:
    """A shard of the input stream with the batch that was put on it, and all that became of that so far."""

    def __init__(self, consumer: Consumer, batch: Sequence[Put]) -> None:
        """Put the batch on a shard of its own, by which it is told from those of other examples."""
        self._consumer = consumer
        self._name = f"shardId-{next(consumer.shards):012}"
        self.records = [record(put.data, number, self._name) for number, put in enumerate(batch, FIRST_NUMBER)]
        self.user_records: dict[str, UserRecord] = {}
        """By event id, in the order in which they were put."""
        for put, one in zip(batch, self.records, strict=True):
            self.user_records |= put.by_event_id(one["eventID"])
        self.predictions: list[dict[str, Any]] = []
        self.rejections: dict[str, list[dict[str, Any]]] = {}
        self.acknowledged: set[str] = set()
        """The event ids of which stream or bucket said, in the last invocation, that they hold them."""

    def deliver(self, records: Sequence[EventRecord], weather: Weather) -> Any:
        """Invoke the function with some of the records, look at what it left behind, and return the answer."""
        script = self._consumer.script
        script.begin(weather)
        answer = self._consumer.invoke(event_of(records), weather.milliseconds)
        self.predictions += self._consumer.new_predictions(self._name)
        self.rejections = self._consumer.rejections(self._name)
        stored = {line["event_id"] for key in script.stored for line in self.rejections.get(key, ())}
        self.acknowledged = script.predicted | stored
        # Kinesis promises no order within a request, though moto keeps one.
        assert script.repeated_keys == set()
        return answer

    def predicted(self) -> set[str]:
        """Return the event ids of which the stream holds a prediction."""
        return {prediction["event_id"] for prediction in self.predictions}

    def rejected(self) -> set[str]:
        """Return the event ids of which the bucket holds a rejection."""
        return {line["event_id"] for lines in self.rejections.values() for line in lines}

    def numbers_but(self, event_ids: set[str]) -> set[int]:
        """Return the sequence numbers of all user records but these."""
        return {int(event_id.split(":")[1]) for event_id in self.user_records if event_id not in event_ids}


@pytest.fixture
def consumer(
    chaos: Callable[..., AbstractContextManager[ChaosEndpoint]],
    cold_start: Callable[..., ModuleType],
    kinesis: "KinesisClient",
    stream: str,
    s3: "S3Client",
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Consumer]:
    """Start the function, with a model that fails for some zones, before endpoints that play the same script."""
    monkeypatch.setattr(delivery, "BACKOFF_SECONDS", 0.0001)
    monkeypatch.setattr(delivery, "MAX_ENTRIES", SMALL_REQUEST)
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
    """Return the sequence numbers that an answer reports, after checking its form."""
    identifiers = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    assert answer == {"batchItemFailures": [{"itemIdentifier": str(identifier)} for identifier in identifiers]}
    return [int(identifier) for identifier in identifiers]


def check_what_was_written(consumer: Consumer, shard: Shard) -> None:
    """Good rides are predicted as the model does it and never rejected; nothing else is ever predicted."""
    events = {event_id: one.event for event_id, one in shard.user_records.items() if one.event}
    assert shard.predicted() <= events.keys()
    assert shard.rejected() <= shard.user_records.keys() - events.keys()
    for prediction in shard.predictions:
        event_id = prediction["event_id"]
        assert prediction == consumer.prediction(event_id, events[event_id])
    kept = [line for lines in shard.rejections.values() for line in lines]
    assert all(line["kind"] and line["reason"] for line in kept)


def check_order(shard: Shard) -> None:
    """The first predictions of a partition key's records stand on the stream in the order of the input."""
    first: dict[str, list[str]] = defaultdict(list)
    for event_id, key in {one["event_id"]: one["key"] for one in shard.predictions}.items():
        first[key].append(event_id)
    places = {event_id: place for place, event_id in enumerate(shard.user_records)}
    assert [keys for keys in first.values() if sorted(keys, key=places.__getitem__) != keys] == []


@tried
@given(batch=batches(), weather=weathers)
def test_one_delivery_accounts_for_every_user_record(consumer: Consumer, batch: list[Put], weather: Weather) -> None:
    """Each is predicted, or rejected, or at or after the lowest reported, which is the lowest that is neither."""
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
    if not weather.is_hurried:
        assert set(numbers) == shard.numbers_but(shard.acknowledged)


@settings(tried, max_examples=PROFILE.max_examples // 2)
@given(batch=batches(), weather=st.lists(weathers, max_size=3))
def test_redelivery_ends_with_every_user_record_predicted_or_rejected(
    consumer: Consumer, batch: list[Put], weather: list[Weather]
) -> None:
    """From the checkpoint on, by the mapping's rules, whatever the first deliveries met."""
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
