"""Reading a Kinesis stream shard by shard, with shard iterators."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

GET_RECORDS_LIMIT = 10_000
"""The most that one GetRecords answers with (API reference, GetRecords)."""


def shard_ids(client: "KinesisClient", stream: str) -> list[str]:
    """Return the ids of all the stream's shards, closed ones included, in order."""
    pages = client.get_paginator("list_shards").paginate(StreamName=stream)
    return sorted(shard["ShardId"] for page in pages for shard in page["Shards"])


class ShardReader:
    """A place in one shard, from which each ``read`` takes the records that follow."""

    def __init__(
        self,
        client: "KinesisClient",
        stream: str,
        shard_id: str,
        start: Literal["TRIM_HORIZON", "LATEST"] = "TRIM_HORIZON",
    ) -> None:
        """Stand at the shard's oldest record, or behind its newest."""
        self.shard_id = shard_id
        self._client = client
        self._stream = stream
        # Behind the newest as it is now: the newest of later would leave out what came between.
        now: dict[str, Any] = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": datetime.now(UTC)}
        self._place = now if start == "LATEST" else {"ShardIteratorType": start}
        self._iterator: str | None = self._iterator_at({"ShardIteratorType": start})

    @property
    def at_end(self) -> bool:
        """Whether the shard is closed and read to its end."""
        return self._iterator is None

    def read(self, limit: int = GET_RECORDS_LIMIT) -> "list[RecordTypeDef]":
        """Return the next records, at most ``limit``; none where there are none yet or reads are throttled.

        An iterator lives five minutes: an expired one is replaced by one for the same place.
        """
        if self._iterator is None:
            return []
        try:
            answer = self._client.get_records(ShardIterator=self._iterator, Limit=limit)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ExpiredIteratorException":
                self._iterator = self._iterator_at(self._place)
            elif code != "ProvisionedThroughputExceededException":
                raise
            return []
        self._iterator = answer.get("NextShardIterator")
        records = answer["Records"]
        if records:
            last = records[-1]["SequenceNumber"]
            self._place = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": last}
        return records

    def _iterator_at(self, place: dict[str, Any]) -> str:
        return self._client.get_shard_iterator(StreamName=self._stream, ShardId=self.shard_id, **place)["ShardIterator"]


def follow(
    client: "KinesisClient",
    stream: str,
    start: Literal["TRIM_HORIZON", "LATEST"] = "TRIM_HORIZON",
    pause: float = 0.2,
) -> Iterator["list[tuple[str, RecordTypeDef]]"]:
    """Yield, round after round and without end, what all the stream's shards hold anew: pairs of shard id and record.

    An empty list is yielded where there is nothing new, so that the caller can decide to stop. ``pause`` is in
    seconds: a shard answers five reads a second at most (API reference, GetRecords). Shards that a split or merge makes
    are followed as soon as one that it closed is read to its end.
    """
    readers = [ShardReader(client, stream, shard_id, start) for shard_id in shard_ids(client, stream)]
    known = {reader.shard_id for reader in readers}
    while True:
        found = [(reader.shard_id, record) for reader in readers for record in reader.read()]
        yield found
        if any(reader.at_end for reader in readers):
            # All that a new shard holds came after we began: LATEST would miss it.
            new = [shard_id for shard_id in shard_ids(client, stream) if shard_id not in known]
            known.update(new)
            readers = [reader for reader in readers if not reader.at_end]
            readers += [ShardReader(client, stream, shard_id) for shard_id in new]
        if not found:
            time.sleep(pause)
