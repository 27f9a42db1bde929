"""The stream's results: a row for each warm batch with the consumers side by side, and a row for each cold start.

The tables are Markdown, for ``docs/speed.md``.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from scripts.benchmark.consumers import COMMON, CONSUMERS, FLOOR, OURS, OURS_SKLEARN
from scripts.benchmark.processes import DELAYED, LATENCIES, WARM, Cell, Sample, name_cold_case

WALL, CPU = MEASURES = ("wall ms", "CPU ms")
NOT_MEASURED = "–"
TEXTS = ("consumer", "form", "program", "load", "service")
"""The columns that are not figures."""
HEADINGS = {COMMON: "common", OURS_SKLEARN: "sklearn", OURS: "ours", FLOOR: "floor"}


@dataclass(frozen=True)
class WarmRow:
    """A measure of a warm batch for all consumers, as medians of the rounds; None if a consumer was left out."""

    model: str
    case: str
    """Warm, or warm with a latency for each request."""
    rides: int
    measure: str
    common: float | None
    sklearn: float | None
    """The time of our function if the model has no served form."""
    ours: float | None
    floor: float | None
    common_to_ours: float | None
    sklearn_to_ours: float | None
    floor_to_ours: float | None


@dataclass(frozen=True)
class ColdRow:
    """The cold starts of one consumer with one form of the model, as medians of the rounds."""

    model: str
    consumer: str
    form: str
    wall: float
    """Milliseconds from the start of the process to the first prediction."""
    cpu: float
    peak_memory: float
    """Megabytes."""
    wall_of_ours: float
    """The wall time of our function with the served form, divided by this one."""
    memory_of_ours: float
    """The peak memory of our function with the served form, divided by this one."""


def make_warm_rows(samples: Mapping[Cell, Sequence[Sample]]) -> list[WarmRow]:
    """Return a row for each size of a warm batch and each measure."""
    medians = {cell: _median(found) for cell, found in samples.items() if cell.case in LATENCIES}
    rows = []
    for place in dict.fromkeys((cell.model, cell.case, cell.rides) for cell in medians):
        found = [medians.get(Cell(*place, consumer)) for consumer in CONSUMERS]
        for at, measure in enumerate(MEASURES):
            # The measures are the first two fields of a sample.
            common, sklearn, ours, floor = times = [one and one[at] * 1000 for one in found]
            ratios = [other / ours if other and ours else None for other in (common, sklearn, floor)]
            rows.append(WarmRow(*place, measure, *times, *ratios))
    return rows


def make_cold_rows(samples: Mapping[Cell, Sequence[Sample]]) -> list[ColdRow]:
    """Return a row for each consumer and form of the model."""
    medians = {cell: _median(found) for cell, found in samples.items() if cell.case not in LATENCIES}
    rows = []
    for cell, sample in medians.items():
        (ours,) = (one for other, one in medians.items() if (other.model, other.consumer) == (cell.model, OURS))
        form = cell.case.removeprefix(name_cold_case(""))
        figures = sample.wall * 1000, sample.cpu * 1000, sample.peak_memory / 1e6
        ratios = ours.wall / sample.wall, ours.peak_memory / sample.peak_memory
        rows.append(ColdRow(cell.model, cell.consumer, form, *figures, *ratios))
    return rows


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(*map(statistics.median, zip(*samples, strict=True)))


def stream_tables(warm: Sequence[WarmRow], cold: Sequence[ColdRow], model: str) -> list[Table]:
    """Return the tables of one model."""
    tables = []
    for case, measure in ((WARM, WALL), (WARM, CPU), (DELAYED, WALL)):
        ratios = (f"vs {HEADINGS[consumer]}" for consumer in (COMMON, OURS_SKLEARN, FLOOR))
        table = markdown_table(f"Batches, {case}, {model}, {measure}", "rides", *HEADINGS.values(), *ratios)
        for row in warm:
            if (row.model, row.case, row.measure) == (model, case, measure):
                times = (row.common, row.sklearn, row.ours, row.floor)
                figures = (*times, row.common_to_ours, row.sklearn_to_ours, row.floor_to_ours)
                table.add_row(f"{row.rides:,}", *map(format_figure, figures))
        tables.append(table)
    starts = markdown_table(f"Cold starts, {model}", "consumer", "form", "wall ms", "CPU ms", "peak MB", "wall", "peak")
    for start in cold:
        if start.model == model:
            ratios_of_ours = (start.wall_of_ours, start.memory_of_ours)
            figures_of_start = (start.wall, start.cpu, start.peak_memory, *ratios_of_ours)
            starts.add_row(start.consumer, start.form, *map(format_figure, figures_of_start))
    tables[-1].caption = (
        "vs: the time of the other consumer, divided by the time of ours."
        f" {NOT_MEASURED}: not measured, because the batches would take longer than --budget"
    )
    starts.caption = "wall, peak: the time and the peak memory of ours, divided by the same of this consumer"
    return [table for table in (*tables, starts) if table.rows]


def markdown_table(title: str, *names: str) -> Table:
    """Return an empty table in Markdown, with columns of these names."""
    # Its edges have no padding, so that it fits into the 80 columns that rich assumes for a pipe.
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.MARKDOWN, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name in TEXTS else "right")
    return table


def format_figure(figure: float | None) -> str:
    """Return a figure with three significant digits, or more if it is large."""
    if figure is None:
        return NOT_MEASURED
    return f"{figure:,.{2 if figure < 10 else 1 if figure < 100 else 0}f}"
