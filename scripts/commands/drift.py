"""Judge whether the rides of a window of time differ from the rides that a model was trained on.

The rides come from one of four sources:

    --rides STREAM         the input stream, joined with the stream of predictions: each ride counts once
    --logs FILE            log lines of the function: each invocation has counted its rides
    --metrics FILE|URL     /metrics of the web service; of two texts, the rides between them
    --outputs FOLDER       what the batch job wrote: a month's folder, or all months below a folder

Or, with --trial FILE, print how often windows of a trip record file give a false alarm, and how often changes are seen.

The exit code is 1 if there is drift, and 0 if there is no drift or too few rides for a verdict. It is 1 for an error
too: then one line is on stderr, and stdout is empty.
"""

import argparse
import os
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from artifacts import ModelError
from batch.outputs import OutputError
from model import find_location
from scripts import cli
from scripts.aws.windows import add_window, find_window
from scripts.models import drift_trial
from scripts.watching import shown
from scripts.watching.judging import judge_window
from scripts.watching.log_lines import read_log
from scripts.watching.outputs import read_outputs
from scripts.watching.raw_rows import write_evidently
from scripts.watching.scrapes import read_scrapes
from scripts.watching.streams import is_file, read_streams
from scripts.watching.windows import WatchedModel, Window, open_watched
from settings import ModelSettings
from trip_cells import TripRecordError

EXAMPLES = f"""\
examples:
  drift --model s3://my-models/live --rides {cli.INPUT_STREAM} --predictions {cli.OUTPUT_STREAM} --since 24h
  aws logs tail LOG_GROUP --since 1d | drift --model s3://my-models/live --logs -
  drift --metrics http://127.0.0.1:8080/metrics
  drift --metrics yesterday.txt today.txt --json
  drift --outputs output/colour=green/year=2023/month=02/model=3f9a --report february.html
  drift --trial green_tripdata_2023-02.parquet
"""
EXPLAINED = (ModelError, OutputError, TripRecordError)
TRIAL_RIDES = 2_000
"""Rides of each window of a trial."""
SOURCES = ("rides", "logs", "metrics", "outputs", "trial")


def main() -> int:
    """Judge as the command line says, and return the exit code."""
    options = parse_arguments()
    for file in filter(None, (options.report, options.evidently)):
        cli.check_writable(file)  # before minutes have passed
    cli.choose_account(options.profile)
    cli.choose_model(os.environ, options.model)
    settings = ModelSettings.from_environment(os.environ)
    if options.trial:
        run_trial(options, find_location(settings))
        return 0
    model = open_watched(settings)
    window = read_window(options, model)
    judged = judge_window(model, window)
    if options.evidently and window.rides:
        write_evidently(window.rides, options.reference, options.evidently, model, settings)
    if options.report:
        # Imported here because matplotlib takes a second to import.
        from scripts.watching.page import make_page

        cli.write(options.report, make_page(judged))
    # Printed last: stdout is empty if there was an error.
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(shown.as_document(judged))).decode())
    else:
        shown.show(judged)
    return int(judged.verdict == "drift")


def run_trial(options: argparse.Namespace, location: str) -> None:
    """Print how often windows of a file give a false alarm, and how often changes of them are seen."""
    rows = drift_trial.run_trial(options.trial, location, rides=TRIAL_RIDES)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
    else:
        Console().print(drift_trial.make_table(rows, TRIAL_RIDES))


def read_window(options: argparse.Namespace, model: WatchedModel) -> Window:
    """Return the window that the options name."""
    if options.logs:
        return read_log(options.logs, model)
    if options.metrics:
        return read_scrapes(options.metrics, model)
    if options.outputs:
        return read_outputs(model, options.outputs)
    since, until = find_window(options, datetime.now(UTC))
    return read_streams(model, options.rides, options.predictions, since, until, options.actual)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--rides", type=cli.stream, metavar="STREAM", help="the input stream: its name or ARN")
    predictions = "the stream of the model's predictions (default: %(default)s)"
    add("--predictions", type=cli.stream, default=cli.OUTPUT_STREAM, metavar="STREAM", help=predictions)
    add_window(parser, "arrived")
    actual = (
        "the actual values of the rides of --rides: a TLC trip record file (a path, or an http(s) URL) whose rides were"
        ' put, or a stream of JSON such as {"ride_id": 256, "ride_duration": 14.5}'
    )
    add("--actual", type=actual_source, metavar="FILE|STREAM", help=actual)
    logs = "log lines as CloudWatch has them, as aws logs tail or filter-log-events prints them; - is stdin"
    add("--logs", nargs="+", metavar="FILE", help=logs)
    add(
        "--metrics", nargs="+", metavar="FILE|URL", help="one or two texts of the web service's /metrics, in this order"
    )
    add("--outputs", nargs="+", metavar="FOLDER", help="outputs of the batch job: folders or s3:// URIs")
    trial = f"print the false alarms and the changes seen, in windows of {TRIAL_RIDES:,} rides of a trip record file"
    add("--trial", metavar="FILE", help=trial)
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--report", metavar="FILE", help="write a page (HTML) with plots")
    evidently = (
        "write Evidently's report, which compares the rows of --rides or --outputs with those of --reference. Its 79"
        " packages are installed into an environment of their own, once"
    )
    add("--evidently", metavar="FILE", help=evidently)
    reference = (
        "a TLC trip record file (a path, or an http(s) URL) with the rows for --evidently, such as a training month"
    )
    add("--reference", metavar="FILE", help=reference)
    cli.add_model(parser)
    cli.add_profile(parser)
    options = parser.parse_args()
    if sum(bool(getattr(options, source)) for source in SOURCES) != 1:
        parser.error(f"give one of {', '.join(f'--{source}' for source in SOURCES)}")
    if options.actual and not options.rides:
        parser.error(
            "--actual needs --rides: batch outputs have the actual values themselves, and counts have no ride ids"
        )
    if (options.since or options.until) and not options.rides:
        parser.error("--since and --until are for --rides: choose the lines, texts or folders of this time instead")
    if options.report and options.trial:
        parser.error("--report shows a window, and --trial judges many: leave one of the two out")
    if bool(options.evidently) != bool(options.reference):
        parser.error("--evidently and --reference go together")
    if options.evidently and not (options.rides or options.outputs):
        parser.error("--evidently needs the rows of --rides or --outputs: the other sources have only counts")
    if len(options.metrics or ()) > 2:
        parser.error("--metrics takes one text, or two for the rides between them")
    return options


def actual_source(text: str) -> str:
    """Convert an option's value to a file's name, a URL, or a stream. Raises ArgumentTypeError."""
    return text if is_file(text) else cli.stream(text)
