"""Where the rides come from that are put on a stream: the generator, JSON lines, or a TLC file."""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from rides import MAX_ID_LENGTH
from scripts.cli import CommandError, count, percent
from scripts.sources.bad import spoiled
from scripts.sources.record import RideRecord
from scripts.sources.synthetic import synthetic_rides
from streaming.delivery import MAX_ENTRY_BYTES
from trips import ride_events

STDIN = "-"
DEFAULT_RIDES = 25


@dataclass(frozen=True)
class RideSource:
    """Records to put, and how many rows of a TLC file are none because the contract has no such ride."""

    records: list[RideRecord]
    left_out: int = 0


class _Identified(msgspec.Struct):
    ride_id: int | Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]


def add_options(parser: argparse.ArgumentParser, *, json_lines: bool) -> None:
    """Give a command the options that ``chosen_rides`` takes; ``--json`` only on request."""
    parser.add_argument(
        "--rides",
        type=count,
        metavar="N",
        help=f"how many rides (default: {DEFAULT_RIDES} generated ones; all, where they come from a file)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="FILE",
        help="take the rides of a TLC trip record file (parquet, green or yellow taxis; or its http(s) URL)",
    )
    if json_lines:
        source.add_argument(
            "--json",
            metavar="FILE",
            help="take JSON lines, each the data of a record, good or bad, as it is; or a file with one JSON document;"
            f" {STDIN} reads stdin, to its end",
        )
    parser.add_argument(
        "--bad",
        type=percent,
        default=0.0,
        metavar="PERCENT",
        help="turn so many percent of the rides, rounded up, into bad ones of all kinds (default: none)",
    )


def chosen_rides(options: argparse.Namespace, seed: int) -> RideSource:
    """Return what the options of ``add_options`` ask for; the generator and what goes bad depend on the seed alone.

    Raises:
        CommandError: where a file holds no ride, or a JSON file cannot be read or holds what no stream takes.
        TripRecordError: where a TLC file cannot be read.
    """
    if options.data:
        source = tlc_rides(options.data)
    elif getattr(options, "json", None):
        source = RideSource(json_rides(options.json))
    else:
        source = RideSource(generated_rides(options.rides or DEFAULT_RIDES, seed))
    if not source.records:
        raise CommandError(f"there is no ride in {_shown(options.data or options.json)}")
    return RideSource(spoiled(source.records[: options.rides], options.bad, seed), source.left_out)


def generated_rides(number: int, seed: int) -> list[RideRecord]:
    """Return the records of so many synthetic rides."""
    return [RideRecord(str(event["ride_id"]), msgspec.json.encode(event)) for event in synthetic_rides(number, seed)]


def tlc_rides(source: str) -> RideSource:
    """Return the records of a TLC file's rides. Raises TripRecordError."""
    events, left_out = ride_events(source)
    return RideSource([RideRecord(str(event.ride_id), msgspec.json.encode(event)) for event in events], left_out)


def json_rides(name: str) -> list[RideRecord]:
    """Return the records of a file, or of stdin: one a line that is not blank, or one for a file that is one document.

    What a line holds is not judged: rejecting a bad ride is the consumer's part. The partition key of data that has no
    ride_id is its digest.

    Raises:
        CommandError: where the file cannot be read or holds what no stream takes.
    """
    content = _content(name)
    records = [_record(data) for data in _documents(content)]
    for record in records:
        if len(record.data) + len(record.partition_key.encode()) > MAX_ENTRY_BYTES:
            raise CommandError(
                f"{_shown(name)}: a record of {len(record.data)} bytes is more than a stream takes, which is 1 MiB:"
                f" {record.data[:40]!r}..."
            )
    return records


def _content(name: str) -> bytes:
    if name == STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error


def _documents(content: bytes) -> Iterator[bytes]:
    if _is_one_document(content):
        yield content.strip()
        return
    yield from filter(None, map(bytes.strip, content.split(b"\n")))


def _is_one_document(content: bytes) -> bool:
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _record(data: bytes) -> RideRecord:
    try:
        key = str(msgspec.json.decode(data, type=_Identified).ride_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        key = ""
    return RideRecord(key if 0 < len(key) <= MAX_ID_LENGTH else hashlib.sha256(data).hexdigest(), data)


def _shown(name: str) -> str:
    return "stdin" if name == STDIN else name
