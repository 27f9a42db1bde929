"""Put rides on a stream: from the generator, from JSON lines, or from a TLC trip record file."""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence

import boto3

from scripts import cli
from scripts.cli import CommandError
from scripts.sources import chosen
from scripts.sources.aggregated import aggregated
from scripts.sources.record import RideRecord
from streaming.delivery import Deadline, Entry, OutputStream, split_into_requests
from trips import TripRecordError

PROGRAM = "put-rides"

EXAMPLES = """\
examples:
  put-rides --rides 100 --bad 5
  put-rides --json events/ride.json
  my-backend | put-rides --json - --stream ride_events --profile staging
  put-rides --rides 10000 --aggregate
  put-rides --data green_tripdata_2023-02.parquet
"""


def main() -> int:
    """Put the rides that the command line asks for; return the exit code."""
    options = parse_arguments()
    seed = random.SystemRandom().randrange(cli.MAX_SEED) if options.seed is None else options.seed
    cli.use_profile(options.profile)
    cli.require_stream(boto3.client("kinesis"), options.stream)
    source = chosen.chosen_rides(options, seed)
    records = aggregated(source.records) if options.aggregate else source.records
    stream = OutputStream.connect(options.stream)
    with cli.progress_bar("records" if options.aggregate else "rides") as progress:
        putting = progress.add_task("Putting", total=len(records))
        for chunk in put(stream, records):
            progress.advance(putting, len(chunk))
    print(summary(options, len(source.records), source.left_out, seed))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stream", default="ride_events", metavar="NAME", help="the stream (default: %(default)s)")
    chosen.add_options(parser, json_lines=True)
    parser.add_argument(
        "--seed",
        type=cli.seed,
        metavar="N",
        help="generate the same rides, with the same ids, again (default: other rides and ids every time)",
    )
    parser.add_argument(
        "--aggregate",
        action="store_true",
        help="put aggregated records, as the Kinesis Producer Library does, of up to 100 rides each",
    )
    cli.add_profile(parser)
    return parser.parse_args()


def put(stream: OutputStream, records: Sequence[RideRecord]) -> Iterator[list[Entry]]:
    """Put the records, in order, and yield them request by request as soon as Kinesis has accepted all of one.

    Raises:
        CommandError: where Kinesis accepts none any more, after the tries that ``OutputStream`` makes; with reasons.
        DeliveryError: where it would not accept any later either.
    """
    entries = [Entry(str(place), record.partition_key, record.data) for place, record in enumerate(records)]
    accepted = 0
    for chunk in split_into_requests(entries):
        pending = chunk
        while pending:
            delivery = stream.put(pending, Deadline())
            if len(delivery.undelivered) == len(pending):
                accepted += len(chunk) - len(pending)
                reasons = ", ".join(delivery.errors)
                raise CommandError(f"Kinesis accepts no more rides ({reasons}): {accepted} of {len(entries)} are put")
            pending = delivery.undelivered
        accepted += len(chunk)
        yield chunk


def summary(options: argparse.Namespace, number: int, left_out: int, seed: int) -> str:
    """Return the line that ends the command."""
    line = f"put {number} rides on {options.stream}"
    if options.data:
        return f"{line} ({left_out} rows of {options.data} left out: outside the contract)"
    return line if options.json else f"{line} (--seed {seed})"


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main, explained=(TripRecordError,)))
