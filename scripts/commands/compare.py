"""Compare two models that predict the same rides: a live one and a shadow, each with its own output stream.

Their predictions are joined by event_id. With the rides' actual values, such as their durations, the errors of both
models are compared too, and the verdict says whether the shadow is better, worse, or not yet known.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from scripts import cli
from scripts.aws.shards import read_window
from scripts.cli import CommandError
from scripts.models import comparing_report
from scripts.models.comparing import MARGIN, JoinedRides, ReadStream
from scripts.models.comparing_actuals import ActualValues, find_target
from targets import TARGETS
from trip_cells import TripRecordError

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

Rounds: TypeAlias = "Iterator[list[tuple[str, RecordTypeDef]]]"

EXAMPLES = f"""\
examples:
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM}
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM} --since 24h --until 5m --profile production
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM} --actual green_tripdata_2023-02.parquet --json | jq .judgement
"""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
AGE = re.compile(r"(\d{1,7})([smhd])", re.ASCII)
OLDEST_YEAR = 2000
"""Kinesis refuses a time before 1970, and does not keep a record for longer than a year."""
EXPLAINED = (TripRecordError,)
DEFAULT_TOP, MAX_TOP = 5, 1_000


def main() -> int:
    """Compare as the command line says, and return the exit code, 0 whatever the verdict is."""
    options = parse_arguments()
    cli.choose_account(options.profile)
    now = datetime.now(UTC)
    since, until = options.since, min(options.until or now, now)
    if since and since >= until:
        raise CommandError(f"there is no time between {since:%Y-%m-%dT%H:%M:%SZ} and {until:%Y-%m-%dT%H:%M:%SZ}")
    live, shadow = ReadStream(options.live, options.live_version), ReadStream(options.shadow, options.shadow_version)
    if live.name == shadow.name:
        raise CommandError(f"{live.name} is given twice: give the live model's stream and the shadow's stream")
    rides = JoinedRides(live, shadow)
    for stream in (live, shadow):
        # Near the edges of the window, one prediction of a ride may be inside, and the other one just outside.
        last = min(until + MARGIN, datetime.now(UTC))
        read(stream.name, since and since - MARGIN, last, partial(rides.read, stream))
    comparison = rides.join(since, until)
    target = find_target(comparison.live.model.field, options.target)
    actuals = ActualValues(comparison, target)
    if options.actual and is_file(options.actual):
        actuals.read_file(options.actual)
    elif options.actual:
        # Actual values come after the predictions, up to now.
        read(options.actual, since, now, actuals.read_stream)
    judgement = actuals.judge() if options.actual else None
    if options.json:
        unit = target.unit if target else ""
        document = comparing_report.as_document(comparison, actuals.values(), judgement, unit, options.top)
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        comparing_report.show(comparison, actuals.values(), judgement, target, options.top)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("live", type=cli.stream, metavar="LIVE", help="the stream of the live model's predictions: its name or ARN")
    add("shadow", type=cli.stream, metavar="SHADOW", help="the stream of the shadow's predictions")
    form = "ISO 8601, in this machine's time zone if it has no offset, or an age such as 90s, 30m, 24h, 7d"
    add("--since", type=moment, metavar="TIME", help=f"leave out rides that were predicted before TIME: {form}")
    add("--until", type=moment, metavar="TIME", help="leave out rides that were predicted at TIME or later")
    add("--live-version", metavar="VERSION", help="leave out the live stream's predictions of other versions")
    add("--shadow-version", metavar="VERSION", help="leave out the shadow's predictions of other versions")
    actual = (
        "the actual values: a TLC trip record file (a path, or an http(s) URL) whose rides were put, or a stream of"
        ' JSON such as {"ride_id": 256, "ride_duration": 14.5}'
    )
    add("--actual", type=actual_source, metavar="FILE|STREAM", help=actual)
    target = "the target, if the name of the predicted value does not say it: which column of FILE is read"
    add("--target", choices=TARGETS, help=target)
    top = "show at most N of the rides that differ most (default: %(default)s)"
    add("--top", type=top_count, default=DEFAULT_TOP, metavar="N", help=top)
    add("--json", action="store_true", help="print JSON instead of tables")
    cli.add_profile(parser)
    return parser.parse_args()


def moment(text: str) -> datetime:
    """Convert an option's value, a time or an age, to a time. Raises ArgumentTypeError."""
    try:
        if age := AGE.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{UNITS[age[2]]: int(age[1])})
        found = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        found = None
    if not found or found.year < OLDEST_YEAR:
        raise argparse.ArgumentTypeError(f"{text} is neither a time, such as 2026-02-03T04:05, nor an age, such as 30m")
    return found


def top_count(text: str) -> int:
    """Convert an option's value to a number of rides to show. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > len(str(MAX_TOP)) or int(text) > MAX_TOP:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MAX_TOP:,}")
    return int(text)


def is_file(source: str) -> bool:
    """Return whether the actual values come from a file or a URL, and not from a stream."""
    return source.endswith(".parquet") or "://" in source or Path(source).is_file()


def actual_source(text: str) -> str:
    """Convert an option's value to a file's name, a URL, or a stream. Raises ArgumentTypeError."""
    return text if is_file(text) else cli.stream(text)


def read(stream: str, since: datetime | None, until: datetime, take: Callable[[Rounds], Iterator[int]]) -> None:
    """Give a stream's records of this time to ``take``. Raises CommandError if there is no such stream."""
    client = cli.kinesis_client(stream)
    cli.require_stream(client, stream)
    with cli.CONSOLE.status(f"Reading {stream}") as status:
        records = 0
        for count in take(read_window(client, stream, since, until)):
            records += count
            status.update(f"Reading {stream}: {records:,} records")
