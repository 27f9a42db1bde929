"""TLC trip records: the parquet files, one a month, that New York City's Taxi & Limousine Commission publishes.

Files of green and of yellow taxis are read; only the names of their time columns differ. Distances are in miles, and
times are New York's, without a time zone.

If another tool rewrote a file, it may have other types: text, categories, floating point for integers. Each cell is
read if a number or time can be made of it. If it is null, NaN, or out of all bounds, it counts as missing.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rides import END_OF_TIME, FIRST_TIME, MAX_ID_LENGTH, MAX_TRIP_DISTANCE, RIDE_ID, Ride, RideEvent

MIN_DURATION, MAX_DURATION = 1, 60
"""Minutes, both included. A shorter ride was cancelled; a longer one is a meter left on, or a taxi hired for a day."""

RIDE = ("PULocationID", "DOLocationID", "trip_distance")
TIMES = {
    "pickup": ("lpep_pickup_datetime", "tpep_pickup_datetime"),
    "dropoff": ("lpep_dropoff_datetime", "tpep_dropoff_datetime"),
}
"""The names of the time columns in the files of green and of yellow taxis."""
COLOURS = {"green": "lpep", "yellow": "tpep"}
"""The prefix of the time columns in a colour's files."""
BUFFER_BYTES = 1_048_576
"""A column is read in pieces of this size, because a row group may be larger than the memory."""

ROWS_READ_TOGETHER = 524_288
"""Row groups are read together until they have this many rows, because pyarrow keeps about 20 bytes of each row
until the last of these groups."""

MONTH_IN_NAME = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?!\d)")
MICROSECONDS_A_MINUTE = 60_000_000
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


@dataclass(frozen=True)
class Trips:
    """Rides to learn from, the target of each, such as minutes, and the number of rows that were left out."""

    rides: list[Ride]
    values: list[float]
    left_out: int


@dataclass(frozen=True)
class TripEvents:
    """Rides as the stream takes them, the minutes that each took, and the number of rows that were left out."""

    events: list[RideEvent]
    minutes: list[float | None]
    """A ride's true duration. It is None if the file does not have it, or if the dropoff is not after the pickup."""
    left_out: int


def training_trips(path: Path) -> Trips:
    """Return the rides of a file to train a model on, or to measure it on.

    A row is left out unless all values are there, the duration is 1 to 60 minutes, and the distance is above 0 and at
    most ``MAX_TRIP_DISTANCE``.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    with _explained(path):
        table = _read(path, ["pickup", "dropoff"])
        kept = table.filter(_has_zones() & usual_trips())
    return Trips(list(_timed_rides(kept)), kept["minutes"].to_pylist(), len(table) - len(kept))


def usual_trips() -> Any:
    """Return a pyarrow filter for the rows that models are trained on and measured on, by "minutes" and distance."""
    minutes, miles = pc.field("minutes"), pc.field("trip_distance")
    return (minutes >= MIN_DURATION) & (minutes <= MAX_DURATION) & (miles > 0) & (miles <= MAX_TRIP_DISTANCE)


def is_usual(ride: Ride, minutes: float) -> bool:
    """Return whether ``training_trips`` returns a ride of this duration, so that models are trained on it."""
    return MIN_DURATION <= minutes <= MAX_DURATION and 0 < ride.trip_distance <= MAX_TRIP_DISTANCE


def ride_events(path: Path) -> TripEvents:
    """Return the rides of a file as the stream takes them, without the rows that the contract refuses.

    A ``ride_id`` is "<year>/<month>_<row>", such as "2023/02_17" for the row at index 17. Year and month come from the
    file's name, or else from the pickup; the row counts the whole file, so an id is unique in it and always the same.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    month = MONTH_IN_NAME.search(path.name)
    with _explained(path):
        table = _read(path, [] if month else ["pickup"])
        table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
        miles = pc.field("trip_distance")
        accepted = _has_zones() & (miles >= 0) & (miles <= MAX_TRIP_DISTANCE)
        kept = table.filter(accepted if month else accepted & pc.field("pickup").is_valid())
        own_months = [] if month else pc.strftime(kept["pickup"], format="%Y/%m").to_pylist()
    months = [f"{month[1]}/{month[2]}"] * len(kept) if month else own_months
    ids = (f"{month}_{row}" for month, row in zip(months, kept["row"].to_pylist(), strict=True))
    events = [RideEvent(ride, ride_id) for ride, ride_id in zip(_rides(kept), ids, strict=True)]
    minutes = [value if value and value > 0 else None for value in kept["minutes"].to_pylist()]
    return TripEvents(events, minutes, len(table) - len(kept))


@dataclass(frozen=True)
class TripChunk:
    """Some rows of a file, in order."""

    first_row: int
    """The index of the first row in the file."""
    cells: Any
    """A pyarrow table: "PULocationID", "DOLocationID", "trip_distance", "pickup", "minutes" and "ride_id". A cell that
    counts as missing is null. A pickup is what a clock in its own time zone shows."""
    is_valid: Any
    """A pyarrow array that says which rows the contract accepts."""
    raw: Any
    """The columns of these rows that were read, as they are in the file."""


class TripFile:
    """An open file of trip records, whose rows are read in chunks, so that the memory does not grow with the file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the schema. ``name`` is for errors. Raises TripRecordError if the file is not one of trip records."""
        self._name = name
        with _explained(name):
            self._file = pq.ParquetFile(file, buffer_size=BUFFER_BYTES)
            present = self._file.schema_arrow.names
        self._chosen = _choose_columns(name, present, list(RIDE))
        self._own_ids = [RIDE_ID] if RIDE_ID in present else []
        self.rows: int = self._file.metadata.num_rows

    @property
    def colours(self) -> set[str]:
        """The colours of taxis that the names of the time columns stand for; empty if there are no such columns."""
        return {colour for colour, prefix in COLOURS.items() for name in self._chosen.values() if prefix in name}

    def chunks(self, rows: int) -> Iterator[TripChunk]:
        """Yield the file's rows, at most ``rows`` at once. Raises TripRecordError if the file is damaged."""
        columns = [*self._chosen.values(), *self._own_ids]
        first_row = 0
        with _explained(self._name):
            for batch in self._batches(rows, columns):
                raw = pa.table([_without_views(column) for column in batch.columns], names=batch.schema.names)
                yield self._chunk(first_row, raw)
                first_row += len(raw)
        if first_row != self.rows:
            raise TripRecordError(f"{self._name}: is damaged: it has {first_row:,} rows and says {self.rows:,}")

    def _batches(self, rows: int, columns: list[str]) -> Iterator[Any]:
        for groups in self._groups_read_together():
            yield from self._file.iter_batches(rows, groups, columns, use_threads=False)

    def _groups_read_together(self) -> Iterator[list[int]]:
        """Yield the indices of the row groups that are read together."""
        groups, rows = [], 0
        for group in range(self._file.metadata.num_row_groups):
            groups.append(group)
            rows += self._file.metadata.row_group(group).num_rows
            if rows >= ROWS_READ_TOGETHER:
                yield groups
                groups, rows = [], 0
        if groups:
            yield groups

    def _chunk(self, first_row: int, raw: Any) -> TripChunk:
        cells = _clean(raw, self._chosen, ())
        ids = _ids(raw[RIDE_ID]) if self._own_ids else pa.nulls(len(raw), pa.string())
        # Without an id, a ride gets one later.
        miles, length = cells["trip_distance"], pc.fill_null(pc.utf8_length(ids), 1)
        is_valid = pc.and_(cells["PULocationID"].is_valid(), cells["DOLocationID"].is_valid())
        for number, least, most in ((miles, 0, MAX_TRIP_DISTANCE), (length, 1, MAX_ID_LENGTH)):
            is_within = pc.and_(pc.greater_equal(number, least), pc.less_equal(number, most))
            is_valid = pc.and_(is_valid, pc.fill_null(is_within, False))
        pickup = cells["pickup"]
        if pickup.type.tz:
            cells = cells.set_column(cells.schema.get_field_index("pickup"), "pickup", pc.local_timestamp(pickup))
        return TripChunk(first_row, cells.append_column(RIDE_ID, ids), is_valid, raw)


def _has_zones() -> Any:
    return pc.field("PULocationID").is_valid() & pc.field("DOLocationID").is_valid()


def _rides(table: Any) -> Iterator[Ride]:
    return map(Ride, *(table[column].to_pylist() for column in RIDE))


def _timed_rides(table: Any) -> Iterator[Ride]:
    return map(Ride, *(table[column].to_pylist() for column in (*RIDE, "pickup")))


@contextlib.contextmanager
def _explained(path: Path | str) -> Iterator[None]:
    """Turn an error in the block into a TripRecordError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise TripRecordError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, pa.ArrowException, _ColumnError) as error:
        reason = " ".join(str(error).split())
        raise TripRecordError(f"{path}: cannot be read as parquet trip records: {reason}") from error


def _read(path: Path, required_times: list[str]) -> Any:
    """Return the ride's columns, "pickup" and "minutes" as a table; a cell that counts as missing is null.

    The table has all rows of the file, in order. A time column that is not required may be missing, or of any type: its
    cells are null then.
    """
    file = pq.ParquetFile(path)
    chosen = _choose_columns(path, file.schema_arrow.names, [*RIDE, *required_times])
    table = file.read(columns=list(chosen.values()))
    for name, column in chosen.items():
        if name in (*RIDE, *required_times):
            _check_text(column, table[column], _naive_time if name in TIMES else float)
    return _clean(table, chosen, required_times)


def _clean(table: Any, chosen: dict[str, str], required_times: Collection[str]) -> Any:
    """Return the table of ``_read`` for some rows of a file."""
    cells = {name: _numbers(column, table[column]) for name, column in chosen.items() if name in RIDE}
    for name in TIMES:
        cells[name] = pa.nulls(len(table), pa.timestamp("us"))
        with contextlib.nullcontext() if name in required_times else contextlib.suppress(_ColumnError):
            if name in chosen:
                cells[name] = _times(chosen[name], table[chosen[name]])
    began, ended = (cells[name].cast(pa.int64()) for name in TIMES)
    return pa.table(
        {
            "PULocationID": _zones(cells["PULocationID"]),
            "DOLocationID": _zones(cells["DOLocationID"]),
            "trip_distance": cells["trip_distance"],
            "pickup": cells["pickup"],
            "minutes": pc.divide(pc.cast(pc.subtract(ended, began), pa.float64()), MICROSECONDS_A_MINUTE),
        }
    )


def _choose_columns(path: Path | str, present: list[str], required: list[str]) -> dict[str, str]:
    """Return the file's column for each of ``RIDE`` and ``TIMES`` that it has. Raises TripRecordError."""
    columns = {name: [one for one in TIMES.get(name, (name,)) if one in present] for name in (*RIDE, *TIMES)}
    missing = [" or ".join(TIMES.get(name, (name,))) for name in required if not columns[name]]
    if missing:
        raise TripRecordError(f"{path}: no column {', '.join(missing)}; is it of green or yellow taxis?")
    chosen = {name: found[0] for name, found in columns.items() if found}
    twice = [column for column in (*chosen.values(), RIDE_ID) if present.count(column) > 1]
    if twice:
        raise TripRecordError(f"{path}: has more than one column {', '.join(twice)}")
    return chosen


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
    first, end = (pa.scalar(time, pa.timestamp("us")).cast(column.type) for time in (FIRST_TIME, END_OF_TIME))
    within = pc.and_(pc.greater_equal(column, first), pc.less(column, end))
    return pc.if_else(within, column, pa.scalar(None, column.type)).cast(pa.timestamp("us", zone), safe=False)


def _ids(column: Any) -> Any:
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


def _without_views(column: Any) -> Any:
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
    except ValueError:
        return None


def _naive_time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)
