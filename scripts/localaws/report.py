"""The report of a run of the local stack: its rides and predictions, its rejections, and a summary."""

import math
import shlex
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from rides import RIDE, RIDE_ID, Ride, RideEvent, decode_ride
from scripts.aws.kept_objects import ON_FAILURE_PREFIX
from scripts.cli import INPUT_STREAM, OUTPUT_STREAM, printable
from scripts.localaws.account import Account, PutRide
from scripts.localaws.consumers import RunningConsumer
from scripts.localaws.moto import DUMMY_CREDENTIALS, REGION
from scripts.localaws.setup import LIVE
from targets import DURATION, Target, find_target
from trips import is_usual

MAX_ROWS, FIRST_ROWS = 50, 20
"""Up to the first number, all rides are shown; if there are more, only the second number of them."""
MAX_EXAMPLES = 2
"""Examples of reasons for each kind of rejection."""
MAX_MISSING = 10
"""Missing rides that are listed."""
SHORT_NAMES = {"PULocationID": "pickup", "DOLocationID": "dropoff", "trip_distance": "miles"}
"""The names of columns that differ from the names of a ride's fields."""
SAMPLE_EVENT, SAMPLE_KEY = f"events/{RIDE}.json", "256"
"""A file with a ride event, and its partition key, which is the ride's id."""

_console = Console()


def show(
    account: Account, rides: Mapping[str, PutRide], consumer: RunningConsumer, seconds: float | None, *, stays: bool
) -> None:
    """Print a consumer's account of rides that were put, by event id; for the first consumer, print the rides too.

    The consumer was done after ``seconds``, or stalled if it is None. Its local AWS may stay. The rides' true values
    are those of its model's target, if any.
    """
    outputs, metadata = consumer.outputs, consumer.model.metadata
    target, redelivered = find_target(metadata.target, metadata.unit), consumer.mapping.counters().redelivered
    if outputs is not LIVE:
        _print_line(f"\nThe predictions on {outputs.stream}")
    predicted = [event_id for event_id in rides if event_id in account.predicted] if outputs is LIVE else []
    shown = predicted if len(predicted) <= MAX_ROWS else predicted[:FIRST_ROWS]
    if shown:
        _console.print(_rides_table(account, rides, shown, metadata.unit))
    if len(shown) < len(predicted):
        _console.print(f"... and {len(predicted) - len(shown):,} more\n", highlight=False)
    if account.rejected:
        _console.print(_rejections_table(account))
        _print_line(f"They {_stored(f'{outputs.rejections}/', stays)}\n")
    _console.print(_summary_table(account, rides, redelivered, seconds, target))
    if account.given_up:
        place = f"s3://{outputs.failures_bucket}/{ON_FAILURE_PREFIX}"
        _print_line(f"The function failed on the rides that were given up; they {_stored(place, stays)}")
    if account.missing:
        keys = ", ".join(printable(rides[event_id].record.partition_key) for event_id in account.missing[:MAX_MISSING])
        more = len(account.missing) - MAX_MISSING
        _print_line(f"Missing: {keys}{f' and {more:,} more' if more > 0 else ''}")


def _stored(place: str, stays: bool) -> str:
    if stays:
        return f"are kept in {place}"
    return f"were stored in {place}, which is gone after this run; to read them, run it with --serve"


def latency(account: Account, rides: Mapping[str, PutRide], percent: int) -> float | None:
    """Return the seconds from put to prediction within which ``percent`` of the rides stayed (nearest rank)."""
    arrivals = {event_id: read.arrived.timestamp() for event_id, read in account.predicted.items()}
    latencies = sorted(arrived - rides[event_id].at for event_id, arrived in arrivals.items() if event_id in rides)
    return latencies[-(-len(latencies) * percent // 100) - 1] if latencies else None


def _rides_table(account: Account, rides: Mapping[str, PutRide], event_ids: Sequence[str], unit: str) -> Table:
    has_true = any(ride.record.true_value is not None for ride in rides.values())
    fields = [field for field in msgspec.structs.fields(Ride) if field.required]
    shown = [SHORT_NAMES.get(field.encode_name, field.encode_name) for field in fields]
    names = (*shown, f"predicted {unit}", *((f"true {unit}",) if has_true else ()))
    numbers = [Column(name, justify="right") for name in names]
    table = _table("Rides and their predictions", Column(RIDE_ID, overflow="fold"), *numbers)
    for event_id in event_ids:
        record, predicted = rides[event_id].record, account.predicted[event_id].prediction.value
        event = decode_ride(record.data)
        values = (getattr(event.ride, field.name) for field in fields)
        trip = (f"{value:.2f}" if isinstance(value, float) else printable(str(value)) for value in values)
        true = "" if record.true_value is None else f"{record.true_value:.2f}"
        table.add_row(Text(printable(str(event.ride_id))), *trip, f"{predicted:.2f}", *((true,) if has_true else ()))
    return table


def errors(account: Account, rides: Mapping[str, PutRide], target: Target) -> dict[str, str]:
    """Return the rows of the summary that compare predictions with the target's true values, if any is known.

    Rides that ``train`` would use have rows of their own if there are other rides too, because one meter that was left
    on for a day would outweigh all of them.
    """
    found = ((rides[event_id].record, read) for event_id, read in account.predicted.items() if event_id in rides)
    known = [
        (one.event, one.true_value, read.prediction.value)
        for one, read in found
        if one.event and one.true_value is not None
    ]
    usual = [(event, true, predicted) for event, true, predicted in known if is_usual(event.ride, true, target)]
    unit = "min" if target == DURATION else target.unit
    rows = {f"true {target.name} known": f"{len(known):,}", **_errors("", known, unit)} if known else {}
    if 0 < len(usual) < len(known):
        name = f"rides of {target.least:g} to {target.most:g} {target.unit}, above 0 miles"
        rows |= {name: f"{len(usual):,}", **_errors(" of these", usual, unit)}
    return rows


def _errors(suffix: str, rides: Sequence[tuple[RideEvent, float, float]], unit: str) -> dict[str, str]:
    misses = [predicted - true for _, true, predicted in rides]
    rmse, mae = math.sqrt(statistics.fmean(miss * miss for miss in misses)), statistics.fmean(map(abs, misses))
    return {f"RMSE{suffix}": f"{rmse:.3f} {unit}", f"MAE{suffix}": f"{mae:.3f} {unit}"}


def _rejections_table(account: Account) -> Table:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for rejected in account.rejected.values():
        by_kind[rejected.kind].append(rejected.reason)
    table = _table("Rejected", Column("kind"), Column("rides", justify="right"), Column("for example", overflow="fold"))
    for kind, reasons in sorted(by_kind.items()):
        examples = list(dict.fromkeys(reasons))[:MAX_EXAMPLES]
        table.add_row(kind, f"{len(reasons):,}", Text("\n".join(map(printable, examples))))
    return table


def _summary_table(
    account: Account, rides: Mapping[str, PutRide], redelivered: int, seconds: float | None, target: Target | None
) -> Table:
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
        **(errors(account, rides, target) if target else {}),
        **{f"put to prediction, p{rank}": _milliseconds(latency(account, rides, rank)) for rank in (50, 95)},
        "rides/s": f"{account.put / seconds:,.0f}" if seconds else "-",
    }
    table = _table("Summary", Column(), Column(justify="right"), show_header=False)
    for row in rows.items():
        table.add_row(*row)
    return table


def _table(title: str, *columns: Column, show_header: bool = True) -> Table:
    return Table(*columns, title=title, title_justify="left", show_header=show_header)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def show_verdict(is_exact: Mapping[str, bool]) -> None:
    """Print which consumers' accounts are exact."""
    wrong = [name for name, exact in is_exact.items() if not exact]
    if wrong:
        _print_line(f"\nNot exact: the account of {', '.join(wrong)}")
    else:
        _print_line(f"\nThe account of every consumer is exact: {', '.join(is_exact)}")


def show_faults(faults: Mapping[str, int]) -> None:
    """Print the faults that the function's calls got."""
    if not faults:
        _console.print("Chaos: no fault struck; try more rides, or another --seed", highlight=False)
        return
    table = _table("Chaos", Column("call and fault"), Column("times", justify="right"))
    for fault, times in sorted(faults.items()):
        table.add_row(fault, f"{times:,}")
    _console.print(table)


def aws_commands(endpoint: str, shard_id: str, others: Mapping[str, bool]) -> str:
    """Return lines for another shell that put the ride of SAMPLE_EVENT and read its prediction, in two ways.

    ``others`` are the output streams of the consumers after the first, and whether they predict the same value. Another
    line compares each of these with the first consumer's, or else reads it.

    They can be pasted as a whole, because each of them ends. The AWS CLI comes last, because it may not be installed.
    """
    # Version 2 of the AWS CLI prefers AWS_REGION, and pipes what it prints into a pager unless told not to.
    variables = {"AWS_ENDPOINT_URL": endpoint, **DUMMY_CREDENTIALS, "AWS_REGION": REGION, "AWS_PAGER": ""}
    iterator = f"--stream-name {OUTPUT_STREAM} --shard-id {shard_id} --shard-iterator-type LATEST"
    read = "./scripts/read-predictions --json --distinct --idle 2"
    lines = (
        f"cd {shlex.quote(str(Path(__file__).resolve().parents[2]))}",
        f"export {' '.join(f'{name}={value}' for name, value in variables.items())}",
        f"./scripts/put-rides --json {SAMPLE_EVENT}",
        read,
        *(
            f"./scripts/compare {OUTPUT_STREAM} {stream}" if is_same else f"{read} --stream {stream}"
            for stream, is_same in others.items()
        ),
        f"ITERATOR=$(aws kinesis get-shard-iterator {iterator} --query ShardIterator --output text)",
        f"aws kinesis put-record --stream-name {INPUT_STREAM} --partition-key {SAMPLE_KEY} --data fileb://{SAMPLE_EVENT}",
        "sleep 2",
        """aws kinesis get-records --shard-iterator "$ITERATOR" --query 'Records[].[Data]' --output text |"""
        """ while read -r data; do echo "$data" | base64 --decode; echo; done""",
    )
    return "\n".join(lines)


def _print_line(text: str) -> None:
    # People copy from these lines, so they are neither wrapped nor coloured.
    _console.print(text, markup=False, highlight=False, soft_wrap=True)
