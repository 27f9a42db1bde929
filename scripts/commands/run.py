"""Run everything on this machine: put rides on a stream, let the Lambda function predict them, and read them back.

Moto's server plays Kinesis and S3, and the function runs in this process, driven by an event source mapping. The
functions of several consumers run in processes of their own. No AWS account is needed, and AWS is called only to read a
model that is in S3.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from artifacts import ModelError
from scripts import cli, serving
from scripts.cli import CONSOLE
from scripts.live import server as live_page
from scripts.localaws import account, chaos, consumers, faults, report, setup
from scripts.localaws.account import ExpectedRecord, PutRide
from scripts.localaws.consumers import RunningConsumer
from scripts.sources import chosen
from settings import SettingsError
from targets import find_target
from trip_cells import TripRecordError

DELAY_SECONDS = 4
"""Late responses of ``--chaos`` come after a third of the function's time, when their requests have timed out."""
EXPLAINED = (ModelError, SettingsError, TripRecordError)


def main() -> int:
    """Run the stack as the command line says; return the exit code, 0 if the account of every consumer is exact.

    A shadow's account does not change the exit code.
    """
    options = parse_arguments()
    chosen_consumers = consumers.choose_consumers(options.model, options.shadow, options.consumers)
    targets = [find_target(one.model.metadata.target, one.model.metadata.unit) for one in chosen_consumers]
    sources = chosen.sources_from_options(options, options.seed, targets)
    consumers.announce(chosen_consumers)
    CONSOLE.print("Starting moto's server as the local AWS, and the function in it")
    known = [one.records for one in sources]
    switch = faults.Switch(faults.seeded(options.seed, DELAY_SECONDS), is_on=options.chaos)
    with (
        setup.start(options.shards, [(one.model, one.outputs) for one in chosen_consumers]) as local,
        chaos.serve(local.endpoint, switch) as faulty,
        consumers.start(
            chosen_consumers, local, faulty.url if options.chaos or options.serve else local.endpoint, options.shards
        ) as running,
        live_page.serve(local, running, known, switch) if options.serve else contextlib.nullcontext() as page,
    ):
        if page:
            CONSOLE.print(f"The live page: {page}", highlight=False)
        rides: dict[str, PutRide] = {}
        mappings = {(one.name if running[1:] else "Predicting"): one.mapping for one in running}
        records = [ExpectedRecord(record) for record in sources[0].records]
        ends = account.put_and_wait(local.kinesis, records, mappings, rides, rate=options.rate or math.inf)
        seconds = list(ends.values())
        exact = [
            show_account(local, one, account.with_records(rides, own.records), end, stays=options.serve)
            for one, own, end in zip(running, sources, seconds, strict=True)
        ]
        if options.consumers:
            report.show_verdict({one.name: is_exact for one, is_exact in zip(running, exact, strict=True)})
        if options.chaos:
            report.show_faults(faulty.faults)
        if sources[0].left_out:
            print(f"{sources[0].left_out:,} rows of {options.data} were left out: outside the contract")
        if seconds[0] is None and not chosen_consumers[0].is_isolated:
            abandon()
        if options.serve:
            serve(local, running, page or "")
    return 0 if all(exact[:1] if options.shadow else exact) else 1


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
    several = (
        "several independent consumers of the same rides, each with a model and an output stream: names of sample"
        f" models ({', '.join(cli.SAMPLE_MODELS)}) or NAME=LOCATION, with commas between them. The first writes to"
        f" {cli.OUTPUT_STREAM}, and the others to {cli.OUTPUT_STREAM}_NAME. A pickled model needs its digest in"
        " <NAME>_MODEL_SHA256"
    )
    parser.add_argument("--consumers", type=consumers.locations, metavar="NAMES", help=several)
    rate = "put N rides a second (default: as fast as the local AWS takes them)"
    parser.add_argument("--rate", type=cli.count, metavar="N", help=rate)
    shards = "the number of shards of each stream, which are read concurrently (default: %(default)s)"
    parser.add_argument("--shards", type=cli.shards, default=1, metavar="N", help=shards)
    seed = "decides which rides are generated and which are bad (default: %(default)s)"
    parser.add_argument("--seed", type=cli.seed, default=0, metavar="N", help=seed)
    ways = "throttled entries, throttled and failed requests, lost connections, late responses, failed S3 puts"
    parser.add_argument("--chaos", action="store_true", help=f"make the function's calls fail at high rates: {ways}")
    serve = "show a live page, stay up afterwards until Ctrl-C, and print commands for another terminal"
    parser.add_argument("--serve", action="store_true", help=serve)
    options = parser.parse_args()
    if options.consumers and (options.model or options.shadow):
        parser.error("--consumers names all models: give --model and --shadow without it, or NAME=LOCATION in it")
    return options


def show_account(
    local: setup.LocalStack,
    consumer: RunningConsumer,
    rides: Mapping[str, PutRide],
    seconds: float | None,
    *,
    stays: bool,
) -> bool:
    """Print a consumer's account, and return whether it is exact.

    The consumer was done after ``seconds``, which are None if it stalled.
    """
    if seconds is None:
        stalled = f"{consumers.label(consumer.name)} settled nothing for {account.STALL_SECONDS} seconds"
        CONSOLE.print(f"{stalled}: its account is not complete", highlight=False, soft_wrap=True)
    found = account.take_account(rides, local.kinesis, local.s3, consumer.outputs)
    report.show(found, rides, consumer, seconds, stays=stays)
    return found.is_exact


def abandon() -> NoReturn:
    """End the process at once: leaving the blocks would wait for a function that hangs. Moto's server ends too."""
    CONSOLE.print("The run ends here.")
    sys.stdout.flush()
    os._exit(1)


def serve(local: setup.LocalStack, running: Sequence[RunningConsumer], page: str) -> None:
    """Show how to use the local AWS from another terminal, and keep it up until the user ends it."""
    shard_id = setup.find_shard(local.kinesis, cli.OUTPUT_STREAM, report.SAMPLE_KEY)
    first, *others = running
    is_same = {one.outputs.stream: one.model.metadata.field == first.model.metadata.field for one in others}
    commands = report.aws_commands(local.endpoint, shard_id, is_same)
    with serving.announce(setup.variables(local.endpoint)):
        print(f"\nThe live page: {page}\n\nIn another terminal:\n\n{commands}\n", flush=True)
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
