"""What ./scripts/compare prints: tables for people, or a document for JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from scripts.cli import printable
from scripts.models.comparing import Comparison, OnlyIn, ReadStream, Side
from scripts.models.comparing_actuals import Judgement
from scripts.models.verdicts import CONFIDENCE, LEAST_RIDES
from served.arrays import Floats
from targets import Target

_console = Console()


def as_document(
    comparison: Comparison, actual: Floats, judgement: Judgement | None, unit: str, top: int
) -> dict[str, Any]:
    """Return what is known about the two models as a value for JSON."""
    shares = comparison.coverage()
    return {
        "field": comparison.live.model.field,
        "unit": unit or None,
        "live": _side(comparison.live, shares[0], comparison.only_live),
        "shadow": _side(comparison.shadow, shares[1], comparison.only_shadow),
        "rides_of_both": len(comparison.ride_ids),
        "difference": _statistics(comparison.differences),
        "absolute_difference": _statistics(np.abs(comparison.differences)),
        "most_different": [_ride(comparison, actual, place) for place in comparison.most_different(top)],
        "judgement": _judgement(judgement) if judgement else None,
    }


def _side(side: Side, share: float, only: OnlyIn) -> dict[str, Any]:
    return {
        "stream": side.stream.name,
        "model": side.model.name,
        "version": side.model.version,
        "rides": side.rides,
        "share_that_the_other_has": share,
        "only_here": {"rides": only.rides, "examples": only.examples},
        "repeats": side.stream.repeats,
        "other_versions": dict(side.stream.other_versions),
        "not_predictions": side.stream.not_predictions,
    }


def _statistics(values: Floats) -> dict[str, float]:
    p50, p95 = np.percentile(values, (50, 95)).tolist()
    largest = float(values[np.abs(values).argmax()])
    return {"mean": float(values.mean()), "p50": p50, "p95": p95, "largest": largest}


def _ride(comparison: Comparison, actual: Floats, place: int) -> dict[str, Any]:
    known = float(actual[place])
    return {
        "ride_id": comparison.ride_ids[place],
        "event_id": comparison.event_ids[place],
        "live": float(comparison.live_values[place]),
        "shadow": float(comparison.shadow_values[place]),
        "actual": None if math.isnan(known) else known,
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    # JSON has no infinity.
    interval = {name: value for name, value in asdict(judgement.verdict).items() if name in ("low", "high")}
    finite = {name: value if math.isfinite(value) else None for name, value in interval.items()}
    return asdict(judgement) | {"verdict": asdict(judgement.verdict) | finite | {"confidence": CONFIDENCE}}


def show(comparison: Comparison, actual: Floats, judgement: Judgement | None, target: Target | None, top: int) -> None:
    """Print the tables."""
    unit = f" ({target.unit})" if target else ""
    _console.print(_sides_table(comparison))
    for side in (comparison.live, comparison.shadow):
        _show_left_out(side.stream)
    for side, only in ((comparison.live, comparison.only_live), (comparison.shadow, comparison.only_shadow)):
        if only.rides:
            _print_line(f"Only in {side.stream.name}: {only.rides:,} rides, such as {', '.join(only.examples)}")
    _console.print(_differences_table(comparison, unit))
    places = comparison.most_different(top)
    if places:
        _console.print(_rides_table(comparison, actual, places))
    elif top:
        _print_line("Both models predicted the same value for every ride.")
    if judgement:
        _show_judgement(judgement, unit, target)


def _sides_table(comparison: Comparison) -> Table:
    # Without borders, because two run ids with borders are wider than a terminal of 80 columns.
    columns = (Column(name, overflow="fold") for name in ("", "live", "shadow"))
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    sides = (comparison.live, comparison.shadow)
    # Rounded down, so that one missing ride in a million shows.
    shares = ["100 %" if share == 1 else f"{math.floor(share * 10_000) / 100:.2f} %" for share in comparison.coverage()]
    rows = {
        "stream": [side.stream.name for side in sides],
        "model": [side.model.name for side in sides],
        "version": [side.model.version for side in sides],
        "rides": [f"{side.rides:,}" for side in sides],
        "in both": shares,
    }
    for name, texts in rows.items():
        table.add_row(name, *(Text(printable(text)) for text in texts))
    return table


def _show_left_out(stream: ReadStream) -> None:
    if stream.repeats:
        _print_line(f"{stream.name}: {stream.repeats:,} predictions repeat an event_id; the first one counts")
    for version, count in stream.other_versions.items():
        _print_line(f"{stream.name}: {count:,} predictions of the version {version} are left out")
    if stream.not_predictions:
        examples = "; ".join(stream.examples)
        _print_line(f"{stream.name}: {stream.not_predictions:,} records are not predictions, such as {examples}")


def _differences_table(comparison: Comparison, unit: str) -> Table:
    field = printable(comparison.live.model.field)
    table = _table(f"{field}{unit}", "", *(Column(name, justify="right") for name in ("shadow - live", "absolute")))
    signed, absolute = comparison.differences, np.abs(comparison.differences)
    rows = zip(_statistics(signed).items(), _statistics(absolute).values(), strict=True)
    for (name, value), size in rows:
        table.add_row(name, f"{value:+,.3f}", f"{size:,.3f}")
    return table


def _rides_table(comparison: Comparison, actual: Floats, places: Sequence[int]) -> Table:
    has_actual = not np.isnan(actual[places]).all()
    numbers = ("live", "shadow", *(("actual",) if has_actual else ()))
    ids = (Column(name, overflow="fold") for name in ("ride_id", "event_id"))
    table = _table("Rides that differ most", *ids, *(Column(name, justify="right") for name in numbers))
    for place in places:
        values = [comparison.live_values[place], comparison.shadow_values[place], actual[place]][: len(numbers)]
        texts = (Text(printable(str(text))) for text in (comparison.ride_ids[place], comparison.event_ids[place]))
        table.add_row(*texts, *("" if math.isnan(value) else f"{value:,.2f}" for value in values))
    return table


def _show_judgement(judgement: Judgement, unit: str, target: Target | None) -> None:
    table = _table(f"Errors{unit}", "", *(Column(name, justify="right") for name in ("RMSE", "MAE")))
    for name, errors in (("live", judgement.live), ("shadow", judgement.shadow)):
        table.add_row(name, f"{errors.rmse:,.3f}", f"{errors.mae:,.3f}")
    _console.print(table)
    usual = f"outside {target.least:g} to {target.most:g} {target.unit}, or 0 miles" if target else ""
    for count, text in (
        (judgement.missing, "rides have no actual value"),
        (judgement.unusual, f"rides are left out because models are not trained on such ({usual})"),
        (judgement.repeated_rides, "rides are left out because their ride_id occurs before"),
        (judgement.unknown, "actual values are of other rides"),
        (judgement.repeated_actuals, "actual values were given again; the last one counts"),
        (judgement.not_actuals, "records are not actual values"),
    ):
        if count:
            _print_line(f"{count:,} {text}")
    _print_line(f"Verdict on {judgement.rides:,} rides: {_explain(judgement, target)}")


def _explain(judgement: Judgement, target: Target | None) -> str:
    found, unit = judgement.verdict, f" {target.unit}" if target else ""
    if found.rides < LEAST_RIDES:
        return f"{found.verdict}: {found.rides:,} rides are too few, {LEAST_RIDES} are the least"
    if not math.isfinite(found.low):
        return f"{found.verdict}: too few errors of the two models differ"
    interval = (
        f"{found.difference:+.3f}{unit}, with {CONFIDENCE:.0%} confidence from {found.low:+.3f} to {found.high:+.3f}"
    )
    if found.verdict == "not yet known":
        return f"{found.verdict}: the shadow's MAE differs by {interval}; 0 is possible, so compare more rides"
    return f"the shadow is {found.verdict}: its MAE differs by {interval}"


def _table(title: str, *columns: Column | str) -> Table:
    return Table(*columns, title=title, title_justify="left")


def _print_line(text: str) -> None:
    # People copy from these lines, so they are neither wrapped nor coloured.
    _console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
