"""Putting records on a stream until Kinesis has accepted each of them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from scripts.cli import CommandError
from scripts.sources.records import RideRecord
from streaming.delivery import Deadline, Entry, OutputStream, split_into_requests


class _UntilInterrupted(Deadline):
    """A deadline that is over when the command is interrupted, so that no other request is started."""

    is_interrupted = False

    def left(self) -> float:
        return 0.0 if self.is_interrupted else super().left()


def put(stream: OutputStream, records: Sequence[RideRecord]) -> Iterator[list[Entry]]:
    """Put the records in order, and yield entries that Kinesis has accepted; their numbers are the records' indices.

    If Ctrl-C comes during a request, its response is awaited and its entries are yielded before KeyboardInterrupt is
    raised. Otherwise nobody would know whether these records are on the stream.

    Raises CommandError with the reasons if Kinesis accepts no more entries, after the retries of ``OutputStream``, and
    DeliveryError if Kinesis refuses the request, and would refuse a retry too.
    """
    entries = [Entry(str(place), record.partition_key, record.data) for place, record in enumerate(records)]
    deadline, done = _UntilInterrupted(), 0
    # Requests run in another thread, because Ctrl-C cannot stop that thread between a request and its response.
    with ThreadPoolExecutor(1, thread_name_prefix="putting") as thread:
        for pending in split_into_requests(entries):
            while pending:
                putting = thread.submit(stream.put, pending, deadline)
                try:
                    delivery = putting.result()
                except KeyboardInterrupt:
                    deadline.is_interrupted = True
                    delivery = putting.result()
                undelivered = {entry.sequence_number for entry in delivery.undelivered}
                accepted = [entry for entry in pending if entry.sequence_number not in undelivered]
                done += len(accepted)
                yield accepted
                if deadline.is_interrupted:
                    raise KeyboardInterrupt
                if not accepted:
                    reasons = ", ".join(delivery.errors)
                    raise CommandError(f"Kinesis accepts no more rides ({reasons}): {done} of {len(entries)} are put")
                pending = delivery.undelivered
