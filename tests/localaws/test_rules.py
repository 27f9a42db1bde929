"""When a batch of the event source mapping closes, and what follows an invocation: the rules as plain values."""

from typing import Any

import msgspec
import pytest

from scripts.localaws.rules import (
    MAX_EVENT_BYTES,
    Batch,
    Decision,
    Discard,
    EventRecord,
    MappingSettings,
    Throttled,
    closing_size,
    decide,
    event_of,
    split_expired,
)

REPORTING = MappingSettings(report_batch_item_failures=True)


def record(number: int, *, data: str = "", arrival: float = 0.0) -> EventRecord:
    """Build as much of an event's record as the rules look at."""
    return {
        "kinesis": {"sequenceNumber": str(number), "data": data, "approximateArrivalTimestamp": arrival},
    }


def batch(*numbers: int, invocations: int = 0, throttles: int = 0) -> Batch:
    """Build a batch of records with these sequence numbers."""
    return Batch(tuple(record(number) for number in numbers), invocations, throttles)


def reported(*identifiers: object) -> dict[str, Any]:
    """Build a partial batch response."""
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


# Settings


def test_settings_default_to_those_of_create_event_source_mapping() -> None:
    """Whatever is not set is what Lambda takes when it is not given."""
    assert MappingSettings() == MappingSettings(
        batch_size=100,
        batching_window=0,
        parallelization_factor=1,
        bisect_on_error=False,
        maximum_retry_attempts=-1,
        maximum_record_age=-1,
        report_batch_item_failures=False,
        on_failure=None,
        starting_position="TRIM_HORIZON",
    )


@pytest.mark.parametrize(
    ("field", "name", "lowest", "highest"),
    [
        ("batch_size", "BatchSize", 1, 10_000),
        ("batching_window", "MaximumBatchingWindowInSeconds", 0, 300),
        ("parallelization_factor", "ParallelizationFactor", 1, 10),
        ("maximum_retry_attempts", "MaximumRetryAttempts", -1, 10_000),
        ("maximum_record_age", "MaximumRecordAgeInSeconds", -1, 604_800),
    ],
)
def test_settings_keep_to_the_bounds_that_lambda_sets(field: str, name: str, lowest: int, highest: int) -> None:
    """Both bounds are allowed, what lies beyond is refused by Lambda's own name for it."""

    def with_value(value: Any) -> MappingSettings:
        return MappingSettings(**{field: value})

    for allowed in (lowest, highest):
        assert getattr(with_value(allowed), field) == allowed
    for refused in (lowest - 1, highest + 1):
        with pytest.raises(ValueError, match=rf"{field} \({name}\) must be {lowest} to {highest}, not {refused}"):
            with_value(refused)


@pytest.mark.parametrize("age", [0, 59])
def test_a_maximum_record_age_under_a_minute_is_refused(age: int) -> None:
    """Lambda takes no record age between its -1 and a minute."""
    with pytest.raises(ValueError, match=f"at least 60 seconds, not {age}"):
        MappingSettings(maximum_record_age=age)


@pytest.mark.parametrize("location", ["", "failures", "s3://", "s3://failures/prefix", "arn:aws:sqs:us-east-1:1:queue"])
def test_a_destination_that_is_no_bucket_is_refused(location: str) -> None:
    """Only a bucket is played, and Lambda puts no prefix before its keys."""
    with pytest.raises(ValueError, match="on_failure"):
        MappingSettings(on_failure=location)


def test_a_starting_position_that_is_not_played_is_refused() -> None:
    """AT_TIMESTAMP is named as what it is rather than taken for another one."""
    with pytest.raises(ValueError, match="TRIM_HORIZON or LATEST, not AT_TIMESTAMP"):
        MappingSettings(starting_position="AT_TIMESTAMP")  # type: ignore[arg-type]


# Closing a batch


def test_a_full_batch_closes_before_its_window_ends() -> None:
    """BatchSize closes a batch at once and leaves the records beyond it waiting."""
    settings = MappingSettings(batch_size=2, batching_window=300)
    assert closing_size([record(1)], 0, settings) == 0
    assert closing_size([record(1), record(2)], 0, settings) == 2
    assert closing_size([record(1), record(2), record(3)], 0, settings) == 2


def test_a_batch_closes_at_the_end_of_its_window() -> None:
    """A batch that is not full stays open until its window has passed."""
    settings = MappingSettings(batching_window=10)
    assert closing_size([record(1)], 9.9, settings) == 0
    assert closing_size([record(1)], 10, settings) == 1


def test_without_a_window_a_batch_closes_with_what_is_there() -> None:
    """A window of 0 seconds waits for nothing."""
    assert closing_size([record(1), record(2)], 0, MappingSettings()) == 2


def test_no_batch_closes_without_records() -> None:
    """A function is never invoked with an empty event."""
    assert closing_size([], 1000, MappingSettings()) == 0


@pytest.mark.parametrize(("excess", "expected"), [(0, 3), (1, 2)])
def test_a_batch_closes_before_its_event_exceeds_six_megabytes(excess: int, expected: int) -> None:
    """An event may have 6 MB to the byte; a batch that no further record fits in closes, full or not."""
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
    [
        {"batchItemFailures": []},
        {"batchItemFailures": None},
        {},
        None,
        "",
        [],
        {"failures": [{"itemIdentifier": "1"}]},
        "done",
    ],
    ids=["empty list", "null list", "empty", "null", "empty string", "a list", "lacks the key", "a string"],
)
def test_a_response_without_failures_is_complete_success(response: object) -> None:
    """Whatever reports no failure moves the checkpoint behind the batch: a response that lacks the key fails open."""
    assert decide(batch(1, 2, 3), response, REPORTING) == Decision(delivered=3)


@pytest.mark.parametrize(
    "response",
    [
        reported(""),
        reported(None),
        reported(2),
        reported("4"),
        reported("3", "4"),
        {"batchItemFailures": [{"sequenceNumber": "2"}]},
        {"batchItemFailures": [{"foo": None}]},
        reported(["2"]),
        {"batchItemFailures": ["2"]},
        {"batchItemFailures": 2},
        {"batchItemFailures": {"itemIdentifier": "2"}},
    ],
    ids=[
        "empty identifier",
        "null identifier",
        "a number",
        "not in the batch",
        "one of them not in the batch",
        "wrong inner key",
        "wrong inner key, null",
        "a list",
        "no object",
        "a number of failures",
        "no list",
    ],
)
def test_a_response_that_names_no_record_of_the_batch_is_complete_failure(response: object) -> None:
    """Nothing in such a response is trusted: the whole batch is delivered again."""
    assert decide(batch(1, 2, 3), response, REPORTING) == Decision(again=(batch(1, 2, 3, invocations=1),))


def test_the_lowest_reported_number_becomes_the_checkpoint() -> None:
    """Everything from the lowest failure on is delivered again, what had succeeded behind it included."""
    response = reported("10", "9")
    assert decide(batch(8, 9, 10, 11), response, REPORTING) == Decision(delivered=1, again=(batch(9, 10, 11),))


def test_sequence_numbers_are_compared_by_their_value() -> None:
    """Numbers of real length and of different lengths keep the shard's order, which is not that of the strings."""
    numbers = (9 * 10**55, 10**56, 2 * 10**56, 10**128)
    decision = decide(batch(*numbers), reported(str(numbers[2]), str(numbers[1])), REPORTING)
    assert decision == Decision(delivered=1, again=(batch(*numbers[1:]),))


def test_a_report_is_ignored_unless_it_was_asked_for() -> None:
    """Without ReportBatchItemFailures every response is success."""
    assert decide(batch(1, 2, 3), reported("1"), MappingSettings()) == Decision(delivered=3)


# Retries


def test_a_function_error_delivers_the_whole_batch_again() -> None:
    """An exception is complete failure, with or without ReportBatchItemFailures."""
    for settings in (REPORTING, MappingSettings()):
        assert decide(batch(1, 2), RuntimeError(), settings) == Decision(again=(batch(1, 2, invocations=1),))


@pytest.mark.parametrize("outcome", [RuntimeError(), reported("1"), reported("")], ids=["error", "first", "invalid"])
def test_retries_have_no_end_by_default(outcome: object) -> None:
    """A batch that makes no progress blocks its shard for ever where MaximumRetryAttempts is -1."""
    decision = decide(batch(1, 2, invocations=10_000), outcome, REPORTING)
    assert decision == Decision(again=(batch(1, 2, invocations=10_001),))


@pytest.mark.parametrize(
    ("outcome", "function_error"),
    [(RuntimeError(), True), (reported("1"), False), (reported(""), False)],
    ids=["error", "first", "invalid"],
)
def test_a_batch_without_retries_left_is_discarded(outcome: object, function_error: bool) -> None:
    """MaximumRetryAttempts counts retries, not invocations, and a report that makes no progress uses one up too."""
    settings = MappingSettings(report_batch_item_failures=True, maximum_retry_attempts=2)
    assert decide(batch(1, 2, invocations=1), outcome, settings) == Decision(again=(batch(1, 2, invocations=2),))
    assert decide(batch(1, 2, invocations=2), outcome, settings) == Decision(
        discarded=Discard(batch(1, 2, invocations=3), "RetryAttemptsExhausted", function_error)
    )


def test_no_retries_at_all_discard_a_batch_after_its_first_failure() -> None:
    """MaximumRetryAttempts 0 is a quota like any other."""
    decision = decide(batch(1), RuntimeError(), MappingSettings(maximum_retry_attempts=0))
    assert decision == Decision(discarded=Discard(batch(1, invocations=1), "RetryAttemptsExhausted", True))


def test_a_checkpoint_gives_the_remainder_a_retry_quota_of_its_own() -> None:
    """As AWS was recorded: a record is delivered once in its batch, and 1 + MaximumRetryAttempts times after it."""
    settings = MappingSettings(report_batch_item_failures=True, maximum_retry_attempts=3)
    current, deliveries, discarded = batch(4, 5, 6), 0, None
    while not discarded:
        decision = decide(current, reported("6"), settings)
        deliveries += 1
        discarded = decision.discarded
        current = decision.again[0] if decision.again else current
    assert deliveries == 5
    assert discarded == Discard(batch(6, invocations=4), "RetryAttemptsExhausted", False)


def test_a_throttled_invocation_uses_up_no_retry() -> None:
    """The function was not invoked: the batch is due again whatever MaximumRetryAttempts and bisecting say."""
    settings = MappingSettings(maximum_retry_attempts=0, bisect_on_error=True)
    decision = decide(batch(1, 2, throttles=99), Throttled(), settings)
    assert decision == Decision(again=(batch(1, 2, throttles=100),))


def test_both_failures_and_throttles_count_as_attempts() -> None:
    """What a batch is backed off by is how often it was tried, for whatever reason in vain."""
    assert batch(1, invocations=2, throttles=3).attempts == 5


# Bisecting


def test_a_function_error_splits_the_batch_in_half() -> None:
    """Both halves are delivered again, the first one first, and neither has used up a retry."""
    settings = MappingSettings(bisect_on_error=True, maximum_retry_attempts=0)
    decision = decide(batch(1, 2, 3, 4, 5), RuntimeError(), settings)
    assert decision == Decision(again=(batch(1, 2), batch(3, 4, 5)))


def test_a_single_record_is_not_split_but_retried() -> None:
    """Where there is nothing left to split the retry quota decides."""
    settings = MappingSettings(bisect_on_error=True, maximum_retry_attempts=1)
    assert decide(batch(1), RuntimeError(), settings) == Decision(again=(batch(1, invocations=1),))
    assert decide(batch(1, invocations=1), RuntimeError(), settings) == Decision(
        discarded=Discard(batch(1, invocations=2), "RetryAttemptsExhausted", True)
    )


def test_a_partial_response_splits_at_the_reported_number() -> None:
    """With bisecting too, only the remainder is delivered again, in one piece."""
    settings = MappingSettings(bisect_on_error=True, report_batch_item_failures=True)
    decision = decide(batch(1, 2, 3, 4), reported("2"), settings)
    assert decision == Decision(delivered=1, again=(batch(2, 3, 4),))


# Age


def aged(*arrivals: float) -> Batch:
    """Build a batch of records that arrived at these times, numbered from 1, already invoked once."""
    numbered = enumerate(arrivals, start=1)
    return Batch(tuple(record(number, arrival=arrival) for number, arrival in numbered), invocations=1)


def test_records_have_no_age_limit_by_default() -> None:
    """MaximumRecordAgeInSeconds -1 discards nothing."""
    assert split_expired(aged(0.0), 10**9, MappingSettings()) == (None, aged(0.0))


def test_records_within_the_maximum_age_are_left_alone() -> None:
    """A record of just the maximum age has not exceeded it."""
    assert split_expired(aged(40.0, 50.0), 100.0, MappingSettings(maximum_record_age=60)) == (None, aged(40.0, 50.0))


def test_only_the_records_beyond_the_maximum_age_are_discarded() -> None:
    """The batch goes on without its old records, and its retries used up so far stay so."""
    settings = MappingSettings(maximum_record_age=60)
    expired, rest = split_expired(aged(38.0, 39.9, 40.0), 100.0, settings)
    assert expired == Discard(aged(38.0, 39.9), "RecordAgeExceeded")
    assert rest == Batch((record(3, arrival=40.0),), invocations=1)


def test_a_batch_of_old_records_leaves_nothing_to_deliver() -> None:
    """Where all records are too old the function is not invoked."""
    settings = MappingSettings(maximum_record_age=60)
    assert split_expired(aged(1.0, 2.0), 100.0, settings) == (Discard(aged(1.0, 2.0), "RecordAgeExceeded"), None)
