"""The tables that ./scripts/score prints."""

import resource
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from batch.manifests import Counts, ModelIdentity, name_error
from batch.plan import PlannedMonth
from batch_job import ScoredMonth
from scripts.cli import printable
from scripts.scoring.running import MonthResult

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""The bytes in a unit of getrusage's memory (its manual pages)."""
MEGABYTE = 1_000_000
RMSE = "RMSE"


def summary(outcome: ScoredMonth) -> Table:
    """Return the table of a month that was scored just now by this process."""
    counts = outcome.counts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / MEGABYTE
    rows = {
        "rows in": f"{counts.rows:,}",
        "predicted": f"{counts.predicted:,}",
        "left out": f"{counts.rejected:,}",
        **{f"  {reason}": f"{number:,}" for reason, number in counts.reasons.items()},
        name_error(f"RMSE of {counts.measured:,} usual rides", outcome.unit): _error(counts.rmse),
        name_error("MAE", outcome.unit): _error(counts.mae),
        "rows a second, with the model loaded": f"{counts.rows / outcome.seconds:,.0f}",
        "peak memory": f"{peak:,.0f} MB",
    }
    table = Table(Column(overflow="fold"), Column(justify="right"), show_header=False)
    for name, value in rows.items():
        table.add_row(_plain(name), value)
    return table


def plan_table(plan: Iterable[PlannedMonth], model: ModelIdentity) -> Table:
    """Return the table of a plan for a model."""
    title, numbers = _plain(f"model {model.version}"), _number_columns(name_error(RMSE, model.unit))
    table = Table("month", "state", *numbers, Column("why", overflow="fold"), title=title, title_justify="left")
    for planned in plan:
        counts = planned.manifest.counts if planned.manifest else None
        table.add_row(str(planned.month), planned.state, *_numbers_of(counts), planned.reason)
    return table


def results_table(results: Iterable[MonthResult], model: ModelIdentity) -> Table:
    """Return the table of months that were scored by a model."""
    table = Table("month", *_number_columns(name_error(RMSE, model.unit)), Column("", overflow="fold"))
    for result in results:
        outcome = result.outcome
        note = "was done before" if outcome and outcome.was_done else result.error
        numbers = _numbers_of(outcome.counts if outcome else None)
        table.add_row(str(result.month), *numbers, _plain(note))
    return table


def rows_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of months that the flow returned, at least one."""
    rmse = next(name for name in rows[0] if name.startswith(RMSE))
    table = Table("month", "state", *_number_columns(rmse), Column("error", overflow="fold"))
    for row in rows:
        numbers = _numbers(row["predicted"], row["left out"], row[rmse])
        table.add_row(row["month"], row["state"], *numbers, _plain(row["error"]))
    return table


def _plain(text: str) -> Text:
    # A model's error may have control characters, or brackets, which rich would take for its markup.
    return Text(printable(text))


def _number_columns(rmse: str) -> list[Column]:
    return [Column(_plain(name), justify="right") for name in ("predicted", "left out", rmse)]


def _numbers_of(counts: Counts | None) -> list[str]:
    return _numbers(counts.predicted, counts.rejected, counts.rmse) if counts else _numbers(None, None, None)


def _numbers(predicted: int | None, rejected: int | None, rmse: float | None) -> list[str]:
    """Return the cells of ``_number_columns``. They are empty if the month is not scored."""
    if predicted is None:
        return [""] * 3
    return [f"{predicted:,}", f"{rejected:,}", _error(rmse)]


def _error(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
