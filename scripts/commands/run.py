"""Run everything on this machine: put rides on a stream, let the Lambda function predict them, and read them back.

Moto's server plays Kinesis and S3, and the function runs in this process, driven by an event source mapping. No AWS
account is needed. None is ever reached, except to read a model that lies in S3.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from artifacts import ModelError
from scripts import cli, serving
from scripts.cli import CONSOLE
from scripts.localaws import account, chaos, consumers, faults, report, setup
from scripts.localaws.account import ExpectedRecord, PutRide
from scripts.localaws.consumers import RunningConsumer
from scripts.sources import chosen
from settings import SettingsError
from targets import Target, find_target
from trip_cells import TripRecordError

DELAY_SECONDS = 4
"""Late responses of ``--chaos`` come after a third of the function's time, when their requests have timed out."""
EXPLAINED = (ModelError, SettingsError, TripRecordError)


def main() -> int:
    """Run the stack as the command line says; return the exit code, 0 if every ride was predicted or rejected.

    A shadow's account does not change the exit code.
    """
    options = parse_arguments()
    chosen_consumers = consumers.choose_consumers(options.model, options.shadow)
    metadata = chosen_consumers[0].model.metadata
    unit, target = metadata.unit, find_target(metadata.target, metadata.unit)
    source = chosen.rides_from_options(options, options.seed, target)
    consumers.announce(chosen_consumers)
    CONSOLE.print("Starting moto's server as the local AWS, and the function in it")
    decide = faults.seeded(options.seed, DELAY_SECONDS) if options.chaos else faults.no_fault
    with (
        setup.start(options.shards, [(one.model, one.outputs) for one in chosen_consumers]) as local,
        chaos.serve(local.endpoint, decide) as faulty,
        consumers.start(
            chosen_consumers, local, faulty.url if options.chaos else local.endpoint, options.shards
        ) as running,
    ):
        live, *shadows = running
        rides: dict[str, PutRide] = {}
        records, began = [ExpectedRecord(record) for record in source.records], time.time()
        is_settled = account.put_and_wait(local.kinesis, records, live.mapping, rides)
        seconds = time.time() - began
        found = account.take_account(rides, local.kinesis, local.s3)
        report.show(found, rides, live.mapping.counters().redelivered, seconds, unit, target, stays=options.serve)
        for shadow in shadows:
            show_shadow(local, shadow, rides, len(records), began, target, stays=options.serve)
        if options.chaos:
            report.show_faults(faulty.faults)
        if source.left_out:
            print(f"{source.left_out:,} rows of {options.data} were left out: outside the contract")
        if not is_settled:
            abandon()
        if options.serve:
            serve(local, running)
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
    shadow = (
        "folder or s3:// URI of a second model, whose function predicts the same rides to a stream of its own,"
        f" {cli.SHADOW_STREAM}, independently of the first. A pickled model needs its digest in SHADOW_MODEL_SHA256"
    )
    parser.add_argument("--shadow", metavar="LOCATION", help=shadow)
    shards = "the number of shards of each stream, which are read concurrently (default: %(default)s)"
    parser.add_argument("--shards", type=cli.shards, default=1, metavar="N", help=shards)
    seed = "decides which rides are generated and which are bad (default: %(default)s)"
    parser.add_argument("--seed", type=cli.seed, default=0, metavar="N", help=seed)
    ways = "throttled entries, throttled and failed requests, lost connections, late responses, failed S3 puts"
    parser.add_argument("--chaos", action="store_true", help=f"make the function's calls fail at high rates: {ways}")
    serve = "stay up afterwards until Ctrl-C, and print commands for another terminal"
    parser.add_argument("--serve", action="store_true", help=serve)
    return parser.parse_args()


def show_shadow(
    local: setup.LocalStack,
    consumer: RunningConsumer,
    rides: Mapping[str, PutRide],
    records: int,
    began: float,
    target: Target | None,
    *,
    stays: bool,
) -> None:
    """Wait until a shadow is done with the records, or stalls, and print its account.

    The rides' true values are those of the target, the live model's. They are not compared with a shadow's of another.
    """
    mapping, outputs, metadata = consumer.mapping, consumer.outputs, consumer.model.metadata
    with CONSOLE.status(f"Waiting for {outputs.stream}"):
        if not account.wait_until_settled(mapping, records, lambda: None):
            CONSOLE.print(
                f"The shadow settled nothing for {account.STALL_SECONDS} seconds: its account is not complete"
            )
    seconds, found = time.time() - began, account.take_account(rides, local.kinesis, local.s3, outputs)
    same = target if find_target(metadata.target, metadata.unit) == target else None
    redelivered = mapping.counters().redelivered
    report.show(found, rides, redelivered, seconds, metadata.unit, same, stays=stays, outputs=outputs)


def abandon() -> NoReturn:
    """End the process at once: leaving the blocks would wait for a function that hangs. Moto's server ends too."""
    CONSOLE.print(f"The consumer settled nothing for {account.STALL_SECONDS} seconds: the run ends here.")
    sys.stdout.flush()
    os._exit(1)


def serve(local: setup.LocalStack, running: Sequence[RunningConsumer]) -> None:
    """Show how to use the local AWS from another terminal, and keep it up until the user ends it."""
    shard_id = setup.find_shard(local.kinesis, cli.OUTPUT_STREAM, report.SAMPLE_KEY)
    commands = report.aws_commands(local.endpoint, shard_id, [one.outputs for one in running[1:]])
    with serving.announce(setup.variables(local.endpoint)):
        print(f"\nIn another terminal:\n\n{commands}\n", flush=True)
        stay_up(running)
    CONSOLE.print(f"Served {running[0].delivered.count:,} rides", highlight=False)


def stay_up(running: Sequence[RunningConsumer]) -> None:
    """Let the consumers work until Ctrl-C, SIGTERM or SIGHUP; raise an exception that ended a polling thread."""
    with contextlib.suppress(KeyboardInterrupt), CONSOLE.status("") as status:
        while True:
            for one in running:
                one.mapping.counters()
            status.update(f"Serving: {running[0].delivered.count:,} rides predicted or rejected so far; Ctrl-C ends it")
            time.sleep(account.REFRESH_SECONDS)
