"""Run everything on this machine: put rides on a stream, let the Lambda function predict them, and read them back.

Moto's server plays Kinesis and S3, and the function runs in this process, driven by an event source mapping. No AWS
account is needed, and none is ever reached.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
from rich.console import Console
from rich.file_proxy import FileProxy

from artifacts import open_artifact
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL
from scripts.commands.put_rides import put
from scripts.localaws import chaos, moto, report, setup
from scripts.localaws.account import Account, find, settle
from scripts.localaws.chaos import Decide
from scripts.localaws.context import LambdaContext
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings
from scripts.sources import chosen
from scripts.sources.record import RideRecord
from streaming.delivery import OutputStream
from trips import TripRecordError

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_s3 import S3Client

PROGRAM = "run"

MAPPING = MappingSettings(
    batch_size=500,
    bisect_on_error=True,
    maximum_retry_attempts=3,
    report_batch_item_failures=True,
    on_failure=f"s3://{setup.FAILURES_BUCKET}",
)

STALL_SECONDS = 60
"""How long a run waits for the next ride to be settled before it ends with what there is."""

TIMEOUT_SECONDS = 10
"""The function's timeout."""

CHAOS = replace(chaos.HARD, delay_seconds=4)
"""What ``--chaos`` does; a late answer comes after the third of the time that delivery gives a request."""

REFRESH_SECONDS = 0.2
"""How often the bar of what is predicted moves."""


@dataclass(frozen=True)
class Stack:
    """The local AWS with a consumer at work in it."""

    endpoint: str
    kinesis: "KinesisClient"
    s3: "S3Client"
    mapping: EventSourceMapping
    faults: Mapping[str, int]
    """What was done to the function's calls on purpose, and how often."""


def main() -> int:
    """Run the stack as the command line says; return the exit code, 0 where every ride was predicted or rejected."""
    options = parse_arguments()
    source = chosen.chosen_rides(options, options.seed)
    decide = chaos.seeded(CHAOS, options.seed) if options.chaos else None
    with running_stack(options.shards, decide) as stack:
        put_at, settled = put_and_predict(stack.mapping, source.records)
        account = take_account(stack, put_at)
        report.show(account, source.records, Console())
        if options.chaos:
            report.show_faults(stack.faults, Console())
        if source.left_out:
            print(f"{source.left_out:,} rows of {options.data} were left out: outside the contract")
        if not settled:
            abandon()
        if options.serve:
            shard_id = setup.shard_of(stack.kinesis, setup.OUTPUT_STREAM, report.SAMPLE_KEY)
            print(f"\nIn another terminal:\n\n{report.aws_commands(stack.endpoint, shard_id)}\n", flush=True)
            stay_up(stack.mapping)
    return 0 if account.complete else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen.add_options(parser, json_lines=False)
    parser.add_argument(
        "--shards",
        type=cli.count,
        default=1,
        metavar="N",
        help="shards of each stream, which are read concurrently (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=cli.seed,
        default=0,
        metavar="N",
        help="what the generated and the bad rides depend on (default: %(default)s)",
    )
    parser.add_argument(
        "--chaos",
        action="store_true",
        help="fail the function's calls on purpose, at hard rates: throttled entries, throttled and failed requests,"
        " lost connections, late answers, failed S3 puts",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="stay up afterwards, and print commands for another terminal, until Ctrl-C",
    )
    return parser.parse_args()


@contextlib.contextmanager
def running_stack(shards: int, decide: Decide | None) -> Iterator[Stack]:
    """Give the local AWS with its streams, its buckets and a consumer; all of it ends with the block.

    What ``decide`` says is done to the function's calls, and to nobody else's.
    """
    CONSOLE.print("Starting moto's server as the local AWS, and the function in it")
    with moto.serve() as endpoint, chaos.serve(endpoint, decide or (lambda _: None)) as spoiled:
        setup.isolate(os.environ, endpoint)
        kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
        setup.create(kinesis, s3, shards)
        run_id = setup.upload(s3, open_artifact(str(SAMPLE_MODEL)))
        setup.configure_function(os.environ, run_id)
        function = load_function(spoiled.url if decide else endpoint)
        with EventSourceMapping(kinesis, s3, setup.INPUT_STREAM, function, MAPPING) as mapping:
            yield Stack(endpoint, kinesis, s3, mapping, spoiled.faults)


def load_function(endpoint: str) -> Callable[[dict[str, Any]], object]:
    """Return the Lambda function, cold-started, with AWS at the endpoint; it logs to stderr from now on."""
    elsewhere, os.environ["AWS_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"], endpoint
    # It binds its log to what stdout is during the import; lines amid the bars have to go through the console.
    with contextlib.redirect_stdout(FileProxy(CONSOLE, sys.stderr) if CONSOLE.is_terminal else sys.stderr):
        import lambda_function
    os.environ["AWS_ENDPOINT_URL"] = elsewhere
    return lambda event: lambda_function.lambda_handler(event, LambdaContext(TIMEOUT_SECONDS))


def put_and_predict(mapping: EventSourceMapping, records: Sequence[RideRecord]) -> tuple[dict[str, float], bool]:
    """Put the records and wait for the mapping to be done with them; return when each was put, and whether it is.

    The times are in seconds since the epoch, by partition key.
    """
    stream = OutputStream.connect(setup.INPUT_STREAM)
    put_at: dict[str, float] = {}
    with cli.progress_bar() as progress:
        putting = progress.add_task("Putting", total=len(records))
        predicting = progress.add_task("Predicting", total=len(records))

        def show() -> None:
            progress.update(predicting, completed=mapping.counters().settled)

        started_at = time.time()
        for chunk in put(stream, records):
            put_at.update(dict.fromkeys((entry.partition_key for entry in chunk), started_at))
            progress.advance(putting, len(chunk))
            show()
            started_at = time.time()
        return put_at, wait_until_settled(mapping, len(records), show)


def wait_until_settled(
    mapping: EventSourceMapping, number: int, show: Callable[[], None], stall: float = STALL_SECONDS
) -> bool:
    """Wait until the mapping is done with so many records, and say whether it is.

    It is given up when nothing has been settled for ``stall`` seconds. What ended a polling thread is raised.
    """
    settled, since = 0, time.monotonic()
    while not mapping.wait_for(number, timeout=REFRESH_SECONDS):
        show()
        if mapping.counters().settled > settled:
            settled, since = mapping.counters().settled, time.monotonic()
        elif time.monotonic() - since > stall:
            return False
    show()
    return True


def take_account(stack: Stack, put_at: Mapping[str, float]) -> Account:
    """Return what became of the rides, by what is found in the output stream and the failures bucket."""
    ended_at = time.time()
    redelivered = stack.mapping.counters().redelivered
    return settle(put_at, find(stack.kinesis, stack.s3), redelivered=redelivered, ended_at=ended_at)


def abandon() -> NoReturn:
    """End the process at once: it would wait for ever for a function that hangs. Moto's server ends with it."""
    CONSOLE.print(f"The consumer settled nothing for {STALL_SECONDS} seconds: the run ends here.")
    sys.stdout.flush()
    os._exit(1)


def stay_up(mapping: EventSourceMapping) -> None:
    """Let the consumer work until Ctrl-C, SIGTERM or SIGHUP; raise what ended a polling thread."""
    with contextlib.suppress(KeyboardInterrupt), CONSOLE.status("") as status:
        while True:
            status.update(f"Serving: {mapping.counters().settled:,} rides predicted or rejected so far; Ctrl-C ends it")
            time.sleep(REFRESH_SECONDS)


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main, explained=(TripRecordError,)))
