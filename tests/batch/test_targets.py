"""Models of other targets than the duration, and models that want the time, in the batch job."""

import io
import math
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from batch.manifests import MANIFEST, Manifest, ModelIdentity, decode_manifest, encode_manifest
from batch.plan import make_plan
from batch.scoring import score_file
from batch_job import Job, TakenError, identify_model, score_month
from features import KNOWN, Features
from model import Model
from model_metadata import KEY, ModelMetadata
from settings import SettingsError
from tests.batch.jobs import DIGEST, FEBRUARY, predict_miles, read, read_files, score, settings
from tests.conftest import SAMPLE_MODEL
from tests.tools import finish
from tests.trip_records import PICKUP
from trips import TripFile

TIP = ModelMetadata("tip", "tip_amount", "dollars")
TIMED = ModelMetadata(features=KNOWN)
AMOUNTS = [3.0, 2.5, 0.0, 250.0, -1.0, None, math.nan, 4.0]
PAID_BY = [1, 2, 1, 1, 1, 1, 1, None]
TIPS = [3.0, None, 0.0, 250.0, -1.0, None, None, None]
"""The tips that are known: one of a payment in cash is not."""


def trips(**changes: Any) -> pa.Table:
    """Build trips of 1 mile and 20 minutes, one for each of the tips."""
    rows = len(AMOUNTS)
    times = {f"lpep_{name}_datetime": pa.array([PICKUP] * rows, pa.timestamp("us")) for name in ("pickup", "dropoff")}
    zones = {name: [7] * rows for name in ("PULocationID", "DOLocationID")}
    usual = {**times, **zones, "trip_distance": [1.0] * rows, "tip_amount": AMOUNTS, "payment_type": PAID_BY}
    return pa.table({name: column for name, column in {**usual, **changes}.items() if column is not None})


def score_trips(table: pa.Table, metadata: ModelMetadata, call: Any = predict_miles) -> tuple[Any, Any, Any]:
    """Score trips by a model, and return the predictions, the rejected rows and the counts."""
    source, predictions, rejections = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, source)
    source.seek(0)
    identity = ModelIdentity("m", "1", DIGEST, f"predicted_{metadata.target}", metadata.target, metadata.unit)
    file = TripFile(source, "trips.parquet", identity.known_target)
    model = Model(call, "1", metadata)
    counts, *_ = score_file(file, DIGEST, model, identity, (predictions, rejections), lambda *_: None)
    written = read_files(predictions.getvalue(), rejections.getvalue())
    return written.predictions, written.rejections, counts


@pytest.mark.parametrize(
    ("table", "actual", "measured"),
    [
        pytest.param(trips(), TIPS, 2, id="some paid by card"),
        pytest.param(trips(payment_type=[f"{one}.0" for one in PAID_BY]), TIPS, 2, id="text"),
        pytest.param(trips(payment_type=None), [None] * 8, 0, id="not known how they were paid"),
        pytest.param(trips(tip_amount=None), [None] * 8, 0, id="no tips"),
        pytest.param(trips(tip_amount=[True] * 8), [None] * 8, 0, id="something else"),
    ],
)
def test_tips_are_compared_with_those_of_card_payments(table: pa.Table, actual: list[Any], measured: int) -> None:
    """Every ride is predicted; errors are of known tips from 0 to 100 dollars."""
    predictions, rejected, counts = score_trips(table, TIP)
    assert predictions.column_names[4:9] == ["trip_distance", "predicted_tip", "actual_tip", "diff", "model_name"]
    assert predictions["predicted_tip"].to_pylist() == [1.0] * 8
    assert predictions["actual_tip"].to_pylist() == actual
    assert predictions["diff"].to_pylist() == [None if value is None else value - 1 for value in actual]
    assert (rejected, counts.measured) == ([], measured)
    assert counts.rmse == (pytest.approx(math.sqrt((2**2 + 1) / 2)) if measured else None)


@pytest.mark.parametrize("metadata", [ModelMetadata("speed", "speed", "miles an hour"), ModelMetadata(unit="seconds")])
def test_the_actual_values_of_a_target_of_ones_own_are_not_known(metadata: ModelMetadata) -> None:
    """A value in another unit is another target."""
    predictions, _, counts = score_trips(trips(), metadata)
    assert predictions[f"predicted_{metadata.target}"].to_pylist() == [1.0] * 8
    assert predictions[f"actual_{metadata.target}"].null_count == 8
    assert (counts.predicted, counts.measured, counts.rmse) == (8, 0, None)


def test_a_model_that_wants_the_time_gets_each_pickup() -> None:
    """A row without a pickup is rejected, and the others are predicted together. An untimed model predicts all rows."""
    table = trips(lpep_pickup_datetime=[*(PICKUP.replace(hour=hour) for hour in range(7)), None])
    calls = []

    def give_hours(features: list[Features]) -> list[float]:
        calls.append(len(features))
        return [ride["hour"] for ride in features]

    predictions, rejected, _ = score_trips(table, TIMED, give_hours)
    assert predictions["predicted_duration"].to_pylist() == [float(hour) for hour in range(7)]
    assert calls == [7]
    reason = "the model needs the pickup's time, and the ride has no pickup_datetime"
    assert [(one["row"], one["kind"], one["reason"]) for one in rejected] == [(7, "prediction", reason)]
    assert len(score_trips(table, ModelMetadata())[0]) == 8


def copy_model(folder: Path, metadata: ModelMetadata) -> Path:
    """Copy the sample model, whose artifact then says something else about it."""
    shutil.copytree(SAMPLE_MODEL, folder)
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["metadata"] = {KEY: msgspec.to_builtins(metadata)}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    return folder


@pytest.mark.parametrize("name", ["actual_tip", "ACTUAL_TIP", "diff", "Model", "pickup_datetime"])
def test_a_column_that_predictions_have_already_is_refused(tmp_path: Path, name: str) -> None:
    """A name of another column is refused, in upper case too, because readers of tables ignore case."""
    model = copy_model(tmp_path / "model", TIP)
    with pytest.raises(SettingsError, match=f"^PREDICTION_FIELD is '{name}', a column that predictions have already"):
        identify_model(settings(model, PREDICTION_FIELD=name))
    assert identify_model(settings(model, PREDICTION_FIELD="actual_duration")).field == "actual_duration"


def test_another_time_zone_makes_a_month_of_a_model_that_wants_the_time_stale(tmp_path: Path) -> None:
    """In another zone, the model would get other hours. A model that does not use the time ignores the zone."""
    output = str(tmp_path / "output")
    pq.write_table(trips(), tmp_path / FEBRUARY.file_name)
    for model, state in ((copy_model(tmp_path / "model", TIMED), "stale"), (Path(SAMPLE_MODEL), "done")):
        before, after = settings(model, RUN_ID=state), settings(model, RUN_ID=state, TIME_ZONE="America/Chicago")
        done, manifest = read(score(tmp_path, output, before))
        (planned,) = make_plan([FEBRUARY], str(tmp_path), output, identify_model(after))
        assert (planned.state, planned.reason) == (state, "the time zone has changed" if state == "stale" else "")
        if state == "stale":
            with pytest.raises(TakenError, match="has the predictions of another time zone: --force replaces them$"):
                score(tmp_path, output, after)
            forced = score_month(Job(FEBRUARY, str(tmp_path), output, force=True), after)
            # The file's times have no zone, so that they are the same in each.
            assert read(forced)[0] == done
        else:
            assert score(tmp_path, output, after).was_done
            assert b'"time_zone":' not in encode_manifest(manifest)


@pytest.mark.slow
def test_the_command_says_dollars(tmp_path: Path) -> None:
    """The tables and the page of a model of tips name tips and dollars, and no minutes or durations."""
    model = copy_model(tmp_path / "model", TIP)
    pq.write_table(trips(), tmp_path / FEBRUARY.file_name)
    options = [f"--input={tmp_path}/", f"--model={model}"]
    scored = finish("score", "green", "2023", "2", *options, "--report=page.html", cwd=tmp_path)
    planned = finish("score", "green", "--from=2023-02", "--plan", *options, cwd=tmp_path)
    assert (scored.returncode, planned.returncode) == (0, 0), scored.stderr + planned.stderr
    page = (tmp_path / "page.html").read_text()
    for text in ("RMSE of 2 usual rides, dollars", "MAE, dollars"):
        assert text in scored.stderr
    assert "RMSE, dollars" in planned.stdout
    for text in (
        "Ride tips predicted by",
        "<h2>Tips</h2>",
        "<dt>RMSE, dollars</dt>",
        "0 to 100 dollars",
        "actual dollars",
    ):
        assert text in page
    assert re.findall("minute|duration", page.replace("ride_duration_prediction_model", "")) == []
    (month,) = read_manifests(tmp_path)
    assert (month.model.target, month.model.unit, month.model.field) == ("tip", "dollars", "predicted_tip")


def read_manifests(folder: Path) -> list[Manifest]:
    """Return the manifests below a folder."""
    return [decode_manifest(path.read_bytes()) for path in folder.rglob(MANIFEST)]
