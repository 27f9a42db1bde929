"""The files of the batch job's measurements: generated months, repeated months, and the check of the predictions."""

import math
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.cli import CommandError
from targets import DURATION
from trip_cells import MICROSECONDS_A_MINUTE, RIDE, TIMES
from trips import Trips

SAME = ("pickup_datetime", "PULocationID", "DOLocationID")
"""Columns whose values tell rides apart, beside the duration."""
TOLERANCE = 1e-9
"""Minutes by which two predictions of a ride may differ."""


def write_month(trips: Trips, path: Path) -> None:
    """Write trips as a trip record file of green taxis."""
    pickups = [ride.pickup_datetime for ride in trips.rides]
    dropoffs = [
        pickup + timedelta(minutes=length) for pickup, length in zip(pickups, trips.values, strict=True) if pickup
    ]
    columns = {TIMES["pickup"][0]: pickups, TIMES["dropoff"][0]: dropoffs}
    columns |= {name: [getattr(ride, name) for ride in trips.rides] for name in RIDE}
    pq.write_table(pa.table(columns), path)


def count_rows(path: Path) -> int:
    """Return the number of a file's rows."""
    rows: int = pq.ParquetFile(path).metadata.num_rows
    return rows


def repeat(source: Path, times: int, path: Path) -> None:
    """Write the rows of a file into another file, this many times."""
    table = pq.ParquetFile(source).read()
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)


def check_agreement(ours: Path, course: Path) -> int:
    """Compare the predictions of rides that are in both outputs, and return their number. Raises CommandError.

    The course's script leaves out long and short trips, and the batch job leaves out rides outside the contract. Both
    keep the order of the file.
    """
    rest, count = iter(list(_read(course))), 0
    for ride, duration in _read(ours):
        other = next((found for same, found in rest if same == ride), None)
        if other is None or not math.isclose(duration, other, rel_tol=0, abs_tol=TOLERANCE):
            values = f"{duration} minutes for the ride {ride}, and the course's script {other}"
            raise CommandError(f"the batch job predicts {values}: one of them is wrong")
        count += 1
    if count == 0:
        raise CommandError(f"no ride is in both {ours.name} and {course.name}: give --data a file of usual trips")
    return count


def _read(path: Path) -> Iterator[tuple[Sequence[Any], float]]:
    """Yield the rides that both programs predict, each as the values that tell it apart, with its prediction."""
    table = pq.ParquetFile(path).read([*SAME, "actual_duration", "predicted_duration"])
    pickups = table["pickup_datetime"].cast(pa.timestamp("us"), safe=False).to_pylist()
    others = (table[name].to_pylist() for name in table.column_names if name != "pickup_datetime")
    for pickup, start, end, actual, predicted in zip(pickups, *others, strict=True):
        if actual is not None and DURATION.least <= actual <= DURATION.most:
            yield (pickup, start, end, round(actual * MICROSECONDS_A_MINUTE)), predicted
