"""The account of a run: what became of every ride that was put, by its event id."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from model import Model
from rides import decode_ride
from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.aws.predictions import ReadPrediction, read_predictions
from scripts.aws.shards import follow
from scripts.localaws.setup import FAILURES_BUCKET, OUTPUT_STREAM, REJECTIONS_PREFIX
from scripts.sources.bad import with_bad_rides
from scripts.sources.records import RideRecord, aggregate
from scripts.sources.synthetic import generate_rides
from streaming.records import RejectionLine

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

AGGREGATED_EVERY, PACKED = 10, 20
"""Every tenth ride of a soak comes in an aggregated record, twenty rides in each."""


class ExpectedPrediction(NamedTuple):
    """The prediction that a ride must get; the duration in minutes is the model's own, to the last bit."""

    ride_id: int | str
    minutes: float


Outcome: TypeAlias = ExpectedPrediction | Literal["rejected", "either"]
"""What must become of a ride: this prediction, a rejection, or either of them."""


@dataclass(frozen=True, slots=True)
class ExpectedRecord:
    """A record for the input stream, and the outcome of each ride in it."""

    record: RideRecord
    outcomes: Sequence[Outcome] = ("either",)
    is_aggregated: bool = False

    def event_ids(self, shard_id: str, number: str) -> list[str]:
        """Return the event id of each ride, which depends on the record's shard and sequence number."""
        record_id = f"{shard_id}:{number}"
        return [f"{record_id}:{place}" for place in range(len(self.outcomes))] if self.is_aggregated else [record_id]


class PutRide(NamedTuple):
    """A ride that the input stream accepted."""

    record: RideRecord
    outcome: Outcome
    at: float
    """When its request was sent, in seconds since the epoch."""


@dataclass(slots=True)
class Ledger:
    """Everything that the input stream has accepted so far."""

    records: int = 0
    rides: dict[str, PutRide] = field(default_factory=dict)
    """The rides by event id."""


class Arrival(NamedTuple):
    """A predicted value, and when it reached the output stream, in seconds since the epoch."""

    value: float
    at: float


@dataclass(frozen=True)
class Account:
    """What became of the rides that were put. Rides are known by their event ids, and each counts once."""

    put: int
    predicted: Mapping[str, Arrival]
    """The first prediction of each ride."""
    rejected: Mapping[str, RejectionLine]
    given_up: Set[str] = frozenset()
    """Rides that the mapping discarded because the function failed on them in every attempt."""
    duplicates: int = 0
    """Predictions that repeat the event id of another."""
    missing: Sequence[str] = ()
    """Rides that are nowhere."""
    unknown: Sequence[str] = ()
    """Predictions and rejections of rides that were never put."""
    contradictory: Sequence[str] = ()
    """Rides that were both predicted and rejected."""
    wrong: Sequence[str] = ()
    """Good rides that were rejected, bad rides that were predicted, and predictions of another ride_id or duration."""

    @property
    def is_exact(self) -> bool:
        """Whether every ride that was put was predicted or rejected, as it had to be, and nothing else was."""
        return not any((self.given_up, self.missing, self.unknown, self.contradictory, self.wrong))

    def as_json(self) -> dict[str, int | list[str]]:
        """Return the counts, and the event ids of rides that are not in order."""
        counts = {"put": self.put, "predicted": len(self.predicted), "rejected": len(self.rejected)}
        problems = {name: list(getattr(self, name)) for name in ("missing", "unknown", "contradictory", "wrong")}
        return {**counts, **problems, "duplicates": self.duplicates}


def take_account(rides: Mapping[str, PutRide], kinesis: "KinesisClient", s3: "S3Client") -> Account:
    """Return the account of rides that were put, by what the output stream and the failures bucket hold."""
    rounds = itertools.takewhile(bool, follow(kinesis, OUTPUT_STREAM))
    predictions = (prediction for found in rounds for prediction in read_predictions(found))
    lines = (line for body in _read_objects(s3, f"{REJECTIONS_PREFIX}/") for line in body.splitlines())
    rejections = (msgspec.json.decode(line, type=RejectionLine) for line in lines)
    given_up = {
        record["eventID"]
        for body in _read_objects(s3, ON_FAILURE_PREFIX)
        for record in json.loads(json.loads(body)["payload"])["Records"]
    }
    return reconcile(rides, predictions, rejections, given_up)


def reconcile(
    rides: Mapping[str, PutRide],
    predictions: Iterable[ReadPrediction],
    rejections: Iterable[RejectionLine],
    given_up: Set[str] = frozenset(),
) -> Account:
    """Return the account of rides that were put, by event id; ``given_up`` has event ids of whole records."""
    predicted: dict[str, Arrival] = {}
    wrong, count = set(), 0
    for count, read in enumerate(predictions, 1):  # noqa: B007 - the count of all predictions is used after the loop
        event_id, arrival = read.prediction.event_id, Arrival(read.prediction.value, read.arrived.timestamp())
        predicted[event_id] = min(predicted.get(event_id, arrival), arrival, key=lambda arrival: arrival.at)
        found = ExpectedPrediction(read.prediction.ride_id, read.prediction.value)
        if event_id in rides and rides[event_id].outcome not in ("either", found):
            wrong.add(event_id)
    rejected = {line.event_id: line for line in rejections}
    wrong |= {one for one in rejected if one in rides and isinstance(rides[one].outcome, ExpectedPrediction)}
    settled = predicted.keys() | rejected.keys()
    lost = [event_id for event_id in rides if event_id not in settled]
    discarded = {event_id for event_id in lost if ":".join(event_id.split(":")[:2]) in given_up}
    return Account(
        put=len(rides),
        predicted=predicted,
        rejected=rejected,
        given_up=discarded,
        duplicates=count - len(predicted),
        missing=[event_id for event_id in lost if event_id not in discarded],
        unknown=sorted(settled - rides.keys()),
        contradictory=sorted(predicted.keys() & rejected.keys()),
        wrong=sorted(wrong),
    )


def _read_objects(s3: "S3Client", prefix: str) -> Iterator[bytes]:
    pages: Any = s3.get_paginator("list_objects_v2").paginate(Bucket=FAILURES_BUCKET, Prefix=prefix)
    for page in pages:
        for found in page.get("Contents", []):
            yield s3.get_object(Bucket=FAILURES_BUCKET, Key=found["Key"])["Body"].read()


def expect_records(number: int, bad: float, seed: int, model: Model) -> Iterator[ExpectedRecord]:
    """Yield the records of ``number`` rides, ``bad`` percent of them bad, with the outcome that each ride must have."""
    good = generate_rides(number, seed)
    records = with_bad_rides(good, bad, seed)
    events = [decode_ride(record.data) for record in good]
    outcomes: list[Outcome] = []
    values = model.predict([event.ride for event in events])
    for record, original, event, value in zip(records, good, events, values, strict=True):
        if not isinstance(value, float):
            raise TypeError(f"the model has no duration for a generated ride: {value}")
        outcomes.append(ExpectedPrediction(event.ride_id, value) if record is original else "rejected")
    for start in range(0, number, AGGREGATED_EVERY * PACKED):
        block = range(start, min(start + AGGREGATED_EVERY * PACKED, number))
        packed = block[::AGGREGATED_EVERY]
        (packed_record,) = aggregate([records[place] for place in packed])
        yield ExpectedRecord(packed_record, [outcomes[place] for place in packed], is_aggregated=True)
        for place in block:
            if place not in packed:
                yield ExpectedRecord(records[place], [outcomes[place]])
