"""Put rides on a stream: generated rides, JSON documents, or the rides of a TLC trip record file."""

import argparse
import random

from scripts import cli
from scripts.aws.putting import put
from scripts.sources import chosen
from scripts.sources.records import aggregate
from streaming.delivery import OutputStream
from trip_cells import TripRecordError

EXAMPLES = """\
examples:
  put-rides --rides 100 --bad 5
  put-rides --json events/ride.json
  my-backend | put-rides --json - --stream taxis --profile staging
  put-rides --rides 10000 --aggregate
  put-rides --data green_tripdata_2023-02.parquet
"""
EXPLAINED = (TripRecordError,)


def main() -> int:
    """Put the rides that the command line asks for, and return the exit code."""
    options = parse_arguments()
    seed = random.SystemRandom().randrange(cli.MAX_SEED) if options.seed is None else options.seed
    cli.choose_account(options.profile)
    cli.require_stream(cli.kinesis_client(options.stream), options.stream)
    done = 0
    try:
        source = chosen.rides_from_options(options, seed)
        records = aggregate(source.records) if options.aggregate else source.records
        stream = OutputStream.connect(options.stream)
        with cli.progress_bar() as progress:
            putting = progress.add_task("Putting", total=len(source.records))
            for accepted in put(stream, records):
                done += sum(records[int(entry.sequence_number)].rides for entry in accepted)
                progress.update(putting, completed=done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: put {done} rides on {options.stream}") from None
    line = f"put {len(source.records)} rides on {options.stream}"
    if options.data:
        line += f" ({source.left_out} rows of {options.data} left out: outside the contract)"
    print(line if options.data or options.json else f"{line} (--seed {seed})")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--stream",
        type=cli.stream,
        default=cli.INPUT_STREAM,
        metavar="NAME",
        help="its name or ARN (default: %(default)s)",
    )
    chosen.add_options(parser, documents=True)
    seed = "generate the same rides, with the same ids, as another call with this seed (default: new ones each time)"
    parser.add_argument("--seed", type=cli.seed, metavar="N", help=seed)
    aggregated = "put aggregated records of up to 100 rides each, as the Kinesis Producer Library does"
    parser.add_argument("--aggregate", action="store_true", help=aggregated)
    cli.add_profile(parser)
    return parser.parse_args()
