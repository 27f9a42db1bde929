"""Moto's server as the local AWS: Kinesis and S3 over HTTP, on a free loopback port, in a process of its own."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from scripts.localaws import server
from scripts.localaws.server import HOST

REGION = "us-east-1"
DUMMY_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": REGION}
"""The SDK needs these to sign requests; moto ignores them."""

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run moto's server for the length of the block and yield its endpoint URL. See ``server.serve``."""
    command = [sys.executable, "-m", "scripts.localaws.moto"]
    with server.serve("moto's server", command, environment=environment_without_account(os.environ)) as url:
        yield url


def environment_without_account(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with dummy credentials in place of all AWS variables, profiles and endpoints."""
    others = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    return {**others, **DUMMY_CREDENTIALS, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def main() -> None:
    """Listen on a free port, print it, and serve until stdin ends, which it does with the parent process."""
    # Called before the imports, because the parent may be interrupted while moto is imported, which takes two seconds.
    server.end_with_parent()
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    speed_up_streams()
    application = serialize_requests(DomainDispatcherApplication(create_backend_app))
    listening = make_server(HOST, 0, application, threaded=True, request_handler=MotoRequestHandler)
    server.announce(listening.server_port)
    listening.serve_forever()


def serialize_requests(application: Application) -> Application:
    """Return the application with a lock around it.

    Moto's streams are not thread-safe: of 8,000 records that four threads put at once, some dozens were lost.
    """
    lock = threading.Lock()

    def call_locked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with lock:
            return application(environ, start_response)

    return call_locked


def speed_up_streams() -> None:
    """Replace the methods with which moto walks through all records of a shard at every put and every read.

    With them, 50,000 records on one shard took 19 seconds; they take 3 without. Then most of the time goes into moto's
    serializer, which looks for each field of each record under many names, so ``write_records`` takes its place.
    """
    from moto.kinesis.models import Record, Shard
    from moto.kinesis.responses import KinesisResponse

    Shard.get_max_sequence_number = newest_sequence_number
    Shard.get_records = records_after
    Record.to_json = record_fields
    KinesisResponse.serialized = write_records(KinesisResponse.serialized)


def record_fields(record: Any) -> dict[str, Any]:
    """Return the fields of moto's record as GetRecords has them. Moto keeps the data in base64, as they came."""
    return {
        "Data": record.data,
        "PartitionKey": record.partition_key,
        "SequenceNumber": str(record.sequence_number),
        "ApproximateArrivalTimestamp": round(record.created_at, 3),
    }


def write_records(serialized: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a serializer of moto's results that writes results with records itself: of PutRecords and GetRecords."""

    def write(response: Any, action_result: Any) -> Any:
        result = action_result.result
        if not (isinstance(result, dict) and "Records" in result):
            return serialized(response, action_result)
        headers = {"Content-Type": "application/x-amz-json-1.1", **response.response_headers}
        return 200, headers, msgspec.json.encode(result).decode()

    return write


def newest_sequence_number(shard: Any) -> int:
    """Return the sequence number of the newest record of moto's shard; 0 if it is empty."""
    return next(reversed(shard.records), 0)


def records_after(shard: Any, sequence_number: str, limit: int | None) -> tuple[list[Any], int, int]:
    """Return the next records of moto's shard, at most ``limit``; the sequence number and the lag of the last one.

    The lag is the time in milliseconds between it and the newest record.
    """
    place, newest = int(sequence_number), newest_sequence_number(shard)
    # Moto numbers a shard's records from 1 on without a gap, and never takes one out.
    first = max(place, 0) + 1
    last = min(newest, first + limit - 1) if limit else newest
    found = [shard.records[number] for number in range(first, last + 1)]
    if not found:
        return [], place, 0
    behind = shard.records[newest].created_at - found[-1].created_at
    return found, last, int(behind * 1000)


if __name__ == "__main__":
    main()
