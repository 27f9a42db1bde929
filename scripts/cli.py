"""What the command lines share: errors in one line, Ctrl-C without a traceback, an AWS profile, and progress bars."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streaming.delivery import DeliveryError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

SAMPLE_MODEL = Path(__file__).parent / "sample_model" / "model"
"""The model that commands run with unless another one is named."""

CONSOLE = Console(stderr=True)
"""For people. What a command prints for programs goes to stdout."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended before it was done, as in a shell."""

STDOUT = "-"
"""What an option takes in a file's place."""

MAX_SEED = 1_000_000
"""Above it, the ids of synthetic rides would be larger than every reader of JSON takes."""


class CommandError(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


class _ConsoleHandler(logging.Handler):
    """Log lines above a bar that is being drawn, each on one line however narrow the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def run(program: str, main: Callable[[], int], explained: tuple[type[Exception], ...] = ()) -> int:
    """Run a command and return its exit code: 1 with one line on stderr for an error, 130 after Ctrl-C.

    ``explained`` are the command's own errors whose message is that line. SIGTERM and SIGHUP end a command as Ctrl-C
    does, so that nothing it started is left behind.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _interrupt)
    logging.basicConfig(handlers=[_ConsoleHandler()])
    try:
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    except ClientError as error:
        said = error.response.get("Error", {})
        message = f"{error.operation_name}: {said.get('Code')}: {said.get('Message')}"
    except (CommandError, DeliveryError, BotoCoreError) as error:
        message = str(error)
    except explained as error:
        message = str(error)
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def count(text: str) -> int:
    """Return the positive integer that an option was given. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    """Return the seed that an option was given. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MAX_SEED}")
    return int(text)


def percent(text: str) -> float:
    """Return the percentage that an option was given. Raises ArgumentTypeError."""
    return _number(text, 100, "a percentage from 0 to 100")


def seconds(text: str) -> float:
    """Return the number of seconds, 0 or more, that an option was given. Raises ArgumentTypeError."""
    return _number(text, threading.TIMEOUT_MAX, "a number of seconds")


def _number(text: str, most: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text} is not {what}")
    return number


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Give a command the option whose value ``use_profile`` takes."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="a profile of your AWS configuration; without it the AWS variables decide (AWS_PROFILE, AWS_ACCESS_KEY_ID,"
        " AWS_DEFAULT_REGION, ...). AWS_ENDPOINT_URL is honoured either way",
    )


def use_profile(profile: str | None) -> None:
    """Make every client from now on one of the profile, which goes before credentials in the environment."""
    if profile:
        boto3.setup_default_session(profile_name=profile)


def require_stream(client: "KinesisClient", stream: str) -> None:
    """Raise CommandError where there is no such stream, with the place that was looked at."""
    try:
        client.list_shards(StreamName=stream, MaxResults=1)
    except client.exceptions.ResourceNotFoundException as error:
        place = f"{client.meta.region_name} at {client.meta.endpoint_url}"
        raise CommandError(
            f"there is no stream {stream} in {place}: create it, or name another one with --stream"
        ) from error


def check_writable(name: str) -> None:
    """Raise CommandError where a file cannot be written; what it holds stays as it is."""
    try:
        with Path(name).open("a"):
            pass
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def write(name: str, text: str) -> None:
    """Write a line to a file, or to stdout for ``STDOUT``.

    Raises:
        CommandError: where the file cannot be written.
    """
    if name == STDOUT:
        print(text)
        return
    try:
        Path(name).write_text(f"{text}\n")
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def progress_bar(unit: str = "rides") -> Progress:
    """Return a bar of rides, or of something else, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeElapsedColumn(), console=CONSOLE)


def number_table(title: str, rows: Mapping[str, float]) -> Table:
    """Return a table of numbers by name."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for name, number in rows.items():
        table.add_row(name, f"{number:,}")
    return table


def printable(text: str) -> str:
    """Return text from a stream as it may stand on a terminal: with control characters written out."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
