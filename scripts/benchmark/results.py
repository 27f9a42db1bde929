"""The table of results: a row for each measure, with the three consumers side by side, and their ratios."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from scripts.benchmark.consumers import CONSUMERS
from scripts.benchmark.processes import WARM, Cell, Sample

WALL, CPU, MEMORY = "wall ms", "CPU ms", "peak MB"
NOT_MEASURED = "–"


@dataclass(frozen=True)
class Row:
    """One measure of one case for all consumers, as medians of the rounds; None for a consumer that was left out."""

    model: str
    case: str
    """Warm, or a cold start with a serialization of the model."""
    rides: int
    measure: str
    common: float | None
    ours: float | None
    floor: float | None
    common_to_ours: float | None
    ours_to_floor: float | None


def make_rows(samples: Mapping[Cell, Sequence[Sample]]) -> list[Row]:
    """Return the rows of everything that was measured."""
    found: dict[tuple[str, str, int, str], dict[str, float]] = {}
    for cell, of_cell in samples.items():
        for measure, value in _measures(cell, of_cell):
            found.setdefault((cell.model, cell.case, cell.rides, measure), {})[cell.consumer] = value
    rows = []
    for place, values in found.items():
        common, ours, floor = (values.get(consumer) for consumer in CONSUMERS)
        rows.append(Row(*place, common, ours, floor, _ratio(common, ours), _ratio(ours, floor)))
    return rows


def _measures(cell: Cell, samples: Sequence[Sample]) -> Iterator[tuple[str, float]]:
    yield WALL, statistics.median(sample.wall for sample in samples) * 1000
    yield CPU, statistics.median(sample.cpu for sample in samples) * 1000
    if cell.case != WARM:
        yield MEMORY, statistics.median(sample.peak_memory for sample in samples) / 1e6


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def results_table(rows: Sequence[Row], model: str) -> Table:
    """Return the table of one model's rows."""
    # The table fits into the 80 columns that rich takes for a pipe.
    table = Table(title=f"Results, {model}", title_justify="left", caption_justify="left")
    table.caption = f"{NOT_MEASURED}: not measured because a batch would take longer than --budget"
    for name in ("", "median"):
        table.add_column(name)
    for name in (*(consumer.replace(" ", "\n") for consumer in CONSUMERS), "common/\nours", "ours/\nfloor"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.model == model:
            case = f"batch of {row.rides:,}" if row.case == WARM else row.case
            figures = (row.common, row.ours, row.floor, row.common_to_ours, row.ours_to_floor)
            table.add_row(case, row.measure, *map(format_figure, figures))
    return table


def format_figure(figure: float | None) -> str:
    """Return a figure with three significant digits, or more if it is large."""
    if figure is None:
        return NOT_MEASURED
    return f"{figure:,.{2 if figure < 10 else 1 if figure < 100 else 0}f}"
