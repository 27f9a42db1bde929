"""Follow a stream of predictions by shard iterators, as a table or as JSON lines, until Ctrl-C."""

import argparse
import itertools
import logging
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import boto3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rides import Prediction
from scripts import cli
from scripts.aws.predictions import NotAPredictionError, read_prediction
from scripts.aws.shards import follow
from scripts.cli import CONSOLE, printable

if TYPE_CHECKING:
    from mypy_boto3_kinesis.type_defs import RecordTypeDef

PROGRAM = "read-predictions"

EXAMPLES = """\
examples:
  read-predictions
  read-predictions --from newest --json | jq .prediction.ride_duration
  read-predictions --json --idle 5 --distinct > predictions.jsonl
"""

STARTS: dict[str, Literal["TRIM_HORIZON", "LATEST"]] = {"oldest": "TRIM_HORIZON", "newest": "LATEST"}

SHOWN_BYTES = 200
"""How much is shown of data that is no prediction."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadPrediction:
    """A prediction with the data that it was read from, and when Kinesis got it."""

    prediction: Prediction
    data: bytes
    arrived: datetime


def main() -> int:
    """Follow the stream that the command line names; return the exit code."""
    options = parse_arguments()
    cli.use_profile(options.profile)
    client = boto3.client("kinesis")
    cli.require_stream(client, options.stream)
    rounds = follow(client, options.stream, STARTS[options.start])
    shown = 0
    try:
        first = next(rounds)
        CONSOLE.print(f"Reading {options.stream} from its {options.start} record on; Ctrl-C ends it.", highlight=False)
        records = patiently(itertools.chain([first], rounds), options.idle)
        batches: Iterable[list[ReadPrediction]] = map(predictions_of, records)
        if options.distinct:
            batches = distinct(batches)
        for predictions in limited(batches, options.limit):
            text = as_json_lines(predictions) if options.json else as_table(predictions, with_header=shown == 0)
            # Counted first: Ctrl-C may come between what others can read already and a count that comes after it.
            shown += len(predictions)
            write(text)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Who read our output has gone. Python would complain once more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    CONSOLE.print(f"{shown} predictions", highlight=False)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--stream", default="ride_predictions", metavar="NAME", help="the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        choices=STARTS,
        default="oldest",
        help="begin with the oldest record that the stream still holds, or with what comes from now on"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print each record's data on a line of its own instead of a table"
    )
    parser.add_argument(
        "--distinct",
        action="store_true",
        help="leave out what repeats an event_id, as a ride does that was delivered twice. Every event_id shown is"
        " remembered to the end, in about 170 bytes",
    )
    parser.add_argument("--limit", type=cli.count, metavar="N", help="stop after N predictions")
    parser.add_argument(
        "--idle",
        type=cli.seconds,
        metavar="SECONDS",
        help="stop when nothing has come for so long (default: never)",
    )
    cli.add_profile(parser)
    return parser.parse_args()


def patiently(
    rounds: "Iterable[list[tuple[str, RecordTypeDef]]]", idle: float | None
) -> "Iterator[list[tuple[str, RecordTypeDef]]]":
    """Yield the rounds that brought something, until none has for so many seconds; without end for None.

    Raises:
        BrokenPipeError: in a round that brought nothing, where nobody reads our output any more.
    """
    last = time.monotonic()
    for found in rounds:
        if found:
            yield found
            last = time.monotonic()
        elif idle is not None and time.monotonic() - last >= idle:
            return
        elif reader_has_gone():
            raise BrokenPipeError


def distinct(batches: Iterable[list[ReadPrediction]]) -> Iterator[list[ReadPrediction]]:
    """Yield the batches without the predictions whose event_id was there before: the first of each is kept."""
    seen: set[str] = set()
    for batch in batches:
        firsts: dict[str, ReadPrediction] = {}
        for read in batch:
            firsts.setdefault(read.prediction.event_id, read)
        yield [read for event_id, read in firsts.items() if event_id not in seen]
        seen.update(firsts)


def limited(batches: Iterable[list[ReadPrediction]], limit: int | None) -> Iterator[list[ReadPrediction]]:
    """Yield the batches that hold something, until there were so many predictions; all of them for None."""
    left = limit
    for batch in batches:
        if batch[:left]:
            yield batch[:left]
        if left is not None:
            left -= len(batch[:left])
            if not left:
                return


def predictions_of(found: "Iterable[tuple[str, RecordTypeDef]]") -> list[ReadPrediction]:
    """Return the predictions among what one round found; log a warning with the data of what is none."""
    predictions = []
    for shard_id, record in found:
        data = record["Data"]
        try:
            prediction = read_prediction(data)
        except NotAPredictionError as error:
            place = f"{shard_id}:{record['SequenceNumber']}"
            _log.warning("%s is no prediction: %s: %r", place, printable(str(error)), data[:SHOWN_BYTES])
        else:
            predictions.append(ReadPrediction(prediction, data, record["ApproximateArrivalTimestamp"]))
    return predictions


def as_json_lines(predictions: Sequence[ReadPrediction]) -> str:
    """Return the records' data, a line each."""
    # Between the tokens of JSON a line break is as good as a space, and within them there is none.
    return "".join(f"{read.data.decode().replace(chr(10), ' ').strip()}\n" for read in predictions)


def as_table(predictions: Sequence[ReadPrediction], *, with_header: bool) -> str:
    """Return the predictions as rows, whose columns are always of the same width."""
    console = Console()
    table = Table(box=None, show_header=with_header, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arrived", width=8)
    table.add_column("predicted", width=9, justify="right")
    table.add_column("version", width=32, overflow="fold")
    table.add_column("ride_id", width=max(12, console.width - 55), overflow="fold")
    for read in predictions:
        table.add_row(
            f"{read.arrived.astimezone():%H:%M:%S}",
            f"{read.prediction.value:.2f}",
            Text(printable(read.prediction.version)),
            Text(printable(str(read.prediction.ride_id))),
        )
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def reader_has_gone() -> bool:
    """Return whether stdout is a pipe that nobody reads: ``| head`` would else wait for a write that may never come."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def write(text: str) -> None:
    """Write to stdout at once: whoever reads a pipe sees each batch as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
