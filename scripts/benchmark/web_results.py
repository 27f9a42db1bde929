"""The tables of the web services' comparison: a row for each load and service, and one for each service's memory.

They are Markdown, for ``docs/web-speed.md``.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from scripts.benchmark.consumers import OURS
from scripts.benchmark.load import Answers
from scripts.benchmark.results import NOT_MEASURED, format_figure, markdown_table
from scripts.benchmark.services import WORKERS, Memory


@dataclass(frozen=True)
class Load:
    """One kind of load: the rides in a request, and the connections that send requests at the same time."""

    rides: int
    connections: int


@dataclass(frozen=True)
class LoadRow:
    """What one service did under one load, as medians of the rounds."""

    model: str
    load: Load
    service: str
    requests_per_second: float
    rides_per_second: float
    p50: float
    """Milliseconds from a request to its answer."""
    p99: float
    ours_to_this: float
    """The rides that our service predicts in the same time, as a multiple of this service's."""
    cpu: float | None
    """Milliseconds of CPU time of all the service's processes for a request; None if it is not known."""
    generator_share: float
    """The share of one core that the load generator took."""


@dataclass(frozen=True)
class MemoryRow:
    """The memory of one service in megabytes, before and after requests."""

    model: str
    service: str
    processes: int
    requests: int
    rss_before: float
    rss_after: float
    pss_before: float | None
    pss_after: float | None


def make_rows(
    model: str, found: Mapping[tuple[Load, str], Sequence[Answers]], takes_lists: Mapping[str, bool]
) -> list[LoadRow]:
    """Return a row for each load and service. A service that takes no lists has one ride in each request."""
    rates = {
        key: statistics.median(answers.requests / answers.seconds for answers in of_key)
        for key, of_key in found.items()
    }
    sizes = {(load, service): load.rides if takes_lists[service] else 1 for load, service in found}
    return [
        LoadRow(
            model,
            load,
            service,
            requests_per_second=rates[load, service],
            rides_per_second=rates[load, service] * sizes[load, service],
            p50=statistics.median(answers.p50 for answers in of_key) * 1000,
            p99=statistics.median(answers.p99 for answers in of_key) * 1000,
            ours_to_this=rates[load, OURS] * load.rides / (rates[load, service] * sizes[load, service]),
            cpu=_median_cpu(of_key),
            generator_share=statistics.median(answers.generator_cpu / answers.seconds for answers in of_key),
        )
        for (load, service), of_key in found.items()
    ]


def _median_cpu(found: Sequence[Answers]) -> float | None:
    times = [answers.service_cpu / answers.requests for answers in found if answers.service_cpu is not None]
    return statistics.median(times) * 1000 if times else None


def make_memory_row(model: str, service: str, requests: int, before: Memory, after: Memory) -> MemoryRow:
    """Return the row of a service's memory before and after its requests."""
    shares = [None if size is None else size / 1e6 for size in (before.pss, after.pss)]
    return MemoryRow(model, service, after.processes, requests, before.rss / 1e6, after.rss / 1e6, *shares)


def web_tables(loads: Sequence[LoadRow], memory: Sequence[MemoryRow], model: str) -> list[Table]:
    """Return the tables of one model."""
    return [load_table(loads, model), memory_table(memory, model)]


def load_table(rows: Sequence[LoadRow], model: str) -> Table:
    """Return the table of one model's loads."""
    found = [row for row in rows if row.model == model]
    share = max(row.generator_share for row in found)
    names = ("load", "service", "rides/s", "p50 ms", "p99 ms", "CPU ms", "ours/this")
    table = markdown_table(f"Web services, {model}", *names)
    table.caption = (
        "load: connections x rides a request. The course's service takes no lists and gets one ride a request."
        f" Ours has {WORKERS} workers, the others have 1, or {WORKERS} if their names say so. CPU: the time of all"
        f" processes of a service for a request. The load generator took at most {share:.0%} of one core."
    )
    for row in found:
        load = f"{row.load.connections} x {row.load.rides}"
        figures = (row.rides_per_second, row.p50, row.p99, row.cpu, row.ours_to_this)
        table.add_row(load, row.service, *map(format_figure, figures))
    return table


def memory_table(rows: Sequence[MemoryRow], model: str) -> Table:
    """Return the table of the services' memory with one model."""
    names = ("service", "processes", "requests", "RSS MB", "after", "PSS MB", "after")
    table = markdown_table(f"Memory of the web services, {model}", *names)
    table.caption = (
        "Before and after the requests. RSS counts shared memory once for each process that has it, PSS counts it once."
        " Only Linux has PSS."
    )
    for row in rows:
        if row.model == model:
            sizes = (row.rss_before, row.rss_after, row.pss_before, row.pss_after)
            figures = [NOT_MEASURED if size is None else f"{size:,.0f}" for size in sizes]
            table.add_row(row.service, str(row.processes), f"{row.requests:,}", *figures)
    return table
