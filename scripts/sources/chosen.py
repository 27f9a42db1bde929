"""The rides that a command line asks for: from the generator, JSON lines, or a TLC trip record file."""

import argparse
import contextlib
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rides import InvalidRideError, decode_ride
from scripts.cli import CommandError, count, percent
from scripts.sources.bad import with_bad_rides
from scripts.sources.download import open_trips
from scripts.sources.records import RideRecord, encode_ride
from scripts.sources.synthetic import generate_rides
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.envelope import is_partition_key, partition_key
from trips import ride_events

STDIN = "-"
DEFAULT_RIDES = 25


@dataclass(frozen=True)
class RideSource:
    """Records to put, and the number of rows of a TLC file that are left out because the contract refuses them."""

    records: list[RideRecord]
    left_out: int = 0


class _Identified(msgspec.Struct):
    ride_id: int | str


def add_options(parser: argparse.ArgumentParser, *, json_lines: bool) -> None:
    """Add the options of ``rides_from_options``; ``--json`` only if ``json_lines`` is true."""
    number = f"the number of rides (default: {DEFAULT_RIDES} from the generator, or all of a file)"
    parser.add_argument("--rides", type=count, metavar="N", help=number)
    source = parser.add_mutually_exclusive_group()
    trips = "take the rides of a TLC trip record file: parquet, green or yellow taxis, a path or an http(s) URL"
    source.add_argument("--data", metavar="FILE", help=trips)
    if json_lines:
        lines = "take JSON lines, each the data of a record, good or bad; or a file that is one JSON document"
        source.add_argument("--json", metavar="FILE", help=f"{lines}. {STDIN} reads stdin to its end")
    bad = "replace this percentage of the rides, rounded up, with bad rides of all kinds (default: none)"
    parser.add_argument("--bad", type=percent, default=0.0, metavar="PERCENT", help=bad)


def rides_from_options(options: argparse.Namespace, seed: int) -> RideSource:
    """Return the rides that the options of ``add_options`` ask for.

    The seed alone decides which rides are generated and which rides go bad. Raises TripRecordError if a TLC file cannot
    be read, and CommandError if a file has no ride, or if a JSON file cannot be read or has a record that no stream
    accepts.
    """
    if options.data:
        source = read_tlc_rides(options.data)
    elif getattr(options, "json", None):
        source = RideSource(read_json_rides(options.json))
    else:
        source = RideSource(generate_rides(options.rides or DEFAULT_RIDES, seed))
    if not source.records:
        raise CommandError(f"there is no ride in {_shown(options.data or options.json)}")
    return RideSource(with_bad_rides(source.records[: options.rides], options.bad, seed), source.left_out)


def read_tlc_rides(source: str) -> RideSource:
    """Return the rides of a TLC file or URL. Raises TripRecordError."""
    with open_trips(source) as path:
        events, left_out = ride_events(path)
    return RideSource([encode_ride(event) for event in events], left_out)


def read_json_rides(name: str) -> list[RideRecord]:
    """Return the records of a file, or of stdin: one for each line that is not blank, or one if it is one document.

    Bad data is not refused: rejecting it is the consumer's task. If the data has no ride_id, its digest is the
    partition key. Raises CommandError if the file cannot be read or has a record that no stream accepts.
    """
    try:
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    try:
        msgspec.json.decode(content)
        documents = [content.strip()]
    except (ValueError, RecursionError):
        documents = [line.strip() for line in content.split(b"\n") if line.strip()]
    records = [_record(data) for data in documents]
    for record in records:
        if len(record.data) + len(record.partition_key.encode()) > MAX_ENTRY_BYTES:
            raise CommandError(
                f"{_shown(name)}: a record of {len(record.data)} bytes is more than a stream takes, which is 1 MiB:"
                f" {record.data[:40]!r}..."
            )
    return records


def _record(data: bytes) -> RideRecord:
    with contextlib.suppress(InvalidRideError):
        event = decode_ride(data)
        return RideRecord(partition_key(event.ride_id), data, event)
    with contextlib.suppress(ValueError, RecursionError):
        key = str(msgspec.json.decode(data, type=_Identified).ride_id)
        if is_partition_key(key):
            return RideRecord(key, data)
    return RideRecord(hashlib.sha256(data).hexdigest(), data)


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name
