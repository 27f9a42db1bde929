"""The account of a run: the rides are put, and what became of each of them is found out, by its event id."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from model import Model
from scripts.aws.kept_objects import DISCARDED, KeptObjects
from scripts.aws.predictions import ReadPrediction, read_predictions
from scripts.aws.shards import follow
from scripts.cli import CONSOLE, INPUT_STREAM, CommandError, progress_bar
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.setup import LIVE, Outputs
from scripts.sources.bad import with_bad_rides
from scripts.sources.records import RideRecord, aggregate
from scripts.sources.synthetic import generate_rides
from streaming.delivery import MAX_ENTRIES
from streaming.envelope import KinesisRecord
from streaming.records import RejectionLine

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

AGGREGATED_EVERY, PACKED = 10, 20
"""Every tenth ride of a soak comes in an aggregated record, twenty rides in each."""
STALL_SECONDS = 60
"""A run ends with what there is if no ride has been settled for this long."""
REFRESH_SECONDS = 0.2
"""How often progress bars move."""
PUT_SECONDS = 0.1
"""Records that become due within this time are put in one request."""


Outcome: TypeAlias = tuple[int | str, float] | Literal["rejected", "either"]
"""What must become of a ride: a prediction with this ride_id and exactly these minutes, a rejection, or either."""


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


@dataclass(frozen=True)
class Account:
    """What became of the rides that were put. Rides are known by their event ids, and each counts once."""

    put: int
    predicted: Mapping[str, ReadPrediction]
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


def put_and_wait(
    kinesis: "KinesisClient",
    records: Sequence[ExpectedRecord],
    mappings: Mapping[str, EventSourceMapping],
    rides: dict[str, PutRide],
    *,
    rate: float = math.inf,
    unit: str = "rides",
    hint: str = "",
) -> dict[str, float | None]:
    """Put the records, wait until each mapping is done with them, and return the seconds that each of them took.

    The value is None for a mapping that stalled. Every ride that was put is added to ``rides`` by its event id, even if
    Ctrl-C ends the wait. ``rate`` is the number of records to put a second. The mappings' names are shown beside their
    progress, and ``hint`` is printed once putting has begun. Raises CommandError if Kinesis does not accept a record,
    or gives two the same number.
    """
    stopping = threading.Event()
    began = time.monotonic()
    with ThreadPoolExecutor(1, thread_name_prefix="putting") as thread, progress_bar(unit) as progress:
        putting = progress.add_task("Putting", total=len(records))
        predicting = {name: progress.add_task(name, total=len(records)) for name in mappings}

        def put_all() -> None:
            for chunk in _chunks(records, rate, stopping):
                _put(kinesis, chunk, rides)
                progress.advance(putting, len(chunk))

        def show_progress() -> None:
            for name, task in predicting.items():
                progress.update(task, completed=mappings[name].counters().settled)

        # In its own thread, which Ctrl-C cannot stop between a request and the entry of its rides.
        done = thread.submit(put_all)
        try:
            if hint:
                CONSOLE.print(hint, highlight=False)
            while not done.done():
                show_progress()
                wait([done], REFRESH_SECONDS)
            done.result()
            ends = wait_until_settled(mappings, len(records), show_progress)
            return {name: None if end is None else end - began for name, end in ends.items()}
        finally:
            stopping.set()


def _chunks(
    records: Sequence[ExpectedRecord], rate: float, stopping: threading.Event
) -> Iterator[Sequence[ExpectedRecord]]:
    """Yield the records in the chunks of a request, at most ``rate`` of them a second, until the event is set."""
    began, start = time.monotonic(), 0
    while start < len(records) and not stopping.is_set():
        # The first record is due at once. If a request took long, more records are due after it.
        due = math.inf if rate == math.inf else (time.monotonic() - began) * rate + 1
        end = int(min(due, start + MAX_ENTRIES, len(records)))
        if end > start:
            yield records[start:end]
            start = end
        if due - start < MAX_ENTRIES:
            stopping.wait(max(PUT_SECONDS, 1 / rate))


def _put(kinesis: "KinesisClient", records: Sequence[ExpectedRecord], rides: dict[str, PutRide]) -> None:
    now = time.time()
    entries = [{"Data": one.record.data, "PartitionKey": one.record.partition_key} for one in records]
    response = kinesis.put_records(StreamName=INPUT_STREAM, Records=entries)  # type: ignore[arg-type]
    if response["FailedRecordCount"]:
        raise CommandError(f"{response['FailedRecordCount']} rides were not accepted by {INPUT_STREAM}")
    for expected, result in zip(records, response["Records"], strict=True):
        event_ids = expected.event_ids(result["ShardId"], result["SequenceNumber"])
        if not rides.keys().isdisjoint(event_ids):
            raise CommandError(f"{INPUT_STREAM} gave a sequence number twice: {event_ids[0]}")
        put = (PutRide(expected.record, outcome, now) for outcome in expected.outcomes)
        rides.update(zip(event_ids, put, strict=True))


def wait_until_settled(
    mappings: Mapping[str, EventSourceMapping],
    number: int,
    show_progress: Callable[[], None],
    stall: float = STALL_SECONDS,
) -> dict[str, float | None]:
    """Wait until each mapping is done with ``number`` records, and return the end of each on the monotonic clock.

    The end is None for a mapping that has settled no record for ``stall`` seconds. Seconds in which it is paused do not
    count. An exception that ended a polling thread is raised.
    """
    ends: dict[str, float | None] = {}
    moved = dict.fromkeys(mappings, (-1, 0.0))
    while waiting := [name for name in mappings if name not in ends]:
        show_progress()
        mappings[waiting[0]].wait_for(number, REFRESH_SECONDS)
        for name in waiting:
            settled, now = mappings[name].counters().settled, time.monotonic()
            if settled >= number:
                ends[name] = now
            elif settled > moved[name][0] or mappings[name].state != "Enabled":
                moved[name] = settled, now
            elif now - moved[name][1] >= stall:
                ends[name] = None
    show_progress()
    return {name: ends[name] for name in mappings}


def with_records(rides: Mapping[str, PutRide], records: Sequence[RideRecord]) -> Mapping[str, PutRide]:
    """Return the rides with these records, which are the same in the same order but for their true values."""
    pairs = zip(rides.items(), records, strict=True)
    # Most consumers have the very records that were put.
    return {id_: put if put.record is record else put._replace(record=record) for (id_, put), record in pairs}


def take_account(
    rides: Mapping[str, PutRide], kinesis: "KinesisClient", s3: "S3Client", outputs: Outputs = LIVE
) -> Account:
    """Return the account of rides that were put, by what a consumer's output stream and failures bucket hold."""
    rounds = itertools.takewhile(bool, follow(kinesis, outputs.stream))
    predictions = (prediction for found in rounds for prediction in read_predictions(found))
    failures = KeptObjects(s3, outputs.rejections)
    kept = [record for key in failures.find() for record in failures.read(key).records]
    rejections = [msgspec.json.decode(one.source, type=RejectionLine) for one in kept if one.kind != DISCARDED]
    given_up = {msgspec.json.decode(one.source, type=KinesisRecord).event_id for one in kept if one.kind == DISCARDED}
    return reconcile(rides, predictions, rejections, given_up)


def reconcile(
    rides: Mapping[str, PutRide],
    predictions: Iterable[ReadPrediction],
    rejections: Iterable[RejectionLine],
    given_up: Set[str] = frozenset(),
) -> Account:
    """Return the account of rides that were put, by event id; ``given_up`` has event ids of whole records."""
    predicted: dict[str, ReadPrediction] = {}
    wrong, count = set(), 0
    for count, read in enumerate(predictions, 1):  # noqa: B007 - the count of all predictions is used after the loop
        event_id = read.prediction.event_id
        predicted[event_id] = min(predicted.get(event_id, read), read, key=lambda read: read.arrived)
        found = (read.prediction.ride_id, read.prediction.value)
        if event_id in rides and rides[event_id].outcome not in ("either", found):
            wrong.add(event_id)
    rejected = {line.event_id: line for line in rejections}
    wrong |= {one for one in rejected if one in rides and isinstance(rides[one].outcome, tuple)}
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


def expect_records(number: int, bad: float, seed: int, model: Model) -> Iterator[ExpectedRecord]:
    """Yield the records of ``number`` rides, ``bad`` percent of them bad, with the outcome that each ride must have."""
    good = generate_rides(number, seed)
    records = with_bad_rides(good, bad, seed)
    events = [record.event for record in good if record.event]
    outcomes: list[Outcome] = []
    values = model.predict([event.ride for event in events])
    for record, original, event, value in zip(records, good, events, values, strict=True):
        if not isinstance(value, float):
            raise TypeError(f"the model has no duration for a generated ride: {value}")
        outcomes.append((event.ride_id, value) if record is original else "rejected")
    rides = list(zip(records, outcomes, strict=True))
    for start in range(0, number, AGGREGATED_EVERY * PACKED):
        block = rides[start : start + AGGREGATED_EVERY * PACKED]
        packed = block[::AGGREGATED_EVERY]
        (packed_record,) = aggregate([record for record, _ in packed])
        yield ExpectedRecord(packed_record, [outcome for _, outcome in packed], is_aggregated=True)
        for place, (record, outcome) in enumerate(block):
            if place % AGGREGATED_EVERY:
                yield ExpectedRecord(record, [outcome])
