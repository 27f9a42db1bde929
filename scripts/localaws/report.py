"""The report of a run of the local stack: its rides and predictions, its rejections, and a summary."""

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rides import decode_ride
from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.cli import printable
from scripts.localaws.account import Account, PutRide
from scripts.localaws.setup import FAILURES_BUCKET, INPUT_STREAM, OUTPUT_STREAM, REJECTIONS, shell_exports

MAX_ROWS, FIRST_ROWS = 50, 20
"""Up to the first number, all rides are shown; if there are more, only the second number of them."""

MAX_EXAMPLES = 2
"""Examples of reasons for each kind of rejection."""

MAX_MISSING = 10
"""Missing rides that are listed."""

SAMPLE_KEY = "256"
"""The partition key of events/ride.json: its ride_id."""


def show(account: Account, rides: Mapping[str, PutRide], redelivered: int, seconds: float, console: Console) -> None:
    """Print the account of rides that were put, by event id; the run took ``seconds``."""
    predicted = [event_id for event_id in rides if event_id in account.predicted]
    shown = predicted if len(predicted) <= MAX_ROWS else predicted[:FIRST_ROWS]
    if shown:
        console.print(_rides_table(account, rides, shown))
    if len(shown) < len(predicted):
        console.print(f"... and {len(predicted) - len(shown):,} more\n", highlight=False)
    if account.rejected:
        console.print(_rejections_table(account))
        _print_line(console, f"They are kept in {REJECTIONS}/\n")
    console.print(_summary_table(account, rides, redelivered, seconds))
    if account.given_up:
        _print_line(
            console,
            f"Rides given up are kept in s3://{FAILURES_BUCKET}/{ON_FAILURE_PREFIX}: the function failed on them",
        )
    if account.missing:
        keys = ", ".join(printable(rides[event_id].record.partition_key) for event_id in account.missing[:MAX_MISSING])
        more = len(account.missing) - MAX_MISSING
        _print_line(console, f"Missing: {keys}{f' and {more:,} more' if more > 0 else ''}")


def latency(account: Account, rides: Mapping[str, PutRide], percent: int) -> float | None:
    """Return the seconds from put to prediction within which ``percent`` of the rides stayed (nearest rank)."""
    latencies = sorted(arrival.at - rides[one].at for one, arrival in account.predicted.items() if one in rides)
    return latencies[-(-len(latencies) * percent // 100) - 1] if latencies else None


def _rides_table(account: Account, rides: Mapping[str, PutRide], event_ids: Sequence[str]) -> Table:
    table = Table(title="Rides and their predictions", title_justify="left")
    table.add_column("ride_id", overflow="fold")
    for column in ("pickup", "dropoff", "miles", "predicted minutes"):
        table.add_column(column, justify="right")
    for event_id in event_ids:
        event = decode_ride(rides[event_id].record.data)
        table.add_row(
            Text(printable(str(event.ride_id))),
            str(event.ride.PULocationID),
            str(event.ride.DOLocationID),
            f"{event.ride.trip_distance:.2f}",
            f"{account.predicted[event_id].value:.2f}",
        )
    return table


def _rejections_table(account: Account) -> Table:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for rejected in account.rejected.values():
        by_kind[rejected.kind].append(rejected.reason)
    table = Table(title="Rejected", title_justify="left")
    table.add_column("kind")
    table.add_column("rides", justify="right")
    table.add_column("for example", overflow="fold")
    for kind, reasons in sorted(by_kind.items()):
        examples = list(dict.fromkeys(reasons))[:MAX_EXAMPLES]
        table.add_row(kind, f"{len(reasons):,}", Text("\n".join(map(printable, examples))))
    return table


def _summary_table(account: Account, rides: Mapping[str, PutRide], redelivered: int, seconds: float) -> Table:
    problems = {
        "given up": account.given_up,
        "missing": account.missing,
        "unknown": account.unknown,
        "predicted and rejected": account.contradictory,
    }
    rows = {
        "put": f"{account.put:,}",
        "predicted": f"{len(account.predicted):,}",
        "rejected": f"{len(account.rejected):,}",
        "redelivered": f"{redelivered:,}",
        **{name: f"{len(event_ids):,}" for name, event_ids in problems.items() if event_ids},
        "put to prediction, p50": _milliseconds(latency(account, rides, 50)),
        "put to prediction, p95": _milliseconds(latency(account, rides, 95)),
        "rides/s": f"{account.put / seconds:,.0f}",
    }
    table = Table(title="Summary", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in rows.items():
        table.add_row(*row)
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def show_faults(faults: Mapping[str, int], console: Console) -> None:
    """Print the faults that the function's calls got."""
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
    """Return lines for another shell that put the ride of events/ride.json and read its prediction from a shard."""
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


def _print_line(console: Console, text: str) -> None:
    # People copy from these lines, so they are neither wrapped nor coloured.
    console.print(text, markup=False, highlight=False, soft_wrap=True)
