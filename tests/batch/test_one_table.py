"""The predictions of all months and models are one table for the readers that people use."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from batch.months import Month
from tests.batch.jobs import score, settings
from tests.trip_records import trip, write

VERSIONS = ("a-run", "007", "a/b=c d%é")
MONTHS = [Month("green", 2022, 12), Month("green", 2023, 1), Month("yellow", 2023, 1)]
COLUMNS = ["colour", "year", "month", "model", "model_version", "predicted_duration"]


def with_duckdb(folder: Path) -> list[tuple[object, ...]]:
    """Read by a pattern; SQL needs no option for the columns of the folders' names."""
    return duckdb.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).select(*COLUMNS).fetchall()


def with_polars(folder: Path) -> list[tuple[object, ...]]:
    """Read by a pattern, because Polars refuses a folder that has files of two kinds."""
    return pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)[COLUMNS].rows()


def with_pandas(folder: Path) -> list[tuple[object, ...]]:
    """Read the folder; pandas leaves files out whose names begin with _."""
    return list(pd.read_parquet(folder)[COLUMNS].itertuples(index=False, name=None))


@pytest.mark.slow
@pytest.mark.parametrize("read_folder", [with_duckdb, with_polars, with_pandas])
def test_months_and_models_are_one_table(
    tmp_path: Path, read_folder: Callable[[Path], list[tuple[object, ...]]]
) -> None:
    """A model's version is read as it was written, also if a folder's name cannot have its characters."""
    for month in MONTHS:
        # Rows that are rejected, and a month without predictions, do not disturb.
        trips = [trip(), trip(trip_distance=101.0)] if month.year == 2023 else [trip(trip_distance=101.0)]
        file = write(tmp_path / month.file_name, trips, month.colour)
        for version in VERSIONS:
            score(file, tmp_path / "output", settings(RUN_ID=version), month)
    rows = read_folder(tmp_path / "output")
    found = Counter((colour, int(str(year)), int(str(month)), model) for colour, year, month, model, *_ in rows)
    assert found == Counter((*month, version) for month in MONTHS[1:] for version in VERSIONS)
    assert all(model == version for *_, model, version, _ in rows)
    assert len({value for *_, value in rows}) == 1
