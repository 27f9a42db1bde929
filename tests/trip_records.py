"""Builders for TLC trip record files."""

import datetime
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PREFIXES = {"green": "lpep", "yellow": "tpep"}
PICKUP = datetime.datetime(2023, 2, 1, 12)


def trip(minutes: float = 20, **changes: Any) -> dict[str, Any]:
    """Build a row of a trip that lasts ``minutes``. ``write`` gives its time columns the names of a taxi colour."""
    dropoff = PICKUP + datetime.timedelta(minutes=minutes)
    usual = {"pickup": PICKUP, "dropoff": dropoff, "PULocationID": 130, "DOLocationID": 205, "trip_distance": 3.66}
    return usual | changes


def linear_trips(number: int) -> list[dict[str, Any]]:
    """Build trips of three pairs of zones. A trip takes 4 minutes, 3 a mile, and 5 for each zone number above 1."""
    draw = random.Random(number)  # noqa: S311  the same trips every time, no secret
    zones_and_miles = ((draw.randint(1, 3), draw.randint(1, 500) / 100) for _ in range(number))
    return [
        trip(linear_duration(zone, miles), PULocationID=zone, DOLocationID=zone, trip_distance=miles)
        for zone, miles in zones_and_miles
    ]


def linear_duration(zone: int, miles: float) -> float:
    """Return the minutes that a trip of ``linear_trips`` takes."""
    return 4 + 3 * miles + 5 * (zone - 1)


def write(path: Path, trips: Iterable[dict[str, Any]], colour: str = "green") -> Path:
    """Write a file with the columns of the taxi colour, and with one that no module reads."""
    table = pa.Table.from_pylist(list(trips))
    times = {time: f"{PREFIXES[colour]}_{time}_datetime" for time in ("pickup", "dropoff")}
    table = table.rename_columns([times.get(name, name) for name in table.column_names])
    pq.write_table(table.append_column("fare_amount", pa.array([12.5] * len(table))), path)
    return path
