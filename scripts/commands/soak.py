"""Put many rides through the consumer while everything around it fails, and account for each of them.

Moto's server plays Kinesis and S3. An event source mapping hands the rides to the function, which runs in sandboxes of
its own, as in Lambda. Only the function goes through the chaos endpoint: 30 % of the entries that it puts are failed,
each way in which a whole request can fail strikes 5 % of its requests, as many of its objects for S3 fail, and its
processes are killed at random instants. Every tenth ride comes in an aggregated record.

At the end each ride that was put is either predicted, with the very duration that the model gives, or, where it is bad,
rejected; else the exit code is 1.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import boto3
from rich.console import Console

from artifacts import open_artifact
from model import load_model
from scripts import cli
from scripts.cli import CONSOLE, INTERRUPTED, SAMPLE_MODEL, STDOUT, CommandError
from scripts.commands.run import REFRESH_SECONDS, STALL_SECONDS, wait_until_settled
from scripts.localaws import moto, setup
from scripts.localaws.chaos import HARD, ChaosEndpoint, seeded, serve
from scripts.localaws.mapping import EventSourceMapping
from scripts.localaws.rules import MappingSettings
from scripts.localaws.sandbox import Sandbox, Sandboxes
from scripts.localaws.soak_account import Account, rejected_event_ids, settle, stored_predictions
from scripts.localaws.soak_rides import Outcome, Parcel, made_parcels
from streaming.delivery import MAX_ENTRIES

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient

PROGRAM = "soak"

EXAMPLES = """\
examples:
  soak
  soak --rides 5000 --shards 2 --seed 7
  soak --kill-every 10 --json account.json
  soak --rides 5000 --json - | jq .account
"""

FUNCTION_SECONDS = 6.0
"""The function's timeout: short, since every request that hangs takes its share of it."""

RATES = replace(HARD, delay_seconds=1.5)
"""Of six seconds, a request gets 1.25 at first: see ``delivery``. The late answers come after that."""

MAPPING = MappingSettings(batch_size=400, bisect_on_error=True, report_batch_item_failures=True)
"""With as many retries as it takes: that its process was killed is no reason to give a batch up.

With what its aggregated records hold, a batch most often makes one PutRecords, and sometimes two.
"""

MOST_SHOWN = 10
"""Event ids that the table shows of each sort that should not be."""


@dataclass(slots=True)
class Ledger:
    """What Kinesis has accepted on the input stream."""

    records: int = 0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By event id."""


@dataclass(frozen=True)
class Toll:
    """What the rides went through."""

    seconds: float
    """From the first put until the last record was settled."""
    rides_per_second: float
    invocations: int
    redelivered: int
    """Kinesis records that the function was given again, each time counted."""
    kills: int
    cold_starts: int
    function_errors: Mapping[str, int]
    """Invocations by the type of error that they ended in."""
    put_requests: int
    """PutRecords that the function asked for."""
    faults: Mapping[str, int]
    """What the chaos endpoint did."""


@dataclass(frozen=True)
class Report:
    """A run, as far as it came."""

    seed: int
    shards: int
    interrupted: bool
    account: Account
    toll: Toll


def main() -> int:
    """Run the soak as the command line says; return the exit code, 0 where the account is exact."""
    options = parse_arguments()
    if options.json not in (None, STDOUT):
        cli.check_writable(options.json)  # before minutes have passed
    CONSOLE.print(f"Soaking the consumer in {options.rides:,} rides, with --seed {options.seed}", highlight=False)
    # A function error is no news here: they are counted.
    logging.getLogger("scripts.localaws.mapping").setLevel(logging.ERROR)
    with moto.serve() as endpoint:
        report = soak(options, endpoint)
    if options.json != STDOUT:
        show(report, Console())
    if options.json:
        cli.write(options.json, as_json(report))
    if report.interrupted:
        return INTERRUPTED
    return 0 if report.account.is_exact else 1


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rides", type=cli.count, default=200_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--shards", type=cli.count, default=4, metavar="N", help="of each stream (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=cli.seed,
        default=random.SystemRandom().randrange(cli.MAX_SEED),
        metavar="N",
        help="what the rides, the faults and the times between kills depend on (default: another one every time)",
    )
    parser.add_argument(
        "--bad",
        type=cli.percent,
        default=2.0,
        metavar="PERCENT",
        help="how many of the rides are (default: %(default)g)",
    )
    parser.add_argument(
        "--kill-every",
        type=cli.seconds,
        default=5.0,
        metavar="SECONDS",
        help="how often the process of a sandbox is killed, on average: more than a cold start takes, or 0 for never"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help=f"write the account there, too; {STDOUT} prints it instead of the table"
    )
    return parser.parse_args()


def soak(options: argparse.Namespace, endpoint: str) -> Report:
    """Run the soak against the local AWS at the endpoint, until all is settled, nothing moves any more, or Ctrl-C."""
    setup.isolate(os.environ, endpoint)
    kinesis, s3 = boto3.client("kinesis"), boto3.client("s3")
    setup.create(kinesis, s3, options.shards)
    run_id = setup.upload(s3, open_artifact(str(SAMPLE_MODEL)))
    parcels = list(made_parcels(options.rides, options.bad, options.seed, load_model(str(SAMPLE_MODEL))))
    with (
        serve(endpoint, seeded(RATES, options.seed)) as chaos,
        Sandboxes(sandboxes(options.shards, chaos.url, run_id)) as pool,
        EventSourceMapping(kinesis, s3, setup.INPUT_STREAM, pool.invoke, MAPPING, back_off=back_off) as mapping,
        killing(pool, options.kill_every, options.seed),
    ):
        began = time.monotonic()
        ledger, interrupted = put_and_settle(kinesis, parcels, mapping)
        took = time.monotonic() - began
    # Only now can nothing be written any more by a request that its function has given up.
    with CONSOLE.status("Reading the predictions and rejections back"):
        account = settle(ledger.outcomes, stored_predictions(kinesis), rejected_event_ids(s3))
    return Report(options.seed, options.shards, interrupted, account, toll(took, account, mapping, pool, chaos))


def sandboxes(number: int, endpoint: str, run_id: str) -> list[Sandbox]:
    """Return so many sandboxes for the function, which reaches nothing but the endpoint."""
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint}
    setup.configure_function(environment, run_id)
    return [Sandbox(environment, FUNCTION_SECONDS) for _ in range(number)]


def back_off(attempts: int) -> float:
    """Return the seconds until the mapping delivers again: less than Lambda's, so that more is tried in the time."""
    return min(0.1 * 2.0**attempts, 1.0)


@contextlib.contextmanager
def killing(pool: Sandboxes, every: float, seed: int) -> Iterator[None]:
    """Kill the process of a sandbox again and again for the length of the block, after so many seconds on average."""
    draw, ended = random.Random(seed), threading.Event()

    def kill() -> None:
        while not ended.wait(draw.uniform(0, 2 * every)):
            pool.kill_one(draw)

    with ThreadPoolExecutor(1, thread_name_prefix="killing") as thread:
        if every:
            thread.submit(kill)
        try:
            yield
        finally:
            ended.set()


def put_and_settle(
    kinesis: "KinesisClient", parcels: Sequence[Parcel], mapping: EventSourceMapping
) -> tuple[Ledger, bool]:
    """Put the parcels and wait until the mapping is done with them; return what was put, and whether Ctrl-C came."""
    ledger, stopping = Ledger(), threading.Event()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="putting") as thread,
        cli.progress_bar("records") as progress,
    ):
        putting = progress.add_task("Putting", total=len(parcels))
        settling = progress.add_task("Settling", total=len(parcels))

        def show_progress() -> None:
            progress.update(putting, completed=ledger.records)
            progress.update(settling, completed=mapping.counters().settled)

        # In a thread of its own, which Ctrl-C cannot stop between a request and its entry in the ledger.
        put_all = thread.submit(put, kinesis, parcels, ledger, stopping)
        try:
            CONSOLE.print("Ctrl-C ends it with the account so far", highlight=False)
            wait_until_put(put_all, show_progress)
            if not wait_until_settled(mapping, ledger.records, show_progress):
                CONSOLE.print(f"Nothing was settled for {STALL_SECONDS} seconds: the soak ends here")
        except KeyboardInterrupt:
            return ledger, True
        finally:
            stopping.set()
    return ledger, False


def put(kinesis: "KinesisClient", parcels: Sequence[Parcel], ledger: Ledger, stopping: threading.Event) -> None:
    """Put the parcels on the input stream, and enter what Kinesis answers into the ledger, until told to stop.

    Raises:
        CommandError: where Kinesis does not take one, or gives two of them the same number.
    """
    for start in range(0, len(parcels), MAX_ENTRIES):
        chunk = parcels[start : start + MAX_ENTRIES]
        answer = kinesis.put_records(
            StreamName=setup.INPUT_STREAM,
            Records=[{"Data": parcel.record.data, "PartitionKey": parcel.record.partition_key} for parcel in chunk],
        )
        if answer["FailedRecordCount"]:
            raise CommandError(f"{answer['FailedRecordCount']} rides were not taken by {setup.INPUT_STREAM}")
        for parcel, result in zip(chunk, answer["Records"], strict=True):
            event_ids = parcel.event_ids(result["ShardId"], result["SequenceNumber"])
            if not ledger.outcomes.keys().isdisjoint(event_ids):
                raise CommandError(f"{setup.INPUT_STREAM} gave a sequence number twice: {event_ids[0]}")
            ledger.outcomes.update(zip(event_ids, parcel.outcomes, strict=True))
        ledger.records += len(chunk)
        if stopping.is_set():
            return


def wait_until_put(put_all: "Future[None]", show_progress: Callable[[], None]) -> None:
    """Wait until all is put, and raise what stopped it."""
    while not put_all.done():
        show_progress()
        wait([put_all], REFRESH_SECONDS)
    put_all.result()


def toll(took: float, account: Account, mapping: EventSourceMapping, pool: Sandboxes, chaos: ChaosEndpoint) -> Toll:
    """Return what the rides of a run that took so many seconds went through."""
    counters = mapping.counters()
    return Toll(
        seconds=round(took, 1),
        rides_per_second=round((account.predicted + account.rejected) / took, 1),
        invocations=counters.invocations,
        redelivered=counters.redelivered,
        kills=pool.kills,
        cold_starts=pool.cold_starts,
        function_errors=dict(pool.errors),
        put_requests=len(chaos.entry_counts),
        faults=dict(chaos.faults),
    )


def as_json(report: Report) -> str:
    """Return the report for programs."""
    document = {"exact": report.account.is_exact, **asdict(report)}
    return json.dumps(document, indent=2)


def show(report: Report, console: Console) -> None:
    """Print the report for people."""
    account, toll = report.account, report.toll
    sections: dict[str, Mapping[str, float]] = {
        "The account": {
            "put": account.put,
            "predicted": account.predicted,
            "rejected": account.rejected,
            "missing": len(account.missing),
            "unknown": len(account.unknown),
            "predicted and rejected": len(account.contradictory),
            "wrong": len(account.wrong),
            "predicted again (duplicates)": account.duplicates,
        },
        "What it took": {
            "seconds": toll.seconds,
            "rides/s": toll.rides_per_second,
            "invocations": toll.invocations,
            "records delivered again": toll.redelivered,
            "sandboxes killed": toll.kills,
            "cold starts": toll.cold_starts,
            "PutRecords requests": toll.put_requests,
            **{f"function errors: {kind}": number for kind, number in sorted(toll.function_errors.items())},
        },
        "Faults": dict(sorted(toll.faults.items())),
    }
    for title, rows in sections.items():
        console.print(cli.number_table(title, rows))
    for sort in ("missing", "unknown", "contradictory", "wrong"):
        for event_id in getattr(account, sort)[:MOST_SHOWN]:
            console.print(f"{sort}: {event_id}", markup=False, highlight=False)
    if report.interrupted:
        verdict = "was interrupted: what is missing may not have been settled yet"
    else:
        verdict = "is exact: every ride is accounted for" if account.is_exact else "is NOT exact"
    console.print(f"The account of --seed {report.seed} {verdict}", highlight=False)


if __name__ == "__main__":
    sys.exit(cli.run(PROGRAM, main))
