"""The cells of trip record files, cleaned: whatever types a file has, its columns become numbers, times and ids.

If another tool rewrote a file, it may have other types: text, categories, floating point for integers. Each cell is
read if a number or time can be made of it. If it is null, NaN, or out of all bounds, it counts as missing.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from rides import END_OF_TIME, FIRST_TIME, RIDE_ID
from targets import Target

RIDE = ("PULocationID", "DOLocationID", "trip_distance")
TIMES = {
    "pickup": ("lpep_pickup_datetime", "tpep_pickup_datetime"),
    "dropoff": ("lpep_dropoff_datetime", "tpep_dropoff_datetime"),
}
"""The names of the time columns in the files of green and of yellow taxis."""
PAYMENT, BY_CARD = "payment_type", 1
"""The column of the way to pay, and its number for a card (TLC's data dictionary)."""
MICROSECONDS_A_MINUTE = 60_000_000
LAST_YEAR_OF_PYARROW = 2037
"""pyarrow knows no summer time after this year. Python does, and takes some 80 times as long to convert a column."""
MAX_ZONE = 2**31
"""Larger than every zone: TLC has 265 zones. A negative zone is a missing value that was converted to an integer."""

IS_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary),
)
"""Tests of a column's type. Old writers do not mark text as such, so that it is read as bytes."""
VIEWS = (pa.string_view(), pa.binary_view())
"""Types of text of which pyarrow cannot select rows."""
MAX_EXACT = 2**53
"""Up to here, floating point holds every whole number."""


class TripRecordError(Exception):
    """A file cannot be read as TLC trip records; the message is one line and names the file."""


class _ColumnError(Exception):
    """A column has a type that no trip record has."""


@contextlib.contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn an error in the block into a TripRecordError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise TripRecordError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException, _ColumnError) as error:
        reason = " ".join(str(error).split())
        raise TripRecordError(f"{path}: cannot be read as parquet trip records: {reason}") from error


def choose_columns(
    path: Path | str, present: list[str], target: Target | None, required: Collection[str]
) -> dict[str, str]:
    """Return the file's column for each name of ``RIDE``, of ``TIMES`` and of the target that it has.

    Raises TripRecordError if a required column is missing, or if the file has one of the columns twice.
    """
    names = [*RIDE, *TIMES, *columns_of(target)]
    columns = {name: [one for one in TIMES.get(name, (name,)) if one in present] for name in names}
    missing = [" or ".join(TIMES.get(name, (name,))) for name in names if name in required and not columns[name]]
    if missing:
        raise TripRecordError(f"{path}: no column {', '.join(missing)}; is it of green or yellow taxis?")
    chosen = {name: found[0] for name, found in columns.items() if found}
    twice = [column for column in (*chosen.values(), RIDE_ID) if present.count(column) > 1]
    if twice:
        raise TripRecordError(f"{path}: has more than one column {', '.join(twice)}")
    return chosen


def columns_of(target: Target | None) -> list[str]:
    """Return the names of the columns, beside the times, that tell the target's actual value."""
    if target is None or target.column is None:
        return []
    return [target.column, PAYMENT] if target.by_card else [target.column]


def check_texts(table: Any, chosen: dict[str, str], required: Collection[str]) -> None:
    """Raise _ColumnError if a required column of text holds nothing that can be read."""
    for name in required:
        _check_text(chosen[name], table[chosen[name]], _naive_time if name in TIMES else float)


def clean(table: Any, chosen: dict[str, str], target: Target | None, zone: str, required: Collection[str]) -> Any:
    """Return a table of "PULocationID", "DOLocationID", "trip_distance", "pickup", "local" and "actual".

    A cell that counts as missing is null. A column that is not required may be missing, or of any type: its cells are
    null then. ``local`` is what a clock in the zone shows at the pickup. ``actual`` is the target's value.
    """
    read = functools.partial(_read_column, table, chosen, required=required)
    miles, pickup = read("trip_distance", _numbers), read("pickup", _times)
    return pa.table(
        {
            "PULocationID": _zones(read("PULocationID", _numbers)),
            "DOLocationID": _zones(read("DOLocationID", _numbers)),
            "trip_distance": miles,
            "pickup": pickup,
            "local": read("pickup", functools.partial(_local_times, zone=zone)),
            "actual": _actual(read, target, pickup),
        }
    )


def _read_column(
    table: Any, chosen: dict[str, str], name: str, convert: Callable[[str, Any], Any], *, required: Collection[str]
) -> Any:
    """Return a column as ``convert`` makes it; all null if it is not required and missing or of a wrong type."""
    column = chosen.get(name)
    with contextlib.nullcontext() if name in required else contextlib.suppress(_ColumnError):
        if column:
            return convert(column, table[column])
    return pa.chunked_array([pa.nulls(len(table), pa.timestamp("us") if name in TIMES else pa.float64())])


def _actual(read: Callable[[str, Callable[[str, Any], Any]], Any], target: Target | None, pickup: Any) -> Any:
    """Return the target's values; null if a value is not known."""
    if target is None:
        return pa.nulls(len(pickup), pa.float64())
    if target.column is None:
        began, ended = (times.cast(pa.int64()) for times in (pickup, read("dropoff", _times)))
        values = pc.divide(pc.cast(pc.subtract(ended, began), pa.float64()), MICROSECONDS_A_MINUTE)
        # A trip that ends when it begins, or before, has no duration.
        is_known = pc.greater(values, 0)
    else:
        values = read(target.column, _numbers)
        is_known = pc.is_finite(values)
        if target.by_card:
            is_known = pc.and_(is_known, pc.equal(read(PAYMENT, _numbers), BY_CARD))
    return pc.if_else(is_known, values, pa.scalar(None, pa.float64()))


def _zones(numbers: Any) -> Any:
    """Return the whole numbers of a column from 0 to ``MAX_ZONE``, and null for other cells."""
    within = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, MAX_ZONE))
    whole = pc.equal(pc.floor(numbers), numbers)
    return pc.if_else(pc.and_(within, whole), numbers, pa.scalar(None, pa.float64())).cast(pa.int64())


def _numbers(name: str, column: Any) -> Any:
    """Return the column as floating-point numbers, which can hold every zone and distance."""
    column = _without_text(column, float)
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_it(column.type) for is_it in is_number):
        raise _ColumnError(f"the column {name} holds {column.type} and not numbers")
    return column.cast(pa.float64(), safe=False)


def _times(name: str, column: Any) -> Any:
    """Return the column as microseconds, in its own time zone if it has one; a time out of bounds is null."""
    column = _without_text(column, _naive_time)
    zone = getattr(column.type, "tz", None)
    if pa.types.is_null(column.type):
        return column.cast(pa.timestamp("us"))
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise _ColumnError(f"the column {name} holds {column.type} and not times")
    # Compared before the conversion, which would overflow.
    return _within_bounds(column).cast(pa.timestamp("us", zone), safe=False)


def _local_times(name: str, column: Any, zone: str) -> Any:
    """Return what a clock in the zone shows; a time without a zone or UTC offset is such a time already."""
    local_zone = ZoneInfo(zone)
    times = _times(name, _without_text(column, functools.partial(_local_time, zone=local_zone)))
    if not times.type.tz:
        return times
    moments = times.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    if (pc.max(moments).as_py() or FIRST_TIME).year <= LAST_YEAR_OF_PYARROW:
        local = pc.local_timestamp(times.cast(pa.timestamp("us", zone)))
    else:
        utc = [moment and moment.replace(tzinfo=UTC) for moment in moments.to_numpy().tolist()]
        found = [moment and _in_zone(moment, local_zone) for moment in utc]
        local = pa.chunked_array([pa.array(found, pa.timestamp("us"))])
    # Its first hours are before the first time if the zone is west of UTC.
    return _within_bounds(local)


def _within_bounds(times: Any) -> Any:
    """Return the times that can be a ride's, and null for the others."""
    first, end = (pa.scalar(time, pa.timestamp("us")).cast(times.type) for time in (FIRST_TIME, END_OF_TIME))
    within = pc.and_(pc.greater_equal(times, first), pc.less(times, end))
    return pc.if_else(within, times, pa.scalar(None, times.type))


def read_ids(column: Any) -> Any:
    """Return the column as text; an id that is not a whole number or UTF-8 is null. Raises _ColumnError.

    Spaces around an id are part of it, because another id may differ only there.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        # pandas makes floating point of whole numbers if one is missing.
        column = column.cast(pa.float64())
        is_exact = pc.and_(pc.equal(pc.floor(column), column), pc.less_equal(pc.abs(column), MAX_EXACT))
        column = pc.if_else(is_exact, column, pa.scalar(None, pa.float64())).cast(pa.int64())
    if isinstance(column.type, pa.UuidType):
        return pa.array([value and str(value) for value in column.to_pylist()], pa.string())
    if _is_text(column):
        texts = column.cast(pa.large_binary()).to_pylist()
        return pa.array([None if text is None else _decode_or_none(text) for text in texts], pa.string())
    if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise _ColumnError(f"the column {RIDE_ID} holds {column.type} and not ids")
    return column.cast(pa.string()).combine_chunks()


def without_views(column: Any) -> Any:
    """Return a column of which pyarrow can select rows."""
    return column.cast(pa.large_binary()) if column.type in VIEWS else column


def _is_text(column: Any) -> bool:
    return any(is_text(column.type) for is_text in IS_TEXT)


def _without_text(column: Any, parse: Callable[[str], Any]) -> Any:
    """Return a column of text as a column of the values that ``parse`` returns, with null for text that it refuses."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _is_text(column):
        return column
    # As bytes, because the text of a broken file need not be UTF-8.
    texts = column.cast(pa.large_binary()).to_pylist()
    return pa.chunked_array([pa.array([None if text is None else _parse_or_none(text, parse) for text in texts])])


def _check_text(name: str, column: Any, parse: Callable[[str], Any]) -> None:
    """Raise _ColumnError if a column of text holds nothing that ``parse`` accepts."""
    values = _without_text(column, parse)
    if len(column) and values.null_count == len(column) > column.null_count:
        example = next(text for text in column.cast(pa.large_binary()).to_pylist() if text is not None)
        raise _ColumnError(
            f"the column {name} holds text that cannot be read, such as {example.decode(errors='replace')[:40]!r}"
        )


def _decode_or_none(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _parse_or_none(text: bytes, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text.decode().strip())
    except (ValueError, OverflowError):
        return None


def _naive_time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


def _local_time(text: str, zone: tzinfo) -> datetime:
    time = datetime.fromisoformat(text)
    return _in_zone(time, zone) if time.tzinfo else time


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)
