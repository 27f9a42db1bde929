"""Reading TLC trip records, to train on and to put on the stream."""

import datetime
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rides import Ride, RideEvent
from tests.trip_records import PICKUP, trip, write
from trip_cells import TripRecordError
from trips import TripEvents, TripFile, ride_events, training_trips

RIDE = Ride(130, 205, 3.66, PICKUP)
"""The ride of ``trip()``."""


def ids(trips: TripEvents) -> list[int | str]:
    """Return the ids of the rides."""
    return [event.ride_id for event in trips.events]


@pytest.mark.parametrize("colour", ["green", "yellow"])
def test_a_trip_becomes_a_ride_and_its_duration_in_minutes(tmp_path: Path, colour: str) -> None:
    """Files of green and of yellow taxis give the same rides."""
    trips = training_trips(write(tmp_path / "trips.parquet", [trip(12.5)], colour))
    assert (trips.rides, trips.values, trips.left_out) == ([RIDE], [12.5], 0)


@pytest.mark.parametrize("minutes", [1, 60])
def test_durations_at_the_bounds_are_trained_on(tmp_path: Path, minutes: float) -> None:
    """1 and 60 minutes are included."""
    assert training_trips(write(tmp_path / "trips.parquet", [trip(minutes)])).values == [minutes]


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
    assert trips.rides == [RIDE, Ride(130, 205, 100.0, PICKUP)]
    assert trips.left_out == 1


def test_a_ride_id_has_the_month_and_the_row(tmp_path: Path) -> None:
    """The month is that of the file's name, whatever the pickup, and rows that are left out count too."""
    path = write(tmp_path / "green_tripdata_2024-11.parquet", [trip(), trip(trip_distance=120_098.8), trip()])
    trips = ride_events(path)
    assert trips.events == [RideEvent(RIDE, ride_id) for ride_id in ("2024/11_0", "2024/11_2")]
    assert trips.left_out == 1


@pytest.mark.parametrize("name", ["trips.parquet", "trips-2023-13.parquet", "12023-01.parquet"])
def test_without_a_month_in_the_file_name_the_pickup_gives_it(tmp_path: Path, name: str) -> None:
    """Each ride has the month of its own pickup; a row without a pickup gets no id and is left out."""
    march = trip(pickup=PICKUP.replace(month=3))
    trips = ride_events(write(tmp_path / name, [trip(), march, trip(pickup=None)], "yellow"))
    assert ids(trips) == ["2023/02_0", "2023/03_1"]
    assert trips.left_out == 1


@pytest.mark.parametrize("miles", [0.0, 100.0])
def test_rides_to_put_are_within_the_contract(tmp_path: Path, miles: float) -> None:
    """Distances at the bounds are put, whatever the duration; the contract's own decoder accepts them."""
    trips = ride_events(write(tmp_path / "trips.parquet", [trip(600, trip_distance=miles)]))
    (event,) = trips.events
    assert msgspec.json.decode(msgspec.json.encode(event), type=RideEvent) == event
    assert (trips.actual, trips.left_out) == ([600], 0)


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
    trips = ride_events(write(tmp_path / "2023-02.parquet", [trip(**refused), trip()]))
    assert ids(trips) == ["2023/02_1"]
    assert trips.left_out == 1


def test_the_true_duration_is_handed_on_if_it_is_known(tmp_path: Path) -> None:
    """The duration may have any length. If the dropoff is missing or not after the pickup, it is None."""
    trips = ride_events(write(tmp_path / "2023-02.parquet", [trip(90), trip(dropoff=None), trip(-5), trip(0)]))
    assert trips.actual == [90, None, None, None]
    assert trips.left_out == 0


INT64_MIN = -(2**63)
"""What pandas and numpy write for a missing value in a column of times or integers."""


def with_column(path: Path, name: str, column: pa.Array) -> Path:
    """Write as many trips as the column has cells, with the column in place of the usual one of this name."""
    write(path, [trip()] * len(column))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)
    return path


@pytest.mark.parametrize("name", ["PULocationID", "DOLocationID"])
@pytest.mark.parametrize(
    "zones",
    [
        pytest.param(pa.array([130.0, None, 131.0]), id="null"),
        pytest.param(pa.array([130.0, math.nan, 131.0]), id="NaN"),
        pytest.param(pa.array([130, math.inf, 131], pa.float32()), id="infinite"),
        pytest.param(pa.array([130.0, 130.5, 131.0]), id="a fraction"),
        pytest.param(pa.array([130.0, 1e30, 131.0]), id="beyond 64 bits"),
        pytest.param(pa.array([130, 2**64 - 1, 131], pa.uint64()), id="unsigned"),
        pytest.param(pa.array([130, INT64_MIN, 131]), id="NaN as an integer"),
        pytest.param(pa.array([130, -1, 131], pa.int16()), id="filled with -1"),
        pytest.param(pa.array([Decimal("130.0"), None, Decimal(131)], pa.decimal128(38, 1)), id="decimal"),
        pytest.param(pa.array(["130", "N/A", "131.0"]), id="text"),
        pytest.param(pa.array(["130", "", "131"], pa.large_string()), id="large text"),
        pytest.param(pa.array([b"130", b"\xff", b"131"]), id="bytes"),
        pytest.param(pa.array(["130", "nan", "131"]).dictionary_encode(), id="categories of text"),
        pytest.param(pa.array([130.0, math.nan, 131.0]).dictionary_encode(), id="categories of numbers"),
    ],
)
def test_a_row_without_a_zone_is_left_out_however_it_was_written(tmp_path: Path, name: str, zones: pa.Array) -> None:
    """The other rows are read, and keep their numbers."""
    path = with_column(tmp_path / "2023-02.parquet", name, zones)
    trips, training = ride_events(path), training_trips(path)
    assert ids(trips) == ["2023/02_0", "2023/02_2"]
    assert [getattr(event.ride, name) for event in trips.events] == [130, 131]
    assert [getattr(ride, name) for ride in training.rides] == [130, 131]
    assert trips.left_out == training.left_out == 1


@pytest.mark.parametrize(
    "miles",
    [
        pytest.param(pa.array([1.5, -math.inf, 2], pa.float32()), id="infinite"),
        pytest.param(pa.array(["1.5", "far", " 2 "]), id="text"),
        pytest.param(pa.array(["1.5", None, "2"]).dictionary_encode(), id="categories"),
        pytest.param(pa.array([Decimal("1.5"), Decimal("1e20"), Decimal(2)], pa.decimal128(38, 1)), id="decimal"),
    ],
)
def test_a_row_without_a_distance_is_left_out_however_it_was_written(tmp_path: Path, miles: pa.Array) -> None:
    """The other rows are read."""
    path = with_column(tmp_path / "2023-02.parquet", "trip_distance", miles)
    trips, training = ride_events(path), training_trips(path)
    assert [event.ride.trip_distance for event in trips.events] == [1.5, 2]
    assert [ride.trip_distance for ride in training.rides] == [1.5, 2]
    assert trips.left_out == training.left_out == 1


def times(odd: Any, unit: str = "us", zone: str | None = None) -> pa.Array:
    """Build a column of the usual pickup, an odd time, and the usual pickup again."""
    usual = pa.scalar(PICKUP, pa.timestamp("us")).cast(pa.timestamp(unit)).value
    return pa.array([usual, odd, usual], pa.int64()).cast(pa.timestamp(unit, zone))


@pytest.mark.parametrize("name", ["lpep_pickup_datetime", "lpep_dropoff_datetime"])
@pytest.mark.parametrize(
    "column",
    [
        *(pytest.param(times(INT64_MIN, unit), id=f"NaT in {unit}") for unit in ("ms", "us", "ns")),
        *(pytest.param(times(2**63 - 1, unit), id=f"the largest in {unit}") for unit in ("ms", "us", "ns")),
        pytest.param(times(INT64_MIN, "ns", "America/New_York"), id="NaT with a time zone"),
        pytest.param(times(-62_135_596_800, "s"), id="year 1"),
        pytest.param(times(253_402_300_799, "s"), id="year 9999"),
        pytest.param(pa.array([f"{PICKUP}", "not yet", f"{PICKUP:%Y-%m-%dT%H:%M:%S.000Z}"]), id="text"),
        pytest.param(pa.array([PICKUP, None, PICKUP]).dictionary_encode(), id="categories"),
    ],
)
def test_a_row_with_an_absurd_time_is_not_trained_on(tmp_path: Path, name: str, column: pa.Array) -> None:
    """If the month is needed, no ride is put either; if it is in the file's name, the ride has no true duration."""
    other = "lpep_dropoff_datetime" if name == "lpep_pickup_datetime" else "lpep_pickup_datetime"
    path = with_column(tmp_path / "trips.parquet", name, column)
    minutes = 20 if name == "lpep_pickup_datetime" else -20
    shifted = pa.array([PICKUP + datetime.timedelta(minutes=minutes)] * 3, pa.timestamp("ms"))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(other), other, shifted), path)
    assert (training_trips(path).values, training_trips(path).left_out) == ([20, 20], 1)
    trips = ride_events(path)
    rows = [0, 2] if name == "lpep_pickup_datetime" else [0, 1, 2]
    assert ids(trips) == [f"2023/02_{row}" for row in rows]
    dated = ride_events(path.rename(tmp_path / "2023-02.parquet"))
    assert (dated.actual, dated.left_out) == ([20, None, 20], 0)


def test_the_month_is_in_the_time_zone_of_the_pickup(tmp_path: Path) -> None:
    """A time with a time zone is stored as UTC. Nanoseconds, which the fractions of Python do not have, are cut."""
    march_in_utc = 1_677_632_400_123_456_789  # 2023-02-28, 20:00 in New York
    column = pa.array([march_in_utc], pa.int64()).cast(pa.timestamp("ns", "America/New_York"))
    path = with_column(tmp_path / "trips.parquet", "lpep_pickup_datetime", column)
    assert ids(ride_events(path)) == ["2023/02_0"]


def test_dates_have_a_month_and_no_duration(tmp_path: Path) -> None:
    """All rows are read, and have no duration."""
    column = pa.array([PICKUP.date(), datetime.date(9999, 12, 31)], pa.date32())
    path = with_column(tmp_path / "trips.parquet", "lpep_pickup_datetime", column)
    assert ids(ride_events(path)) == ["2023/02_0"]


def test_a_time_column_that_is_not_needed_may_be_anything(tmp_path: Path) -> None:
    """The rides are put without their true duration."""
    path = with_column(tmp_path / "2023-02.parquet", "lpep_dropoff_datetime", pa.array([True, False]))
    assert ride_events(path).actual == [None, None]
    pq.write_table(pq.read_table(path).drop_columns("lpep_dropoff_datetime"), path)
    assert ride_events(path).actual == [None, None]


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("PULocationID", pa.array([True]), "the column PULocationID holds bool and not numbers"),
        ("DOLocationID", pa.array([[1]]), "the column DOLocationID holds list<.*> and not numbers"),
        ("trip_distance", pa.array([PICKUP]), r"the column trip_distance holds timestamp\[us\] and not numbers"),
        ("trip_distance", pa.array(["far"]), "the column trip_distance holds text that cannot be read, such as 'far'"),
        ("lpep_pickup_datetime", pa.array([7]), "the column lpep_pickup_datetime holds int64 and not times"),
        ("lpep_pickup_datetime", pa.array(["1/2/23"]), "the column lpep_pickup_datetime holds text .*'1/2/23'"),
    ],
)
def test_a_column_of_another_kind_is_one_line(tmp_path: Path, name: str, column: pa.Array, reason: str) -> None:
    """The error names the file, the column, and the type of the column."""
    path = with_column(tmp_path / "trips.parquet", name, column)
    for read in (training_trips, ride_events):
        with pytest.raises(TripRecordError, match=rf"^{path}: cannot be read as parquet trip records: {reason}$"):
            read(path)


@pytest.mark.parametrize("name", ["PULocationID", "lpep_dropoff_datetime"])
def test_a_column_of_nothing_leaves_all_rows_out(tmp_path: Path, name: str) -> None:
    """A writer gives no type to a column of nulls."""
    trips = training_trips(with_column(tmp_path / "trips.parquet", name, pa.nulls(2)))
    assert (trips.rides, trips.left_out) == ([], 2)


def test_a_column_that_a_file_has_twice_is_one_line(tmp_path: Path) -> None:
    """The error names the column, because nobody knows which of the two is meant."""
    path = write(tmp_path / "2023-02.parquet", [trip()])
    table = pq.read_table(path)
    pq.write_table(table.append_column("PULocationID", table["PULocationID"]), path)
    with pytest.raises(TripRecordError, match=r"2023-02\.parquet: has more than one column PULocationID"):
        ride_events(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing.parquet", None, "there is no such file"),
        ("trips.csv", "PULocationID,DOLocationID\n1,2\n", "cannot be read as parquet trip records: .*"),
    ],
    ids=["no file", "not parquet"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    """The error names the file and what is wrong with it."""
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(TripRecordError, match=rf"^.*/{re.escape(name)}: {message}$"):
        training_trips(tmp_path / name)


def test_a_broken_column_name_is_one_line(tmp_path: Path) -> None:
    """The file was damaged where its columns are listed."""
    path = write(tmp_path / "trips.parquet", [trip()])
    path.write_bytes(path.read_bytes().replace(b"fare_amount", b"fare_\xffmount"))
    with pytest.raises(TripRecordError, match=r"trips\.parquet: cannot be read as parquet trip records: .*utf-8"):
        training_trips(path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """The error names all missing columns, and both names of a time column."""
    pq.write_table(pa.table({"PULocationID": [1], "lpep_pickup_datetime": [PICKUP]}), tmp_path / "trips.parquet")
    columns = "DOLocationID, trip_distance, lpep_dropoff_datetime or tpep_dropoff_datetime;"
    with pytest.raises(TripRecordError, match=rf"trips\.parquet: no column {columns}"):
        training_trips(tmp_path / "trips.parquet")


NAMES = ("PULocationID", "DOLocationID", "trip_distance", "local")
"""The columns of a ride."""
ODD_TRIPS = [
    *(trip(minutes) for minutes in (0, -5, 0.5, 60, 600)),
    *(trip(trip_distance=miles) for miles in (0.0, -0.01, 100.0, 100.01, math.inf, math.nan, None)),
    *(trip() | {zone: number} for zone in ("PULocationID", "DOLocationID") for number in (0, -1, 2**31, None)),
    *(trip() | {time: None} for time in ("pickup", "dropoff")),
]


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_chunks_have_the_rides_that_are_put_on_the_stream(tmp_path: Path, rows: int) -> None:
    """Reading in chunks accepts the same rows as reading at once, and counts the others."""
    path = write(tmp_path / "2023-02.parquet", ODD_TRIPS)
    expected = ride_events(path)
    with path.open("rb") as file:
        trips = TripFile(file, path.name)
        chunks = list(trips.chunks(rows))
    assert trips.rows == sum(len(chunk.raw) for chunk in chunks) == len(ODD_TRIPS)
    assert max(len(chunk.raw) for chunk in chunks) <= rows
    found = [
        RideEvent(Ride(*(cells[name] for name in NAMES)), f"2023/02_{chunk.first_row + index}")
        for chunk in chunks
        for index, cells in enumerate(chunk.cells.to_pylist())
        if chunk.is_valid[index].as_py()
    ]
    actual = [value for chunk in chunks for value in chunk.cells.filter(chunk.is_valid)["actual"].to_pylist()]
    assert (found, actual) == (expected.events, expected.actual)
    assert 0 < len(found) == len(ODD_TRIPS) - expected.left_out


@pytest.mark.parametrize(
    ("columns", "colours"),
    [
        (["lpep_pickup_datetime", "lpep_dropoff_datetime"], {"green"}),
        (["tpep_dropoff_datetime"], {"yellow"}),
        (["lpep_pickup_datetime", "tpep_dropoff_datetime"], {"green", "yellow"}),
        (["pickup_datetime"], set()),
    ],
)
def test_the_names_of_time_columns_tell_the_colour(tmp_path: Path, columns: list[str], colours: set[str]) -> None:
    """A file without such columns may be of any colour."""
    table = {"PULocationID": [1], "DOLocationID": [1], "trip_distance": [1.0], **{name: [PICKUP] for name in columns}}
    pq.write_table(pa.table(table), tmp_path / "trips.parquet")
    with (tmp_path / "trips.parquet").open("rb") as file:
        assert TripFile(file, "trips.parquet").colours == colours


@pytest.mark.parametrize("run_rows", [1, 7, 1_000])
@pytest.mark.parametrize("group_rows", [1, 3, 10, 100])
def test_chunks_have_all_rows_in_order(
    tmp_path: Path, group_rows: int, run_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups of any size are read in runs of any length, and no chunk is larger than it may be."""
    monkeypatch.setattr("trips.ROWS_READ_TOGETHER", run_rows)
    table = pq.read_table(write(tmp_path / "trips.parquet", [trip(trip_distance=float(row)) for row in range(25)]))
    pq.write_table(table, tmp_path / "grouped.parquet", row_group_size=group_rows)
    with (tmp_path / "grouped.parquet").open("rb") as file:
        chunks = list(TripFile(file, "grouped.parquet").chunks(8))
    assert [miles for chunk in chunks for miles in chunk.cells["trip_distance"].to_pylist()] == list(range(25))
    assert [chunk.first_row for chunk in chunks] == [chunk.cells["trip_distance"][0].as_py() for chunk in chunks]
    assert max(len(chunk.raw) for chunk in chunks) <= 8
