"""The rules of Lambda's event source mapping for Kinesis as pure functions: when a batch closes, and what follows it.

The rules come from the AWS Lambda developer guide ("Polling and batching streams", "Configuring partial batch response
with Kinesis Data Streams and Lambda", "Retain discarded batch records for a Kinesis Data Streams event source"). If the
guide does not say, LocalStack's recordings of AWS decide (the snapshots beside its
``test_lambda_integration_kinesis.py``). If neither says, a comment at the decision does.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

EventRecord: TypeAlias = dict[str, Any]
"""One entry of an event's ``Records``, as Lambda hands it to a function."""
MAX_EVENT_BYTES = 6 * 1024 * 1024
"""The largest event as JSON: the payload quota of a synchronous invocation."""


@dataclass(frozen=True, kw_only=True)
class MappingSettings:
    """How a mapping batches, retries and discards: parameters and defaults of CreateEventSourceMapping.

    A mapping always starts at TRIM_HORIZON and delivers one batch of a shard at a time: other starting positions and
    ParallelizationFactor are not played.
    """

    batch_size: int = 100  # BatchSize
    batching_window: int = 0  # MaximumBatchingWindowInSeconds
    bisect_on_error: bool = False  # BisectBatchOnFunctionError
    maximum_retry_attempts: int = -1  # MaximumRetryAttempts; -1: for ever
    maximum_record_age: int = -1  # MaximumRecordAgeInSeconds; -1: for ever
    report_batch_item_failures: bool = False  # FunctionResponseTypes: [ReportBatchItemFailures]
    on_failure: str | None = None  # DestinationConfig.OnFailure.Destination; s3://BUCKET


@dataclass(frozen=True)
class Batch:
    """Records of one shard, in the shard's order, that are delivered together."""

    records: tuple[EventRecord, ...]
    attempts: int = 0
    """How often the function was invoked with these records since they became a batch."""


@dataclass(frozen=True)
class Discard:
    """Records that the mapping gives up: they go to the on-failure destination, and the shard moves on."""

    batch: Batch
    condition: Literal["RetryAttemptsExhausted", "RecordAgeExceeded"]
    function_error: bool = False
    """Whether the last invocation ended in an exception, not in a response that reports a failure."""


@dataclass(frozen=True)
class Decision:
    """What follows an invocation: each record of the batch is in exactly one of the three."""

    delivered: int = 0
    """How many leading records are done: the checkpoint is behind them."""
    again: tuple[Batch, ...] = ()
    """Batches to deliver next, in this order, before any later record of the shard."""
    discarded: Discard | None = None


def event_of(records: Sequence[EventRecord]) -> dict[str, Any]:
    """Return the event with which Lambda invokes a function for these records."""
    return {"Records": list(records)}


def closing_size(waiting: Sequence[EventRecord], open_for: float, settings: MappingSettings) -> int:
    """Return how many of the waiting records make the batch that closes now; 0 if it stays open.

    A batch closes when it is full, when another record would take its event over 6 MB, and when its window ends. A
    record that is too large by itself goes alone. ``open_for`` is in seconds: a batch opens with its first record, or,
    if records are left over from the batch before it, with the end of that batch.
    """
    candidates = waiting[: settings.batch_size]
    size = len(msgspec.json.encode(event_of([])))
    for count, record in enumerate(candidates):
        size += len(msgspec.json.encode(record)) + (1 if count else 0)
        if count and size > MAX_EVENT_BYTES:
            return count
    is_full = len(candidates) == settings.batch_size
    return len(candidates) if is_full or open_for >= settings.batching_window else 0


def split_expired(batch: Batch, now: float, settings: MappingSettings) -> tuple[Discard | None, Batch | None]:
    """Return the leading records that are older than MaximumRecordAgeInSeconds, to be discarded, and the others.

    ``now`` is in seconds since the epoch, like the records' arrival times. Only the old records are discarded, before
    an invocation as well as between retries (LocalStack's recordings).
    """
    oldest = now - settings.maximum_record_age
    arrivals = (record["kinesis"]["approximateArrivalTimestamp"] for record in batch.records)
    expired = sum(1 for _ in itertools.takewhile(lambda arrival: arrival < oldest, arrivals))
    if settings.maximum_record_age == -1 or not expired:
        return None, batch
    old, rest = batch.records[:expired], batch.records[expired:]
    return Discard(replace(batch, records=old), "RecordAgeExceeded"), replace(batch, records=rest) if rest else None


def decide(batch: Batch, outcome: object, settings: MappingSettings) -> Decision:
    """Return what follows an invocation with the batch.

    ``outcome`` is the function's parsed response, or the exception that it ended in: a function error. The remainder
    after a checkpoint, and each half of a split, is a batch of its own with a retry quota of its own. For the
    checkpoint LocalStack recorded it: with a quota of three, a record was delivered once before the checkpoint came to
    it and four times after. For the halves the guide only says that splits use up none of the quota.
    """
    if isinstance(outcome, Exception):
        # Only an exception splits: whether a response that reports a complete failure does could not be verified.
        if settings.bisect_on_error and len(batch.records) > 1:
            middle = len(batch.records) // 2
            return Decision(again=(Batch(batch.records[:middle]), Batch(batch.records[middle:])))
        return _retry_or_discard(batch, settings, function_error=True)
    # With BisectBatchOnFunctionError too, a partial response leaves only the remainder: it splits at the checkpoint.
    checkpoint = _checkpoint(batch, outcome, settings)
    if checkpoint == len(batch.records):
        return Decision(delivered=checkpoint)
    if checkpoint == 0:
        return _retry_or_discard(batch, settings, function_error=False)
    return Decision(delivered=checkpoint, again=(Batch(batch.records[checkpoint:]),))


def _checkpoint(batch: Batch, response: object, settings: MappingSettings) -> int:
    """Return how many leading records a response reports as done: all on success, 0 on complete failure.

    A response without the key is a success. A response that names a record outside the batch is a complete failure:
    nothing in it can be trusted.
    """
    everything = len(batch.records)
    if not settings.report_batch_item_failures:
        return everything
    failures = response.get("batchItemFailures") if isinstance(response, dict) else None
    if not failures:
        return everything
    # Within a shard the records' order is that of their sequence numbers, so the lowest number is the first place.
    places = {record["kinesis"]["sequenceNumber"]: place for place, record in enumerate(batch.records)}
    named = failures if isinstance(failures, list) else [None]
    identifiers = [failure.get("itemIdentifier") if isinstance(failure, dict) else None for failure in named]
    return min(places.get(identifier, 0) if isinstance(identifier, str) else 0 for identifier in identifiers)


def _retry_or_discard(batch: Batch, settings: MappingSettings, *, function_error: bool) -> Decision:
    tried = replace(batch, attempts=batch.attempts + 1)
    # The first invocation is not a retry.
    if -1 < settings.maximum_retry_attempts < tried.attempts:
        return Decision(discarded=Discard(tried, "RetryAttemptsExhausted", function_error))
    return Decision(again=(tried,))
