"""TLC trip records: the parquet files, one a month, that New York City's Taxi & Limousine Commission publishes.

Green and yellow taxis' files are read; they differ in the names of their time columns alone. Distances are in miles and
times are New York's, without a time zone.
"""

import contextlib
import http.client
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rides import MAX_TRIP_DISTANCE, Ride, RideEvent

MIN_DURATION, MAX_DURATION = 1, 60
"""Minutes, both included: shorter is a cancelled ride, longer a meter left on or a day's hire."""

RIDE = {"PULocationID": pa.int64(), "DOLocationID": pa.int64(), "trip_distance": pa.float64()}
TIMES = {
    "pickup": ("lpep_pickup_datetime", "tpep_pickup_datetime"),
    "dropoff": ("lpep_dropoff_datetime", "tpep_dropoff_datetime"),
}
"""What a time column is called in the green and in the yellow taxis' files."""

MONTH_IN_NAME = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])(?!\d)")
MICROSECONDS_A_MINUTE = 60_000_000
DOWNLOAD_TIMEOUT_SECONDS = 60


class TripRecordError(Exception):
    """A file that cannot be read as TLC trip records; the message is one line for the person who named it."""


@dataclass(frozen=True)
class Trips:
    """Rides to learn from, the duration of each in minutes, and how many rows of the file were left out."""

    rides: list[Ride]
    durations: list[float]
    left_out: int


def training_trips(source: str | Path) -> Trips:
    """Return the rides of a file, or of an http(s) URL, that a model learns from or is measured on.

    Rows are left out where a value is missing, the duration is not 1 to 60 minutes, or the distance is not above 0 and
    at most ``MAX_TRIP_DISTANCE``.

    Raises:
        TripRecordError: where the source cannot be read, or lacks a column.
    """
    table = _read(source, ["pickup", "dropoff"])
    microseconds = pc.cast(pc.subtract(table["dropoff"], table["pickup"]), pa.int64())
    table = table.append_column("minutes", pc.divide(pc.cast(microseconds, pa.float64()), MICROSECONDS_A_MINUTE))
    minutes, miles = pc.field("minutes"), pc.field("trip_distance")
    usual = (minutes >= MIN_DURATION) & (minutes <= MAX_DURATION) & (miles > 0) & (miles <= MAX_TRIP_DISTANCE)
    kept = table.filter(_has_zones() & usual)
    return Trips(list(_rides(kept)), kept["minutes"].to_pylist(), len(table) - len(kept))


def ride_events(source: str | Path) -> tuple[list[RideEvent], int]:
    """Return the rides of a file, or of an http(s) URL, as the stream takes them, and how many rows it would refuse.

    A ``ride_id`` is "<year>/<month>_<row>", such as "2023/02_17" for the row at index 17. Year and month are those in
    the file's name, or else the pickup's; the row counts the whole file, so an id is unique in it and always the same.

    Raises:
        TripRecordError: where the source cannot be read, or lacks a column.
    """
    month = MONTH_IN_NAME.search(_name(source))
    table = _read(source, [] if month else ["pickup"])
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


def _name(source: str | Path) -> str:
    return str(source).rpartition("/")[2]


def _read(source: str | Path, times: list[str]) -> Any:
    """Return the ride's columns, and the times asked for under our names, as a table of one type a column."""
    with _local_file(source) as path, _one_line_errors(source):
        file = pq.ParquetFile(path)
        columns = {name: _column(file.schema_arrow.names, TIMES.get(name, (name,))) for name in [*RIDE, *times]}
        missing = [" or ".join(TIMES.get(name, (name,))) for name, column in columns.items() if column is None]
        if missing:
            raise TripRecordError(f"{source}: no column {', '.join(missing)}; is it of green or yellow taxis?")
        table = file.read(columns=list(columns.values())).select(list(columns.values())).rename_columns(list(columns))
        return table.cast(pa.schema({**RIDE, **dict.fromkeys(times, pa.timestamp("us"))}))


def _column(present: list[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in present), None)


@contextlib.contextmanager
def _one_line_errors(source: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise TripRecordError(f"{source}: there is no such file") from None
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TripRecordError(f"{source}: cannot be read as parquet trip records: {reason}") from error


@contextlib.contextmanager
def _local_file(source: str | Path) -> Iterator[Path]:
    """Give the file's path: the source's own, or that of a copy of the URL that lives as long as the block."""
    if "://" not in str(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "download.parquet"
        _download(str(source), path)
        yield path


def _download(url: str, path: Path) -> None:
    if not url.lower().startswith(("https://", "http://")):
        raise TripRecordError(f"{url}: neither a file nor an http(s) URL; download it and give the file")
    bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with (
            urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response,  # noqa: S310  checked above
            Progress(*bar, console=Console(stderr=True)) as progress,
            path.open("wb") as file,
        ):
            size = int(response.headers.get("Content-Length", 0)) or None
            task = progress.add_task(f"Downloading {_name(url)}", total=size)
            shutil.copyfileobj(progress.wrap_file(cast(BinaryIO, response), task_id=task), file)
    except (OSError, http.client.HTTPException) as error:
        raise TripRecordError(f"{url}: cannot be downloaded: {error}") from error
    # http.client takes a connection that closes early for the end of the file where it is read in pieces.
    if size and path.stat().st_size < size:
        raise TripRecordError(f"{url}: the download broke off after {path.stat().st_size} of {size} bytes; try again")
