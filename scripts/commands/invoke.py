"""Run the Lambda function's handler here on an event file: a dry run, unless --write is given."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from artifacts import ModelError
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL, CommandError, printable
from settings import SettingsError
from streaming.delivery import Deadline
from streaming.records import NotAKinesisEventError, Rejection, decode_event

PROGRAM = "invoke"

EPILOG = """\
The function is configured by its own environment variables (RUN_ID, MODEL_NAME, PREDICTIONS_STREAM_NAME, ...). Its
response goes to stdout; its log and a table of what it rejected go to stderr.

examples:
  invoke events/kinesis-one.json
  RUN_ID=e1efc53e9bd149078b0c12aeaa6365df invoke events/kinesis-one.json
  PREDICTIONS_STREAM_NAME=ride_predictions invoke --write --profile staging events/kinesis-batch.json
"""


def main() -> int:
    """Invoke the handler as the command line says, and print its response; return the exit code."""
    options = parse_arguments()
    event = read_event(options.event)
    configure(os.environ, model=options.model, write=options.write)
    cli.use_profile(options.profile)
    # The function logs to stdout, where its response goes here.
    with contextlib.redirect_stdout(sys.stderr):
        import lambda_function

        response = lambda_function.lambda_handler(event, None)
        received, undecodable = decode_event(event)
        _, unpredictable, _ = lambda_function.predict(received, Deadline())
    show_rejections([*undecodable, *unpredictable])
    print(json.dumps(response, indent=2, ensure_ascii=False))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("event", metavar="EVENT_FILE", help="a Kinesis event as JSON, such as those in events/")
    parser.add_argument(
        "--write",
        action="store_true",
        help="really put the predictions on the output stream and the rejections into the failures bucket",
    )
    parser.add_argument(
        "--model",
        metavar="LOCATION",
        help="folder or s3:// URI of the model (default: MODEL_LOCATION or MODEL_BUCKET, else the sample model)",
    )
    cli.add_profile(parser)
    return parser.parse_args()


def read_event(name: str) -> Any:
    """Return what the file's JSON says. Raises CommandError."""
    try:
        return json.loads(Path(name).read_bytes())
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON: {error}") from error


def configure(environment: MutableMapping[str, str], *, model: str | None, write: bool) -> None:
    """Set the function's variables: those that are set already stay, but for what the options decide."""
    environment["TEST_RUN"] = str(not write)
    if model:
        environment["MODEL_LOCATION"] = model
        environment.pop("MODEL_BUCKET", None)
    elif not names_model(environment):
        environment["MODEL_LOCATION"] = str(SAMPLE_MODEL)


def names_model(environment: Mapping[str, str]) -> bool:
    """Return whether the environment says which model to use."""
    return any(environment.get(name, "").strip() for name in ("MODEL_LOCATION", "MODEL_BUCKET"))


def show_rejections(rejections: Sequence[Rejection]) -> None:
    """Show which records were rejected, and why, on stderr; nothing where none was."""
    if not rejections:
        return
    table = Table(title=f"{len(rejections)} rejected", title_justify="left", box=None, pad_edge=False)
    for column in ("sequence number", "kind", "reason"):
        table.add_column(column, overflow="fold")
    for rejection in rejections:
        cells = (rejection.record.sequence_number, rejection.kind, rejection.reason)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    CONSOLE.print(table)


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main, explained=(ModelError, NotAKinesisEventError, SettingsError)))
