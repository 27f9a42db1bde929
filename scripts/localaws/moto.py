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

MAX_RECORDS = 10_000
"""The most records of a read (API reference, GetRecords)."""

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

    With them, 50,000 records on one shard took 19 seconds; they take 3 without.
    """
    from moto.kinesis.models import Shard

    Shard.get_max_sequence_number = newest_sequence_number
    Shard.get_records = records_after
    speed_up_responses()


def speed_up_responses() -> None:
    """Replace how moto encodes the responses of GetRecords and PutRecords, which are the largest ones.

    Moto looks each member of each record up by several names, which takes most of the time of both requests.
    """
    from moto.core.utils import unix_time
    from moto.kinesis.responses import KinesisResponse

    get_records, put_records = KinesisResponse.get_records, KinesisResponse.put_records

    def get_quickly(response: Any) -> str:
        found = get_records(response).result
        for record in found["Records"]:
            microseconds = round(unix_time(record["ApproximateArrivalTimestamp"]) * 1_000_000)
            record["ApproximateArrivalTimestamp"] = microseconds // 1000 / 1000
        return msgspec.json.encode(found).decode()

    def put_quickly(response: Any) -> str:
        return msgspec.json.encode(put_records(response).result).decode()

    KinesisResponse.get_records, KinesisResponse.put_records = get_quickly, put_quickly


def newest_sequence_number(shard: Any) -> int:
    """Return the sequence number of the newest record of moto's shard; 0 if it is empty."""
    return next(reversed(shard.records), 0)


def records_after(shard: Any, sequence_number: str, limit: int | None) -> tuple[list[Any], int, int]:
    """Return the next records of moto's shard, at most ``limit``; the sequence number and the lag of the last one.

    Without a limit these are at most 10,000, as in GetRecords. Moto would return all, however many there are.

    The lag is the time in milliseconds between it and the newest record.
    """
    place, newest = int(sequence_number), newest_sequence_number(shard)
    # Moto numbers a shard's records from 1 on without a gap, and never takes one out.
    first = max(place, 0) + 1
    last = min(newest, first + (limit or MAX_RECORDS) - 1)
    found = [shard.records[number] for number in range(first, last + 1)]
    if not found:
        return [], place, 0
    behind = shard.records[newest].created_at - found[-1].created_at
    return found, last, int(behind * 1000)


if __name__ == "__main__":
    main()
