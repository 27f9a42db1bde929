"""Rides as the Kinesis Producer Library puts them: many in one aggregated record."""

from collections.abc import Sequence

from aws_kinesis_agg.aggregator import AggRecord, RecordAggregator

from scripts.sources.record import RideRecord
from streaming.delivery import MAX_ENTRY_BYTES

MAX_PACKED = 100
"""Rides in one aggregated record."""

MAX_KEY_BYTES = 1024
"""What the longest partition key takes: 256 characters of up to four bytes."""


def aggregated(records: Sequence[RideRecord], most: int = MAX_PACKED) -> list[RideRecord]:
    """Return the records packed, in order, into aggregated ones of at most so many, each of a size that a stream takes.

    An aggregated record has the partition key of the first in it, so the others come to that shard too. What is too
    large to be packed stays as it is.
    """
    packed: list[RideRecord] = []
    aggregator = RecordAggregator(MAX_ENTRY_BYTES - MAX_KEY_BYTES)

    def append(aggregate: AggRecord | None) -> None:
        if aggregate:
            partition_key, _, data = aggregate.get_contents()
            packed.append(RideRecord(partition_key, data))

    for record in records:
        if aggregator.get_num_user_records() == most:
            append(aggregator.clear_and_get())
        try:
            append(aggregator.add_user_record(record.partition_key, record.data))
        except ValueError:  # it is larger than an aggregated record may be
            append(aggregator.clear_and_get())
            packed.append(record)
    append(aggregator.clear_and_get())
    return packed
