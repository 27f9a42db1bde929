"""Records and events as Lambda hands them to a function."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scripts.cli import INPUT_STREAM
from scripts.sources.records import RideRecord

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

SHARD = "shardId-000000000000"
INPUT_ARN = f"arn:aws:kinesis:us-east-1:000000000000:stream/{INPUT_STREAM}"


def event_record(record: "RecordTypeDef", shard_id: str = SHARD, stream_arn: str = INPUT_ARN) -> dict[str, Any]:
    """Return a record of GetRecords as Lambda hands it to a function; a missing partition key stays missing."""
    _, partition, _, region, account, _ = stream_arn.split(":", 5)
    key = {"partitionKey": record["PartitionKey"]} if "PartitionKey" in record else {}
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            **key,
            "sequenceNumber": record["SequenceNumber"],
            "data": base64.b64encode(record["Data"]).decode(),
            "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard_id}:{record['SequenceNumber']}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:{partition}:iam::{account}:role/lambda-role",
        "awsRegion": region,
        "eventSourceARN": stream_arn,
    }


def kinesis_event(records: Iterable[RideRecord], first_number: int = 1) -> dict[str, Any]:
    """Return the event of records that arrive now; their sequence numbers count up from ``first_number``."""
    now = datetime.now(UTC)
    content = [(record.partition_key, record.data) for record in records]
    found: list[RecordTypeDef] = [
        {"SequenceNumber": str(number), "PartitionKey": key, "Data": data, "ApproximateArrivalTimestamp": now}
        for number, (key, data) in enumerate(content, first_number)
    ]
    return {"Records": [event_record(record) for record in found]}
