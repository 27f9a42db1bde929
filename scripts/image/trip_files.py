"""Trip record files for the batch job's image: a month of synthetic trips in, and the predictions to read."""

import datetime
import io
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from batch.months import Month
from scripts.sources.synthetic import generate_events

MONTH = Month("green", 2023, 2)
BAD_ROWS, BAD_MILES = 20, 120_098.8
"""One row in ``BAD_ROWS`` has this distance, which the ride contract refuses."""


def make_trips(rows: int, times: int = 1) -> bytes:
    """Return a file with TLC's columns: synthetic trips, each of them several times, and the same ones at each call."""
    rides = [event.ride for event in generate_events(rows, seed=0)]
    pickup = datetime.datetime(MONTH.year, MONTH.month, 1, 12)
    columns = {
        "lpep_pickup_datetime": [pickup] * rows,
        "lpep_dropoff_datetime": [pickup + datetime.timedelta(minutes=15)] * rows,
        "PULocationID": [ride.PULocationID for ride in rides],
        "DOLocationID": [ride.DOLocationID for ride in rides],
        "trip_distance": [ride.trip_distance if row % BAD_ROWS else BAD_MILES for row, ride in enumerate(rides)],
    }
    file = io.BytesIO()
    pq.write_table(pa.concat_tables([pa.table(columns)] * times), file, row_group_size=rows)
    return file.getvalue()


def read_values(file: BinaryIO, field: str) -> list[tuple[str, str, str]]:
    """Return the id, the predicted value and the version of each row of predictions."""
    columns = pq.read_table(file, columns=["ride_id", field, "model_version"]).to_pydict()
    # Six digits: two builds of a library may differ in the last ones.
    values = (f"{value:.6f}" for value in columns[field])
    return list(zip(columns["ride_id"], values, columns["model_version"], strict=True))
