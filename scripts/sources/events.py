"""Events as Lambda hands them to a function, of rides that were never on a stream."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from scripts.cli import INPUT_STREAM
from scripts.localaws.lanes import event_record
from scripts.localaws.moto import REGION
from scripts.sources.records import RideRecord

SHARD = "shardId-000000000000"
INPUT_ARN = f"arn:aws:kinesis:{REGION}:000000000000:stream/{INPUT_STREAM}"


def kinesis_event(records: Iterable[RideRecord], first_number: int = 1) -> dict[str, Any]:
    """Return the event of these records, which came in just now; their sequence numbers go up from the first."""
    now = datetime.now(UTC)
    return {
        "Records": [
            event_record(
                {
                    "SequenceNumber": str(number),
                    "PartitionKey": record.partition_key,
                    "Data": record.data,
                    "ApproximateArrivalTimestamp": now,
                },
                SHARD,
                INPUT_ARN,
            )
            for number, record in enumerate(records, first_number)
        ]
    }
