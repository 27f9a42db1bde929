"""Put what the failures bucket keeps back on the input stream: rejections, and what the mapping gave up.

Each object's records are moved to replayed/ once the stream has accepted them. A replay that is interrupted loses
nothing: run it again, and at worst a record is put twice. On the stream each is a new record, with a new event_id; what
is bad still is rejected again.
"""

import argparse
import logging
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import boto3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts import cli
from scripts.aws.kept_objects import ChangedError, KeptObjects
from scripts.aws.kept_records import KeptRecord, Unputtable, UnreadableError
from scripts.cli import CommandError, printable
from scripts.commands.put_rides import put
from scripts.sources.record import RideRecord
from settings import S3_URI
from streaming.delivery import DeliveryError, OutputStream

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROGRAM = "replay"

EXAMPLES = """\
examples:
  replay --failures s3://ride-failures/rejections --dry-run
  replay --reason RetryAttemptsExhausted --since 24h
  replay --reason prediction --reason "trip_distance" --since 2026-02-03T04:05
"""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

SHOWN_GROUPS = 20

CANNOT_BE_READ, CANNOT_BE_PUT = "cannot be read", "cannot be put"
"""What the table has in place of a kind for what stays where it is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """Which of the kept records to replay."""

    reasons: tuple[str, ...] = ()
    """One of them is the record's kind, or part of its reason, in any case; none stand for every reason."""
    since: datetime | None = None
    stream: str | None = None
    """The stream that the record came from."""

    def of(self, records: Iterable[KeptRecord]) -> list[KeptRecord]:
        """Return those of the records that are chosen."""
        return [
            record
            for record in records
            if self.stream in (None, record.stream) and self._for_its_reason(record) and self._for_its_arrival(record)
        ]

    def _for_its_reason(self, record: KeptRecord) -> bool:
        kind, reason = record.kind.casefold(), record.reason.casefold()
        return not self.reasons or any(text == kind or text in reason for text in map(str.casefold, self.reasons))

    def _for_its_arrival(self, record: KeptRecord) -> bool:
        return self.since is None or record.arrival >= self.since


@dataclass
class Group:
    """How much there is of one kind and reason."""

    records: int = 0
    objects: int = 0
    oldest: datetime | None = None

    def add(self, arrivals: Sequence[datetime]) -> None:
        """Count an object that has records of these arrival times, or whose records nobody knows."""
        self.records += len(arrivals)
        self.objects += 1
        self.oldest = min(filter(None, [self.oldest, *arrivals]), default=None)


@dataclass
class Survey:
    """What there is of the chosen records, and which objects they are in."""

    groups: defaultdict[tuple[str, str, str], Group] = field(default_factory=lambda: defaultdict(Group))
    """By stream, kind and reason."""
    keys: list[str] = field(default_factory=list)
    """The objects with records that can be put."""
    puttable: int = 0
    """How many records these have."""
    complete: bool = True
    """Whether all that was chosen can be put, as far as is known."""

    def add(self, key: str, chosen: Sequence[KeptRecord]) -> None:
        """Count the chosen records of an object."""
        arrivals: defaultdict[tuple[str, str, str], list[datetime]] = defaultdict(list)
        for record in chosen:
            arrivals[group_of(record)].append(record.arrival)
        for group, times in arrivals.items():
            self.groups[group].add(times)
        puttable = len(puttable_of(chosen))
        if puttable:
            self.keys.append(key)
        self.puttable += puttable
        self.complete &= puttable == len(chosen)

    def add_unreadable(self, why: UnreadableError) -> None:
        """Count an object that cannot be read: for all that is known, it holds what was chosen."""
        self.groups["", CANNOT_BE_READ, str(why)].add([])
        self.complete = False


def main() -> int:
    """Replay what the command line chooses; return the exit code, 0 where all of it is on the stream."""
    options = parse_arguments()
    if not options.failures:
        raise CommandError("no failures location is known: name it with --failures, or set FAILURES_LOCATION")
    cli.use_profile(options.profile)
    if not options.dry_run:
        cli.require_stream(boto3.client("kinesis"), options.stream)
    s3 = boto3.client("s3")
    require_bucket(s3, options.failures)
    objects = KeptObjects(s3, options.failures)
    choice = Choice(tuple(options.reason), options.since, options.source)
    found = survey(objects, choice)
    if not found.groups:
        print("nothing is kept that is chosen")
        return 0
    show(found, Console())
    if options.dry_run:
        return 0
    done = replay(objects, OutputStream.connect(options.stream), found, choice)
    print(f"put {done} records on {options.stream}")
    return 0 if found.complete else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--failures",
        type=_location,
        default=os.environ.get("FAILURES_LOCATION") or None,
        metavar="URI",
        help="s3://bucket/prefix of the rejections; what the mapping gave up lies in the same bucket, under aws/lambda/"
        " (default: FAILURES_LOCATION)",
    )
    parser.add_argument(
        "--stream", default="ride_events", metavar="NAME", help="the stream to put them on (default: %(default)s)"
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="NAME",
        help="only records that came from this stream: several can share a bucket (default: from any)",
    )
    parser.add_argument(
        "--reason",
        action="append",
        type=_text,
        default=[],
        metavar="TEXT",
        help="only records of this kind (json, ride, prediction, ...; discarded for what the mapping gave up), or with"
        " this text in the reason, in any case; may be given again for more",
    )
    parser.add_argument(
        "--since",
        type=since,
        metavar="WHEN",
        help="only records that came to the stream at or after this date or time, in ISO format, local unless it has an"
        " offset; or within this time from now: 90m, 24h, 7d",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the table and change nothing")
    cli.add_profile(parser)
    return parser.parse_args()


def since(text: str) -> datetime:
    """Return the moment that an option was given: a date, a time or a duration until now. Raises ArgumentTypeError."""
    duration = re.fullmatch(r"(\d+)([smhd])", text)
    try:
        if duration:
            return datetime.now(UTC) - timedelta(**{UNITS[duration[2]]: int(duration[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not a date, a time or a duration such as 90m, 24h or 7d"
        ) from error


def require_bucket(client: "S3Client", location: str) -> None:
    """Raise CommandError where there is no such bucket, with the place that was looked at."""
    bucket = location.removeprefix("s3://").partition("/")[0]
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except client.exceptions.NoSuchBucket as error:
        raise CommandError(
            f"there is no bucket {bucket} at {client.meta.endpoint_url}: name another one with --failures"
        ) from error


def survey(objects: KeptObjects, choice: Choice) -> Survey:
    """Read all that is kept, object by object, and count what is chosen; what cannot be replayed is logged."""
    found = Survey()
    with cli.progress_bar("records") as progress:
        reading = progress.add_task("Reading", total=None)
        for key in objects.find():
            try:
                chosen = choice.of(objects.read(key).content.records)
            except ChangedError:
                continue  # somebody else has moved it
            except UnreadableError as error:
                warn_of_unreadable(error, objects.uri(key))
                found.add_unreadable(error)
                continue
            found.add(key, chosen)
            progress.advance(reading, len(chosen))
            warn_of_unputtable(chosen, objects.uri(key))
    return found


def warn_of_unreadable(why: UnreadableError, uri: str) -> None:
    """Log that an object stays as it is."""
    _log.warning("%s stays as it is: %s", uri, printable(str(why)))


def warn_of_unputtable(records: Iterable[KeptRecord], uri: str) -> None:
    """Log each reason why some of an object's records cannot be put."""
    reasons = {record.original.reason for record in records if isinstance(record.original, Unputtable)}
    for reason in sorted(reasons):
        _log.warning("%s keeps records that cannot be put: %s", uri, reason)


def show(found: Survey, console: Console) -> None:
    """Print the table of what is chosen, the most frequent first."""
    table = Table(title="Chosen records", title_justify="left")
    table.add_column("stream", overflow="fold")
    table.add_column("kind")
    table.add_column("reason", overflow="fold")
    table.add_column("records", justify="right")
    table.add_column("objects", justify="right")
    table.add_column("oldest arrival")
    groups = sorted(found.groups.items(), key=lambda item: (-item[1].records, item[0]))
    for names, group in groups[:SHOWN_GROUPS]:
        oldest = f"{group.oldest.astimezone():%Y-%m-%d %H:%M:%S}" if group.oldest else "-"
        cells = (Text(printable(name)) for name in names)
        table.add_row(*cells, f"{group.records:,}", f"{group.objects:,}", oldest)
    console.print(table)
    if len(groups) > SHOWN_GROUPS:
        console.print(f"... and {len(groups) - SHOWN_GROUPS:,} more", highlight=False)


def replay(objects: KeptObjects, stream: OutputStream, found: Survey, choice: Choice) -> int:
    """Put the chosen records of the surveyed objects on the stream, object by object, and move them; return how many.

    What a survey finds later is not replayed now: bad records that come back, rejected again, would never let it end.

    Raises:
        CommandError: where Kinesis accepts no more. The objects before are moved; the one it came to stays as it is.
    """
    done = 0
    with cli.progress_bar("records") as progress:
        putting = progress.add_task("Putting", total=found.puttable)
        for key in found.keys:
            try:
                kept = objects.read(key)
                puttable = puttable_of(choice.of(kept.content.records))
                for chunk in put(stream, [original for _, original in puttable]):
                    progress.advance(putting, len(chunk))
                done += len(puttable)
                objects.move(kept, [record for record, _ in puttable])
            except (CommandError, DeliveryError) as error:
                raise CommandError(
                    f"{objects.uri(key)}: {error}; the {done} of the objects before it are put and moved: run it again"
                    " for the rest"
                ) from error
            except ChangedError as error:
                _log.warning("%s stays as it is: %s", objects.uri(key), error)
            except UnreadableError as error:
                warn_of_unreadable(error, objects.uri(key))
                found.complete = False
    return done


def puttable_of(records: Iterable[KeptRecord]) -> list[tuple[KeptRecord, RideRecord]]:
    """Return those of the records that can be put, with their originals."""
    return [(record, record.original) for record in records if isinstance(record.original, RideRecord)]


def group_of(record: KeptRecord) -> tuple[str, str, str]:
    """Return the stream, kind and reason that a record is counted under."""
    if isinstance(record.original, Unputtable):
        return record.stream, CANNOT_BE_PUT, record.original.reason
    return record.stream, record.kind, record.reason


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("nothing is in every reason: leave the option out for all of them")
    return text


def _location(text: str) -> str:
    if not re.fullmatch(S3_URI, text):
        raise argparse.ArgumentTypeError(f"{text} is not an s3://bucket/prefix URI")
    return text


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
