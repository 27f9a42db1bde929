"""The rules of Lambda's event source mapping for Kinesis, as pure functions: when a batch closes and what follows it.

The rules are those of the AWS Lambda developer guide ("Polling and batching streams", "Configuring partial batch
response with Kinesis Data Streams and Lambda", "Retain discarded batch records for a Kinesis Data Streams event
source"). Where the guide is silent, LocalStack's recordings of AWS itself are followed (the snapshots beside its
``test_lambda_integration_kinesis.py``), and what neither shows is said where it was decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

EventRecord: TypeAlias = dict[str, Any]
"""One entry of an event's ``Records``, in the shape in which Lambda hands it to a function."""

MAX_EVENT_BYTES = 6 * 1024 * 1024
"""What an event may measure as JSON: the payload quota of a synchronous invocation."""

_EMPTY_EVENT_BYTES = len(b'{"Records":[]}')

_BOUNDS = {
    "batch_size": ("BatchSize", 1, 10_000),
    "batching_window": ("MaximumBatchingWindowInSeconds", 0, 300),
    "parallelization_factor": ("ParallelizationFactor", 1, 10),
    "maximum_retry_attempts": ("MaximumRetryAttempts", -1, 10_000),
    "maximum_record_age": ("MaximumRecordAgeInSeconds", -1, 604_800),
}


@dataclass(frozen=True, kw_only=True)
class MappingSettings:
    """How a mapping batches, retries and gives up: parameters, bounds and defaults of CreateEventSourceMapping.

    ``on_failure`` names an S3 bucket, as ``s3://bucket``; Lambda itself wants the bucket's ARN. AT_TIMESTAMP, Lambda's
    third starting position, is not played.

    Raises:
        ValueError: where Lambda would refuse the value; the message has the field, Lambda's name for it and its bounds.
    """

    batch_size: int = 100  # BatchSize
    batching_window: int = 0  # MaximumBatchingWindowInSeconds
    parallelization_factor: int = 1  # ParallelizationFactor
    bisect_on_error: bool = False  # BisectBatchOnFunctionError
    maximum_retry_attempts: int = -1  # MaximumRetryAttempts; -1: for ever
    maximum_record_age: int = -1  # MaximumRecordAgeInSeconds; -1: for ever
    report_batch_item_failures: bool = False  # FunctionResponseTypes: [ReportBatchItemFailures]
    on_failure: str | None = None  # DestinationConfig.OnFailure.Destination
    starting_position: Literal["TRIM_HORIZON", "LATEST"] = "TRIM_HORIZON"  # StartingPosition

    def __post_init__(self) -> None:
        """Refuse what Lambda would refuse."""
        for field, (name, lowest, highest) in _BOUNDS.items():
            value = getattr(self, field)
            if not lowest <= value <= highest:
                raise ValueError(f"{field} ({name}) must be {lowest} to {highest}, not {value}")
        # The API reference gives the range above and then takes 0 to 59 out of it.
        if -1 < self.maximum_record_age < 60:
            raise ValueError(
                "maximum_record_age (MaximumRecordAgeInSeconds) must be -1 or at least 60 seconds, "
                f"not {self.maximum_record_age}"
            )
        if self.starting_position not in ("TRIM_HORIZON", "LATEST"):
            raise ValueError(
                f"starting_position (StartingPosition) must be TRIM_HORIZON or LATEST, not {self.starting_position}"
            )
        if self.on_failure is not None and not _is_bucket(self.on_failure):
            raise ValueError(f"on_failure (Destination) must be s3://BUCKET, without a prefix, not {self.on_failure}")


class Throttled(Exception):  # noqa: N818 - the function did not fail: it was not invoked
    """The function was not invoked, for want of concurrency: MaximumRetryAttempts does not count it."""


@dataclass(frozen=True)
class Batch:
    """Records of one shard, in the shard's order, that are delivered together."""

    records: tuple[EventRecord, ...]
    invocations: int = 0
    """How often the function was invoked since these records became a batch."""
    throttles: int = 0
    """How often it was to be invoked since then, and was throttled."""

    @property
    def attempts(self) -> int:
        """How often these records were tried, in vain: what to back off by."""
        return self.invocations + self.throttles


@dataclass(frozen=True)
class Discard:
    """Records that are given up: they go to the on-failure destination, and the shard moves on."""

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
    """What is delivered next, in this order, before anything that follows in the shard."""
    discarded: Discard | None = None


def event_of(records: Sequence[EventRecord]) -> dict[str, Any]:
    """Return the event with which Lambda invokes a function for these records."""
    return {"Records": list(records)}


def closing_size(waiting: Sequence[EventRecord], open_for: float, settings: MappingSettings) -> int:
    """Return how many of the waiting records make the batch that closes now; 0 while it stays open.

    A batch closes when it is full, when another record would take its event over 6 MB, and when its window ends.
    A record that is too large by itself goes alone. ``open_for`` is in seconds: a batch opens with its first record, or
    with the end of the batch before it where records were left over.
    """
    candidates = waiting[: settings.batch_size]
    size = _EMPTY_EVENT_BYTES
    for count, record in enumerate(candidates):
        size += len(msgspec.json.encode(record)) + (1 if count else 0)
        if count and size > MAX_EVENT_BYTES:
            return count
    full = len(candidates) == settings.batch_size
    return len(candidates) if full or open_for >= settings.batching_window else 0


def split_expired(batch: Batch, now: float, settings: MappingSettings) -> tuple[Discard | None, Batch | None]:
    """Return the leading records that are older than MaximumRecordAgeInSeconds, to be discarded, and the others.

    ``now`` is in seconds since the epoch, as the records' arrival times are. Only the old records are given up, before
    an invocation as well as between retries (LocalStack's recordings).
    """
    if settings.maximum_record_age == -1:
        return None, batch
    oldest = now - settings.maximum_record_age
    ages = (record["kinesis"]["approximateArrivalTimestamp"] < oldest for record in batch.records)
    expired = next((index for index, is_old in enumerate(ages) if not is_old), len(batch.records))
    if not expired:
        return None, batch
    discard = Discard(replace(batch, records=batch.records[:expired]), "RecordAgeExceeded")
    rest = batch.records[expired:]
    return discard, replace(batch, records=rest) if rest else None


def decide(batch: Batch, outcome: object, settings: MappingSettings) -> Decision:
    """Say what follows an invocation with the batch.

    ``outcome`` is the function's parsed response; or the exception that it ended in, which is a function error; or
    Throttled. What a checkpoint leaves over, and each half of a split, is a batch of its own with a retry quota of its
    own. For the checkpoint LocalStack recorded that: with a quota of three, a record was delivered once before the
    checkpoint came to it and four times after. For the halves the guide only says that splits use up none of the quota.
    """
    if isinstance(outcome, Throttled):
        return Decision(again=(replace(batch, throttles=batch.throttles + 1),))
    if isinstance(outcome, Exception):
        # Only an exception splits: that a response which reports a complete failure would could not be verified.
        if settings.bisect_on_error and len(batch.records) > 1:
            return Decision(again=_halves(batch))
        return _retry_or_discard(batch, settings, function_error=True)
    # With BisectBatchOnFunctionError too a partial response leaves only the remainder: it splits at the checkpoint.
    checkpoint = _checkpoint(batch, outcome, settings)
    if checkpoint == len(batch.records):
        return Decision(delivered=checkpoint)
    if checkpoint == 0:
        return _retry_or_discard(batch, settings, function_error=False)
    return Decision(delivered=checkpoint, again=(Batch(batch.records[checkpoint:]),))


def _checkpoint(batch: Batch, response: object, settings: MappingSettings) -> int:
    """Return how many leading records a response reports as done: all is complete success, 0 complete failure.

    A response without the key is complete success. One that names what is not in the batch is complete failure: nothing
    in it can be trusted.
    """
    everything = len(batch.records)
    if not settings.report_batch_item_failures:
        return everything
    failures = response.get("batchItemFailures") if isinstance(response, dict) else None
    if not failures:
        return everything
    # Within a shard the records' order is that of their sequence numbers, so the lowest number is the first place.
    places = {record["kinesis"]["sequenceNumber"]: place for place, record in enumerate(batch.records)}
    identifiers = [_identifier(failure) for failure in failures] if isinstance(failures, list) else [None]
    return min(0 if identifier is None else places.get(identifier, 0) for identifier in identifiers)


def _identifier(failure: object) -> str | None:
    identifier = failure.get("itemIdentifier") if isinstance(failure, dict) else None
    return identifier if isinstance(identifier, str) else None


def _retry_or_discard(batch: Batch, settings: MappingSettings, *, function_error: bool) -> Decision:
    invoked = replace(batch, invocations=batch.invocations + 1)
    # The first invocation is no retry.
    if -1 < settings.maximum_retry_attempts < invoked.invocations:
        return Decision(discarded=Discard(invoked, "RetryAttemptsExhausted", function_error))
    return Decision(again=(invoked,))


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch.records) // 2
    return Batch(batch.records[:middle]), Batch(batch.records[middle:])


def _is_bucket(location: str) -> bool:
    scheme, _, bucket = location.partition("s3://")
    return not scheme and bool(bucket) and "/" not in bucket
