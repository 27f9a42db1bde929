"""What the event source mapping leaves in its on-failure bucket: the object's key and content."""

import json
import re
from datetime import UTC, datetime

from scripts.localaws.failure_record import failure_key, failure_record

from scripts.localaws.rules import Batch, Discard, EventRecord

AT = datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/ride_events"
FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:lambda_handler"
SHARD = "shardId-000000000002"


def record(number: str, arrival: float) -> EventRecord:
    """Build as much of an event's record as the object is made from."""
    return {"kinesis": {"sequenceNumber": number, "approximateArrivalTimestamp": arrival, "data": 'eyJhIjogIsOpIn0="'}}


def test_the_key_names_mapping_shard_and_time() -> None:
    """A bucket of failures can be read by mapping, shard and day."""
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    expected = rf"aws/lambda/mapping-uuid/{SHARD}/2026/02/03/2026-02-03T04\.05\.06-{uuid}"
    assert re.fullmatch(expected, failure_key("mapping-uuid", SHARD, AT))


def test_two_batches_of_the_same_second_have_two_keys() -> None:
    """No object overwrites another."""
    assert failure_key("mapping-uuid", SHARD, AT) != failure_key("mapping-uuid", SHARD, AT)


def test_the_object_has_the_position_and_the_whole_event() -> None:
    """Whoever reads the object can find the records in the stream, or replay them without it."""
    records = (record("49590338271490256608559692538361571095921575989136588898", 1_770_000_000.5), record("50", 1.0))
    found = failure_record(
        Discard(Batch(records, invocations=3), "RetryAttemptsExhausted", function_error=True),
        SHARD,
        STREAM,
        FUNCTION,
        AT,
    )
    assert isinstance(found["payload"], str)
    assert json.loads(found.pop("payload")) == {"Records": list(records)}
    assert re.fullmatch(r"[0-9a-f-]{36}", found["requestContext"].pop("requestId"))
    assert found == {
        "requestContext": {
            "functionArn": FUNCTION,
            "condition": "RetryAttemptsExhausted",
            "approximateInvokeCount": 3,
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0",
        "timestamp": "2026-02-03T04:05:06.789Z",
        "KinesisBatchInfo": {
            "shardId": SHARD,
            "startSequenceNumber": "49590338271490256608559692538361571095921575989136588898",
            "endSequenceNumber": "50",
            "approximateArrivalOfFirstRecord": "2026-02-02T02:40:00.500Z",
            "approximateArrivalOfLastRecord": "1970-01-01T00:00:01.000Z",
            "batchSize": 2,
            "streamArn": STREAM,
        },
    }


def test_a_failure_that_was_reported_is_no_function_error() -> None:
    """An invocation that ended well and reported failures has a null functionError, as AWS was recorded."""
    discard = Discard(Batch((record("1", 0.0),), invocations=3), "RetryAttemptsExhausted")
    assert failure_record(discard, SHARD, STREAM, FUNCTION, AT)["responseContext"]["functionError"] is None


def test_records_that_grew_too_old_have_no_response() -> None:
    """Their object has no responseContext, and an invoke count of 1 though no function saw them (AWS was recorded)."""
    discard = Discard(Batch((record("1", 0.0),)), "RecordAgeExceeded")
    found = failure_record(discard, SHARD, STREAM, FUNCTION, AT)
    assert "responseContext" not in found
    assert found["requestContext"]["condition"] == "RecordAgeExceeded"
    assert found["requestContext"]["approximateInvokeCount"] == 1
