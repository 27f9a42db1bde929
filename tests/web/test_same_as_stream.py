"""The web service, the stream and the batch job predict the same durations, to the last bit."""

import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import PredictionError, load_model
from rides import Ride
from scripts.sources.chosen import read_tlc_rides
from scripts.sources.events import kinesis_event
from scripts.sources.records import RideRecord
from scripts.sources.synthetic import generate_events, generate_rides
from tests.batch.jobs import read, score, settings
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import MODELS, copy_without_served_form
from tests.trip_records import trip, write
from tests.web.conftest import WebService

RIDES, LISTED = 10_000, 1_000
REFUSED: list[dict[str, Any]] = [
    *({"trip_distance": miles} for miles in (-0.01, 100.01, 120_098.8, None)),
    *({zone: None} for zone in ("PULocationID", "DOLocationID")),
]


@pytest.fixture(scope="module")
def records() -> list[RideRecord]:
    """Give rides of a TLC file, if TLC_DATA names the folder that has one, else synthetic ones."""
    paths = sorted(Path(os.environ["TLC_DATA"]).glob("green_tripdata_*.parquet")) if "TLC_DATA" in os.environ else []
    found = read_tlc_rides(str(paths[-1])).records if paths else generate_rides(RIDES, seed=12)
    return found[:RIDES]


@pytest.mark.slow
def test_10000_rides_have_the_same_durations(
    records: list[RideRecord], web_service: WebService, cold_start: Callable[..., ModuleType]
) -> None:
    """The size of a list or a batch does not change a bit of a duration."""
    client: Any = web_service(LOG_LEVEL="WARNING").app.test_client()
    handler = cold_start(TEST_RUN="True").lambda_handler
    response = handler(kinesis_event(records))
    expected = [found["prediction"]["ride_duration"] for found in response["predictions"]]
    ids = [found["prediction"]["ride_id"] for found in response["predictions"]]
    assert len(expected) == len(records) == RIDES

    def ask(body: bytes) -> Any:
        return client.post("/predict", data=body, content_type="application/json").json

    lists = [records[start : start + LISTED] for start in range(0, RIDES, LISTED)]
    answers = [answer for part in lists for answer in ask(b"[%b]" % b",".join(record.data for record in part))]
    assert [(answer["ride_id"], answer["duration"]) for answer in answers] == list(zip(ids, expected, strict=True))
    alone = [ask(record.data) for record in records[::37]]
    assert [answer["duration"] for answer in alone] == expected[::37]


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give TLC's file of February 2023, if TLC_DATA names the folder that has it, else one of synthetic trips."""
    name = "green_tripdata_2023-02.parquet"
    if "TLC_DATA" in os.environ:
        return Path(os.environ["TLC_DATA"]) / name
    columns = ("PULocationID", "DOLocationID", "trip_distance")
    rides = [event.ride for event in generate_events(RIDES, seed=13)]
    trips = [trip(**{name: getattr(ride, name) for name in columns}) for ride in rides]
    trips += [trip(**odd) for odd in REFUSED * 7]
    random.Random(13).shuffle(trips)  # noqa: S311
    return write(tmp_path_factory.mktemp("trips") / name, trips)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "forest", "served table"])
def test_a_month_has_the_same_durations_and_rejections(
    month: Path, kind: str, tmp_path: Path, web_service: WebService, cold_start: Callable[..., ModuleType]
) -> None:
    """Every row of the file is either predicted or rejected, in all three ways, with a served form and without."""
    model = SAMPLE_MODEL
    if kind != "ridge":
        MODELS[kind](model := str(tmp_path / "model"))
    variables = {"MODEL_LOCATION": model, "RUN_ID": "a-run", "LOG_LEVEL": "WARNING"}
    written, manifest = read(score(month, tmp_path / "output", settings(model, RUN_ID="a-run")))
    rows = pq.read_table(month, columns=["PULocationID", "DOLocationID", "trip_distance"]).to_pylist()
    reasons = {line["row"]: (line["kind"], line["reason"]) for line in written.rejections}
    predicted = [row for row in range(len(rows)) if row not in reasons]
    assert len(predicted) == len(written.values) == manifest.counts.predicted > RIDES // 2
    assert manifest.counts.rows == len(rows)

    durations: dict[int, float] = {}
    refused: dict[int, tuple[str, str]] = {}
    handler = cold_start(TEST_RUN="True", **variables).lambda_handler
    client: Any = web_service(**variables).app.test_client()
    for start in range(0, len(rows), LISTED):
        bodies = {row: json.dumps({"ride": rows[row], "ride_id": row}) for row in range(len(rows))[start:][:LISTED]}
        records = [RideRecord(str(row), body.encode()) for row, body in bodies.items()]
        response = handler(kinesis_event(records, first_number=start))
        found = [prediction["prediction"] for prediction in response["predictions"]]
        durations |= {prediction["ride_id"]: prediction["ride_duration"] for prediction in found}
        refused |= {int(line["sequence_number"]): (line["kind"], line["reason"]) for line in response["rejections"]}
        answers = client.post("/predict", data=f"[{','.join(bodies.values())}]", content_type="application/json").json
        assert [answer.get("duration") for answer in answers] == [durations.get(row) for row in bodies]
        errors = {row: answer["error"] for row, answer in zip(bodies, answers, strict=True) if "error" in answer}
        refused_here = {row: reason for row, reason in refused.items() if row in bodies}
        assert {row: (error["kind"], error["detail"]) for row, error in errors.items()} == refused_here
    assert dict(zip(predicted, written.values, strict=True)) == durations
    assert reasons == refused
    if kind != "forest":
        without = copy_without_served_form(model, tmp_path / "without")
        other, _ = read(score(month, tmp_path / "other output", settings(without, RUN_ID="a-run")))
        assert other == written


NEW_YORK = ZoneInfo("America/New_York")
DAYS = [
    datetime(2023, 2, 1, tzinfo=NEW_YORK),
    datetime(2023, 3, 12, tzinfo=NEW_YORK),
    datetime(2023, 11, 5, tzinfo=NEW_YORK),
]
"""An ordinary day, and both days that the clocks change in New York."""
MOMENTS = [day.astimezone(UTC) + timedelta(minutes=number * 13) for day in DAYS for number in range(120)]
IN_ZONE = [moment.astimezone(NEW_YORK) for moment in MOMENTS]
LOCAL = [moment.replace(tzinfo=None) for moment in IN_ZONE]


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("column", "pickups"),
    [
        pytest.param(pa.array(LOCAL, pa.timestamp("us")), LOCAL, id="naive"),
        pytest.param(pa.array(MOMENTS, pa.timestamp("us", "UTC")), MOMENTS, id="UTC"),
        pytest.param(pa.array(MOMENTS, pa.timestamp("ns", "-05:00")), IN_ZONE, id="offset"),
        pytest.param(pa.array([time.isoformat() for time in IN_ZONE]), IN_ZONE, id="text with offsets"),
    ],
)
def test_a_pickup_has_the_same_duration_in_all_three(
    zone: str,
    column: pa.Array,
    pickups: list[datetime],
    tmp_path: Path,
    boosted_model: str,
    web_service: WebService,
    cold_start: Callable[..., ModuleType],
) -> None:
    """A pickup gives the same duration in each form, on an ordinary day and on the days when the clocks change."""
    rides = [event.ride for event in generate_events(len(pickups), seed=14)]
    miles = [ride.trip_distance for ride in rides]
    zones = {name: [row % 5 for row in range(len(rides))] for name in ("PULocationID", "DOLocationID")}
    month = tmp_path / "green_tripdata_2023-02.parquet"
    pq.write_table(pa.table({"lpep_pickup_datetime": column, **zones, "trip_distance": miles}), month)
    written, _ = read(score(month, tmp_path / "output", settings(boosted_model, TIME_ZONE=zone)))
    bodies = [
        {"PULocationID": row % 5, "DOLocationID": row % 5, "trip_distance": miles[row], "pickup_datetime": f"{pickup}"}
        for row, pickup in enumerate(pickups)
    ]
    variables = {"MODEL_LOCATION": boosted_model, "TIME_ZONE": zone, "LOG_LEVEL": "WARNING"}
    records = [RideRecord("", json.dumps({"ride": ride, "ride_id": row}).encode()) for row, ride in enumerate(bodies)]
    response = cold_start(TEST_RUN="True", **variables).lambda_handler(kinesis_event(records))
    answers: Any = web_service(**variables).app.test_client().post("/predict", json=bodies).json
    streamed = [found["prediction"]["ride_duration"] for found in response["predictions"]]
    assert written.values == streamed == [answer["duration"] for answer in answers]
    is_in_new_york = zone == NEW_YORK.key or pickups is LOCAL
    assert (streamed == durations_of(LOCAL, miles, boosted_model)) == is_in_new_york


def durations_of(pickups: list[datetime], miles: list[float], model: str) -> list[float | PredictionError]:
    """Return what the model predicts for rides at what New York's clocks show."""
    rides = [Ride(row % 5, row % 5, miles[row], pickup) for row, pickup in enumerate(pickups)]
    return load_model(model).predict(rides)
