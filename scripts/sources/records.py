"""Rides as the records that are put on a stream: one record for each ride, or many packed into one record."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from aws_kinesis_agg.aggregator import AggRecord, RecordAggregator

from rides import RideEvent
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.envelope import partition_key

MAX_PACKED = 100
"""Rides in one aggregated record."""
MAX_KEY_BYTES = 1024
"""The size of the longest partition key: 256 characters of up to four bytes."""


@dataclass(frozen=True, slots=True)
class RideRecord:
    """The data of a record, which need not be a valid ride, and its partition key: the ride_id, if it has one."""

    partition_key: str
    data: bytes
    event: RideEvent | None = None
    """The ride in the data. It is None for a bad ride, for an aggregated record, and if nobody has decoded the data."""
    true_value: float | None = None
    """What the model should predict, such as the ride's duration in minutes. It is None if nobody knows it."""
    rides: int = 1
    """The number of rides in the data: more than one in an aggregated record."""


def encode_ride(event: RideEvent, true_value: float | None = None) -> RideRecord:
    """Return the record of a ride, with the true value that the model should predict if it is known."""
    return RideRecord(partition_key(event.ride_id), msgspec.json.encode(event), event, true_value)


def aggregate(records: Sequence[RideRecord], most: int = MAX_PACKED) -> list[RideRecord]:
    """Pack records, in order, into aggregated records of at most ``most`` each, as the Kinesis Producer Library does.

    An aggregated record has the partition key of its first record, so all its records go to that key's shard. A record
    that is too large to be packed is returned as it is.
    """
    packed: list[RideRecord] = []
    aggregator = RecordAggregator(MAX_ENTRY_BYTES - MAX_KEY_BYTES)

    def append(finished: AggRecord | None) -> None:
        if finished:
            partition_key, _, data = finished.get_contents()
            packed.append(RideRecord(partition_key, data, rides=finished.get_num_user_records()))

    for record in records:
        if aggregator.get_num_user_records() == most:
            append(aggregator.clear_and_get())
        try:
            append(aggregator.add_user_record(record.partition_key, record.data))
        except ValueError:  # the record alone exceeds the size of an aggregated record
            append(aggregator.clear_and_get())
            packed.append(record)
    append(aggregator.clear_and_get())
    return packed
