"""The rules of the event source mapping as plain values: when a batch closes, and what follows an invocation."""

import json
import re
from dataclasses import astuple, replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pytest

from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.localaws.mapping import failure_object
from scripts.localaws.rules import (
    MAX_EVENT_BYTES,
    Batch,
    Decision,
    Discard,
    EventRecord,
    MappingSettings,
    closing_size,
    decide,
    event_of,
    split_expired,
)
from tests.builders import SHARD

REPORTING = MappingSettings(report_batch_item_failures=True)
EXHAUSTED: Final = "RetryAttemptsExhausted"


def record(number: int, *, data: str = "", arrival: float = 0.0) -> EventRecord:
    """Build the parts of an event's record that the rules read."""
    return {"kinesis": {"sequenceNumber": str(number), "data": data, "approximateArrivalTimestamp": arrival}}


def batch(*numbers: int, attempts: int = 0) -> Batch:
    """Build a batch of records with these sequence numbers."""
    return Batch(tuple(record(number) for number in numbers), attempts)


def reported(*identifiers: object) -> dict[str, Any]:
    """Build a partial batch response."""
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


def test_settings_default_to_the_defaults_of_create_event_source_mapping() -> None:
    """A parameter that is not set has the value that Lambda gives it, in the order of the fields."""
    assert astuple(MappingSettings()) == (100, 0, False, -1, -1, False, None)


# Closing a batch


@pytest.mark.parametrize(
    ("settings", "waiting", "open_for", "size"),
    [
        pytest.param(MappingSettings(batch_size=2, batching_window=300), 1, 299.9, 0, id="window still open"),
        pytest.param(MappingSettings(batch_size=2, batching_window=300), 1, 300, 1, id="window over"),
        pytest.param(MappingSettings(batch_size=2, batching_window=300), 2, 0, 2, id="full"),
        pytest.param(MappingSettings(batch_size=2, batching_window=300), 3, 0, 2, id="one too many"),
        pytest.param(MappingSettings(), 2, 0, 2, id="no window"),
        pytest.param(MappingSettings(), 0, 1000, 0, id="no record"),
    ],
)
def test_a_batch_closes_when_it_is_full_or_its_window_ends(
    settings: MappingSettings, waiting: int, open_for: float, size: int
) -> None:
    """Records beyond BatchSize wait. A window of 0 seconds waits for nothing. A function never gets an empty event."""
    assert closing_size([record(number) for number in range(waiting)], open_for, settings) == size


@pytest.mark.parametrize(("excess", "expected"), [(0, 3), (1, 2)])
def test_a_batch_closes_before_its_event_exceeds_six_megabytes(excess: int, expected: int) -> None:
    """An event may have exactly 6 MB. A batch closes if the next record does not fit in, full or not."""
    padding = MAX_EVENT_BYTES - len(msgspec.json.encode(event_of([record(1), record(2), record(3)])))
    waiting = [record(1), record(2), record(3, data="x" * (padding + excess))]
    assert len(msgspec.json.encode(event_of(waiting))) == MAX_EVENT_BYTES + excess
    assert closing_size(waiting, 10, MappingSettings(batching_window=10)) == expected
    assert closing_size([*waiting, record(4)], 0, MappingSettings(batching_window=10)) == expected


def test_a_record_beyond_six_megabytes_goes_alone() -> None:
    """A record that is too large for any event does not block its shard."""
    waiting = [record(1, data="x" * MAX_EVENT_BYTES), record(2)]
    assert closing_size(waiting, 0, MappingSettings()) == 1


# Responses


@pytest.mark.parametrize(
    "response",
    [{"batchItemFailures": []}, {"batchItemFailures": None}, {}, None, [], {"failures": [{}]}, "done"],
    ids=str,
)
def test_a_response_without_failures_is_a_complete_success(response: object) -> None:
    """A response that reports no failure moves the checkpoint behind the batch, even if it lacks the key."""
    assert decide(batch(1, 2, 3), response, REPORTING) == Decision(delivered=3)


@pytest.mark.parametrize(
    "response",
    [
        reported(""),
        reported(None),
        reported(2),
        reported("3", "4"),
        reported(["2"]),
        *({"batchItemFailures": other} for other in ([{"sequenceNumber": "2"}], ["2"], 2, {"itemIdentifier": "2"})),
    ],
    ids=str,
)
def test_a_response_that_names_a_record_outside_the_batch_is_a_complete_failure(response: object) -> None:
    """Nothing in such a response is trusted: the whole batch is delivered again."""
    assert decide(batch(1, 2, 3), response, REPORTING) == Decision(again=(batch(1, 2, 3, attempts=1),))


@pytest.mark.parametrize("bisect", [False, True])
def test_the_lowest_reported_number_becomes_the_checkpoint(bisect: bool) -> None:
    """All records behind it come again, in one piece; numbers have the shard's order, not the order of strings."""
    numbers = (9 * 10**55, 10**56, 2 * 10**56, 10**128)
    settings = replace(REPORTING, bisect_on_error=bisect)
    decision = decide(batch(*numbers), reported(str(numbers[2]), str(numbers[1])), settings)
    assert decision == Decision(delivered=1, again=(batch(*numbers[1:]),))


def test_a_report_is_ignored_unless_the_mapping_asks_for_it() -> None:
    """Without ReportBatchItemFailures every response is a success."""
    assert decide(batch(1, 2, 3), reported("1"), MappingSettings()) == Decision(delivered=3)


# Retries


@pytest.mark.parametrize("outcome", [RuntimeError(), reported("1"), reported("")], ids=["error", "first", "invalid"])
def test_a_batch_without_progress_is_retried_until_no_retry_is_left(outcome: Exception | dict[str, Any]) -> None:
    """MaximumRetryAttempts counts retries, not invocations. Its default, -1, blocks the shard for ever."""
    settings = MappingSettings(report_batch_item_failures=True, maximum_retry_attempts=2)
    assert decide(batch(1, 2, attempts=1), outcome, settings) == Decision(again=(batch(1, 2, attempts=2),))
    discard = Discard(batch(1, 2, attempts=3), EXHAUSTED, function_error=isinstance(outcome, Exception))
    assert decide(batch(1, 2, attempts=2), outcome, settings) == Decision(discarded=discard)
    assert decide(batch(1, attempts=10_000), outcome, REPORTING) == Decision(again=(batch(1, attempts=10_001),))


def test_a_function_error_does_not_need_a_report() -> None:
    """An exception is a complete failure without ReportBatchItemFailures too; there may be no retry at all."""
    assert decide(batch(1, 2), RuntimeError(), MappingSettings()) == Decision(again=(batch(1, 2, attempts=1),))
    assert decide(batch(1), RuntimeError(), MappingSettings(maximum_retry_attempts=0)).discarded


def test_a_checkpoint_gives_the_remainder_a_retry_quota_of_its_own() -> None:
    """As recorded on AWS: a record is delivered once in its batch, and 1 + MaximumRetryAttempts times after it."""
    settings = MappingSettings(report_batch_item_failures=True, maximum_retry_attempts=3)
    current, deliveries, discarded = batch(4, 5, 6), 0, None
    while not discarded:
        decision = decide(current, reported("6"), settings)
        deliveries += 1
        discarded = decision.discarded
        current = decision.again[0] if decision.again else current
    assert deliveries == 5
    assert discarded == Discard(batch(6, attempts=4), EXHAUSTED, function_error=False)


# Bisecting


def test_a_function_error_splits_the_batch_in_half() -> None:
    """Both halves come again, the first half first, and have used up no retry. A single record uses them up."""
    settings = MappingSettings(bisect_on_error=True, maximum_retry_attempts=0)
    decision = decide(batch(1, 2, 3, 4, 5), RuntimeError(), settings)
    assert decision == Decision(again=(batch(1, 2), batch(3, 4, 5)))
    discard = Discard(batch(1, attempts=1), EXHAUSTED, function_error=True)
    assert decide(batch(1), RuntimeError(), settings) == Decision(discarded=discard)


# Age


@pytest.mark.parametrize(
    ("arrivals", "expired"),
    [((40.0, 50.0), 0), ((38.0, 39.9, 40.0), 2), ((1.0, 2.0), 2)],
    ids=["just old enough", "some too old", "all too old"],
)
def test_only_records_beyond_the_maximum_age_are_discarded(arrivals: tuple[float, ...], expired: int) -> None:
    """The batch goes on without its old records and keeps its attempts; without an age limit nothing is discarded."""
    numbered = enumerate(arrivals, start=1)
    aged = Batch(tuple(record(number, arrival=arrival) for number, arrival in numbered), attempts=1)
    old, young = aged.records[:expired], aged.records[expired:]
    assert split_expired(aged, 100.0, MappingSettings(maximum_record_age=60)) == (
        Discard(Batch(old, attempts=1), "RecordAgeExceeded") if old else None,
        Batch(young, attempts=1) if young else None,
    )
    assert split_expired(aged, 10**9, MappingSettings()) == (None, aged)


# Giving up


def test_an_on_failure_object_has_the_position_and_the_whole_event() -> None:
    """Whoever reads the object can find the records in the stream, or replay them without it."""
    stream, at = "arn:aws:kinesis:us-east-1:1:stream/a", datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
    records = (record(49590338271490256608559692538361571095, arrival=1_770_000_000.5), record(50, arrival=1.0))
    discard = Discard(Batch(records, attempts=3), EXHAUSTED, function_error=True)
    key, found = failure_object(discard, "mapping-uuid", SHARD, stream, at)
    pattern = rf"{ON_FAILURE_PREFIX}mapping-uuid/{SHARD}/2026/02/03/2026-02-03T04\.05\.06-[0-9a-f-]{{36}}"
    assert re.fullmatch(pattern, key)
    assert json.loads(found.pop("payload")) == {"Records": list(records)}
    assert re.fullmatch(r"[0-9a-f-]{36}", found["requestContext"].pop("requestId"))
    assert found == {
        "requestContext": {
            "functionArn": "arn:aws:lambda:us-east-1:1:function:lambda_handler",
            "condition": EXHAUSTED,
            "approximateInvokeCount": 3,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": "2026-02-03T04:05:06.789Z",
        "KinesisBatchInfo": {
            "shardId": SHARD,
            "startSequenceNumber": "49590338271490256608559692538361571095",
            "endSequenceNumber": "50",
            "approximateArrivalOfFirstRecord": "2026-02-02T02:40:00.500Z",
            "approximateArrivalOfLastRecord": "1970-01-01T00:00:01.000Z",
            "batchSize": 2,
            "streamArn": stream,
        },
    }
    _, by_report = failure_object(Discard(Batch(records), EXHAUSTED), "mapping-uuid", SHARD, stream, at)
    assert by_report["responseContext"]["functionError"] is None
    # Recorded on AWS: an invoke count of 1 although no function saw the records.
    _, expired = failure_object(Discard(Batch(records), "RecordAgeExceeded"), "mapping-uuid", SHARD, stream, at)
    assert "responseContext" not in expired
    assert expired["requestContext"]["approximateInvokeCount"] == 1
