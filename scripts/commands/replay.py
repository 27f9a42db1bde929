"""Put what the failures bucket keeps back on the input stream: rejected records, and discarded batches of records.

The records of each object are moved to replayed/ when the stream has accepted them. If a replay is interrupted, nothing
is lost: run it again, and at worst some records are put twice. Each is a new record on the stream, with a new event_id;
a record that is still bad is rejected again.
"""

import argparse
import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import boto3
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from arns import stream_name
from scripts import cli
from scripts.aws.kept_objects import ON_FAILURE_PREFIX, KeptObjects
from scripts.aws.replaying import ReplayFilter, ReplayPlan, plan_replay, replay
from scripts.cli import CommandError, printable
from settings import S3_URI
from streaming.delivery import OutputStream

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EXAMPLES = """\
examples:
  replay --failures s3://ride-failures/rejections --dry-run
  replay --reason RetryAttemptsExhausted --since 24h
  replay --reason prediction --reason "trip_distance" --since 2026-02-03T04:05
"""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
SHOWN_GROUPS = 20


def main() -> int:
    """Replay the records that the command line selects; return the exit code, 0 if all of them are on the stream."""
    options = parse_arguments()
    if not options.failures:
        raise CommandError("no failures location is known: name it with --failures, or set FAILURES_LOCATION")
    cli.choose_account(options.profile)
    if not options.dry_run:
        cli.require_stream(cli.kinesis_client(options.stream), options.stream)
    s3 = boto3.client("s3")
    require_bucket(s3, options.failures)
    objects = KeptObjects(s3, options.failures)
    plan = plan_replay(objects, ReplayFilter(tuple(options.reason), options.since, options.source))
    if not plan.groups:
        conditions = " that the options select" if plan.filter != ReplayFilter() else ""
        print(f"nothing to replay: {options.failures} keeps no record{conditions}")
        return 0
    show(plan, Console())
    if options.dry_run:
        return 0
    print(f"put {replay(objects, OutputStream.connect(options.stream), plan)} records on {options.stream}")
    if plan.complete:
        return 0
    hint = "the reasons are above; correct them, then run it again"
    print(f"left in {options.failures}: {plan.left} objects; {hint}")
    return 1


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    failures = (
        "s3://bucket/prefix of the rejections; batches that the mapping discarded are in the same bucket, below"
        f" {ON_FAILURE_PREFIX} (default: FAILURES_LOCATION)"
    )
    variable = os.environ.get("FAILURES_LOCATION") or None
    add("--failures", type=location, default=variable, metavar="URI", help=failures)
    stream = "the name or ARN of the stream to put them on (default: %(default)s)"
    add("--stream", type=cli.stream, default=cli.INPUT_STREAM, metavar="NAME", help=stream)
    source = "only records that came from the stream with this name or ARN (default: from any)"
    add("--from", dest="source", type=stream_of_records, metavar="NAME", help=source)
    reasons = (
        "only records of this kind (json, ride, prediction, ..., or discarded), or with this text in their reason, in"
        " any case; give the option again to add others"
    )
    add("--reason", action="append", type=reason, default=[], metavar="TEXT", help=reasons)
    times = (
        "only records that Kinesis received at or after this date or time, in ISO format, local time unless it has an"
        " offset; or within this time until now: 90m, 24h, 7d"
    )
    add("--since", type=since, metavar="WHEN", help=times)
    add("--dry-run", action="store_true", help="show the table and change nothing")
    cli.add_profile(parser)
    return parser.parse_args()


def location(text: str) -> str:
    """Check that an option's value is an S3 URI. Raises ArgumentTypeError."""
    if not re.fullmatch(S3_URI, text):
        raise argparse.ArgumentTypeError(f"{text} is not an s3://bucket/prefix URI")
    return text


def stream_of_records(text: str) -> str:
    """Convert an option's value, a name or an ARN, to a stream's name. Raises ArgumentTypeError."""
    return stream_name(cli.stream(text))


def reason(text: str) -> str:
    """Check that an option's value is not empty. Raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("every reason has the empty text in it: omit the option to select all of them")
    return text


def since(text: str) -> datetime:
    """Convert an option's value, a date, a time, or a duration until now, to a time. Raises ArgumentTypeError."""
    duration = re.fullmatch(r"(\d+)([smhd])", text)
    try:
        if duration:
            return datetime.now(UTC) - timedelta(**{UNITS[duration[2]]: int(duration[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"{text} is not a date, a time or a duration such as 90m, 24h or 7d"
        raise argparse.ArgumentTypeError(message) from error


def require_bucket(client: "S3Client", location: str) -> None:
    """Raise CommandError if there is no such bucket; the message names the endpoint."""
    bucket = location.removeprefix("s3://").partition("/")[0]
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except client.exceptions.NoSuchBucket as error:
        place = client.meta.endpoint_url
        raise CommandError(f"there is no bucket {bucket} at {place}: name another one with --failures") from error


def show(plan: ReplayPlan, console: Console) -> None:
    """Print a table of the selected records, the largest group first."""
    texts = Column("stream", overflow="fold"), Column("kind"), Column("reason", overflow="fold")
    numbers = Column("records", justify="right"), Column("objects", justify="right")
    table = Table(*texts, *numbers, "oldest arrival", title="Chosen records", title_justify="left")
    groups = sorted(plan.groups.items(), key=lambda item: (-item[1].records, item[0]))
    for names, group in groups[:SHOWN_GROUPS]:
        oldest = f"{group.oldest.astimezone():%Y-%m-%d %H:%M:%S}" if group.oldest else "-"
        table.add_row(*(Text(printable(name)) for name in names), f"{group.records:,}", f"{group.objects:,}", oldest)
    console.print(table)
    if len(groups) > SHOWN_GROUPS:
        console.print(f"... and {len(groups) - SHOWN_GROUPS:,} more", highlight=False)
