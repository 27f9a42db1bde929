"""Follow a stream of predictions, as a table or as JSON lines, until Ctrl-C."""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from rides import RIDE_ID
from scripts import cli
from scripts.aws.predictions import ReadPrediction, read_predictions
from scripts.aws.shards import Start, follow
from scripts.cli import CONSOLE, printable

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

EXAMPLES = """\
examples:
  read-predictions
  read-predictions --from newest --json | jq .prediction.ride_duration
  read-predictions --json --idle 5 --distinct > predictions.jsonl
"""

STARTS: dict[str, Start] = {"oldest": "TRIM_HORIZON", "newest": "LATEST"}


def main() -> int:
    """Follow the stream that the command line names, and return the exit code."""
    options = parse_arguments()
    cli.choose_account(options.profile)
    client = cli.kinesis_client(options.stream)
    cli.require_stream(client, options.stream)
    rounds = follow(client, options.stream, STARTS[options.start])
    shown, seen = 0, set[str]()
    try:
        # The first round creates the shard iterators: from then on no record is missed.
        first = next(rounds)
        CONSOLE.print(f"Reading {options.stream} from its {options.start} record on; Ctrl-C ends it.", highlight=False)
        for found in wait_for_records(itertools.chain([first], rounds), options.idle):
            batch = read_predictions(found)
            if options.distinct:
                batch = drop_repeats(batch, seen)
            if options.limit:
                batch = batch[: options.limit - shown]
            text = format_json_lines(batch) if options.json else format_table(batch, with_header=shown == 0)
            # Count before writing: Ctrl-C may come when others can read the text already.
            shown += len(batch)
            sys.stdout.write(text if batch else "")
            sys.stdout.flush()
            if shown == options.limit:
                break
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    CONSOLE.print(f"{shown} predictions", highlight=False)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--stream",
        type=cli.stream,
        default=cli.OUTPUT_STREAM,
        metavar="NAME",
        help="its name or ARN (default: %(default)s)",
    )
    start = "begin at the oldest record that the stream holds, or after the newest (default: %(default)s)"
    add("--from", dest="start", choices=STARTS, default="oldest", help=start)
    add("--json", action="store_true", help="print the data of each record on a line of its own instead of a table")
    repeats = "show each event_id once: a redelivered ride has several predictions. Each event_id takes about 170 bytes"
    add("--distinct", action="store_true", help=repeats)
    add("--limit", type=cli.count, metavar="N", help="stop after N predictions")
    add("--idle", type=cli.seconds, metavar="SECONDS", help="stop after this time without a record (default: never)")
    cli.add_profile(parser)
    return parser.parse_args()


def wait_for_records(
    rounds: "Iterable[list[tuple[str, RecordTypeDef]]]", idle: float | None
) -> "Iterator[list[tuple[str, RecordTypeDef]]]":
    """Yield the rounds that have records, until there were none for ``idle`` seconds; without end if it is None.

    Raises BrokenPipeError in a round without records, if nobody reads our output any more.
    """
    last = time.monotonic()
    for found in rounds:
        if found:
            yield found
            last = time.monotonic()
        elif idle is not None and time.monotonic() - last >= idle:
            return
        elif cli.reader_has_gone():
            raise BrokenPipeError


def drop_repeats(batch: Iterable[ReadPrediction], seen: set[str]) -> list[ReadPrediction]:
    """Return the predictions whose event_id is not in ``seen``, each event_id once, and add the event_ids to it."""
    fresh = []
    for read in batch:
        if read.prediction.event_id not in seen:
            seen.add(read.prediction.event_id)
            fresh.append(read)
    return fresh


def format_json_lines(predictions: Sequence[ReadPrediction]) -> str:
    """Return the data of the records, each on a line of its own."""
    # A line break in JSON can only stand between two tokens, where a space means the same.
    return "".join(f"{read.data.decode().replace(chr(10), ' ').strip()}\n" for read in predictions)


def format_table(predictions: Sequence[ReadPrediction], *, with_header: bool) -> str:
    """Return the predictions as rows of a table whose columns have fixed widths."""
    console = Console()
    numbers = Column("arrived", width=8), Column("predicted", width=9, justify="right")
    ride_id = Column(RIDE_ID, width=max(12, console.width - 55), overflow="fold")
    columns = *numbers, Column("version", width=32, overflow="fold"), ride_id
    table = Table(*columns, box=None, show_header=with_header, pad_edge=False, padding=(0, 2, 0, 0))
    for read in predictions:
        texts = (Text(printable(text)) for text in (read.prediction.version, str(read.prediction.ride_id)))
        table.add_row(f"{read.arrived.astimezone():%H:%M:%S}", f"{read.prediction.value:.2f}", *texts)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
