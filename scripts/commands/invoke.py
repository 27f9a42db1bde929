"""Run the Lambda function's handler on an event file, on this machine: a dry run, unless --write is given."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from artifacts import ModelError
from scripts import cli
from scripts.cli import CONSOLE, CommandError, printable
from settings import SettingsError
from streaming.delivery import Deadline
from streaming.envelope import NotAKinesisEventError
from streaming.records import decode_event

EPILOG = f"""\
The function is configured by its own environment variables (RUN_ID, MODEL_NAME, PREDICTIONS_STREAM_NAME, ...). Its
response goes to stdout; its log and a table of the rejected records go to stderr.

examples:
  invoke events/kinesis-one.json
  RUN_ID=e1efc53e9bd149078b0c12aeaa6365df invoke events/kinesis-one.json
  PREDICTIONS_STREAM_NAME={cli.OUTPUT_STREAM} invoke --write --profile staging events/kinesis-batch.json
"""
REJECTION_COLUMNS = ("sequence_number", "kind", "reason")
EXPLAINED = (ModelError, NotAKinesisEventError, SettingsError)


def main() -> int:
    """Invoke the handler as the command line says, print its response, and return the exit code."""
    options = parse_arguments()
    event = read_event(options.event)
    configure(os.environ, model=options.model, write=options.write)
    cli.use_profile(options.profile)
    # The function logs to stdout, which here is for the response alone.
    with contextlib.redirect_stdout(sys.stderr):
        import lambda_function

        response = lambda_function.lambda_handler(event, None)
        if options.write:
            # The response has no rejections then: find them again, which writes nothing.
            received, undecodable = decode_event(event)
            unpredictable = lambda_function.predict(received, Deadline.of(None))[1]
            rejections = [rejection.summary for rejection in undecodable + unpredictable]
        else:
            rejections = response["rejections"]
    show_rejections(rejections)
    print(json.dumps(response, indent=2, ensure_ascii=False))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("event", metavar="EVENT_FILE", help="a Kinesis event as JSON, such as the files in events/")
    write = "really put the predictions on the output stream and the rejections into the failures bucket"
    parser.add_argument("--write", action="store_true", help=write)
    cli.add_model(parser)
    cli.add_profile(parser)
    return parser.parse_args()


def read_event(name: str) -> Any:
    """Return the JSON of a file. Raises CommandError."""
    try:
        return json.loads(Path(name).read_bytes())
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON: {error}") from error


def configure(environment: MutableMapping[str, str], *, model: str | None, write: bool) -> None:
    """Set the function's variables for the options; variables that no option concerns keep their values."""
    environment["TEST_RUN"] = str(not write)
    cli.choose_model(environment, model)


def show_rejections(rejections: Sequence[Mapping[str, str]]) -> None:
    """Show a table of rejected records on stderr; print nothing if there are none."""
    columns = (Column(name.replace("_", " "), overflow="fold") for name in REJECTION_COLUMNS)
    table = Table(*columns, title=f"{len(rejections)} rejected", title_justify="left", box=None, pad_edge=False)
    for rejection in rejections:
        table.add_row(*(Text(printable(rejection[name])) for name in REJECTION_COLUMNS))
    if rejections:
        CONSOLE.print(table)
