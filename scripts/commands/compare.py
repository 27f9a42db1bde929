"""Compare two models that predict the same rides: a live one and a shadow, each with its own output stream.

Their predictions are joined by event_id. With the rides' actual values, such as their durations, the errors of both
models are compared too, and the verdict says whether the shadow is better, worse, or not yet known.
"""

import argparse
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from scripts import cli
from scripts.aws.windows import add_window, find_window, read
from scripts.cli import CommandError
from scripts.models import comparing_report
from scripts.models.comparing import MARGIN, JoinedRides, ReadStream
from scripts.models.comparing_actuals import ActualValues, find_target
from targets import TARGETS
from trip_cells import TripRecordError

EXAMPLES = f"""\
examples:
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM}
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM} --since 24h --until 5m --profile production
  compare {cli.OUTPUT_STREAM} {cli.SHADOW_STREAM} --actual green_tripdata_2023-02.parquet --json | jq .judgement
"""
EXPLAINED = (TripRecordError,)
DEFAULT_TOP, MAX_TOP = 5, 1_000


def main() -> int:
    """Compare as the command line says, and return the exit code, 0 whatever the verdict is."""
    options = parse_arguments()
    cli.choose_account(options.profile)
    now = datetime.now(UTC)
    since, until = find_window(options, now)
    live, shadow = ReadStream(options.live, options.live_version), ReadStream(options.shadow, options.shadow_version)
    if live.name == shadow.name:
        raise CommandError(f"{live.name} is given twice: give the live model's stream and the shadow's stream")
    rides = JoinedRides(live, shadow)
    for stream in (live, shadow):
        # Near the edges of the window, one prediction of a ride may be inside, and the other one just outside.
        last = min(until + MARGIN, datetime.now(UTC))
        read(stream.name, since and since - MARGIN, last, partial(rides.read, stream))
    comparison = rides.join(since, until)
    target = find_target(comparison.live.model.field, options.target)
    actuals = ActualValues(comparison.ride_ids, comparison.live.model.field, target)
    if options.actual and is_file(options.actual):
        actuals.read_file(options.actual)
    elif options.actual:
        # Actual values come after the predictions, up to now.
        read(options.actual, since, now, actuals.read_stream)
    judgement = actuals.judge(comparison) if options.actual else None
    if options.json:
        unit = target.unit if target else ""
        document = comparing_report.as_document(comparison, actuals.values(), judgement, unit, options.top)
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
    else:
        comparing_report.show(comparison, actuals.values(), judgement, target, options.top)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("live", type=cli.stream, metavar="LIVE", help="the stream of the live model's predictions: its name or ARN")
    add("shadow", type=cli.stream, metavar="SHADOW", help="the stream of the shadow's predictions")
    add_window(parser, "were predicted")
    add("--live-version", metavar="VERSION", help="leave out the live stream's predictions of other versions")
    add("--shadow-version", metavar="VERSION", help="leave out the shadow's predictions of other versions")
    actual = (
        "the actual values: a TLC trip record file (a path, or an http(s) URL) whose rides were put, or a stream of"
        ' JSON such as {"ride_id": 256, "ride_duration": 14.5}'
    )
    add("--actual", type=actual_source, metavar="FILE|STREAM", help=actual)
    target = "the target, if the name of the predicted value does not say it: which column of FILE is read"
    add("--target", choices=TARGETS, help=target)
    top = "show at most N of the rides that differ most (default: %(default)s)"
    add("--top", type=top_count, default=DEFAULT_TOP, metavar="N", help=top)
    add("--json", action="store_true", help="print JSON instead of tables")
    cli.add_profile(parser)
    return parser.parse_args()


def top_count(text: str) -> int:
    """Convert an option's value to a number of rides to show. Raises ArgumentTypeError."""
    if not text.isdecimal() or len(text) > len(str(MAX_TOP)) or int(text) > MAX_TOP:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MAX_TOP:,}")
    return int(text)


def is_file(source: str) -> bool:
    """Return whether the actual values come from a file or a URL, and not from a stream."""
    return source.endswith(".parquet") or "://" in source or Path(source).is_file()


def actual_source(text: str) -> str:
    """Convert an option's value to a file's name, a URL, or a stream. Raises ArgumentTypeError."""
    return text if is_file(text) else cli.stream(text)
