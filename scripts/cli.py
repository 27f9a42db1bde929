"""What all commands share: a parser, options, errors as one line, Ctrl-C without a traceback, progress and tables."""

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
from rich.table import Column, Table

from streaming.delivery import DeliveryError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

SAMPLE_MODEL = Path(__file__).parent / "sample_model" / "model"
"""The model that commands run with unless another one is named."""
INPUT_STREAM, OUTPUT_STREAM = "ride_events", "ride_predictions"
"""The names of the streams, unless others are given."""
CONSOLE = Console(stderr=True)
"""For people. A command prints its results for other programs to stdout."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as in a shell."""
STDOUT = "-"
"""The file name that stands for stdout in an option."""
MAX_SEED = 1_000_000
"""With a larger seed, the ids of synthetic rides would be too large for readers of JSON that only have doubles."""


class CommandError(Exception):
    """The command cannot do its work; the message says why and what to do."""


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a progress bar, each on one line even if the terminal is narrow."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def run(main: Callable[[], int], explained: tuple[type[Exception], ...] = ()) -> int:
    """Run a command and return its exit code: 1 with one line on stderr for an error, 130 after Ctrl-C.

    ``explained`` are the command's own exceptions whose message is that line. SIGTERM and SIGHUP end a command like
    Ctrl-C, so that it stops everything that it started.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup starts a command with SIGHUP ignored: leave it so.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    logging.basicConfig(handlers=[_ConsoleHandler()])
    errors: tuple[type[Exception], ...] = (CommandError, DeliveryError, BotoCoreError, *explained)
    try:
        return main()
    except KeyboardInterrupt as interrupt:
        # A command that knows how far it came raises this exception with a text.
        print(f"{program()}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except ClientError as error:
        details = error.response.get("Error", {})
        message = f"{error.operation_name}: {details.get('Code')}: {details.get('Message')}"
    except errors as error:
        message = str(error)
    print(f"{program()}: {' '.join(message.split())}", file=sys.stderr)
    return 1


def program() -> str:
    """Return the name of the command that is running: ``put-rides`` for the module ``put_rides``."""
    return Path(sys.argv[0]).stem.replace("_", "-")


def parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a command's parser. Its help shows the description and the epilog with their own line breaks."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(program(), description=description, epilog=epilog, formatter_class=form)


def count(text: str) -> int:
    """Convert an option's value to an integer of 1 or more. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    """Convert an option's value to a seed. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MAX_SEED}")
    return int(text)


def percent(text: str) -> float:
    """Convert an option's value to a percentage. Raises ArgumentTypeError."""
    return _number(text, 100, "a percentage from 0 to 100")


def seconds(text: str) -> float:
    """Convert an option's value to a number of seconds, 0 or more. Raises ArgumentTypeError."""
    return _number(text, threading.TIMEOUT_MAX, "a number of seconds")


def _number(text: str, most: float, description: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:  # NaN is refused too
        raise argparse.ArgumentTypeError(f"{text} is not {description}")
    return number


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--profile``, whose value ``use_profile`` takes."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="a profile of your AWS configuration (default: the AWS variables decide: AWS_PROFILE, AWS_ACCESS_KEY_ID,"
        " AWS_DEFAULT_REGION, ...). AWS_ENDPOINT_URL is honoured either way",
    )


def use_profile(profile: str | None) -> None:
    """Make all clients from now on use the profile, which takes precedence over credentials in the environment."""
    if profile:
        boto3.setup_default_session(profile_name=profile)


def require_stream(client: "KinesisClient", stream: str) -> None:
    """Raise CommandError if there is no such stream; the message names the region and the endpoint."""
    try:
        client.list_shards(StreamName=stream, MaxResults=1)
    except client.exceptions.ResourceNotFoundException as error:
        place = f"{client.meta.region_name} at {client.meta.endpoint_url}"
        raise CommandError(
            f"there is no stream {stream} in {place}: create it, or name another one with --stream"
        ) from error


def check_writable(name: str) -> None:
    """Raise CommandError if a file cannot be written; its content does not change."""
    try:
        with Path(name).open("a"):
            pass
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def write(name: str, text: str) -> None:
    """Write text and a line break to a file, or to stdout for ``STDOUT``. Raises CommandError."""
    if name == STDOUT:
        print(text)
        return
    try:
        Path(name).write_text(f"{text}\n")
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def progress_bar(unit: str = "rides") -> Progress:
    """Return a progress bar on stderr that counts in this unit."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeElapsedColumn(), console=CONSOLE)


def number_table(title: str, rows: Mapping[str, float]) -> Table:
    """Return a table of numbers by name."""
    columns = Column(overflow="fold"), Column(justify="right")
    table = Table(*columns, title=title, title_justify="left", show_header=False)
    for name, number in rows.items():
        table.add_row(name, f"{number:,}")
    return table


def printable(text: str) -> str:
    """Return text from a stream with its control characters escaped, so that it cannot act on the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
