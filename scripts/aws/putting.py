"""Putting records on a stream until Kinesis has accepted each of them."""

from collections.abc import Iterator, Sequence

from scripts.cli import CommandError
from scripts.sources.records import RideRecord
from streaming.delivery import Deadline, Entry, OutputStream, split_into_requests


def put(stream: OutputStream, records: Sequence[RideRecord]) -> Iterator[list[Entry]]:
    """Put the records in order, and yield the entries of each request when Kinesis has accepted all of them.

    Raises CommandError with the reasons if Kinesis accepts no more entries, after the retries of ``OutputStream``, and
    DeliveryError if Kinesis refuses the request, and would refuse a retry too.
    """
    entries = [Entry(str(place), record.partition_key, record.data) for place, record in enumerate(records)]
    accepted = 0
    for chunk in split_into_requests(entries):
        pending = chunk
        while pending:
            delivery = stream.put(pending, Deadline())
            if len(delivery.undelivered) == len(pending):
                accepted += len(chunk) - len(pending)
                reasons = ", ".join(delivery.errors)
                raise CommandError(f"Kinesis accepts no more rides ({reasons}): {accepted} of {len(entries)} are put")
            pending = delivery.undelivered
        accepted += len(chunk)
        yield chunk
