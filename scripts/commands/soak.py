"""Put many rides through the consumer while everything around it fails, and account for each of them.

Moto's server plays Kinesis and S3. An event source mapping hands the rides to the function, which runs in sandboxes, as
in Lambda. Only the function goes through the chaos endpoint: 30 % of the entries that it puts fail, each way in which a
whole request can fail happens to 5 % of its requests, 5 % of its S3 puts fail, and its processes are killed at random
times. Every tenth ride comes in an aggregated record.

At the end, each good ride must be predicted with the very duration that the model gives, and each bad ride must be
rejected; else the exit code is 1.
"""

import argparse
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from model import load_model
from scripts import cli
from scripts.cli import CONSOLE, SAMPLE_MODEL, STDOUT
from scripts.interrupts import INTERRUPTED
from scripts.localaws import chaos, faults, setup
from scripts.localaws.account import STALL_SECONDS, Account, PutRide, expect_records, put_and_wait, take_account
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings
from scripts.localaws.sandbox import Sandboxes

EXAMPLES = """\
examples:
  soak
  soak --rides 5000 --shards 2 --seed 7
  soak --kill-every 10 --json account.json
  soak --rides 5000 --json - | jq .account
"""
FUNCTION_SECONDS = 6.0
"""The function's timeout: short, because every request that hangs takes its share of it."""
DELAY_SECONDS = 1.5
"""Of six seconds, a request gets 1.25 at first (``streaming.delivery``): late responses come after that."""
MAPPING = MappingSettings(batch_size=400, bisect_on_error=True, report_batch_item_failures=True)
"""Retries have no end: a batch is not bad because its process was killed.

With the rides of its aggregated records, a batch usually makes one PutRecords, and sometimes two.
"""
ACCOUNT = {"contradictory": "predicted and rejected", "duplicates": "predicted again (duplicates)"}
STATISTICS = {
    "seconds": "seconds",
    "rides_per_second": "rides/s",
    "invocations": "invocations",
    "redelivered": "records delivered again",
    "kills": "sandboxes killed",
    "cold_starts": "cold starts",
    "put_requests": "PutRecords requests",
}
"""The names of numbers in the JSON document, and what the tables call them."""
MAX_IDS = 10
"""Event ids that are listed of each sort that should not be."""


def main() -> int:
    """Run the soak as the command line says; return the exit code, 0 if the account is exact."""
    options = parse_arguments()
    if options.json not in (None, STDOUT):
        cli.check_writable(options.json)  # before minutes have passed
    CONSOLE.print(f"Soaking the consumer in {options.rides:,} rides, with --seed {options.seed}", highlight=False)
    # Function errors are expected: they are counted, not logged.
    logging.getLogger("scripts.localaws.mapping").setLevel(logging.ERROR)
    account, statistics, is_interrupted = soak(options)
    if options.json != STDOUT:
        show(account, statistics, is_interrupted, options.seed)
    if options.json:
        run = {"seed": options.seed, "shards": options.shards, "interrupted": is_interrupted}
        document = {"exact": account.is_exact, **run, "account": account.as_json(), "statistics": statistics}
        cli.write(options.json, json.dumps(document, indent=2))
    if is_interrupted:
        return INTERRUPTED
    return 0 if account.is_exact else 1


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EXAMPLES)
    rides = "the number of rides (default: %(default)s)"
    parser.add_argument("--rides", type=cli.count, default=200_000, metavar="N", help=rides)
    shards = "the number of shards of each stream (default: %(default)s)"
    parser.add_argument("--shards", type=cli.shards, default=4, metavar="N", help=shards)
    any_seed = random.SystemRandom().randrange(cli.MAX_SEED)
    seed = "decides the rides, the faults and the times between kills (default: another seed every time)"
    parser.add_argument("--seed", type=cli.seed, default=any_seed, metavar="N", help=seed)
    bad = "the percentage of bad rides (default: %(default)g)"
    parser.add_argument("--bad", type=cli.percent, default=2.0, metavar="PERCENT", help=bad)
    kills = "the average time between kills of a sandbox's process: more than a cold start takes, or 0 for never"
    parser.add_argument(
        "--kill-every", type=cli.seconds, default=5.0, metavar="SECONDS", help=f"{kills} (default: %(default)g)"
    )
    document = f"also write the account to this file; {STDOUT} prints it instead of the table"
    parser.add_argument("--json", metavar="FILE", help=document)
    return parser.parse_args()


def soak(options: argparse.Namespace) -> tuple[Account, dict[str, Any], bool]:
    """Run the soak until all rides are settled, nothing moves any more, or Ctrl-C.

    Returns:
        The account, the run statistics, and whether Ctrl-C ended the run.
    """
    model = setup.copy_model(str(SAMPLE_MODEL))
    records = list(expect_records(options.rides, options.bad, options.seed, load_model(str(SAMPLE_MODEL))))
    rides: dict[str, PutRide] = {}
    is_interrupted = False
    with setup.start(options.shards, [(model, setup.LIVE)]) as local:
        variables = dict(os.environ)
        setup.configure_function(variables, model)
        with (
            chaos.serve(local.endpoint, faults.seeded(options.seed, DELAY_SECONDS)) as faulty,
            Sandboxes(options.shards, variables | {"AWS_ENDPOINT_URL": faulty.url}, FUNCTION_SECONDS) as pool,
            EventSourceMapping(
                local.kinesis, local.s3, cli.INPUT_STREAM, pool.invoke, MAPPING, back_off=back_off
            ) as mapping,
            pool.killing(options.kill_every, random.Random(options.seed)),
        ):
            began = time.monotonic()
            try:
                hint = "Ctrl-C ends it with the account so far"
                mappings = {"Predicting": mapping}
                if None in put_and_wait(local.kinesis, records, mappings, rides, unit="records", hint=hint).values():
                    CONSOLE.print(f"Nothing was settled for {STALL_SECONDS} seconds: the soak ends here")
            except KeyboardInterrupt:
                is_interrupted = True
            seconds = time.monotonic() - began
        # Only now: until the chaos endpoint is closed, requests that the function has abandoned can still be applied.
        with CONSOLE.status("Reading the predictions and rejections back"):
            account = take_account(rides, local.kinesis, local.s3)
    statistics = {
        "seconds": round(seconds, 1),
        "rides_per_second": round((len(account.predicted) + len(account.rejected)) / seconds, 1),
        "invocations": mapping.counters().invocations,
        "redelivered": mapping.counters().redelivered,
        "kills": pool.kills,
        "cold_starts": pool.cold_starts,
        "function_errors": dict(pool.errors),
        "put_requests": len(faulty.entry_counts),
        "faults": dict(faulty.faults),
    }
    return account, statistics, is_interrupted


def back_off(attempts: int) -> float:
    """Return the seconds until the mapping delivers again: fewer than Lambda's, for more attempts in the same time."""
    return min(0.1 * 2.0**attempts, 1.0)


def show(account: Account, statistics: dict[str, Any], is_interrupted: bool, seed: int) -> None:
    """Print the report for people."""
    numbers = account.as_json()
    errors = {f"function errors: {kind}": count for kind, count in sorted(statistics["function_errors"].items())}
    counts = {name: len(value) if isinstance(value, list) else value for name, value in numbers.items()}
    sections: dict[str, Mapping[str, float]] = {
        "The account": {ACCOUNT.get(name, name): count for name, count in counts.items()},
        "What it took": {label: statistics[name] for name, label in STATISTICS.items()} | errors,
        "Faults": dict(sorted(statistics["faults"].items())),
    }
    console = Console()
    for title, rows in sections.items():
        console.print(cli.number_table(title, rows))
    for name, value in numbers.items():
        for event_id in value[:MAX_IDS] if isinstance(value, list) else ():
            console.print(f"{name}: {event_id}", markup=False, highlight=False)
    if is_interrupted:
        verdict = "was interrupted: missing rides may not have been settled yet"
    else:
        verdict = "is exact: every ride is accounted for" if account.is_exact else "is NOT exact"
    console.print(f"The account of --seed {seed} {verdict}", highlight=False)
