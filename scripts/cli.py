"""What all commands share: a parser, options, errors as one line, Ctrl-C without a traceback, progress and tables."""

import argparse
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError, NoRegionError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

import clients
from arns import parse_stream, stream_parameter
from scripts import interrupts, serving
from scripts.interrupts import INTERRUPTED
from settings import SettingsError
from streaming.delivery import DeliveryError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

SAMPLE_MODELS = {
    name: Path(__file__).parent / "sample_model" / folder
    for name, folder in (("duration", "model"), ("tip", "tip"), ("fare", "fare"))
}
"""The folders of the sample models, by what they predict."""
SAMPLE_MODEL = SAMPLE_MODELS["duration"]
"""The model that commands run with unless another one is named."""
INPUT_STREAM, OUTPUT_STREAM = "ride_events", "ride_predictions"
"""The names of the streams, unless others are given."""
SHADOW_STREAM = f"{OUTPUT_STREAM}_shadow"
"""The output stream of the shadow, the second consumer of ``run``."""
CONSOLE = Console(stderr=True)
"""For people. A command prints its results for other programs to stdout."""
SERVICES = ("kinesis", "s3", "cloudformation")
"""The services that the commands use."""
STDOUT = "-"
"""The file name that stands for stdout in an option."""
NO_ACCOUNT = (
    "no AWS region or no credentials are set: for AWS, set AWS_DEFAULT_REGION and a profile; for a local AWS, start"
    " ./scripts/run --serve, and set AWS_ENDPOINT_URL and the other variables that it prints"
)
NEUTRAL_VARIABLES = {
    *("AWS_CA_BUNDLE", "AWS_CLI_AUTO_PROMPT", "AWS_DEFAULT_OUTPUT", "AWS_EC2_METADATA_DISABLED", "AWS_MAX_ATTEMPTS"),
    *("AWS_PAGER", "AWS_RETRY_MODE", "AWS_SDK_LOAD_CONFIG", "AWS_STS_REGIONAL_ENDPOINTS"),
}
"""AWS variables that do not choose an account, a region or an endpoint. Any other AWS variable might choose one."""
MAX_COUNT = 1_000_000
"""The largest number that an option takes: a million rides take half a gigabyte of memory."""
MAX_SHARDS = 32
"""The most shards of a local stream. With 100, moto would be busy with polls alone: it does one request at a time."""
MAX_PORT = 65_535
MAX_SECONDS = 604_800
"""The most seconds that an option takes: a week."""
MAX_SEED = 1_000_000
"""With a larger seed, the ids of synthetic rides would be too large for readers of JSON that only have doubles."""


class CommandError(Exception):
    """The command cannot do its work; the message says why and what to do."""


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a progress bar, each on one line even if the terminal is narrow."""

    def emit(self, record: logging.LogRecord) -> None:
        # Escaped, because a message may have an object's key or a producer's data in it.
        lines = map(printable, f"{record.levelname.lower()}: {self.format(record)}".splitlines())
        CONSOLE.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def run(main: Callable[[], int], explained: tuple[type[Exception], ...] = ()) -> int:
    """Run a command and return its exit code: 1 with one line on stderr for an error, 130 with one after Ctrl-C.

    ``explained`` are the command's own exceptions whose message is that line. SIGTERM and SIGHUP end a command like
    Ctrl-C, so that it stops everything that it started; a second signal does not wait for that.
    """
    logging.basicConfig(handlers=[_ConsoleHandler()], format="%(message)s")
    own = (CommandError, DeliveryError, SettingsError, clients.SDKSettingsError)
    # It is None if the shell closed it, as >&- does.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - to the end of the process
    try:
        interrupts.handle_with(interrupts.raise_interrupt)
        code, message = _run(main, (*own, OSError, *explained))
    except KeyboardInterrupt as interrupt:
        # A command that knows how much it has done raises this exception with a text.
        code, message = INTERRUPTED, str(interrupt) or "interrupted"
    finally:
        # From here on, nothing would catch a KeyboardInterrupt.
        interrupts.handle_with(interrupts.end_at_once)
        _give_up_stdout()
    if message:
        print(f"{program()}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _run(main: Callable[[], int], errors: tuple[type[Exception], ...]) -> tuple[int, str]:
    """Return the exit code of a command, and the message of an error that ended it."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError as error:
        return 1, "" if reader_has_gone() else str(error)
    except ClientError as error:
        details = error.response.get("Error", {})
        return 1, f"{error.operation_name}: {details.get('Code')}: {details.get('Message')}"
    except (NoRegionError, NoCredentialsError):
        return 1, NO_ACCOUNT
    except EndpointConnectionError as error:
        is_local = "AWS_ENDPOINT_URL" in os.environ
        return 1, f"{error}{': AWS_ENDPOINT_URL names it; is ./scripts/run --serve still up?' if is_local else ''}"
    except errors as error:
        return 1, str(error)
    except (BotoCoreError, ValueError) as error:
        # The SDK's clients raise both for settings that they cannot use.
        wrong = clients.wrong_setting(*SERVICES)
        if wrong is None and not isinstance(error, BotoCoreError):
            raise
        return 1, wrong or str(error)
    return code, ""


def _give_up_stdout() -> None:
    """Make the end of Python silent if stdout cannot be written: the error was reported, or its reader has gone."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reader_has_gone() -> bool:
    """Return whether stdout is a pipe without a reader: otherwise ``| head`` could wait for ever for the next write."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def program() -> str:
    """Return the name of the command that is running: ``put-rides`` for the module ``put_rides``."""
    return Path(sys.argv[0]).stem.replace("_", "-")


def parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a command's parser. Its help shows the description and the epilog with their own line breaks."""
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(program(), description=description, epilog=epilog, formatter_class=form)


def count(text: str) -> int:
    """Convert an option's value to an integer from 1 to ``MAX_COUNT``. Raises ArgumentTypeError."""
    return _integer(text, 1, MAX_COUNT)


def shards(text: str) -> int:
    """Convert an option's value to a number of shards of a local stream. Raises ArgumentTypeError."""
    return _integer(text, 1, MAX_SHARDS)


def seed(text: str) -> int:
    """Convert an option's value to a seed. Raises ArgumentTypeError."""
    return _integer(text, 0, MAX_SEED)


def port(text: str) -> int:
    """Convert an option's value to the number of a port. Raises ArgumentTypeError."""
    return _integer(text, 1, MAX_PORT)


def percent(text: str) -> float:
    """Convert an option's value to a percentage. Raises ArgumentTypeError."""
    return _number(text, 100, "a percentage from 0 to 100")


def seconds(text: str) -> float:
    """Convert an option's value to a number of seconds, from 0 to ``MAX_SECONDS``. Raises ArgumentTypeError."""
    return _number(text, MAX_SECONDS, f"a number of seconds from 0 to {MAX_SECONDS:,}")


def _integer(text: str, least: int, most: int) -> int:
    # Python refuses to convert thousands of digits.
    if not text.isdecimal() or len(text) > len(str(most)) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most:,}")
    return int(text)


def _number(text: str, most: float, description: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:  # NaN is refused too
        raise argparse.ArgumentTypeError(f"{text} is not {description}")
    return number


def stream(text: str) -> str:
    """Convert an option's value to a stream's name or ARN. Raises ArgumentTypeError."""
    found = parse_stream(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is neither the name nor the ARN of a stream")
    return found.arn or found.name


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
        os.environ["AWS_PROFILE"] = profile  # for errors, which name it
        boto3.setup_default_session(profile_name=profile)
        clients.start_session(profile)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--model``, whose value ``choose_model`` takes."""
    model = "folder or s3:// URI of the model (default: MODEL_LOCATION or MODEL_BUCKET, else the sample model)"
    parser.add_argument("--model", metavar="LOCATION", help=model)


def choose_model(environment: MutableMapping[str, str], location: str | None) -> None:
    """Let the variables name the model at the location; if there is none and they name no model, the sample model."""
    if location:
        environment["MODEL_LOCATION"] = location
        environment.pop("MODEL_BUCKET", None)
    elif not any(environment.get(name, "").strip() for name in ("MODEL_LOCATION", "MODEL_BUCKET")):
        environment["MODEL_LOCATION"] = str(SAMPLE_MODEL)


def choose_account(profile: str | None) -> None:
    """Make all clients from now on use the profile; if nothing else is set, the local AWS of ``run --serve``.

    If there is any AWS variable or any profile in a file, the local AWS is not used, because the user may mean another
    AWS. A line on stderr says whether it is used.
    """
    use_profile(profile)
    local = serving.find()
    if not local or profile:
        return
    names = {name for name, value in os.environ.items() if name.startswith("AWS_") and value} - NEUTRAL_VARIABLES
    settings = [f"{name} is set" for name in sorted(names)]
    settings += [f"there is a profile {name}" for name in boto3.Session().available_profiles]
    place = f"the local AWS of ./scripts/run --serve at {local['AWS_ENDPOINT_URL']}"
    if not settings:
        os.environ.update(local)
        CONSOLE.print(f"Using {place}", highlight=False, soft_wrap=True)
    elif not any(name.startswith("AWS_ENDPOINT_URL") for name in settings):
        CONSOLE.print(f"Not using {place}, because {settings[0]}", highlight=False, soft_wrap=True)


def kinesis_client(stream: str) -> "KinesisClient":
    """Return a client for the region in a stream's ARN, or for the SDK's region.

    In contrast to ``clients.kinesis`` it raises NoRegionError if no region is set, which ``run`` explains better.
    """
    found = parse_stream(stream)
    return boto3.client("kinesis", region_name=found.region if found else None)


def require_stream(client: "KinesisClient", stream: str) -> None:
    """Raise CommandError if there is no such stream; the message names the region and the endpoint."""
    try:
        client.list_shards(**stream_parameter(stream), MaxResults=1)
    except client.exceptions.ResourceNotFoundException as error:
        place = f"{client.meta.region_name} at {client.meta.endpoint_url}"
        raise CommandError(f"there is no stream {stream} in {place}: create it, or name another stream") from error


def check_writable(name: str) -> None:
    """Raise CommandError if a file cannot be written; its content does not change, and a new file does not stay."""
    # Resolved, because a symbolic link to a file that is not there yet stays.
    path = Path(name).resolve()
    is_new = not path.exists()
    try:
        with path.open("a"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def write(name: str, text: str) -> None:
    """Write text and a line break to a file, or to stdout for ``STDOUT``. Raises CommandError."""
    if name == STDOUT:
        print(text)
        return
    try:
        Path(name).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


def progress_bar(unit: str = "rides") -> Progress:
    """Return a progress bar on stderr that counts in this unit."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    return Progress(*columns, TimeElapsedColumn(), console=CONSOLE)


def find_free_port() -> int:
    """Return a port of the loopback address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


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
