"""What the benchmark found, as tables for people."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from scripts.benchmark.consumers import COMMON, FLOOR, OURS
from scripts.benchmark.results import Report, WarmRatios, WarmRow
from scripts.benchmark.steps import SHARES

CONSUMERS = (COMMON, OURS, FLOOR)
NOT_MEASURED = "–"


def show(report: Report, console: Console) -> None:
    """Print a table for all that was measured."""
    console.print(_pairs("Measured on", report.machine))
    console.print(_pairs("Measured with", report.settings))
    if report.warm:
        console.print(_warm(report, "Wall time a batch, ms", lambda row: row.wall_ms))
        console.print(_warm(report, "CPU time a batch, ms", lambda row: row.cpu_ms))
        console.print(_warm(report, "Rides per CPU-second", lambda row: row.rides_per_cpu_second))
        console.print(_warm_ratios(report))
    if report.cold:
        console.print(_cold(report), _cold_ratios(report))
    if report.growth_by_batch:
        console.print(_growth_by_batch(report), _growth_by_trees(report))
    if report.cost:
        console.print(_cost(report), _steps(report))


def _pairs(title: str, pairs: Mapping[str, object]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, str(value))
    return table


def _numbers(title: str, names: tuple[str, ...], numbers: tuple[str, ...], caption: str | None = None) -> Table:
    """Return a table with columns of names on the left and of numbers on the right."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in names:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _warm(report: Report, title: str, value: Callable[[WarmRow], float]) -> Table:
    found = {(row.model, row.rides, row.consumer): _shown(value(row)) for row in report.warm}
    table = _numbers(
        title,
        ("model",),
        ("rides a batch", *CONSUMERS),
        f"{NOT_MEASURED}: would have taken longer than the budget",
    )
    for model, rides in dict.fromkeys((row.model, row.rides) for row in report.warm):
        table.add_row(
            model, f"{rides:,}", *(found.get((model, rides, consumer), NOT_MEASURED) for consumer in CONSUMERS)
        )
    return table


def _warm_ratios(report: Report) -> Table:
    table = _numbers("Warm, compared", ("model",), ("rides a batch", "wall, common/ours", "CPU, ours/floor"))
    for row in report.warm_ratios:
        table.add_row(row.model, f"{row.rides:,}", *_ratios(row))
    return table


def _ratios(row: WarmRatios) -> tuple[str, str]:
    wall, cpu = row.wall_common_to_ours, row.cpu_ours_to_floor
    return f"{wall:,.1f}" if wall else NOT_MEASURED, f"{cpu:.2f}" if cpu else NOT_MEASURED


def _cold(report: Report) -> Table:
    table = _numbers("Cold start, to the first prediction", ("model", "consumer"), ("seconds", "peak MB", "modules"))
    for row in report.cold:
        table.add_row(row.model, row.start, f"{row.seconds:.2f}", f"{row.peak_memory_mb:.0f}", f"{row.modules:,}")
    return table


def _cold_ratios(report: Report) -> Table:
    columns = ("time, ours/common", "time, ours/floor", "memory, ours/common")
    title = "Cold start, compared with the same serialization (common practice: mlflow)"
    table = _numbers(title, ("model", "serialization"), columns)
    for row in report.cold_ratios:
        ratios = (row.seconds_ours_to_common, row.seconds_ours_to_floor, row.memory_ours_to_common)
        table.add_row(row.model, row.serialization, *(f"{ratio:.2f}" for ratio in ratios))
    return table


def _growth_by_batch(report: Report) -> Table:
    models = tuple(dict.fromkeys(row.model for row in report.growth_by_batch))
    found = {(row.model, row.rides): _shown(row.wall_us_a_ride) for row in report.growth_by_batch}
    columns = [f"{model}, µs a ride" for model in models]
    table = _numbers("Ours, by the size of the batch", (), ("rides a batch", *columns))
    for rides in dict.fromkeys(row.rides for row in report.growth_by_batch):
        table.add_row(f"{rides:,}", *(found.get((model, rides), NOT_MEASURED) for model in models))
    return table


def _growth_by_trees(report: Report) -> Table:
    table = _numbers("Ours, by the size of the forest", (), ("trees", "rides a batch", "µs a ride"))
    for row in report.growth_by_trees:
        table.add_row(str(row.trees), f"{row.rides:,}", _shown(row.wall_us_a_ride))
    return table


def _cost(report: Report) -> Table:
    price = report.price
    found = {(row.model, row.rides, row.consumer): row.dollars_per_million_rides for row in report.cost}
    table = _numbers(
        "Dollars per million rides on Lambda",
        ("model",),
        ("rides a batch", *CONSUMERS),
        f"{price.memory_mb:,} MB at ${price.per_gb_second} a GB-second, ${price.per_million_requests:.2f} a million"
        f" requests ({price.date}); by the times of this machine, with a Kinesis that answers at once",
    )
    for model, rides in dict.fromkeys((row.model, row.rides) for row in report.cost):
        costs = (found.get((model, rides, consumer)) for consumer in CONSUMERS)
        table.add_row(model, f"{rides:,}", *(f"{cost:.4f}" if cost else NOT_MEASURED for cost in costs))
    return table


def _steps(report: Report) -> Table:
    caption = "measured apart, with stopwatches in the function"
    table = _numbers("Where a batch of ours spends its time, %", ("model",), ("rides a batch", *SHARES), caption)
    for row in report.steps:
        table.add_row(row.model, f"{row.rides:,}", *(f"{100 * row.shares[step]:.0f}" for step in SHARES))
    return table


def _shown(number: float) -> str:
    """Return a number with three digits that count, or more where it is large."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
