"""Lambda's event source mapping for a Kinesis stream, played locally: it polls the shards and invokes a function.

``scripts.localaws.rules`` decides; this module has the threads, the streams and the bucket.
"""

import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.aws.shards import ShardReader, shard_ids
from scripts.localaws import rules
from scripts.localaws.rules import Batch, Discard, EventRecord, MappingSettings
from scripts.sources.events import event_record
from streaming.delivery import is_retryable

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

POLL_SECONDS = 0.2
"""The pause after a read without records: a shard answers at most five reads a second (API reference, GetRecords)."""

_log = logging.getLogger(__name__)


def exponential(attempts: int) -> float:
    """Return the seconds to wait before a batch that was tried this often is tried again: 0.2, doubling to 51.2.

    Lambda's own times are not published; these are this project's.
    """
    return 0.1 * 2.0 ** min(attempts, 9)


@dataclass(frozen=True)
class Counters:
    """What a mapping did so far."""

    invocations: int = 0
    delivered: int = 0
    """Records that the function is done with, each counted once."""
    redelivered: int = 0
    """Records that were handed to the function again, counted each time."""
    discarded: int = 0
    """Records given up, whether or not the on-failure destination took them."""

    @property
    def settled(self) -> int:
        """Records that the mapping is done with: delivered or discarded."""
        return self.delivered + self.discarded


@dataclass(eq=False)
class EventSourceMapping:
    """A mapping that runs for the length of a ``with`` block, with one thread for each shard.

    Leaving the block waits for the batches in flight and delivers no others: records that were read but not delivered
    are still in the stream. Checkpoints are not kept, the stream's retention does not expire records, and shards that a
    split or merge makes while the mapping runs are not polled.

    ``pause`` and ``resume`` are what UpdateEventSourceMapping does with ``Enabled``: a mapping that is paused reads
    nothing and invokes nothing, and then continues after the last record that it settled.
    """

    kinesis: "KinesisClient"
    s3: "S3Client"
    """Client for the on-failure destination."""
    stream: str
    invoke: Callable[[dict[str, Any]], object]
    """Called with an event, from one thread for each shard; returns the parsed response, and raises for a function
    error. It may change the event: each delivery gets its own."""
    settings: MappingSettings
    back_off: Callable[[int], float] = exponential
    """Seconds to wait before the next delivery of a batch that was tried this often."""
    on_delivered: Callable[[Sequence[EventRecord]], None] = lambda _: None
    """Called with the records that the function is done with, each once, from one thread for each shard."""

    def __post_init__(self) -> None:
        """Prepare the state; nothing is called before the ``with`` block."""
        self.uuid = str(uuid.uuid4())
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._is_paused = False
        self._in_flight = 0
        """Batches that were handed to the function and are not settled yet."""
        self._counts: Counter[str] = Counter()
        self._stream_arn = ""
        self._pool: ThreadPoolExecutor
        self._crash: BaseException | None = None
        """The exception that ended a polling thread."""

    def __enter__(self) -> Self:
        """Begin to poll, from each shard's oldest record."""
        summary = self.kinesis.describe_stream_summary(StreamName=self.stream)["StreamDescriptionSummary"]
        self._stream_arn = summary["StreamARN"]
        shards = shard_ids(self.kinesis, self.stream)
        readers = [ShardReader(self.kinesis, self.stream, shard_id) for shard_id in shards]
        self._pool = ThreadPoolExecutor(len(readers), thread_name_prefix=f"mapping-{self.stream}")
        for reader in readers:
            self._pool.submit(self._poll, reader).add_done_callback(self._end_polling)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Wait for the batches in flight; then raise what ended a polling thread, unless the block itself raised."""
        self._stopping.set()
        self.resume()
        self._pool.shutdown()
        if error is None:
            self.counters()

    @property
    def state(self) -> Literal["Enabled", "Disabling", "Disabled"]:
        """Lambda's name of the state: ``Disabling`` while a mapping that was paused has a batch in flight."""
        with self._changed:
            if not self._is_paused:
                return "Enabled"
            return "Disabling" if self._in_flight else "Disabled"

    def pause(self) -> None:
        """Invoke the function with no further batch until ``resume``. A batch in flight is completed."""
        with self._changed:
            self._is_paused = True

    def resume(self) -> None:
        """Continue after the last record that was settled. A batch whose retry was due is retried."""
        with self._changed:
            self._is_paused = False
            self._changed.notify_all()

    def counters(self) -> Counters:
        """Return what the mapping did so far. Raises the exception that ended a polling thread, if one did."""
        if self._crash:
            raise self._crash
        with self._changed:
            return Counters(**self._counts)

    def wait_for(self, records: int, timeout: float) -> bool:
        """Wait until this many records are settled, for at most ``timeout`` seconds, and return whether they are.

        Raises the exception that ended a polling thread, if one did, without waiting any longer.
        """
        with self._changed:
            self._changed.wait_for(lambda: Counters(**self._counts).settled >= records or self._crash, timeout)
        return self.counters().settled >= records

    def _poll(self, reader: ShardReader) -> None:
        """Deliver the records of a shard, batch after batch, until the mapping or the shard ends."""
        waiting: list[EventRecord] = []
        opened = 0.0
        while self._wait_while_paused():
            if size := rules.closing_size(waiting, time.monotonic() - opened, self.settings):
                self._deliver(Batch(tuple(waiting[:size])), reader.shard_id)
                del waiting[:size]
                opened = time.monotonic()
            elif records := self._read(reader):
                opened = opened if waiting else time.monotonic()
                waiting += records
            elif reader.at_end and not waiting:
                return
            else:
                self._stopping.wait(POLL_SECONDS)

    def _read(self, reader: ShardReader) -> list[EventRecord]:
        """Return a shard's next records; an empty list if the read failed in a way that the next one may not."""
        try:
            return [event_record(record, reader.shard_id, self._stream_arn) for record in reader.read()]
        except (BotoCoreError, ClientError) as error:
            if not is_retryable(error):
                raise
            _log.warning("Could not read %s, will retry: %s", reader.shard_id, error)
            return []

    def _deliver(self, batch: Batch, shard_id: str) -> None:
        """Invoke the function until every record of the batch is delivered or discarded, or the mapping ends."""
        pending = deque([batch])
        is_redelivery = False
        while pending:
            tried = pending.popleft()
            if tried.attempts:
                self._stopping.wait(self.back_off(tried.attempts))
            if not self._wait_while_paused(in_flight=1):
                return
            try:
                expired, due = rules.split_expired(tried, time.time(), self.settings)
                if expired:
                    self._discard(expired, shard_id)
                if due:
                    pending.extendleft(reversed(self._attempt(due, shard_id, is_redelivery=is_redelivery)))
                    is_redelivery = True
            finally:
                with self._changed:
                    self._in_flight -= 1

    def _wait_while_paused(self, in_flight: int = 0) -> bool:
        """Wait until the mapping is enabled or ends. Return whether it is enabled; then more batches are in flight."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_paused or self._stopping.is_set())
            if self._stopping.is_set():
                return False
            # Under the same lock as the check: no batch begins after the state is ``Disabled``.
            self._in_flight += in_flight
            return True

    def _attempt(self, due: Batch, shard_id: str, *, is_redelivery: bool) -> Sequence[Batch]:
        """Invoke the function with the batch, and return the batches that are to be retried, in their order."""
        decision = rules.decide(due, self._invoke_with(due), self.settings)
        redelivered = len(due.records) if is_redelivery else 0
        self.on_delivered(due.records[: decision.delivered])
        self._count(invocations=1, redelivered=redelivered, delivered=decision.delivered)
        if decision.discarded:
            self._discard(decision.discarded, shard_id)
        return decision.again

    def _invoke_with(self, batch: Batch) -> object:
        """Return the function's response to the batch's event, or the exception that it ended in."""
        # Through JSON, as Lambda does it: a change that a function makes to its event must not be in the next delivery.
        event = msgspec.json.decode(msgspec.json.encode(rules.event_of(batch.records)))
        try:
            return self.invoke(event)
        except Exception as error:
            _log.warning("The function failed on a batch of %d records", len(batch.records), exc_info=True)
            return error

    def _discard(self, discard: Discard, shard_id: str) -> None:
        """Send the records to the on-failure destination, if there is one, and count them; the shard moves on."""
        count, at = len(discard.batch.records), datetime.now(UTC)
        _log.warning("Discarding %d records of %s: %s", count, shard_id, discard.condition)
        if self.settings.on_failure:
            bucket = self.settings.on_failure.removeprefix("s3://")
            key, record = failure_object(discard, self.uuid, shard_id, self._stream_arn, at)
            try:
                self.s3.put_object(Bucket=bucket, Key=key, Body=msgspec.json.encode(record))
            except (BotoCoreError, ClientError):
                # Lambda only counts it (DestinationDeliveryFailures), and so the records are lost here as there.
                _log.exception("The on-failure destination did not take s3://%s/%s", bucket, key)
        self._count(discarded=count)

    def _count(self, **increments: int) -> None:
        with self._changed:
            self._counts.update(increments)
            self._changed.notify_all()

    def _end_polling(self, polling: Future[None]) -> None:
        """Wake ``wait_for`` if a thread ended in an exception: it delivers no more records."""
        if error := polling.exception():
            _log.error("A polling thread ended", exc_info=error)
            with self._changed:
                self._crash = self._crash or error
                self._changed.notify_all()


def failure_object(
    discard: Discard, mapping: str, shard_id: str, stream_arn: str, at: datetime
) -> tuple[str, dict[str, Any]]:
    """Return a new key and the content of an on-failure object: ``mapping`` is the mapping's UUID, ``at`` is in UTC.

    Both have the form of the AWS Lambda developer guide, "Retain discarded batch records for a Kinesis Data Streams
    event source". The event is the string ``payload``, JSON within JSON. The guide shows only RetryAttemptsExhausted.
    LocalStack recorded of AWS: the other condition's name, that it has no ``responseContext``, and that its invoke
    count is 1 even for records that no function saw.
    """
    first, last = discard.batch.records[0]["kinesis"], discard.batch.records[-1]["kinesis"]
    _, partition, _, region, account, _ = stream_arn.split(":", 5)
    record: dict[str, Any] = {
        "requestContext": {
            "requestId": str(uuid.uuid4()),
            "functionArn": f"arn:{partition}:lambda:{region}:{account}:function:lambda_handler",
            "condition": discard.condition,
            "approximateInvokeCount": max(1, discard.batch.attempts),
        },
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled" if discard.function_error else None,
        },
        "version": "1.0",
        "timestamp": _timestamp(at.timestamp()),
        "KinesisBatchInfo": {
            "shardId": shard_id,
            "startSequenceNumber": first["sequenceNumber"],
            "endSequenceNumber": last["sequenceNumber"],
            "approximateArrivalOfFirstRecord": _timestamp(first["approximateArrivalTimestamp"]),
            "approximateArrivalOfLastRecord": _timestamp(last["approximateArrivalTimestamp"]),
            "batchSize": len(discard.batch.records),
            "streamArn": stream_arn,
        },
        "payload": msgspec.json.encode(rules.event_of(discard.batch.records)).decode(),
    }
    if discard.condition == "RecordAgeExceeded":
        del record["responseContext"]
    key = f"{ON_FAILURE_PREFIX}{mapping}/{shard_id}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
    return key, record


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
