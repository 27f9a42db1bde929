"""TLC trip records: the parquet files, one a month, that New York City's Taxi & Limousine Commission publishes.

Files of green and of yellow taxis are read; only the names of their time columns differ. Distances are in miles, and
times are New York's, without a time zone. ``trip_cells`` cleans what the files have.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rides import MAX_ID_LENGTH, MAX_TRIP_DISTANCE, RIDE_ID, Ride, RideEvent
from settings import DEFAULT_TIME_ZONE
from targets import DURATION, Target
from trip_cells import (
    RIDE,
    TripRecordError,
    check_texts,
    choose_columns,
    clean,
    columns_of,
    explained,
    read_ids,
    without_views,
)

COLOURS = {"green": "lpep", "yellow": "tpep"}
"""The prefix of the time columns in a colour's files."""
BUFFER_BYTES = 1_048_576
"""A column is read in pieces of this size, because a row group may be larger than the memory."""

ROWS_READ_TOGETHER = 524_288
"""Row groups are read together until they have this many rows, because pyarrow keeps about 20 bytes of each row
until the last of these groups."""

MONTH_IN_NAME = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?!\d)")


@dataclass(frozen=True)
class Trips:
    """Rides to learn from, each with its pickup, the target of each, and the number of rows that were left out."""

    rides: list[Ride]
    values: list[float]
    left_out: int
    others: list[Ride] = field(default_factory=list)
    """Of the rows that were left out, the rides with a pickup that the contract accepts: services predict them too."""
    other_values: list[float | None] = field(default_factory=list)
    """The target of each of these; None if the file does not tell it."""


@dataclass(frozen=True)
class TripEvents:
    """Rides as the stream takes them, the actual value of each, and the number of rows that were left out."""

    events: list[RideEvent]
    actual: list[float | None]
    """A ride's actual value of the target, such as its duration in minutes; None if the file does not tell it."""
    left_out: int


def training_trips(path: Path, target: Target = DURATION, zone: str = DEFAULT_TIME_ZONE) -> Trips:
    """Return the rides of a file to train a model on, or to measure it on.

    A row is left out unless all values are there, the target's value is in its range, and the distance is above 0 and
    at most ``MAX_TRIP_DISTANCE``. For tips, a row is also left out if it was not paid by card, because TLC does not
    know tips in cash, and its files say 0 for them.

    A ride's pickup is what a clock in the zone showed: if a file has times with a time zone or a UTC offset, they are
    converted.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    with explained(path):
        table = _read(path, target, zone, ["pickup", *(columns_of(target) or ["dropoff"])])
        is_usual, is_accepted = usual_trips(target, "local"), _is_accepted() & pc.field("local").is_valid()
        kept = table.filter(_has_zones() & is_usual)
        others = table.filter(is_accepted & ~pc.coalesce(is_usual, pc.scalar(False)))
    values, other_values = kept["actual"].to_pylist(), others["actual"].to_pylist()
    return Trips(list(_rides(kept)), values, len(table) - len(kept), list(_rides(others)), other_values)


def usual_trips(target: Target, pickup: str) -> Any:
    """Return a pyarrow filter for the rows that models are trained on and measured on.

    The rows have the columns "actual", "trip_distance" and ``pickup``.
    """
    actual, miles = pc.field("actual"), pc.field("trip_distance")
    is_usual_value = (actual >= target.least) & (actual <= target.most)
    return is_usual_value & (miles > 0) & (miles <= MAX_TRIP_DISTANCE) & pc.field(pickup).is_valid()


def is_usual(ride: Ride, value: float, target: Target = DURATION) -> bool:
    """Return whether ``training_trips`` returns a ride with this value, so that models are trained on it."""
    return target.least <= value <= target.most and 0 < ride.trip_distance <= MAX_TRIP_DISTANCE


def ride_events(path: Path, target: Target | None = DURATION, zone: str = DEFAULT_TIME_ZONE) -> TripEvents:
    """Return the rides of a file as the stream takes them, without the rows that the contract refuses.

    A ``ride_id`` is "<year>/<month>_<row>", such as "2023/02_17" for the row at index 17. Year and month come from the
    file's name, or else from the pickup; the row counts the whole file, so an id is unique in it and always the same.

    A ride has its pickup, as ``training_trips`` gives it, if the file tells it. Its actual value may be out of the
    target's range, and is not known if the target is None.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    month = MONTH_IN_NAME.search(path.name)
    with explained(path):
        table = _read(path, target, zone, [] if month else ["pickup"])
        table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
        kept = table.filter(_is_accepted() if month else _is_accepted() & pc.field("pickup").is_valid())
        own_months = [] if month else pc.strftime(kept["pickup"], format="%Y/%m").to_pylist()
    months = [f"{month[1]}/{month[2]}"] * len(kept) if month else own_months
    ids = (f"{month}_{row}" for month, row in zip(months, kept["row"].to_pylist(), strict=True))
    events = [RideEvent(ride, ride_id) for ride, ride_id in zip(_rides(kept), ids, strict=True)]
    return TripEvents(events, kept["actual"].to_pylist(), len(table) - len(kept))


@dataclass(frozen=True)
class TripChunk:
    """Some rows of a file, in order."""

    first_row: int
    """The index of the first row in the file."""
    cells: Any
    """A pyarrow table with the columns of ``trip_cells.clean`` and "ride_id". A cell that counts as missing is null. A
    pickup is what a clock in its own time zone shows."""
    is_valid: Any
    """A pyarrow array that says which rows the contract accepts."""
    raw: Any
    """The columns of these rows that were read, as they are in the file."""


class TripFile:
    """An open file of trip records, whose rows are read in chunks, so that the memory does not grow with the file."""

    def __init__(
        self, file: BinaryIO, name: str, target: Target | None = DURATION, zone: str = DEFAULT_TIME_ZONE
    ) -> None:
        """Read the schema. Raises TripRecordError if the file is not one of trip records.

        Args:
            file: the file.
            name: the file's name, for errors.
            target: the target whose actual values are read; None if no column has them.
            zone: the time zone of local times.
        """
        self._name, self._target, self._zone = name, target, zone
        with explained(name):
            self._file = pq.ParquetFile(file, buffer_size=BUFFER_BYTES)
            present = self._file.schema_arrow.names
        self._chosen = choose_columns(name, present, target, RIDE)
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
        with explained(self._name):
            for batch in self._batches(rows, columns):
                raw = pa.table([without_views(column) for column in batch.columns], names=batch.schema.names)
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
        cells = clean(raw, self._chosen, self._target, self._zone, ())
        ids = read_ids(raw[RIDE_ID]) if self._own_ids else pa.nulls(len(raw), pa.string())
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


def _is_accepted() -> Any:
    miles = pc.field("trip_distance")
    return _has_zones() & (miles >= 0) & (miles <= MAX_TRIP_DISTANCE)


def _rides(table: Any) -> Iterator[Ride]:
    return map(Ride, *(table[column].to_pylist() for column in RIDE), to_datetimes(table["local"]))


def to_datetimes(times: Any) -> list[datetime | None]:
    """Return times without a time zone as Python's, which is some 50 times as fast as pyarrow's conversion."""
    found: list[datetime | None] = times.to_numpy().tolist()
    return found


def _read(path: Path, target: Target | None, zone: str, required: Collection[str]) -> Any:
    """Return the table of ``clean`` for all rows of the file, in order. ``required`` adds to the ride's columns."""
    file = pq.ParquetFile(path)
    required = [*RIDE, *required]
    chosen = choose_columns(path, file.schema_arrow.names, target, required)
    table = file.read(columns=list(chosen.values()))
    check_texts(table, chosen, required)
    return clean(table, chosen, target, zone, required)
