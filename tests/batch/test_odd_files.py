"""Files that are not what TLC publishes today: all of it is scored, or one line says why not."""

import datetime
import math
import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.months import Month
from tests.batch.jobs import FEBRUARY, read, score, score_table
from tests.trip_records import PICKUP, trip, write
from trip_cells import TripRecordError

LARGEST = 2**63 - 1
TIMES = pa.array([-LARGEST - 1, LARGEST, None], pa.int64())
TIME_ZONE = "America/New_York"
ODD: dict[str, Any] = {
    "boolean": pa.array([True, False, None]),
    "unsigned": pa.array([0, 2**64 - 1, None], pa.uint64()),
    "decimal": pa.array([Decimal("1.5"), Decimal("-1.5"), None]),
    "number": pa.array([math.nan, math.inf, None]),
    "short number": pa.array([1, math.inf, None], pa.float16()),
    "text": pa.array(["a", "\x00", None]),
    "bytes": pa.array([b"\xff", b"", None]),
    "large bytes": pa.array([b"\xff", b"", None], pa.large_binary()),
    "fixed bytes": pa.array([b"\xff\xfe", b"ab", None], pa.binary(2)),
    "views of text": pa.array(["a", "\x00", None], pa.string_view()),
    "views of bytes": pa.array([b"\xff", b"", None], pa.binary_view()),
    "uuid": pa.array([b"\xff" * 16, bytes(16), None], pa.uuid()),
    "null": pa.nulls(3),
    "date": pa.array([2**31 - 1, -(2**31), None], pa.int32()).cast(pa.date32()),
    "date of 64 bits": pa.array([86_400_000 * 10**9, 0, None], pa.int64()).cast(pa.date64()),
    "time": pa.array([datetime.time(23, 59, 59), datetime.time(), None], pa.time64("ns")),
    "duration": TIMES.cast(pa.duration("ns")),
    **{f"time in {unit}": TIMES.cast(pa.timestamp(unit)) for unit in ("ms", "us", "ns")},
    "time with a zone": TIMES.cast(pa.timestamp("us", TIME_ZONE)),
    "time with an offset": TIMES.cast(pa.timestamp("ns", "+05:00")),
    "categories": pa.array(["a", "b", None]).dictionary_encode(),
    "categories of times": TIMES.cast(pa.timestamp("ns")).dictionary_encode(),
    "list": pa.array([[1], [], None]),
    "list of times": pa.array([[LARGEST], [], None], pa.list_(pa.timestamp("ns"))),
    "fixed list": pa.array([[1, 2], [3, 4], [None, None]], pa.list_(pa.int32(), 2)),
    "struct": pa.array([{"a": b"\xff"}, {"a": None}, None]),
    "struct of times": pa.array([{"a": LARGEST}, {"a": 0}, None], pa.struct([("a", pa.timestamp("us"))])),
    "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int32())),
}
"""Columns of every type that a parquet file can have, with extreme values and a null."""


def trips_table(rows: int, **columns: Any) -> pa.Table:
    """Build a file of trips of a mile, in which these columns replace the usual ones or are one more."""
    pickup = pa.array([PICKUP] * rows, pa.timestamp("us"))
    usual = {
        "lpep_pickup_datetime": pickup,
        "lpep_dropoff_datetime": pa.array([PICKUP + datetime.timedelta(minutes=20)] * rows, pa.timestamp("us")),
        "PULocationID": pa.array([130] * rows, pa.int64()),
        "DOLocationID": pa.array([205] * rows, pa.int64()),
        "trip_distance": pa.array([1.0] * rows),
    }
    return pa.table(usual | columns)


@pytest.mark.parametrize("name", ["lpep_pickup_datetime", "lpep_dropoff_datetime", "fare_amount"])
@pytest.mark.parametrize("kind", ODD)
def test_a_column_that_no_prediction_needs_may_be_of_any_type(name: str, kind: str) -> None:
    """Its rows are predicted; a row that is rejected for another reason is written, whatever the cell holds."""
    assert score_table(trips_table(3, **{name: ODD[kind]})).values == [1.0, 1.0, 1.0]
    rejected = score_table(trips_table(3, **{name: ODD[kind], "trip_distance": pa.array([101.0] * 3)})).rejections
    assert [line["row"] for line in rejected] == [0, 1, 2]
    is_unread = name == "fare_amount"
    expected = [None, None] if kind == "fixed list" else None
    assert [line["data"].get(name, "not read") for line in rejected[2:]] == ["not read" if is_unread else expected]


@pytest.mark.parametrize("name", ["PULocationID", "trip_distance", "ride_id"])
@pytest.mark.parametrize("kind", ODD)
def test_a_column_that_is_needed_is_read_or_refused_in_one_line(name: str, kind: str) -> None:
    """Whatever the type is, the only error is one line that names the file and the column."""
    message = ""
    try:
        score_table(trips_table(3, **{name: ODD[kind]}))
    except TripRecordError as error:
        message = str(error)
    assert re.fullmatch(rf"|trips\.parquet: cannot be read .*: the column {name} holds .* and not \w+", message)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, TIME_ZONE])
def test_a_pickup_is_what_a_clock_in_the_column_shows(unit: str, zone: str | None) -> None:
    """Predictions have it in microseconds and without a time zone, as TLC writes it."""
    # In UTC, 17:00 is noon in New York.
    stored = PICKUP + datetime.timedelta(hours=5 if zone else 0)
    column = pa.array([stored, None], pa.timestamp("us")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    table = score_table(trips_table(2, lpep_pickup_datetime=column)).predictions
    assert table.schema.field("pickup_datetime").type == pa.timestamp("us")
    assert table["pickup_datetime"].to_pylist() == [PICKUP, None]


def test_an_unknown_time_zone_is_one_line() -> None:
    """Without it, nobody knows when the trips began."""
    column = pa.array([0], pa.timestamp("us", "New_York/Nowhere"))
    with pytest.raises(TripRecordError, match=r"^trips\.parquet: cannot be read .*'New_York/Nowhere'"):
        score_table(trips_table(1, lpep_pickup_datetime=column))


def test_missing_values_of_all_writers_count_as_missing() -> None:
    """NaN and NaT are what pandas writes in place of nulls."""
    times = pa.array([-LARGEST - 1] * 4, pa.int64()).cast(pa.timestamp("ns"))
    miles = pa.array([math.nan, 1.0, 1.0, 2.0])
    zones = {"PULocationID": pa.array([1.0, math.nan, 3, 4]), "DOLocationID": pa.array([1.0, 2, math.nan, 4])}
    written = score_table(trips_table(4, lpep_dropoff_datetime=times, trip_distance=miles, **zones))
    assert written.values == [2.0]
    assert written.predictions["actual_duration"].to_pylist() == written.predictions["diff"].to_pylist() == [None]
    assert [line["row"] for line in written.rejections] == [0, 1, 2]


OTHER_YEAR = {
    "congestion_surcharge": [None],
    "airport_fee": [None],
    "trip_distance": pa.array([3], pa.int32()),
    "DOLocationID": [205.0],
    "VendorID": [2.0],
    "PULocationID": pa.array([130], pa.int16()),
    "tpep_dropoff_datetime": pa.array([PICKUP + datetime.timedelta(minutes=7)], pa.timestamp("ns")),
    "tpep_pickup_datetime": pa.array([PICKUP], pa.timestamp("ms")),
    "Airport_fee": [1.25],
}


def test_a_file_of_another_year_is_scored(tmp_path: Path) -> None:
    """Its columns have another order, other types, and other names that the job does not need."""
    pq.write_table(pa.table(OTHER_YEAR), tmp_path / "yellow_tripdata_2025-01.parquet")
    written, manifest = read(score(tmp_path, tmp_path / "output", month=Month("yellow", 2025, 1)))
    (row,) = written.predictions.drop_columns(["ride_id", "predicted_duration", "diff"]).to_pylist()
    assert row == {
        "pickup_datetime": PICKUP,
        "PULocationID": 130,
        "DOLocationID": 205,
        "trip_distance": 3.0,
        "actual_duration": 7.0,
        "model_name": manifest.model.name,
        "model_version": manifest.model.version,
    }


@pytest.mark.parametrize(
    ("table", "predicted", "rejected"),
    [
        pytest.param(trips_table(0), 0, 0, id="no rows"),
        pytest.param(trips_table(0).schema.empty_table(), 0, 0, id="no row groups"),
        pytest.param(trips_table(3, trip_distance=pa.array([-1.0, None, 101])), 0, 3, id="only bad rows"),
        pytest.param(trips_table(2).select(["PULocationID", "DOLocationID", "trip_distance"]), 2, 0, id="no times"),
    ],
)
def test_a_month_without_much_in_it_is_done(tmp_path: Path, table: pa.Table, predicted: int, rejected: int) -> None:
    """Both files are there, and a second run finds them."""
    pq.write_table(table, tmp_path / FEBRUARY.file_name)
    month = score(tmp_path, tmp_path / "output")
    written, manifest = read(month)
    assert (len(written.predictions), len(written.rejections)) == (predicted, rejected)
    assert (manifest.counts.predicted, manifest.counts.rejected) == (predicted, rejected)
    assert list(manifest.columns) == written.predictions.column_names
    assert score(tmp_path, tmp_path / "output").was_done


def cut(path: Path) -> None:
    """Leave out the second half of a file, and with it the description of its columns."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    """Overwrite the values of a file's first columns."""
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(200) + content[204:])


def lose_rows(path: Path) -> None:
    """Change a byte, so that the only row group has 936 of the file's 1000 rows."""
    content = path.read_bytes()
    # The row group's number of rows, and the kind of the next field (parquet.thrift, RowGroup).
    rows = b"\x16\xd0\x0f\x26\x08"
    assert content.count(rows) == 1
    path.write_bytes(content.replace(rows, b"\x16\xd0\x0e\x26\x08"))


def replace_by_a_folder(path: Path) -> None:
    """Put a folder in the place of a file."""
    path.unlink()
    path.mkdir()


def replace_by_a_pipe(path: Path) -> None:
    """Put a pipe in the place of a file, as a shell's <( ) does."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "there is no such file"),
        (cut, "cannot be read as parquet trip records: .*"),
        (spoil, "cannot be read as parquet trip records: .*"),
        (lose_rows, "is damaged: it has 936 rows and says 1,000"),
        (lambda path: path.write_bytes(b""), "cannot be read as parquet trip records: .*"),
        (lambda path: path.write_text("PULocationID,DOLocationID\n1,2\n"), "cannot be read as parquet .*"),
        (replace_by_a_folder, "there is no such file"),
        (replace_by_a_pipe, "cannot be read: .*seek.*"),
        (lambda path: pq.write_table(pa.table({"a": [1]}), path), "no column PULocationID, DOLocationID, .*"),
        (lambda path: write(path, [trip()], "yellow"), "has trips of yellow taxis, not of green taxis"),
    ],
    ids=[
        "missing",
        "cut",
        "spoiled",
        "without rows",
        "empty",
        "text",
        "folder",
        "pipe",
        "another table",
        "another colour",
    ],
)
def test_a_file_that_cannot_be_scored_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    """The error names the file, and nothing is written."""
    file = write(tmp_path / FEBRUARY.file_name, [trip(trip_distance=miles / 100) for miles in range(1000)])
    damage(file)
    writer = os.open(file, os.O_RDWR) if file.is_fifo() else None
    with pytest.raises(TripRecordError, match=rf"^{re.escape(str(file))}\S*: {reason}$") as found:
        score(file, tmp_path / "output")
    assert "\n" not in str(found.value)
    assert [path for path in (tmp_path / "output").rglob("*") if path.is_file()] == []
    if writer:
        os.close(writer)


@pytest.mark.parametrize("name", ["PULocationID", "ride_id"])
def test_a_column_that_is_there_twice_is_one_line(name: str) -> None:
    """Nobody knows which of the two is meant."""
    table = trips_table(1, ride_id=pa.array(["a"]))
    with pytest.raises(TripRecordError, match=rf"^trips\.parquet: has more than one column {name}$"):
        score_table(table.append_column(name, table[name]))
