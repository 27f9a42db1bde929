"""A window of time of a stream: the options that name it, and reading it with its progress."""

import argparse
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from scripts import cli
from scripts.aws.shards import read_window
from scripts.cli import CommandError

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

Rounds: TypeAlias = "Iterator[list[tuple[str, RecordTypeDef]]]"

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
AGE = re.compile(r"(\d{1,7})([smhd])", re.ASCII)
OLDEST_YEAR = 2000
"""Kinesis refuses a time before 1970, and does not keep a record for longer than a year."""


def add_window(parser: argparse.ArgumentParser, happened: str) -> None:
    """Add the options ``--since`` and ``--until``. ``happened`` says what happened to a ride at these times."""
    form = "ISO 8601, in this machine's time zone if it has no offset, or an age such as 90s, 30m, 24h, 7d"
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help=f"leave out rides that {happened} before TIME: {form}"
    )
    until = f"leave out rides that {happened} at TIME or later"
    parser.add_argument("--until", type=moment, metavar="TIME", help=until)


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


def find_window(options: argparse.Namespace, now: datetime) -> tuple[datetime | None, datetime]:
    """Return the window that the options name, which ends now at the latest. Raises CommandError if it is empty."""
    since: datetime | None = options.since
    until: datetime = min(options.until or now, now)
    if since and since >= until:
        raise CommandError(f"there is no time between {since:%Y-%m-%dT%H:%M:%SZ} and {until:%Y-%m-%dT%H:%M:%SZ}")
    return since, until


def read(stream: str, since: datetime | None, until: datetime, take: Callable[[Rounds], Iterator[int]]) -> None:
    """Give a stream's records of this time to ``take``. Raises CommandError if there is no such stream."""
    client = cli.kinesis_client(stream)
    cli.require_stream(client, stream)
    with cli.CONSOLE.status(f"Reading {stream}") as status:
        records = 0
        for count in take(read_window(client, stream, since, until)):
            records += count
            status.update(f"Reading {stream}: {records:,} records")
