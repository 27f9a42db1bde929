"""Reading a shard for an event source mapping: as records of an event, in lanes that are delivered concurrently."""

import base64
import logging
import threading
import time
import zlib
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as AWSConnectionError

from scripts.aws.shards import ShardReader
from scripts.localaws.rules import EventRecord

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

POLL_SECONDS = 0.2
"""How long an empty shard is left alone: a shard answers five reads a second at most (API reference, GetRecords)."""

_log = logging.getLogger(__name__)


class ShardLanes:
    """One shard, read once for all its lanes: a partition key is always in the same lane, so it keeps its order."""

    def __init__(self, reader: ShardReader, stream_arn: str, lanes: int) -> None:
        """Read nothing yet; ``lanes`` is the ParallelizationFactor."""
        self.shard_id = reader.shard_id
        self._reader = reader
        self._stream_arn = stream_arn
        self._lanes: list[list[EventRecord]] = [[] for _ in range(lanes)]
        self._lock = threading.Lock()
        self._next_read = 0.0

    def take(self, lane: int) -> list[EventRecord] | None:
        """Return what there is for a lane, which may be nothing yet; None where nothing will come any more."""
        with self._lock:
            if not self._lanes[lane] and not self._reader.at_end and time.monotonic() >= self._next_read:
                self._read()
            taken, self._lanes[lane] = self._lanes[lane], []
            return None if not taken and self._reader.at_end else taken

    def _read(self) -> None:
        records = _read_or_nothing(self._reader)
        if not records:
            self._next_read = time.monotonic() + POLL_SECONDS
        for record in records:
            lane = lane_of(record.get("PartitionKey", ""), len(self._lanes))
            self._lanes[lane].append(event_record(record, self.shard_id, self._stream_arn))


def _read_or_nothing(reader: ShardReader) -> "list[RecordTypeDef]":
    """Return the shard's next records; none where the read failed in a way that the next one may not."""
    try:
        return reader.read()
    except (AWSConnectionError, HTTPClientError) as error:
        _log.warning("Could not read %s, and will again: %s", reader.shard_id, error)
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        if status < 500 and "Throttling" not in code:
            raise
        _log.warning("Could not read %s, and will again: %s", reader.shard_id, error)
    return []


def lane_of(partition_key: str, lanes: int) -> int:
    """Return which of a shard's lanes has the records of this partition key."""
    return zlib.crc32(partition_key.encode()) % lanes


def event_record(record: "RecordTypeDef", shard_id: str, stream_arn: str) -> EventRecord:
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
