"""The tables of the batch job's comparison. They are Markdown, for ``docs/batch-speed.md``."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from scripts.benchmark.batch import COURSE_SCRIPT, PROGRAMS, BatchCell, BatchSample
from scripts.benchmark.results import NOT_MEASURED, format_figure, markdown_table


@dataclass(frozen=True)
class BatchRow:
    """What one program took for one file, as medians of the rounds."""

    model: str
    program: str
    rows: int
    wall: float
    """Seconds from the start of the process to its end."""
    cpu: float
    peak_memory: float
    """Megabytes."""
    rows_per_second: float
    """By the wall time of the whole process."""
    course_to_this: float | None
    """How many times as long the course's script takes; None if the script did not score this file."""


@dataclass(frozen=True)
class RateRow:
    """What one program scores once it is started and its model is loaded."""

    model: str
    program: str
    rows_per_second: float | None
    """The rows that a longer file has more than the month, by the additional wall time; None if the
    longer file took no longer."""
    rows_per_cpu_second: float | None
    ours_is_faster: float | None
    """The program's rate as a multiple of the course's."""


def make_rows(model: str, rows: int, found: Mapping[BatchCell, Sequence[BatchSample]]) -> list[BatchRow]:
    """Return a row for each file and program. ``rows`` is the month's number of rows."""
    medians = {cell: _median(samples) for cell, samples in found.items()}
    return [
        BatchRow(
            model,
            cell.program,
            rows * cell.times,
            sample.wall,
            sample.cpu,
            sample.peak_memory / 1e6,
            rows * cell.times / sample.wall,
            course.wall / sample.wall if (course := medians.get(BatchCell(cell.times, COURSE_SCRIPT))) else None,
        )
        for cell, sample in medians.items()
    ]


def make_rates(rows: Sequence[BatchRow]) -> list[RateRow]:
    """Return the rates of the programs with one model: what further rows cost, without the start and the model."""
    rates = {}
    for program in PROGRAMS:
        first, *_, last = [row for row in rows if row.program == program and row.course_to_this is not None]
        times = last.wall - first.wall, last.cpu - first.cpu
        rates[program] = [(last.rows - first.rows) / time if time > 0 else None for time in times]
    course = rates[COURSE_SCRIPT][0]
    return [
        RateRow(rows[0].model, program, wall, cpu, wall / course if wall and course else None)
        for program, (wall, cpu) in rates.items()
    ]


def _median(samples: Sequence[BatchSample]) -> BatchSample:
    wall, cpu, memory = (statistics.median(values) for values in zip(*samples, strict=True))
    return BatchSample(wall, cpu, int(memory))


def batch_tables(rows: Sequence[BatchRow], rates: Sequence[RateRow], model: str) -> list[Table]:
    """Return the tables of one model."""
    names = ("wall s", "CPU s", "peak MB", "rows/s", "ratio")
    processes = markdown_table(f"Whole processes, {model}", "rows", "program", *names)
    for row in rows:
        if row.model == model:
            figures = (row.wall, row.cpu, row.peak_memory, row.rows_per_second, row.course_to_this)
            processes.add_row(f"{row.rows:,}", row.program, *map(format_figure, figures))
    further = markdown_table(f"Further rows, {model}", "program", "rows/s", "rows/CPU s", "ratio")
    for rate in rates:
        if rate.model == model:
            rates_of_program = (rate.rows_per_second, rate.rows_per_cpu_second, rate.ours_is_faster)
            further.add_row(rate.program, *map(format_figure, rates_of_program))
    processes.caption = (
        f"On one core. ratio: the time of the course's script divided by this program's. {NOT_MEASURED}: not measured"
    )
    further.caption = (
        "The rows that a longer file has beyond the month: no start and no loading of the model is counted"
    )
    return [processes, further]
