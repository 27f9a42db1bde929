"""Training from the command line, and what it logs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from mlflow.tracking import MlflowClient
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import PoissonRegressor

from artifacts import S3Artifact, find_run
from features import PAIR_AND_DISTANCE, prepare_features
from model import load_model
from rides import Ride
from scripts import cli
from scripts.commands import train
from scripts.models import training
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm
from scripts.models.proving import Proof
from tests.tools import finish
from tests.trip_records import linear_duration, linear_trips, trip, write
from trips import Trips

pytestmark = pytest.mark.slow

RIDES = [Ride(zone, zone, miles / 10) for zone in (1, 2, 3) for miles in range(1, 50)]
UNKNOWN_PAIR = Ride(264, 265, 2.0)


@pytest.fixture
def january(tmp_path: Path) -> Path:
    """Give a file of 500 trips to train on."""
    return write(tmp_path / "green_tripdata_2023-01.parquet", linear_trips(500))


@pytest.fixture
def february(tmp_path: Path) -> Path:
    """Give a file of 100 other trips, and of one that is too long to measure on."""
    return write(tmp_path / "green_tripdata_2023-02.parquet", [*linear_trips(100), trip(600)])


@pytest.fixture(autouse=True)
def no_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tracking server of whoever runs the tests out of them."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def run(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the training in the folder."""
    return finish("train", *map(str, arguments), cwd=folder)


def printed(finished: subprocess.CompletedProcess[str], name: str) -> str:
    """Return what a successful training printed under the name."""
    assert finished.returncode == 0, finished.stderr
    return next(line for line in finished.stdout.splitlines() if line.startswith(f"{name}:")).partition(":")[2].strip()


@pytest.mark.parametrize(
    ("model", "tolerance", "kind"), [("linear", 0.01, "linear"), ("ridge", 1.0, "linear"), ("forest", 5.0, "table")]
)
def test_both_loaders_predict_the_same(tmp_path: Path, january: Path, model: str, tolerance: float, kind: str) -> None:
    """With any regressor, the function can load the model at the printed location, and the model has a served form."""
    finished = run(tmp_path, january, "--model", model)
    location = printed(finished, "model location")
    size = (Path(location) / "served_form.safetensors").stat().st_size / 1e3
    line = printed(finished, "served form")
    assert re.fullmatch(
        rf"{kind}, {size:,.0f} KB, whose predictions for 1\d\d,\d{{3}} rides are the same to the .*", line
    )
    predicted = load_model(location).predict([*RIDES, UNKNOWN_PAIR])
    by_mlflow = mlflow.sklearn.load_model(location).predict([prepare_features(ride) for ride in [*RIDES, UNKNOWN_PAIR]])
    assert predicted == pytest.approx(by_mlflow.tolist(), abs=1e-9)
    assert predicted[:-1] == pytest.approx(
        [linear_duration(ride.PULocationID, ride.trip_distance) for ride in RIDES], abs=tolerance
    )


def test_a_run_has_its_data_parameters_and_errors(tmp_path: Path, january: Path, february: Path) -> None:
    """Its metrics have the errors of the mean too, and its tags have the files' names without their folders."""
    arguments = ("--model", "linear", "--validate", february, "--experiment", "linear rides")
    finished = run(tmp_path, january, *arguments)
    run_id = printed(finished, "run id").partition(" ")[0]
    assert load_model(printed(finished, "model location")).version == run_id
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(run_id)
    assert client.get_experiment(logged.info.experiment_id).name == "linear rides"
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {
        "estimator": "LinearRegression()",
        "min_pair_count": "1",
        "min_duration": "1",
        "max_duration": "60",
        "max_trip_distance": "100.0",
    }
    assert logged.data.tags.items() >= {
        ("model", "linear"),
        ("training_data", january.name),
        ("validation_data", february.name),
    }
    metrics = logged.data.metrics
    assert {name: metrics[name] for name in metrics if name.endswith(("rides", "left_out"))} == {
        "training_rides": 500,
        "training_left_out": 0,
        "validation_rides": 100,
        "validation_left_out": 1,
    }
    assert metrics["rmse"] < 0.01 < 1 < metrics["mean_rmse"]
    assert metrics["mae"] < 0.01 < 1 < metrics["mean_mae"]


RIDE_FEATURES = {"PU_DO": "1_1", "trip_distance": 2.5}
OTHER_FEATURES = {"PU_DO": "3_3", "trip_distance": 4}


def test_mlflows_server_takes_every_form_of_payload(tmp_path: Path, january: Path) -> None:
    """The signature is true: the server predicts what the function predicts, and names a missing feature."""
    model = mlflow.pyfunc.load_model(location := printed(run(tmp_path, january), "model location"))
    expected = load_model(location).predict([Ride(1, 1, 2.5), Ride(3, 3, 4.0)])
    rows = [RIDE_FEATURES, OTHER_FEATURES]
    columns = {name: [row[name] for row in rows] for name in RIDE_FEATURES}
    split = {"columns": list(columns), "data": [list(row.values()) for row in rows]}
    payloads = {"inputs": rows, "instances": rows, "dataframe_records": rows, "dataframe_split": split}

    def answer(payload: object) -> Any:
        return scoring_server.invocations(
            json.dumps(payload), "application/json", model, model.metadata.get_input_schema()
        )

    for payload in ({"inputs": columns}, *({form: content} for form, content in payloads.items())):
        assert json.loads(answer(payload).response) == {"predictions": pytest.approx(expected)}
    csv = scoring_server.invocations(
        "PU_DO,trip_distance\n1_1,2.5\n3_3,4\n", "text/csv", model, model.metadata.get_input_schema()
    )
    assert json.loads(csv.response) == {"predictions": pytest.approx(expected)}
    with pytest.raises(MlflowException, match="missing inputs.*trip_distance"):
        answer({"inputs": [{"PU_DO": "1_1"}]})


def test_mlflow_does_not_mind_the_served_form(tmp_path: Path, january: Path) -> None:
    """The registry accepts a model with one more flavor, and MLflow itself loads it."""
    location = printed(run(tmp_path, january), "model location")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    flavors = Model.load(location).flavors
    assert set(flavors) == {"python_function", "sklearn", "served_form"}
    assert flavors["served_form"]["compared"]["largest_relative_difference"] == 0.0
    registered = mlflow.register_model(f"models:/{Model.load(location).model_id}", "durations")
    rides = [RIDE_FEATURES, {**OTHER_FEATURES, "trip_distance": 4.0}]
    expected = mlflow.sklearn.load_model(location).predict(rides).tolist()
    for uri in (location, f"models:/durations/{registered.version}"):
        assert mlflow.sklearn.load_model(uri).predict(rides).tolist() == expected
        assert mlflow.pyfunc.load_model(uri).predict(rides).tolist() == expected
    assert load_model(location).predict([Ride(1, 1, 2.5), Ride(3, 3, 4.0)]) == expected


def test_an_s3_artifact_root_gets_the_layout_that_the_function_searches(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket, the experiment's id and the run's id are enough to find the model."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}")
    finished = run(tmp_path, january)
    location = printed(finished, "model location")
    run_id, _, experiment = printed(finished, "run id").partition(" ")
    assert experiment == "(experiment 1)"
    assert find_run(bucket, "1", run_id) == location
    assert {"MLmodel", "model.skops", "served_form.safetensors"} < set(S3Artifact(location).names())
    assert load_model(location).predict(RIDES) == pytest.approx(
        mlflow.sklearn.load_model(location).predict([prepare_features(ride) for ride in RIDES]).tolist(), abs=1e-9
    )


def test_a_missing_bucket_is_one_line_and_stays_the_experiments(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has S3's reason. A second attempt with another root fails, because the experiment keeps its own."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}-2")
    no_bucket = run(tmp_path, january)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}")
    other_root = run(tmp_path, january)
    assert (no_bucket.returncode, other_root.returncode) == (1, 1)
    assert "train: Failed to upload" in no_bucket.stderr.splitlines()[-1]
    assert "The specified bucket does not exist" in no_bucket.stderr.splitlines()[-1]
    assert other_root.stderr.splitlines()[-1] == (
        f"train: the experiment ride-duration keeps its artifacts in s3://{bucket}-2/1, which cannot be changed:"
        f" name another with --experiment to have them in s3://{bucket}"
    )
    assert no_bucket.stdout == other_root.stdout == ""


@pytest.mark.parametrize(
    ("trips", "message"),
    [
        pytest.param(None, "there is no such file", id="no file"),
        pytest.param([trip(), trip(600)], "fewer than 2 last 1 to 60 minutes and go at most 100 miles", id="one ride"),
    ],
)
def test_a_file_without_rides_to_train_on_is_one_line(
    tmp_path: Path,
    trips: list[dict[str, object]] | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command fails before anything is logged."""
    if trips is not None:
        write(tmp_path / "trips.parquet", trips)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "trips.parquet"])
    assert cli.run(train.main, explained=train.EXPLAINED) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train: trips.parquet: ")
    assert line.endswith(message)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_rare_pair_is_predicted_like_an_unknown_pair() -> None:
    """The model learns nothing of a pair that occurs less often than asked for."""
    rides = [*RIDES, Ride(7, 8, 2.0)]
    durations = [linear_duration(ride.PULocationID, ride.trip_distance) for ride in RIDES] + [59.0]
    features = list(training.features(rides, 2))
    assert features[0] == {"PU_DO": "1_1", "trip_distance": 0.1}
    assert features[-1] == {"trip_distance": 2.0}
    pipeline = training.fit(training.MODELS["ridge"](), features, durations)
    rare, unknown = pipeline.predict([prepare_features(Ride(7, 8, 2.0)), prepare_features(UNKNOWN_PAIR)])
    assert rare == unknown


def test_a_forest_grown_in_steps_is_the_forest_of_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing progress changes no tree; the last step is smaller if necessary."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    draw = np.random.default_rng(0)
    matrix, durations = draw.random((200, 3)), draw.random(200).tolist()
    shown: list[tuple[int, int]] = []
    grown = RandomForestRegressor(n_estimators=10, random_state=0)
    training.grow(grown, matrix, durations, lambda done, total: shown.append((done, total)))
    at_once = RandomForestRegressor(n_estimators=10, random_state=0).fit(matrix, durations)
    assert np.array_equal(grown.predict(matrix), at_once.predict(matrix))
    assert grown.get_params() == at_once.get_params()
    assert shown == [(4, 10), (8, 10), (10, 10)]


def test_a_fifth_is_held_out_without_a_second_file(january: Path) -> None:
    """No ride is on both sides, and the split is the same every time."""
    trips, held_out = training.read_trips(str(january), None)
    assert (len(trips.rides), len(held_out.rides)) == (400, 100)
    both = zip([*trips.values, *held_out.values], [*trips.rides, *held_out.rides], strict=True)
    every, _ = training.read_trips(str(january), str(january))
    assert sorted(both) == sorted(zip(every.values, every.rides, strict=True))
    assert training.read_trips(str(january), None) == (trips, held_out)


def test_errors_are_measured_in_minutes_beside_the_training_means() -> None:
    """They are the RMSE and MAE of the pipeline, and those of the mean of the training rides."""

    class Tens:
        def predict(self, features: list[object]) -> list[float]:
            return [10.0] * len(features)

    validation = Trips([Ride(1, 1, 1.0), Ride(2, 2, 2.0)], [10.0, 14.0], 0)
    assert training.measure(Tens(), [12.0, 14.0], validation) == pytest.approx(
        {"rmse": 8**0.5, "mae": 2.0, "mean_rmse": 5**0.5, "mean_mae": 2.0}
    )


SERVED_FORM = ServedForm("table", bytes(6_454_789), Proof(156_220, 0.0))


@pytest.mark.parametrize(
    ("served_form", "line"),
    [
        (
            ServedForm("linear", bytes(40_000), Proof(1_000, 2.2e-16)),
            "linear, 40 KB, whose predictions for 1,000 rides differ by at most 2e-16 of their value",
        ),
        (
            NotUnderstoodError("a PoissonRegressor is not known"),
            "none, so scikit-learn serves the model: a PoissonRegressor is not known",
        ),
    ],
    ids=["rounded", "none"],
)
def test_a_line_is_about_the_served_form(served_form: ServedForm | NotUnderstoodError, line: str) -> None:
    """If the model has no served form, the line says why."""
    logged = training.LoggedRun("1", "run", "m-1", "/runs/m-1", served_form)
    assert train.report(logged, {})[2] == f"served form:     {line}"


def test_a_model_without_a_served_form_is_logged_without_one() -> None:
    """Training does not fail, and returns the reason."""
    shown: list[tuple[int, int]] = []
    pipeline = training.fit(PoissonRegressor(), [{"trip_distance": 1.0}, {"trip_distance": 2.0}], [1.0, 2.0])
    outcome = training.compile_served_form(pipeline, PAIR_AND_DISTANCE, lambda done, total: shown.append((done, total)))
    assert (str(outcome), shown) == ("a PoissonRegressor is not known", [])


@pytest.mark.parametrize(
    ("logged", "location", "prefix"),
    [
        ("/runs/m-1", "/runs/m-1", ""),
        ("file:///my%20runs/m-1", "'/my runs/m-1'", ""),
        # boto3 has another variable than MLflow for an S3 other than AWS's.
        ("s3://models/m-1", "s3://models/m-1", "AWS_ENDPOINT_URL_S3=http://localhost:9000 "),
    ],
)
def test_the_last_lines_are_commands_that_use_the_model(logged: str, location: str, prefix: str) -> None:
    """They can be pasted as they are."""
    variables = {"MLFLOW_S3_ENDPOINT_URL": "http://localhost:9000"}
    assert train.report(training.LoggedRun("1", "run", "m-1", logged, SERVED_FORM), variables) == [
        "run id:          run (experiment 1)",
        f"model location:  {location.strip(chr(39))}",
        "served form:     table, 6,455 KB, whose predictions for 156,220 rides are the same to the last bit",
        f"try it:          {prefix}./scripts/invoke --model {location} events/kinesis-one.json",
        f"run it:          {prefix}./scripts/run --model {location}",
        f"serve it:        {prefix}./scripts/serve --model {location}",
        f"score a month:   {prefix}./scripts/score green 2023 2 --model {location}",
    ]


def test_a_model_behind_a_tracking_server_must_be_fetched_first() -> None:
    """The function cannot read from a tracking server."""
    location = "mlflow-artifacts:/1/models/m-1/artifacts"
    lines = train.report(training.LoggedRun("1", "run", "m-1", location, SERVED_FORM), {})
    assert lines[-1] == "./scripts/environment training -- mlflow artifacts download -u models:/m-1 -d model"
    assert not any("invoke" in line for line in lines)
