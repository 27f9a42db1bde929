"""What a run of the local stack shows: the rides with their predictions, the summary, and what was rejected."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rides import RideEvent
from scripts.cli import printable
from scripts.localaws.account import Account
from scripts.localaws.setup import FAILURES_BUCKET, INPUT_STREAM, OUTPUT_STREAM, REJECTIONS, shell_exports
from scripts.sources.records import RideRecord

MOST_ROWS, FIRST_ROWS = 50, 20
"""All rides are shown up to the one number; of more than that, the other."""

MOST_REASONS = 2
"""Examples for each kind of rejection."""

MOST_MISSING = 10

SAMPLE_KEY = "256"
"""The partition key, which is the ride_id, of events/ride.json."""


def show(account: Account, records: Sequence[RideRecord], console: Console) -> None:
    """Print the whole account of the records that were put."""
    predicted = [record for record in records if record.partition_key in account.predictions]
    shown = predicted if len(predicted) <= MOST_ROWS else predicted[:FIRST_ROWS]
    if shown:
        console.print(_rides(account, shown))
    if len(shown) < len(predicted):
        console.print(f"... and {len(predicted) - len(shown):,} more\n", highlight=False)
    if account.rejected:
        console.print(_rejections(account))
        _print(console, f"They are kept in {REJECTIONS}/\n")
    console.print(_summary(account))
    if account.given_up:
        _print(console, f"Those given up are kept in s3://{FAILURES_BUCKET}/aws/lambda/: the function failed on them")
    if account.missing:
        some = ", ".join(map(printable, account.missing[:MOST_MISSING]))
        more = len(account.missing) - MOST_MISSING
        _print(console, f"Missing: {some}{f' and {more:,} more' if more > 0 else ''}")


def _rides(account: Account, records: Sequence[RideRecord]) -> Table:
    table = Table(title="Rides and their predictions", title_justify="left")
    table.add_column("ride_id", overflow="fold")
    for column in ("pickup", "dropoff", "miles", "predicted minutes"):
        table.add_column(column, justify="right")
    for record in records:
        event = msgspec.json.decode(record.data, type=RideEvent)
        minutes = account.predictions[record.partition_key].prediction.value
        table.add_row(
            Text(printable(str(event.ride_id))),
            str(event.ride.PULocationID),
            str(event.ride.DOLocationID),
            f"{event.ride.trip_distance:.2f}",
            f"{minutes:.2f}",
        )
    return table


def _rejections(account: Account) -> Table:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for rejected in account.rejected.values():
        by_kind[rejected.kind].append(rejected.reason)
    table = Table(title="Rejected", title_justify="left")
    table.add_column("kind")
    table.add_column("rides", justify="right")
    table.add_column("for example", overflow="fold")
    for kind, reasons in sorted(by_kind.items()):
        examples = list(dict.fromkeys(reasons))[:MOST_REASONS]
        table.add_row(kind, f"{len(reasons):,}", Text("\n".join(map(printable, examples))))
    return table


def _summary(account: Account) -> Table:
    rows = {
        "put": f"{account.put:,}",
        "predicted": f"{len(account.predictions):,}",
        "rejected": f"{len(account.rejected):,}",
        "redelivered": f"{account.redelivered:,}",
        **({"given up": f"{len(account.given_up):,}"} if account.given_up else {}),
        **({"missing": f"{len(account.missing):,}"} if account.missing else {}),
        "put to prediction, p50": _milliseconds(account.latency(50)),
        "put to prediction, p95": _milliseconds(account.latency(95)),
        "rides/s": f"{account.rides_per_second:,.0f}",
    }
    table = Table(title="Summary", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def show_faults(faults: Mapping[str, int], console: Console) -> None:
    """Print what was done to the function's calls on purpose."""
    if not faults:
        console.print("Chaos: no fault struck; try more rides, or another --seed", highlight=False)
        return
    table = Table(title="Chaos", title_justify="left")
    table.add_column("call and fault")
    table.add_column("times", justify="right")
    for fault, times in sorted(faults.items()):
        table.add_row(fault, f"{times:,}")
    console.print(table)


def aws_commands(endpoint: str, shard_id: str) -> str:
    """Return lines for another shell that put the ride of events/ride.json and read its prediction.

    ``shard_id`` is the one that the prediction will be on.
    """
    iterator = f"--stream-name {OUTPUT_STREAM} --shard-id {shard_id} --shard-iterator-type LATEST"
    lines = (
        f"cd {shlex.quote(str(Path(__file__).resolve().parents[2]))}",
        *shell_exports(endpoint),
        "",
        f"ITERATOR=$(aws kinesis get-shard-iterator {iterator} --query ShardIterator --output text)",
        f"aws kinesis put-record --stream-name {INPUT_STREAM} --partition-key {SAMPLE_KEY} --data fileb://events/ride.json",
        "sleep 1",
        """aws kinesis get-records --shard-iterator "$ITERATOR" --query 'Records[].[Data]' --output text |"""
        """ while read -r data; do echo "$data" | base64 --decode; echo; done""",
        "",
        "./scripts/put-rides --rides 100 --bad 5",
        "./scripts/read-predictions",
        f"./scripts/replay --failures {REJECTIONS} --dry-run",
    )
    return "\n".join(lines)


def _print(console: Console, text: str) -> None:
    """Print a line that a person may copy from: not wrapped, not coloured."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
