"""The rides that a command line asks for: from the generator, JSON documents, or a TLC trip record file."""

import argparse
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from rides import InvalidRideError, decode_ride
from scripts.cli import CommandError, count, percent
from scripts.sources.bad import with_bad_rides
from scripts.sources.documents import STDIN, display_name, read_documents
from scripts.sources.download import open_trips
from scripts.sources.records import RideRecord, encode_ride
from scripts.sources.synthetic import generate_rides
from streaming.delivery import MAX_ENTRY_BYTES
from streaming.envelope import is_partition_key, partition_key
from targets import DURATION, Target
from trips import ride_events

DEFAULT_RIDES = 25


@dataclass(frozen=True)
class RideSource:
    """Records to put, and the number of rows of a TLC file that are left out because the contract refuses them."""

    records: list[RideRecord]
    left_out: int = 0


class _Identified(msgspec.Struct):
    ride_id: int | str


def add_options(parser: argparse.ArgumentParser, *, documents: bool) -> None:
    """Add the options of ``rides_from_options``; ``--json`` and ``--raw`` only if ``documents`` is true."""
    number = f"the number of rides (default: {DEFAULT_RIDES} from the generator, or all of a file)"
    parser.add_argument("--rides", type=count, metavar="N", help=number)
    source = parser.add_mutually_exclusive_group()
    trips = "take the rides of a TLC trip record file: parquet, green or yellow taxis, a path or an http(s) URL"
    source.add_argument("--data", metavar="FILE", help=trips)
    if documents:
        taken = (
            "take JSON documents, each the data of a record, good or bad: one on each line, over several lines, or in"
        )
        ending = f"an array; in UTF-8 or UTF-16. {STDIN} reads stdin to its end, and then puts the rides"
        source.add_argument("--json", metavar="FILE", help=f"{taken} {ending}")
        raw = "if the file of --json is not JSON, put each of its lines as it is (default: put nothing)"
        parser.add_argument("--raw", action="store_true", help=raw)
    bad = "replace this percentage of the rides, rounded up, with bad rides of all kinds (default: none)"
    parser.add_argument("--bad", type=percent, default=0.0, metavar="PERCENT", help=bad)


def rides_from_options(options: argparse.Namespace, seed: int, target: Target | None = DURATION) -> RideSource:
    """Return the rides that the options of ``add_options`` ask for, with the target's true values if a file has them.

    The seed alone decides which rides are generated and which rides go bad. Raises TripRecordError if a TLC file cannot
    be read, and CommandError if a file has no ride, if a JSON file cannot be read, is not JSON or has a record that no
    stream accepts, or if ``--raw`` is given without a JSON file.
    """
    if getattr(options, "raw", False) and not options.json:
        raise CommandError("--raw is about the lines of a file: name the file with --json")
    if options.data:
        source = read_tlc_rides(options.data, target)
    elif getattr(options, "json", None):
        source = RideSource(read_json_rides(options.json, raw=options.raw))
    else:
        source = RideSource(generate_rides(options.rides or DEFAULT_RIDES, seed))
    if not source.records:
        raise CommandError(f"there is no ride in {display_name(options.data or options.json)}")
    return RideSource(with_bad_rides(source.records[: options.rides], options.bad, seed), source.left_out)


def sources_from_options(options: argparse.Namespace, seed: int, targets: Sequence[Target | None]) -> list[RideSource]:
    """Return the rides that the options ask for, once for each target, with its true values. See the function above.

    They are the same rides in the same order, because which rows the contract refuses does not depend on the target.
    """
    if not options.data or len(set(targets)) == 1:
        return [rides_from_options(options, seed, targets[0])] * len(targets)
    with open_trips(options.data) as path:  # a URL is downloaded once
        local = argparse.Namespace(**(vars(options) | {"data": str(path)}))
        return [rides_from_options(local, seed, target) for target in targets]


def read_tlc_rides(source: str, target: Target | None = DURATION) -> RideSource:
    """Return the rides of a TLC file or URL, with the true values of the target, if any. Raises TripRecordError."""
    with open_trips(source) as path:
        trips = ride_events(path, target)
    return RideSource(list(map(encode_ride, trips.events, trips.actual)), trips.left_out)


def read_json_rides(name: str, *, raw: bool = False) -> list[RideRecord]:
    """Return a record for each JSON document in a file or in stdin, or for each line if ``raw`` allows this.

    A document that is not a ride is not refused: rejecting it is the consumer's task. If the data has no ride_id, its
    digest is the partition key. Raises CommandError as ``read_documents`` does, and if no stream accepts a record.
    """
    records = [_record(data) for data in read_documents(name, raw=raw)]
    for record in records:
        if len(record.data) + len(record.partition_key.encode()) > MAX_ENTRY_BYTES:
            raise CommandError(
                f"{display_name(name)}: a record of {len(record.data)} bytes is more than a stream takes, which is"
                f" 1 MiB: {record.data[:40]!r}..."
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
