"""What the live page shows, read from the streams and the failures buckets, as a run's account is taken from them.

Nothing is read while no tab shows the page. When a tab is opened, the streams are read from their beginning.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from rides import InvalidRideError, Ride, RideId
from scripts.aws.kept_objects import DISCARDED, ChangedError, KeptObjects, UnreadableError
from scripts.aws.predictions import ReadPrediction, read_predictions
from scripts.aws.shards import ShardReader, shard_ids
from scripts.cli import INPUT_STREAM, printable
from scripts.live.figures import Figures, Rate, mean_rate
from scripts.live.ledger import GIVEN_UP, PREDICTED, REJECTED, InputRides
from scripts.localaws.consumers import RunningConsumer
from scripts.localaws.faults import Switch
from scripts.localaws.moto import MAX_RECORDS
from scripts.localaws.setup import LocalStack
from scripts.sources.records import RideRecord
from streaming.aggregation import is_aggregated, packed_records
from streaming.envelope import KinesisRecord
from streaming.records import RejectionLine
from targets import find_target

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

INTERVAL = 0.4
"""Seconds between two rounds of reading, and so between two snapshots."""
FULL_READ = MAX_RECORDS
"""A read that returns this number of records may not be the last one."""
LISTING_SECONDS, LISTING_SHARE = 1.0, 0.05
"""The failures buckets are listed at most once in this time, and listing takes at most this share of the time: it takes
moto the longer, the more objects there are."""
OBJECTS_SECONDS = 0.3
"""The objects of a bucket are read for this many seconds in a round; the next round goes on."""

_log = logging.getLogger(__name__)


class _Round(NamedTuple):
    """What was read of a stream in a round."""

    records: "list[tuple[str, RecordTypeDef]]"
    """Each with the id of its shard."""
    is_all: bool
    """Whether there were no more."""
    until: float
    """All records that arrived before this time were read, in seconds since the epoch."""


@dataclass
class _Watched:
    """A consumer, the position in its outputs, and its figures."""

    consumer: RunningConsumer
    actual: Mapping[RideId, tuple[Ride, float]]
    """Rides whose actual values are known, by their ids."""
    figures: Figures
    failures: KeptObjects
    readers: Sequence[ShardReader]
    until: float = 0.0
    """All predictions that arrived before this time were counted."""
    early: list[ReadPrediction] = field(default_factory=list)
    """Predictions that were read before their rides were."""
    keys: set[str] = field(default_factory=set)
    """The objects of the failures bucket that were read, or that cannot be read."""
    new_keys: list[str] = field(default_factory=list)
    """Objects that are to be read."""
    early_keys: set[str] = field(default_factory=set)
    """Objects that were read before all of their rides were."""
    list_at: float = 0.0
    """When the bucket is listed again, in seconds of ``time.monotonic``."""


class Collector:
    """Reads in a thread of its own while a tab shows the page, and publishes a snapshot after each round."""

    def __init__(
        self,
        local: LocalStack,
        consumers: Sequence[RunningConsumer],
        known: Sequence[Iterable[RideRecord]],
        chaos: Switch,
    ) -> None:
        """Take the stack, and for each consumer records that have the true values of its target, if any is known."""
        self.chaos = chaos
        self.consumers = {one.name: one for one in consumers}
        self._input = InputRides(time.time())
        self._rate, self._until = Rate(), 0.0
        self._local = local
        self._readers = self._open(INPUT_STREAM)
        self._watched = [self._watch(*one) for one in zip(consumers, known, strict=True)]
        self._has_all_rides = self._is_complete = False
        self._changed = threading.Condition()
        self._watchers = 0
        self._is_closed = self._is_hurried = False
        self._snapshot, self._number, self._published = b"", 0, 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Collect for the length of the block."""
        thread = threading.Thread(target=self._run, name="live-page")
        thread.start()
        try:
            yield
        finally:
            self._close()
            thread.join()

    def snapshots(self) -> Generator[bytes]:
        """Yield snapshots as JSON, each as soon as it is there, until the collector ends. Any thread may call this."""
        with self._changed:
            self._watchers += 1
            self._changed.notify_all()
            seen = self._number
        try:
            while snapshot := self._wait_for_snapshot(seen):
                seen = snapshot[0]
                yield snapshot[1]
        finally:
            with self._changed:
                self._watchers -= 1

    def _wait_for_snapshot(self, seen: int) -> tuple[int, bytes] | None:
        """Wait for a newer snapshot than the one with this number, and return it; None if the collector has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > seen or self._is_closed)
            return None if self._is_closed else (self._number, self._snapshot)

    def hurry(self) -> None:
        """Publish the next snapshot at once, because a switch was used."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._wait_for_watchers():
                began, problem = time.monotonic(), ""
                try:
                    self._read()
                except (BotoCoreError, ClientError) as error:
                    problem = f"The streams could not be read, and the next round tries again: {error}"
                self._publish(problem)
                taken = time.monotonic() - began
                with self._changed:
                    # While many records are read, the page lets moto rest for a quarter of the time.
                    self._changed.wait_for(
                        lambda: self._is_closed or self._is_hurried, max(INTERVAL - taken, taken / 3)
                    )
                    self._is_hurried = False
        except Exception:
            _log.exception("The live page ends here")
        finally:
            self._close()

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait_for_watchers(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._watchers or self._is_closed)
            return not self._is_closed

    def _publish(self, problem: str = "") -> None:
        self._published = time.monotonic()
        snapshot = msgspec.json.encode({**self.summary(), "problem": problem})
        with self._changed:
            self._snapshot = snapshot
            self._number += 1
            self._changed.notify_all()

    def summary(self) -> dict[str, Any]:
        """Return what the page shows, of what was read so far."""
        counts = self._rate.latest(self._until)
        return {
            "rides": self._input.count,
            "rate": mean_rate(counts),
            "rates": counts,
            "complete": self._is_complete,
            "chaos": {"on": self.chaos.is_on, "faults": self.chaos.count},
            "consumers": [
                {
                    "name": one.consumer.name,
                    "target": one.consumer.model.metadata.target,
                    "unit": one.consumer.model.metadata.unit,
                    "version": one.consumer.model.run_id,
                    "stream": one.consumer.outputs.stream,
                    "state": one.consumer.mapping.state,
                    "redelivered": one.consumer.mapping.counters().redelivered,
                    **one.figures.summary(self._input.count, one.until),
                }
                for one in self._watched
            ],
        }

    def _open(self, stream: str) -> list[ShardReader]:
        kinesis = self._local.kinesis
        return [ShardReader(kinesis, stream, shard_id) for shard_id in shard_ids(kinesis, stream)]

    def _watch(self, consumer: RunningConsumer, known: Iterable[RideRecord]) -> _Watched:
        metadata, outputs = consumer.model.metadata, consumer.outputs
        actual = {
            one.event.ride_id: (one.event.ride, one.true_value)
            for one in known
            if one.event and one.true_value is not None
        }
        figures = Figures(find_target(metadata.target, metadata.unit))
        failures = KeptObjects(self._local.s3, outputs.rejections)
        return _Watched(consumer, actual, figures, failures, self._open(outputs.stream))

    def _read(self) -> None:
        """Read what is new: first the rides, so that nearly all predictions are those of known rides."""
        found = read_on(self._readers)
        for shard_id, record in found.records:
            self._add_ride(shard_id, record)
        self._until, self._has_all_rides = found.until, found.is_all
        is_complete = self._has_all_rides
        for watched in self._watched:
            is_complete &= self._read_predictions(watched)
            is_complete &= self._read_failures(watched)
            if time.monotonic() - self._published > INTERVAL:
                self._publish()  # many records take long to read
        self._is_complete = is_complete

    def _add_ride(self, shard_id: str, record: "RecordTypeDef") -> None:
        arrived, rides = record["ApproximateArrivalTimestamp"].timestamp(), _count_rides(record["Data"])
        self._input.add(shard_id, int(record["SequenceNumber"]), arrived, rides)
        self._rate.add(arrived, rides)

    def _read_predictions(self, watched: _Watched) -> bool:
        """Count what is new on an output stream, and return whether that is all there is."""
        found = read_on(watched.readers)
        # Predictions of rides that were not read yet are not counted yet.
        watched.until = min(found.until, self._until)
        early, watched.early = watched.early, []
        for read in early:
            self._count(watched, read, is_last_try=self._has_all_rides)
        for read in read_predictions(found.records):
            self._count(watched, read, is_last_try=False)
        return found.is_all

    def _count(self, watched: _Watched, read: ReadPrediction, *, is_last_try: bool) -> None:
        """Count a prediction, or keep it for the next round if its ride was not read yet."""
        figures, prediction = watched.figures, read.prediction
        place = self._input.find(prediction.event_id)
        if place is None:
            if is_last_try:
                _log.warning("%s predicts no ride: %s", watched.consumer.outputs.stream, printable(prediction.event_id))
            else:
                watched.early.append(read)
            return
        if not figures.outcomes.mark(place, PREDICTED):
            figures.duplicates += 1
            return
        figures.predicted(read.arrived.timestamp(), self._input.arrival(place))
        if figures.errors and (known := watched.actual.get(prediction.ride_id)):
            figures.errors.add(*known, prediction.value)

    def _read_failures(self, watched: _Watched) -> bool:
        """Read new objects of a failures bucket if a ride has no outcome yet, and return whether all were read."""
        outcomes, began = watched.figures.outcomes, time.monotonic()
        if not watched.new_keys:
            if outcomes.settled + outcomes.given_up == self._input.count or began < watched.list_at:
                return True
            watched.new_keys = [key for key in watched.failures.find() if key not in watched.keys]
            now = time.monotonic()
            watched.list_at = now + max(LISTING_SECONDS, (now - began) / LISTING_SHARE)
            began = now
        while watched.new_keys and time.monotonic() - began < OBJECTS_SECONDS:
            key = watched.new_keys.pop()
            is_early = False
            with contextlib.suppress(ChangedError, UnreadableError):
                is_known = self._count_failures(watched, key)
                is_early = not is_known and not (self._has_all_rides and key in watched.early_keys)
            (watched.early_keys if is_early else watched.keys).add(key)
        return not watched.new_keys

    def _count_failures(self, watched: _Watched, key: str) -> bool:
        """Count the rides of an object that were not counted yet, and return whether all of them were read before."""
        outcomes, is_complete = watched.figures.outcomes, True
        for one in watched.failures.read(key).records:
            if one.kind == DISCARDED:
                places = self._input.find_record(msgspec.json.decode(one.source, type=KinesisRecord).event_id)
                for place in places:
                    outcomes.mark(place, GIVEN_UP)
                is_complete &= bool(places)
                continue
            line = msgspec.json.decode(one.source, type=RejectionLine)
            found = self._input.find(line.event_id)
            is_complete &= found is not None
            if found and outcomes.mark(found, REJECTED):
                watched.figures.rejected(line.kind, line.reason)
        return is_complete


def read_on(readers: Iterable[ShardReader]) -> _Round:
    """Read the next records of a stream's shards."""
    found, is_all, until = list[tuple[str, "RecordTypeDef"]](), True, time.time()
    for reader in readers:
        records = reader.read()
        found += [(reader.shard_id, record) for record in records]
        if len(records) >= FULL_READ:
            is_all, until = False, min(until, records[-1]["ApproximateArrivalTimestamp"].timestamp())
    return _Round(found, is_all, until)


def _count_rides(data: bytes) -> int:
    """Return the number of rides in a record's data. One that cannot be unpacked is rejected as a whole."""
    if is_aggregated(data):
        with contextlib.suppress(InvalidRideError):
            return sum(1 for _ in packed_records(data))
    return 1
