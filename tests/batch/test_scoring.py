"""Scoring rows: their ids, their predictions or the reasons why they are rejected, and the counts."""

import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pyarrow as pa
import pytest

from artifacts import ModelError
from batch.scoring import CHUNK_ROWS
from batch.tables import MAX_REASONS, OTHER_REASONS, Reason, RunningCounts
from features import Features
from scripts.models import training
from scripts.models.evaluation import measure_errors
from tests.batch.jobs import IDENTITY, read, score, score_table
from tests.conftest import SAMPLE_MODEL
from tests.trip_records import PICKUP, linear_trips, trip, write
from trips import training_trips

TEXT = [" a", "a", "a ", "é" * 256]


def table(rows: int, **columns: Any) -> pa.Table:
    """Build a file of rows whose distances are 0, 1, 2 and so on, up to 100 and again."""
    usual = {
        "lpep_pickup_datetime": pa.array([PICKUP] * rows, pa.timestamp("us")),
        "lpep_dropoff_datetime": pa.array([PICKUP] * rows, pa.timestamp("us")),
        "PULocationID": pa.array([130] * rows, pa.int64()),
        "DOLocationID": pa.array([205] * rows, pa.int64()),
        "trip_distance": pa.array([row % 101 for row in range(rows)], pa.float64()),
    }
    return pa.table(usual | columns)


def test_ids_depend_on_the_content_and_the_row_alone(tmp_path: Path) -> None:
    """They are UUIDs, the same in each run, folder and file name, and no two rows have the same."""
    file = write(tmp_path / "green_tripdata_2023-02.parquet", [*linear_trips(50), trip(trip_distance=101.0)])
    first, manifest = read(score(file, tmp_path / "output"))
    other = shutil.copy(file, tmp_path / "other.parquet")
    again, _ = read(score(other, tmp_path / "elsewhere" / "output"))
    assert again == first
    ids = first.ids + [line["ride_id"] for line in first.rejections]
    assert [int(one.rpartition("-")[2], 16) for one in ids] == list(range(51))
    parsed = {uuid.UUID(one) for one in ids}
    assert {(one.version, one.variant) for one in parsed} == {(8, uuid.RFC_4122)}
    assert len(parsed) == 51
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest.input.sha256 == digest
    assert {one.hex[:12] for one in parsed} == {digest[:12]}


MADE = [f"01234567-89ab-8cde-8f01-{row:012x}" for row in range(5)]
"""The ids of rows without an id of their own, by the digest that these tests use."""


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param(pa.array(TEXT), TEXT, id="text"),
        pytest.param(pa.array(TEXT, pa.large_string()), TEXT, id="large text"),
        pytest.param(pa.array(TEXT, pa.string_view()), TEXT, id="views of text"),
        pytest.param(pa.array(TEXT).dictionary_encode(), TEXT, id="categories"),
        pytest.param(pa.array([b"a", b"\xff"]), ["a", MADE[1]], id="bytes"),
        pytest.param(pa.array([1, None, -(2**63)]), ["1", MADE[1], str(-(2**63))], id="integers"),
        pytest.param(pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)], id="unsigned"),
        pytest.param(pa.array([1.0, math.nan, None, 2.5, 2.0**53]), ["1", *MADE[1:4], str(2**53)], id="numbers"),
        pytest.param(pa.array([math.inf, -math.inf, 1e30]), MADE[:3], id="numbers without an exact value"),
        pytest.param(pa.array([1, None], pa.float16()), ["1", MADE[1]], id="short numbers"),
        pytest.param(pa.array([1.0, math.nan]).dictionary_encode(), ["1", MADE[1]], id="categories of numbers"),
        pytest.param(pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()), [str(uuid.UUID(int=1)), MADE[1]], id="uuid"),
        pytest.param(pa.nulls(2), MADE[:2], id="nulls"),
        pytest.param(pa.array([None, None], pa.string()), MADE[:2], id="text that is null"),
    ],
)
def test_a_files_own_ids_are_kept_as_text(column: pa.Array, expected: list[str]) -> None:
    """A row without an id gets a UUID. Spaces count, because two ids may differ only there."""
    assert score_table(table(len(column), ride_id=column)).ids == expected


@pytest.mark.parametrize(("own", "reason"), [("", ">= 1"), ("x" * 257, "<= 256")])
def test_an_own_id_outside_the_contract_rejects_the_row(own: str, reason: str) -> None:
    """The stream refuses the same ids."""
    written = score_table(table(2, ride_id=pa.array(["a", own])))
    assert written.ids == ["a"]
    (line,) = written.rejections
    assert (line["row"], line["ride_id"], line["kind"]) == (1, own, "ride")
    assert line["reason"] == f"Expected `str` of length {reason} - at `$.ride_id`"


@pytest.mark.parametrize("group", [1, 1000, CHUNK_ROWS + 1, None], ids=lambda rows: f"groups of {rows}")
def test_the_row_groups_of_a_file_do_not_matter(group: int | None) -> None:
    """The rows have the same ids and values in the same order, however the file is cut."""
    rows = 200 if group == 1 else CHUNK_ROWS * 2 + 7
    written = score_table(table(rows), row_group_size=group)
    assert [int(one[-12:], 16) for one in written.ids] == list(range(rows))
    assert written.values == [row % 101 for row in range(rows)]


def test_a_rejected_row_is_written_with_all_that_was_read() -> None:
    """It names its place in the file, what is wrong, and the cells as they were."""
    odd = {"PULocationID": pa.array([130, -1]), "trip_distance": pa.array(["3.66", "far"])}
    (line,) = score_table(table(2, ride_id=pa.array([7, 8]), **odd)).rejections
    assert line == {
        "row": 1,
        "ride_id": "8",
        "kind": "ride",
        "reason": "Expected `int`, got `null` - at `$.ride.PULocationID`",
        "data": {
            "PULocationID": -1,
            "DOLocationID": 205,
            "trip_distance": "far",
            "lpep_pickup_datetime": "2023-02-01 12:00:00.000000",
            "lpep_dropoff_datetime": "2023-02-01 12:00:00.000000",
            "ride_id": 8,
        },
    }


def raise_for(is_bad: Callable[[float], bool], error: Exception) -> Callable[[list[Features]], list[float]]:
    """Make a model that predicts a minute for each mile, but raises if a batch has a bad ride."""

    def call(features: list[Features]) -> list[float]:
        if any(is_bad(ride["trip_distance"]) for ride in features):
            raise error
        return [ride["trip_distance"] for ride in features]

    return call


def give_nan(features: list[Features]) -> list[float]:
    """Predict a minute for each mile, but for 7 miles no number."""
    return [math.nan if ride["trip_distance"] == 7 else ride["trip_distance"] for ride in features]


BAD_TEXT = "[/bad] \ud800 \x1b[31m"


@pytest.mark.parametrize(
    ("call", "rejected", "reason"),
    [
        (raise_for(lambda miles: miles == 7, ValueError("7")), [7], "the model raised ValueError: 7"),
        (raise_for(lambda _: True, ValueError(BAD_TEXT)), list(range(20)), "the model raised ValueError: [/bad] ? "),
        (give_nan, [7], "the model predicted nan"),
    ],
    ids=["raises for some", "raises for all", "NaN"],
)
def test_a_ride_that_the_model_cannot_predict_is_rejected(call: Any, rejected: list[int], reason: str) -> None:
    """Its kind says that the ride itself is valid, and the other rides are predicted."""
    written = score_table(table(20), call)
    assert written.values == [miles for miles in range(20) if miles not in rejected]
    assert [line["row"] for line in written.rejections] == rejected
    assert all(line["kind"] == "prediction" and line["reason"].startswith(reason) for line in written.rejections)


def test_a_model_that_runs_out_of_memory_is_one_line() -> None:
    """The rides are not rejected: with more memory they would be predicted."""
    with pytest.raises(ModelError, match="^the model ran out of memory with 20 rides: give the job more memory$"):
        score_table(table(20), raise_for(lambda _: True, MemoryError()))


def test_reasons_beyond_a_number_are_counted_together() -> None:
    """A model that gives each ride a reason of its own does not make the manifest long. The rows keep their reasons."""

    def call(features: list[Features]) -> list[float]:
        if len(features) > 1 or features[0]["trip_distance"] >= 1:
            raise ValueError(features[0]["trip_distance"])
        return [0.0]

    written = score_table(table(80), call)
    counts = RunningCounts(IDENTITY)
    counts.add_rejections([Reason("prediction", line["reason"]) for line in written.rejections])
    reasons = counts.total().reasons
    assert len({line["reason"] for line in written.rejections}) == 79
    assert len(reasons) == MAX_REASONS + 1
    assert reasons[OTHER_REASONS] == 79 - MAX_REASONS


@pytest.mark.slow
def test_the_errors_are_those_that_training_measures(tmp_path: Path) -> None:
    """Rides that training leaves out are predicted, and do not count for the errors."""
    odd = [trip(600), trip(-5), trip(trip_distance=0.0), trip(dropoff=None), trip(PULocationID=None)]
    file = write(tmp_path / "green_tripdata_2023-02.parquet", [*linear_trips(500), *odd])
    file = Path(os.environ["TLC_DATA"]) / file.name if "TLC_DATA" in os.environ else file
    counts, trips = score(file, tmp_path / "output").counts, training_trips(file)
    predicted = training.predict_rides(mlflow.sklearn.load_model(SAMPLE_MODEL), trips.rides)
    measured = measure_errors(np.array(trips.values), predicted)
    assert counts.measured == len(trips.rides) < counts.predicted
    assert counts.rmse == pytest.approx(measured.rmse, rel=1e-12)
    assert counts.mae == pytest.approx(measured.mae, rel=1e-12)


def test_a_month_without_known_durations_has_no_errors() -> None:
    """They are null, not zero."""
    counts = RunningCounts(IDENTITY).total()
    assert (counts.measured, counts.rmse, counts.mae) == (0, None, None)
