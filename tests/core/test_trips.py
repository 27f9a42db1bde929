"""Reading TLC trip records, to train on and to put on the stream."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rides import Ride, RideEvent
from tests.trip_records import PICKUP, trip, write
from trips import TripRecordError, ride_events, training_trips


@pytest.mark.parametrize("colour", ["green", "yellow"])
def test_a_trip_becomes_a_ride_and_its_duration_in_minutes(tmp_path: Path, colour: str) -> None:
    """Files of green and of yellow taxis give the same rides."""
    trips = training_trips(write(tmp_path / "trips.parquet", [trip(12.5)], colour))
    assert (trips.rides, trips.durations, trips.left_out) == ([Ride(130, 205, 3.66)], [12.5], 0)


@pytest.mark.parametrize("minutes", [1, 60])
def test_durations_at_the_bounds_are_trained_on(tmp_path: Path, minutes: float) -> None:
    """1 and 60 minutes are included."""
    assert training_trips(write(tmp_path / "trips.parquet", [trip(minutes)])).durations == [minutes]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(trip(59 / 60), id="under a minute"),
        pytest.param(trip(60 + 1 / 60), id="over an hour"),
        pytest.param(trip(-5), id="ended before it began"),
        pytest.param(trip(trip_distance=0.0), id="no distance"),
        pytest.param(trip(trip_distance=100.01), id="over 100 miles"),
        pytest.param(trip(trip_distance=float("nan")), id="NaN miles"),
        *(pytest.param(trip() | {name: None}, id=f"no {name}") for name in trip()),
    ],
)
def test_an_odd_trip_is_left_out_of_training(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Only that row is left out, and it is counted."""
    trips = training_trips(write(tmp_path / "trips.parquet", [trip(), odd, trip(trip_distance=100.0)]))
    assert trips.rides == [Ride(130, 205, 3.66), Ride(130, 205, 100.0)]
    assert trips.left_out == 1


def test_a_ride_id_has_the_month_and_the_row(tmp_path: Path) -> None:
    """The month is that of the file's name, whatever the pickup, and rows that are left out count too."""
    path = write(tmp_path / "green_tripdata_2024-11.parquet", [trip(), trip(trip_distance=120_098.8), trip()])
    events, left_out = ride_events(path)
    assert events == [RideEvent(Ride(130, 205, 3.66), ride_id) for ride_id in ("2024/11_0", "2024/11_2")]
    assert left_out == 1


@pytest.mark.parametrize("name", ["trips.parquet", "trips-2023-13.parquet", "12023-01.parquet"])
def test_without_a_month_in_the_file_name_the_pickup_gives_it(tmp_path: Path, name: str) -> None:
    """Each ride has the month of its own pickup; a row without a pickup gets no id and is left out."""
    march = trip(pickup=PICKUP.replace(month=3))
    events, left_out = ride_events(write(tmp_path / name, [trip(), march, trip(pickup=None)], "yellow"))
    assert [event.ride_id for event in events] == ["2023/02_0", "2023/03_1"]
    assert left_out == 1


@pytest.mark.parametrize("miles", [0.0, 100.0])
def test_rides_to_put_are_within_the_contract(tmp_path: Path, miles: float) -> None:
    """Distances at the bounds are put, whatever the duration; the contract's own decoder accepts them."""
    events, left_out = ride_events(write(tmp_path / "trips.parquet", [trip(600, trip_distance=miles)]))
    assert msgspec.json.decode(msgspec.json.encode(events[0]), type=RideEvent) == events[0]
    assert (len(events), left_out) == (1, 0)


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param({"trip_distance": -0.01}, id="negative"),
        pytest.param({"trip_distance": 100.01}, id="over 100 miles"),
        pytest.param({"trip_distance": float("inf")}, id="infinite"),
        pytest.param({"trip_distance": float("nan")}, id="NaN"),
        pytest.param({"trip_distance": None}, id="no distance"),
        pytest.param({"PULocationID": None}, id="no pickup zone"),
        pytest.param({"DOLocationID": None}, id="no dropoff zone"),
    ],
)
def test_a_ride_outside_the_contract_is_not_put(tmp_path: Path, refused: dict[str, Any]) -> None:
    """The ride is left out and counted."""
    events, left_out = ride_events(write(tmp_path / "2023-02.parquet", [trip(**refused), trip()]))
    assert [event.ride_id for event in events] == ["2023/02_1"]
    assert left_out == 1


def test_zones_of_other_number_types_are_read_as_integers(tmp_path: Path) -> None:
    """Files differ from month to month: 32-bit integers here, floating point if a zone is missing."""
    zones = {"PULocationID": pa.array([1, 2], pa.int32()), "DOLocationID": pa.array([3.0, None])}
    pq.write_table(pa.table({**zones, "trip_distance": pa.array([1, 2])}), tmp_path / "2023-02.parquet")
    assert ride_events(tmp_path / "2023-02.parquet") == ([RideEvent(Ride(1, 3, 1.0), "2023/02_0")], 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.parquet", None, "there is no such file"),
        ("trips.csv", "PULocationID,DOLocationID\n1,2\n", "cannot be read as parquet trip records: .*"),
        ("text.parquet", trip(trip_distance="far"), "cannot be read .*far.*"),
    ],
    ids=["no file", "not parquet", "text in place of a number"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """The error names the file and what is wrong with it."""
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif content:
        write(tmp_path / name, [content])
    with pytest.raises(TripRecordError, match=rf"^.*/{re.escape(name)}: {message}$"):
        training_trips(tmp_path / name)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """The error names all missing columns, and both names of a time column."""
    pq.write_table(pa.table({"PULocationID": [1], "lpep_pickup_datetime": [PICKUP]}), tmp_path / "trips.parquet")
    columns = "DOLocationID, trip_distance, lpep_dropoff_datetime or tpep_dropoff_datetime;"
    with pytest.raises(TripRecordError, match=rf"trips\.parquet: no column {columns}"):
        training_trips(tmp_path / "trips.parquet")
