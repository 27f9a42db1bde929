"""TLC trip records: the parquet files, one a month, that New York City's Taxi & Limousine Commission publishes.

Files of green and of yellow taxis are read; only the names of their time columns differ. Distances are in miles, and
times are New York's, without a time zone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rides import MAX_TRIP_DISTANCE, Ride, RideEvent

MIN_DURATION, MAX_DURATION = 1, 60
"""Minutes, both included. A shorter ride was cancelled; a longer one is a meter left on, or a taxi hired for a day."""

RIDE = {"PULocationID": pa.int64(), "DOLocationID": pa.int64(), "trip_distance": pa.float64()}
TIMES = {
    "pickup": ("lpep_pickup_datetime", "tpep_pickup_datetime"),
    "dropoff": ("lpep_dropoff_datetime", "tpep_dropoff_datetime"),
}
"""The names of the time columns in the files of green and of yellow taxis."""

MONTH_IN_NAME = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?!\d)")
MICROSECONDS_A_MINUTE = 60_000_000


class TripRecordError(Exception):
    """A file cannot be read as TLC trip records; the message is one line and names the file."""


@dataclass(frozen=True)
class Trips:
    """Rides to learn from, the duration of each in minutes, and the number of rows that were left out."""

    rides: list[Ride]
    durations: list[float]
    left_out: int


def training_trips(path: Path) -> Trips:
    """Return the rides of a file to train a model on, or to measure it on.

    A row is left out unless all values are there, the duration is 1 to 60 minutes, and the distance is above 0 and at
    most ``MAX_TRIP_DISTANCE``.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    table = _read(path, ["pickup", "dropoff"])
    microseconds = pc.cast(pc.subtract(table["dropoff"], table["pickup"]), pa.int64())
    table = table.append_column("minutes", pc.divide(pc.cast(microseconds, pa.float64()), MICROSECONDS_A_MINUTE))
    minutes, miles = pc.field("minutes"), pc.field("trip_distance")
    usual = (minutes >= MIN_DURATION) & (minutes <= MAX_DURATION) & (miles > 0) & (miles <= MAX_TRIP_DISTANCE)
    kept = table.filter(_has_zones() & usual)
    return Trips(list(_rides(kept)), kept["minutes"].to_pylist(), len(table) - len(kept))


def ride_events(path: Path) -> tuple[list[RideEvent], int]:
    """Return the rides of a file as the stream takes them, and the number of rows that the contract refuses.

    A ``ride_id`` is "<year>/<month>_<row>", such as "2023/02_17" for the row at index 17. Year and month come from the
    file's name, or else from the pickup; the row counts the whole file, so an id is unique in it and always the same.

    Raises:
        TripRecordError: if the file cannot be read, or lacks a column.
    """
    month = MONTH_IN_NAME.search(path.name)
    table = _read(path, [] if month else ["pickup"])
    table = table.append_column("row", pa.array(range(len(table)), pa.int64()))
    miles = pc.field("trip_distance")
    accepted = _has_zones() & (miles >= 0) & (miles <= MAX_TRIP_DISTANCE)
    kept = table.filter(accepted if month else accepted & pc.field("pickup").is_valid())
    months = [f"{month[1]}/{month[2]}"] * len(kept) if month else [f"{t:%Y/%m}" for t in kept["pickup"].to_pylist()]
    ids = (f"{month}_{row}" for month, row in zip(months, kept["row"].to_pylist(), strict=True))
    events = [RideEvent(ride, ride_id) for ride, ride_id in zip(_rides(kept), ids, strict=True)]
    return events, len(table) - len(kept)


def _has_zones() -> Any:
    return pc.field("PULocationID").is_valid() & pc.field("DOLocationID").is_valid()


def _rides(table: Any) -> Iterator[Ride]:
    return map(Ride, *(table[column].to_pylist() for column in RIDE))


def _read(path: Path, times: list[str]) -> Any:
    """Return the ride's columns and the named time columns as a table, under our names and with our types."""
    try:
        file = pq.ParquetFile(path)
        present = file.schema_arrow.names
        columns = {name: [one for one in TIMES.get(name, (name,)) if one in present] for name in [*RIDE, *times]}
        missing = [" or ".join(TIMES.get(name, (name,))) for name, found in columns.items() if not found]
        if missing:
            raise TripRecordError(f"{path}: no column {', '.join(missing)}; is it of green or yellow taxis?")
        chosen = [found[0] for found in columns.values()]
        table = file.read(columns=chosen).select(chosen).rename_columns(list(columns))
        # The files of two months differ: zones are 32-bit integers in one, and floating point if a zone is missing.
        return table.cast(pa.schema({**RIDE, **dict.fromkeys(times, pa.timestamp("us"))}))
    except FileNotFoundError:
        raise TripRecordError(f"{path}: there is no such file") from None
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TripRecordError(f"{path}: cannot be read as parquet trip records: {reason}") from error
