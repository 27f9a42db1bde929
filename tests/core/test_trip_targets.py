"""Reading pickups in any time zone, and the values of targets other than the duration."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from targets import TARGETS
from tests.trip_records import trip
from trip_cells import TripRecordError
from trips import TripFile, ride_events, training_trips

NEW_YORK = ZoneInfo("America/New_York")
MOMENTS = [
    *(datetime(2023, 2, 1, hour, 30, tzinfo=UTC) for hour in (0, 4, 5, 12)),
    # Clocks go from 2 to 3 at 7 UTC on the first day, and from 2 to 1 at 6 UTC on the second day.
    *(datetime(2023, 3, 12, hour, 59, 59, 999_999, tzinfo=UTC) for hour in (6, 7)),
    *(datetime(2023, 11, 5, hour, 30, tzinfo=UTC) for hour in (5, 6)),
    # Time zone files list the days on which clocks change until 2037, and have a rule for later years.
    *(datetime(year, 7, 1, 12, tzinfo=UTC) for year in (2037, 2038, 2099)),
]
LOCAL = [moment.astimezone(NEW_YORK).replace(tzinfo=None) for moment in MOMENTS]


def write_trips(path: Path, pickups: pa.Array, **columns: list[Any]) -> Path:
    """Write trips of 20 minutes with these pickups, which may have any type, and with other columns."""
    usual = {name: [trip()[name]] * len(pickups) for name in ("PULocationID", "DOLocationID", "trip_distance")}
    times = pickups if pa.types.is_timestamp(pickups.type) else pa.array(LOCAL)
    dropoffs = pa.array([None if time is None else time + timedelta(minutes=20) for time in times.to_pylist()])
    table = {"lpep_pickup_datetime": pickups, "lpep_dropoff_datetime": dropoffs.cast(times.type), **usual, **columns}
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize(
    "pickups",
    [
        pytest.param(pa.array(LOCAL, pa.timestamp("us")), id="naive"),
        pytest.param(pa.array(MOMENTS, pa.timestamp("us", "UTC")), id="UTC"),
        pytest.param(pa.array(MOMENTS, pa.timestamp("ns", "America/New_York")), id="New York"),
        pytest.param(pa.array(MOMENTS, pa.timestamp("us", "+05:30")), id="an offset"),
        pytest.param(pa.array([f"{local}" for local in LOCAL]), id="text"),
        pytest.param(pa.array([f"{moment.astimezone(NEW_YORK)}" for moment in MOMENTS]), id="text with offsets"),
        pytest.param(pa.array([f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}" for moment in MOMENTS]), id="text in UTC"),
    ],
)
def test_a_pickup_is_what_a_clock_showed_where_the_ride_took_place(tmp_path: Path, pickups: pa.Array) -> None:
    """All types of time columns give the same pickups, on ordinary days and on the days when the clocks change."""
    path = write_trips(tmp_path / "2023-02.parquet", pickups)
    assert [event.ride.pickup_datetime for event in ride_events(path).events] == LOCAL
    with path.open("rb") as file:
        (chunk,) = TripFile(file, path.name).chunks(100)
    assert chunk.cells["local"].to_pylist() == LOCAL
    if pa.types.is_timestamp(pickups.type):
        trips = training_trips(path)
        assert [ride.pickup_datetime for ride in trips.rides] == LOCAL
        assert trips.values == [20] * len(LOCAL)


def test_the_time_zone_can_be_chosen(tmp_path: Path) -> None:
    """Chicago's clocks are an hour behind New York's, and show the time of a file without a time zone as it is."""
    in_utc = write_trips(tmp_path / "utc.parquet", pa.array(MOMENTS, pa.timestamp("us", "UTC")))
    naive = write_trips(tmp_path / "naive.parquet", pa.array(LOCAL))
    chicago = [moment.astimezone(ZoneInfo("America/Chicago")).replace(tzinfo=None) for moment in MOMENTS]
    for path, expected in ((in_utc, chicago), (naive, LOCAL)):
        assert [ride.pickup_datetime for ride in training_trips(path, zone="America/Chicago").rides] == expected


def test_a_ride_whose_pickup_is_not_known_has_none(tmp_path: Path) -> None:
    """A time that is in bounds only in UTC counts as missing too, because no ride event may have its local time."""
    pickups = pa.array([None, datetime(1970, 1, 1, 4, tzinfo=UTC), MOMENTS[0]], pa.timestamp("us", "UTC"))
    path = write_trips(tmp_path / "2023-02.parquet", pickups)
    assert [event.ride.pickup_datetime for event in ride_events(path).events] == [None, None, LOCAL[0]]
    assert training_trips(path).left_out == 2


AMOUNTS = [12.5, 0.0, -4.0, 1000.0, None, math.nan, math.inf, 7.25]


@pytest.mark.parametrize(
    ("target", "columns", "trained_on", "actual"),
    [
        ("tip", {"payment_type": [1.0] * 7 + [2.0]}, [12.5, 0.0], [12.5, 0.0, -4.0, 1000.0, None, None, None, None]),
        ("tip", {"payment_type": [*"1111111", None]}, [12.5, 0.0], [12.5, 0.0, -4.0, 1000.0, None, None, None, None]),
        ("fare", {}, [12.5, 7.25], [12.5, 0.0, -4.0, 1000.0, None, None, None, 7.25]),
        ("total", {}, [12.5, 7.25], [12.5, 0.0, -4.0, 1000.0, None, None, None, 7.25]),
    ],
)
def test_an_amount_is_read_from_its_column(
    tmp_path: Path, target: str, columns: dict[str, list[Any]], trained_on: list[float], actual: list[float | None]
) -> None:
    """Models are trained on amounts in the target's range alone; a tip counts only if it was paid by card."""
    path = tmp_path / "2023-02.parquet"
    write_trips(path, pa.array([LOCAL[0]] * len(AMOUNTS)), **columns, **{f"{target}_amount": AMOUNTS})
    trips, events = training_trips(path, TARGETS[target]), ride_events(path, TARGETS[target])
    assert (trips.values, trips.left_out) == (trained_on, len(AMOUNTS) - len(trained_on))
    assert (events.actual, events.left_out) == (actual, 0)


@pytest.mark.parametrize(("target", "missing"), [("tip", "tip_amount, payment_type"), ("fare", "fare_amount")])
def test_a_file_without_the_target_is_one_line(tmp_path: Path, target: str, missing: str) -> None:
    """A model cannot be trained on a file without its target, and the file's rides have no actual value."""
    path = write_trips(tmp_path / "2023-02.parquet", pa.array(LOCAL))
    with pytest.raises(TripRecordError, match=f"2023-02.parquet: no column {missing};"):
        training_trips(path, TARGETS[target])
    assert ride_events(path, TARGETS[target]).actual == [None] * len(LOCAL)
