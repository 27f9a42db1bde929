"""Reading a Kinesis stream shard by shard, with shard iterators."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from botocore.exceptions import ClientError

from arns import stream_parameter

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

Start: TypeAlias = Literal["TRIM_HORIZON", "LATEST"]
"""Where reading begins: at the oldest record, or after the newest."""


def shard_ids(client: "KinesisClient", stream: str) -> list[str]:
    """Return the ids of all the stream's shards, closed shards included, in order."""
    pages = client.get_paginator("list_shards").paginate(**stream_parameter(stream))
    return sorted(shard["ShardId"] for page in pages for shard in page["Shards"])


class ShardReader:
    """A position in one shard; each ``read`` returns the records that follow it."""

    is_caught_up = False
    """Whether the last read found that there is no record yet which was not read."""

    def __init__(
        self, client: "KinesisClient", stream: str, shard_id: str, start: Start | datetime = "TRIM_HORIZON"
    ) -> None:
        """Begin at the shard's oldest record, after its newest, or at the first record that arrived from a time on."""
        self.shard_id = shard_id
        self._client = client
        self._stream = stream_parameter(stream)
        self._arn = {name: value for name, value in self._stream.items() if name == "StreamARN"}
        # If the first iterator expires, a new LATEST iterator would skip the records that came in between.
        moment = start if isinstance(start, datetime) else datetime.now(UTC)
        at_time: dict[str, Any] = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": moment}
        first = at_time if isinstance(start, datetime) else {"ShardIteratorType": start}
        self._place = at_time if start == "LATEST" else first
        self._iterator: str | None = self._iterator_at(first)

    @property
    def at_end(self) -> bool:
        """Whether the shard is closed and read to its end."""
        return self._iterator is None

    def read(self) -> "list[RecordTypeDef]":
        """Return the next records, at most 10,000; none if there are none yet or if reads are throttled.

        An iterator lives for five minutes. An expired one is replaced by another for the same position.
        """
        self.is_caught_up = False
        if self._iterator is None:
            return []
        try:
            response = self._client.get_records(ShardIterator=self._iterator, **self._arn)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ExpiredIteratorException":
                self._iterator = self._iterator_at(self._place)
            elif code != "ProvisionedThroughputExceededException":
                raise
            return []
        self._iterator = response.get("NextShardIterator")
        records = response["Records"]
        # A response without records may come before the newest record, for example after a gap of hours.
        self.is_caught_up = not records and not response.get("MillisBehindLatest")
        if records:
            last = records[-1]["SequenceNumber"]
            self._place = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": last}
        return records

    def _iterator_at(self, place: dict[str, Any]) -> str:
        return self._client.get_shard_iterator(**self._stream, ShardId=self.shard_id, **place)["ShardIterator"]


def follow(
    client: "KinesisClient", stream: str, start: Start = "TRIM_HORIZON", pause: float = 0.2
) -> Iterator["list[tuple[str, RecordTypeDef]]"]:
    """Yield the new records of all the stream's shards, round after round without end: pairs of shard id and record.

    A round without new records yields an empty list, so that the caller can decide to stop, and is followed by a pause
    in seconds: a shard answers at most five reads a second (API reference, GetRecords). The shards of a split or a
    merge are read from the moment when a shard that it closed is read to its end.
    """
    readers = [ShardReader(client, stream, shard_id, start) for shard_id in shard_ids(client, stream)]
    known = {reader.shard_id for reader in readers}
    while True:
        found = [(reader.shard_id, record) for reader in readers for record in reader.read()]
        yield found
        if any(reader.at_end for reader in readers):
            # Read new shards from their oldest record: all of it came after we began, and LATEST would miss it.
            new = [shard_id for shard_id in shard_ids(client, stream) if shard_id not in known]
            known.update(new)
            readers = [reader for reader in readers if not reader.at_end]
            readers += [ShardReader(client, stream, shard_id) for shard_id in new]
        if not found:
            time.sleep(pause)


def read_window(
    client: "KinesisClient", stream: str, since: datetime | None, until: datetime, pause: float = 0.2
) -> Iterator["list[tuple[str, RecordTypeDef]]"]:
    """Yield the records that arrived from ``since`` on and before ``until``, round after round.

    If ``since`` is None, they begin with the oldest record. Give an ``until`` that is at most now: new shards are not
    read. A round may be empty, and is followed by a pause in seconds then, as in ``follow``.
    """
    readers = [ShardReader(client, stream, one, since or "TRIM_HORIZON") for one in shard_ids(client, stream)]
    while readers:
        found, unfinished = [], []
        for reader in readers:
            records = reader.read()
            within = [record for record in records if record["ApproximateArrivalTimestamp"] < until]
            found += [(reader.shard_id, record) for record in within]
            # Times of arrival need not increase from record to record, so one late record is not the end.
            if not (reader.at_end or reader.is_caught_up or (records and not within)):
                unfinished.append(reader)
        yield found
        readers = unfinished
        if readers and not found:
            time.sleep(pause)
