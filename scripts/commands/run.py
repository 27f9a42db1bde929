"""Run everything on this machine: put rides on a stream, let the Lambda function predict them, and read them back.

Moto's server plays Kinesis and S3, and the function runs in this process, driven by an event source mapping. No AWS
account is needed. None is ever reached, except to read a model that lies in S3.
"""

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.file_proxy import FileProxy

from artifacts import ModelError
from scripts import cli, serving
from scripts.cli import CONSOLE
from scripts.localaws import account, chaos, faults, report, rules, setup
from scripts.localaws.account import ExpectedRecord, PutRide
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import EventRecord, MappingSettings
from scripts.localaws.sandbox import LambdaContext
from scripts.sources import chosen
from settings import SettingsError
from streaming.records import decode_event
from trip_cells import TripRecordError

MAPPING = MappingSettings(
    batch_size=500,
    bisect_on_error=True,
    maximum_retry_attempts=3,
    report_batch_item_failures=True,
    on_failure=f"s3://{setup.FAILURES_BUCKET}",
)

TIMEOUT_SECONDS = 10
"""The function's timeout."""
DELAY_SECONDS = 4
"""Late responses of ``--chaos`` come after a third of the function's time, when their requests have timed out."""
EXPLAINED = (ModelError, SettingsError, TripRecordError)


class DeliveredRides:
    """Counts the rides that were predicted or rejected. An aggregated record has many of them."""

    def __init__(self) -> None:
        """Start at zero."""
        self.count = 0
        self._lock = threading.Lock()

    def add(self, records: Sequence[EventRecord]) -> None:
        """Count the rides in records that the function has finished. Any thread may call this."""
        received, rejections = decode_event(rules.event_of(records))
        with self._lock:
            self.count += len(received) + len(rejections)


def main() -> int:
    """Run the stack as the command line says; return the exit code, 0 if every ride was predicted or rejected."""
    options = parse_arguments()
    source = chosen.rides_from_options(options, options.seed)
    model = setup.copy_chosen_model(os.environ, options.model)
    CONSOLE.print(f"Model: {model.location}, run {model.run_id}", markup=False, highlight=False, soft_wrap=True)
    CONSOLE.print("Starting moto's server as the local AWS, and the function in it")
    decide = faults.seeded(options.seed, DELAY_SECONDS) if options.chaos else faults.no_fault
    with setup.start(model, options.shards) as local, chaos.serve(local.endpoint, decide) as faulty:
        setup.configure_function(os.environ, model)
        try:
            function = load_function(faulty.url if options.chaos else local.endpoint)
        except ModelError as error:
            raise ModelError(str(error).replace(model.uri, model.location)) from error
        delivered = DeliveredRides()
        with EventSourceMapping(
            local.kinesis, local.s3, cli.INPUT_STREAM, function, MAPPING, on_delivered=delivered.add
        ) as mapping:
            rides: dict[str, PutRide] = {}
            records, began = [ExpectedRecord(record) for record in source.records], time.time()
            is_settled = account.put_and_wait(local.kinesis, records, mapping, rides)
            seconds = time.time() - began
            found = account.take_account(rides, local.kinesis, local.s3)
            report.show(found, rides, mapping.counters().redelivered, seconds, stays=options.serve)
            if options.chaos:
                report.show_faults(faulty.faults)
            if source.left_out:
                print(f"{source.left_out:,} rows of {options.data} were left out: outside the contract")
            if not is_settled:
                abandon()
            if options.serve:
                serve(local, mapping, delivered)
    return 0 if found.is_exact else 1


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__)
    chosen.add_options(parser, documents=False)
    model = (
        "folder or s3:// URI of the model, which is copied into the local AWS (default: MODEL_LOCATION or MODEL_BUCKET,"
        " else the sample model). A pickled model needs its digest in MODEL_SHA256"
    )
    parser.add_argument("--model", metavar="LOCATION", help=model)
    shards = "the number of shards of each stream, which are read concurrently (default: %(default)s)"
    parser.add_argument("--shards", type=cli.shards, default=1, metavar="N", help=shards)
    seed = "decides which rides are generated and which are bad (default: %(default)s)"
    parser.add_argument("--seed", type=cli.seed, default=0, metavar="N", help=seed)
    ways = "throttled entries, throttled and failed requests, lost connections, late responses, failed S3 puts"
    parser.add_argument("--chaos", action="store_true", help=f"make the function's calls fail at high rates: {ways}")
    serve = "stay up afterwards until Ctrl-C, and print commands for another terminal"
    parser.add_argument("--serve", action="store_true", help=serve)
    return parser.parse_args()


def load_function(endpoint: str) -> Callable[[dict[str, Any]], object]:
    """Return the Lambda function, cold-started, with AWS at the endpoint; it logs to stderr from now on."""
    usual, os.environ["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"], endpoint
    # Its logger keeps the stdout of the import. On a terminal, log lines must not break the progress bars.
    with contextlib.redirect_stdout(FileProxy(CONSOLE, sys.stderr) if CONSOLE.is_terminal else sys.stderr):
        import lambda_function
    os.environ["AWS_ENDPOINT_URL"] = usual
    return lambda event: lambda_function.lambda_handler(event, LambdaContext(TIMEOUT_SECONDS))


def abandon() -> NoReturn:
    """End the process at once: leaving the blocks would wait for a function that hangs. Moto's server ends too."""
    CONSOLE.print(f"The consumer settled nothing for {account.STALL_SECONDS} seconds: the run ends here.")
    sys.stdout.flush()
    os._exit(1)


def serve(local: setup.LocalStack, mapping: EventSourceMapping, delivered: DeliveredRides) -> None:
    """Show how to use the local AWS from another terminal, and keep it up until the user ends it."""
    shard_id = setup.find_shard(local.kinesis, cli.OUTPUT_STREAM, report.SAMPLE_KEY)
    with serving.announce(setup.variables(local.endpoint)):
        print(f"\nIn another terminal:\n\n{report.aws_commands(local.endpoint, shard_id)}\n", flush=True)
        stay_up(mapping, delivered)
    CONSOLE.print(f"Served {delivered.count:,} rides", highlight=False)


def stay_up(mapping: EventSourceMapping, delivered: DeliveredRides) -> None:
    """Let the consumer work until Ctrl-C, SIGTERM or SIGHUP; raise an exception that ended a polling thread."""
    with contextlib.suppress(KeyboardInterrupt), CONSOLE.status("") as status:
        while True:
            mapping.counters()
            status.update(f"Serving: {delivered.count:,} rides predicted or rejected so far; Ctrl-C ends it")
            time.sleep(account.REFRESH_SECONDS)
