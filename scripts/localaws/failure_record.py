"""What an event source mapping leaves in its S3 on-failure destination for records that it gave up.

The object's key and shape are those of the AWS Lambda developer guide, "Retain discarded batch records for a Kinesis
Data Streams event source".
"""

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec

from scripts.localaws.rules import Discard, EventRecord, event_of


def failure_key(mapping: str, shard_id: str, at: datetime) -> str:
    """Return a key for one object: ``mapping`` is the mapping's UUID, ``at`` is in UTC; a random UUID ends it."""
    return f"aws/lambda/{mapping}/{shard_id}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"


def failure_record(discard: Discard, shard_id: str, stream_arn: str, function_arn: str, at: datetime) -> dict[str, Any]:
    """Return the object's JSON: where the records stand in the stream, why they were given up, and the whole event.

    The event is the string ``payload``, JSON within JSON. Only RetryAttemptsExhausted is in the guide. The other
    condition's name, that it has no ``responseContext``, and that its invoke count is 1 even for records that no
    function saw, is what LocalStack recorded of AWS.
    """
    first, last = discard.batch.records[0], discard.batch.records[-1]
    record: dict[str, Any] = {
        "requestContext": {
            "requestId": str(uuid.uuid4()),
            "functionArn": function_arn,
            "condition": discard.condition,
            "approximateInvokeCount": max(1, discard.batch.invocations),
        },
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled" if discard.function_error else None,
        },
        "version": "1.0",
        "timestamp": _timestamp(at),
        "KinesisBatchInfo": {
            "shardId": shard_id,
            "startSequenceNumber": first["kinesis"]["sequenceNumber"],
            "endSequenceNumber": last["kinesis"]["sequenceNumber"],
            "approximateArrivalOfFirstRecord": _arrival(first),
            "approximateArrivalOfLastRecord": _arrival(last),
            "batchSize": len(discard.batch.records),
            "streamArn": stream_arn,
        },
        "payload": msgspec.json.encode(event_of(discard.batch.records)).decode(),
    }
    if discard.condition == "RecordAgeExceeded":
        del record["responseContext"]
    return record


def _arrival(record: EventRecord) -> str:
    return _timestamp(datetime.fromtimestamp(record["kinesis"]["approximateArrivalTimestamp"], UTC))


def _timestamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
