"""Lambda's event source mapping for a Kinesis stream, played locally: it polls the shards and invokes a function.

``scripts.localaws.rules`` decides; here are the threads, the streams and the bucket.
"""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws.failure_record import failure_key, failure_record
from scripts.localaws.lanes import POLL_SECONDS, ShardLanes
from scripts.localaws.rules import (
    Batch,
    Discard,
    EventRecord,
    MappingSettings,
    Throttled,
    closing_size,
    decide,
    event_of,
    split_expired,
)

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


def exponential(attempts: int) -> float:
    """Return the seconds to wait before a batch that was tried so often is tried again: 0.2, doubling to 51.2.

    Lambda's own times are not published; these are this project's.
    """
    return 0.1 * 2.0 ** min(attempts, 9)


@dataclass(frozen=True)
class Counters:
    """What a mapping did so far."""

    invocations: int = 0
    """Calls of the function; throttled ones are none."""
    delivered: int = 0
    """Records that the function took, each counted once."""
    redelivered: int = 0
    """Records that were handed to the function again, counted each time."""
    discarded: int = 0
    """Records given up, whether or not the on-failure destination took them."""
    destination_delivery_failures: int = 0
    """Objects that the on-failure destination did not take."""

    @property
    def settled(self) -> int:
        """Records that the mapping is done with: delivered or discarded."""
        return self.delivered + self.discarded


class EventSourceMapping:
    """A mapping that runs for the length of a ``with`` block, concurrently over the shards.

    Leaving the block waits for the batches in flight and delivers no further ones: what was read and not delivered is
    still in the stream. Checkpoints are not kept, the stream's retention does not expire records, and shards that a
    split or merge makes while the mapping runs are not polled.
    """

    def __init__(
        self,
        kinesis: "KinesisClient",
        s3: "S3Client",
        stream: str,
        invoke: Callable[[dict[str, Any]], object],
        settings: MappingSettings,
        *,
        function_name: str = "lambda_handler",
        back_off: Callable[[int], float] = exponential,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Set up the mapping; nothing is called before the ``with`` block.

        Args:
            kinesis: client for the stream.
            s3: client for the on-failure destination.
            stream: the stream's name.
            invoke: called with an event, from as many threads at once as there are shards times
                ParallelizationFactor; returns the parsed response, and raises Throttled, or anything else for a
                function error. It may change the event: each delivery gets one of its own.
            settings: the mapping's parameters.
            function_name: what the records in the on-failure destination call the function.
            back_off: seconds to wait before the next delivery of a batch that was tried so often.
            now: the time against which records age, in seconds since the epoch.
        """
        self.uuid = str(uuid.uuid4())
        self._kinesis = kinesis
        self._s3 = s3
        self._stream = stream
        self._invoke = invoke
        self._settings = settings
        self._function_name = function_name
        self._back_off = back_off
        self._now = now
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._counters = Counters()
        self._stream_arn = ""
        self._pool: ThreadPoolExecutor
        self._lanes: list[Future[None]] = []

    def __enter__(self) -> Self:
        """Begin to poll, from the starting position as it is now: LATEST misses nothing put after this returns."""
        summary = self._kinesis.describe_stream_summary(StreamName=self._stream)["StreamDescriptionSummary"]
        self._stream_arn = summary["StreamARN"]
        lanes = self._settings.parallelization_factor
        readers = [
            ShardReader(self._kinesis, self._stream, shard_id, self._settings.starting_position)
            for shard_id in shard_ids(self._kinesis, self._stream)
        ]
        shards = [ShardLanes(reader, self._stream_arn, lanes) for reader in readers]
        self._pool = ThreadPoolExecutor(len(shards) * lanes, thread_name_prefix=f"mapping-{self._stream}")
        self._lanes = [self._pool.submit(self._run, shard, lane) for shard in shards for lane in range(lanes)]
        for future in self._lanes:
            future.add_done_callback(self._lane_ended)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the batches in flight; then raise what ended a polling thread, unless the block itself raised."""
        self._stopping.set()
        self._pool.shutdown()
        if error is None:
            self._raise_crash()

    def counters(self) -> Counters:
        """Return what the mapping did so far; raise what ended a polling thread, if something did."""
        self._raise_crash()
        with self._changed:
            return self._counters

    def wait_for(self, records: int, timeout: float) -> bool:
        """Wait until so many records are settled, ``timeout`` seconds at most, and say whether they are.

        Raises what ended a polling thread, if something did, without waiting any longer.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._counters.settled >= records or self._crashes(), timeout)
        return self.counters().settled >= records

    def _run(self, shard: ShardLanes, lane: int) -> None:
        """Deliver what comes in one lane of a shard, batch after batch, until the mapping or the shard ends."""
        waiting: list[EventRecord] = []
        opened = 0.0
        while not self._stopping.is_set():
            size = closing_size(waiting, time.monotonic() - opened, self._settings)
            if size:
                self._deliver(Batch(tuple(waiting[:size])), shard.shard_id)
                del waiting[:size]
                opened = time.monotonic()
                continue
            found = shard.take(lane)
            if found:
                opened = opened if waiting else time.monotonic()
                waiting += found
            elif found is None and not waiting:
                return
            else:
                self._stopping.wait(POLL_SECONDS)

    def _deliver(self, batch: Batch, shard_id: str) -> None:
        """Invoke the function until every record of the batch is delivered or discarded, or the mapping ends."""
        pending = deque([batch])
        seen = False
        while pending:
            tried = pending.popleft()
            if tried.attempts:
                self._stopping.wait(self._back_off(tried.attempts))
            if self._stopping.is_set():
                return
            expired, due = split_expired(tried, self._now(), self._settings)
            if expired:
                self._give_up(expired, shard_id)
            if not due:
                continue
            outcome = self._outcome(due)
            decision = decide(due, outcome, self._settings)
            pending.extendleft(reversed(decision.again))
            if isinstance(outcome, Throttled):
                continue
            self._count(invocations=1, redelivered=len(due.records) if seen else 0, delivered=decision.delivered)
            seen = True
            if decision.discarded:
                self._give_up(decision.discarded, shard_id)

    def _outcome(self, batch: Batch) -> object:
        """Return what the function responds to the batch's event, or the exception that it ends in."""
        # Through JSON, as Lambda does it: what a function changes in its event must not be in the next delivery.
        event = msgspec.json.decode(msgspec.json.encode(event_of(batch.records)))
        try:
            return self._invoke(event)
        except Throttled as throttled:
            return throttled
        except Exception as error:
            _log.warning("The function failed on a batch of %d records", len(batch.records), exc_info=True)
            return error

    def _give_up(self, discard: Discard, shard_id: str) -> None:
        """Send the records to the on-failure destination, if there is one, and count them; the shard moves on."""
        batch_size = len(discard.batch.records)
        _log.warning("Discarding %d records of %s: %s", batch_size, shard_id, discard.condition)
        destination = self._settings.on_failure
        failed = destination is not None and not self._store(discard, shard_id, destination.removeprefix("s3://"))
        self._count(discarded=batch_size, destination_delivery_failures=int(failed))

    def _store(self, discard: Discard, shard_id: str, bucket: str) -> bool:
        """Write the records to the on-failure bucket and say whether it took them."""
        at = datetime.now(UTC)
        record = failure_record(discard, shard_id, self._stream_arn, self._function_arn(), at)
        key = failure_key(self.uuid, shard_id, at)
        try:
            self._s3.put_object(Bucket=bucket, Key=key, Body=msgspec.json.encode(record))
        except (BotoCoreError, ClientError):
            # Lambda counts it (DestinationDeliveryFailures) and goes on, and so the records are lost here as there.
            _log.exception("The on-failure destination did not take s3://%s/%s", bucket, key)
            return False
        return True

    def _function_arn(self) -> str:
        _, partition, _, region, account, _ = self._stream_arn.split(":", 5)
        return f"arn:{partition}:lambda:{region}:{account}:function:{self._function_name}"

    def _count(self, **increments: int) -> None:
        with self._changed:
            totals = {name: getattr(self._counters, name) + number for name, number in increments.items()}
            self._counters = replace(self._counters, **totals)
            self._changed.notify_all()

    def _lane_ended(self, lane: Future[None]) -> None:
        """Wake whoever waits for records that an ended thread will not deliver any more."""
        if error := lane.exception():
            _log.error("A polling thread ended", exc_info=error)
        with self._changed:
            self._changed.notify_all()

    def _crashes(self) -> list[BaseException]:
        return [error for lane in self._lanes if lane.done() and (error := lane.exception())]

    def _raise_crash(self) -> None:
        if crashes := self._crashes():
            raise crashes[0]
