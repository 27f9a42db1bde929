"""The running local stack: moto's server with streams, buckets and a model, and rides that are put and waited for."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3

from scripts import cli
from scripts.cli import CONSOLE, CommandError
from scripts.localaws import moto, setup
from scripts.localaws.account import ExpectedRecord, Ledger, PutRide
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.setup import INPUT_STREAM, ModelCopy
from streaming.delivery import MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

STALL_SECONDS = 60
"""A run ends with what there is if no ride has been settled for this long."""

REFRESH_SECONDS = 0.2
"""How often progress bars move."""


@dataclass(frozen=True)
class LocalStack:
    """The local AWS, with streams, buckets and a model in it."""

    endpoint: str
    kinesis: "KinesisClient"
    s3: "S3Client"


@contextlib.contextmanager
def start(model: ModelCopy, shards: int) -> Iterator[LocalStack]:
    """Run the local AWS for the length of the block; this process reaches no other AWS from then on."""
    with moto.serve() as endpoint:
        setup.isolate(os.environ, endpoint)
        # The session so far may hold the credentials of the user, with which the model was read.
        boto3.setup_default_session()
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        setup.create(kinesis, s3, shards)
        setup.upload(s3, model)
        yield LocalStack(endpoint, kinesis, s3)


def put_and_wait(
    kinesis: "KinesisClient",
    records: Sequence[ExpectedRecord],
    mapping: EventSourceMapping,
    ledger: Ledger,
    *,
    unit: str = "rides",
    hint: str = "",
) -> bool:
    """Put the records, wait until the mapping is done with them, and return whether it is.

    Ctrl-C leaves a complete ledger of the records that were put until then. ``hint`` is printed once putting has begun.

    Raises:
        CommandError: if Kinesis does not accept a record, or gives two of them the same number.
    """
    stopping = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="putting") as thread, cli.progress_bar(unit) as progress:
        putting = progress.add_task("Putting", total=len(records))
        predicting = progress.add_task("Predicting", total=len(records))

        def show_progress() -> None:
            progress.update(putting, completed=ledger.records)
            progress.update(predicting, completed=mapping.counters().settled)

        # In its own thread, which Ctrl-C cannot stop between a request and its entry in the ledger.
        put_all = thread.submit(_put, kinesis, records, ledger, stopping)
        try:
            if hint:
                CONSOLE.print(hint, highlight=False)
            while not put_all.done():
                show_progress()
                wait([put_all], REFRESH_SECONDS)
            put_all.result()
            return wait_until_settled(mapping, ledger.records, show_progress)
        finally:
            stopping.set()


def _put(
    kinesis: "KinesisClient", records: Sequence[ExpectedRecord], ledger: Ledger, stopping: threading.Event
) -> None:
    for start in range(0, len(records), MAX_ENTRIES):
        chunk, now = records[start : start + MAX_ENTRIES], time.time()
        entries = [{"Data": one.record.data, "PartitionKey": one.record.partition_key} for one in chunk]
        response = kinesis.put_records(StreamName=INPUT_STREAM, Records=entries)  # type: ignore[arg-type]
        if response["FailedRecordCount"]:
            raise CommandError(f"{response['FailedRecordCount']} rides were not accepted by {INPUT_STREAM}")
        for expected, result in zip(chunk, response["Records"], strict=True):
            event_ids = expected.event_ids(result["ShardId"], result["SequenceNumber"])
            if not ledger.rides.keys().isdisjoint(event_ids):
                raise CommandError(f"{INPUT_STREAM} gave a sequence number twice: {event_ids[0]}")
            rides = (PutRide(expected.record, outcome, now) for outcome in expected.outcomes)
            ledger.rides.update(zip(event_ids, rides, strict=True))
        ledger.records += len(chunk)
        if stopping.is_set():
            return


def wait_until_settled(
    mapping: EventSourceMapping, number: int, show_progress: Callable[[], None], stall: float = STALL_SECONDS
) -> bool:
    """Wait until the mapping is done with ``number`` records, and return whether it is.

    It is False if no record has been settled for ``stall`` seconds. An exception that ended a polling thread is raised.
    """
    settled, since = 0, time.monotonic()
    while not mapping.wait_for(number, timeout=REFRESH_SECONDS):
        show_progress()
        if mapping.counters().settled > settled:
            settled, since = mapping.counters().settled, time.monotonic()
        elif time.monotonic() - since > stall:
            return False
    show_progress()
    return True
