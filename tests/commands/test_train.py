"""Training from the command line, and what it logs."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow.sklearn
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from sklearn.ensemble import RandomForestRegressor

from artifacts import find_run
from model import load_model, prepare_features
from rides import Ride
from scripts.commands import train
from tests.trip_records import linear_duration, linear_trips, trip, write
from trips import Trips

ROOT = Path(__file__).parents[2]
MODULE = [sys.executable, "-m", "scripts.commands.train"]
FILE = [sys.executable, str(ROOT / "scripts" / "train.py")]
LAUNCHER = [str(ROOT / "scripts" / "train")]
RIDES = [Ride(zone, zone, miles / 10) for zone in (1, 2, 3) for miles in range(1, 50)]
UNKNOWN_PAIR = Ride(264, 265, 2.0)


@pytest.fixture
def january(tmp_path: Path) -> Path:
    """Give a file of 500 trips to train on."""
    return write(tmp_path / "green_tripdata_2023-01.parquet", linear_trips(500))


@pytest.fixture
def february(tmp_path: Path) -> Path:
    """Give a file of 100 other trips, one of them too long a ride to measure on."""
    return write(tmp_path / "green_tripdata_2023-02.parquet", [*linear_trips(100), trip(600)])


@pytest.fixture(autouse=True)
def no_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's tracking server out of the tests."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def run(folder: Path, *arguments: str | Path, command: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    """Run the training in the folder, and give what came of it."""
    path = {} if command is FILE else {"PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | path
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def printed(finished: subprocess.CompletedProcess[str], name: str) -> str:
    """Return what a successful training printed under the name."""
    assert finished.returncode == 0, finished.stderr
    return next(line for line in finished.stdout.splitlines() if line.startswith(f"{name}:")).partition(":")[2].strip()


@pytest.mark.parametrize(
    ("command", "model", "tolerance"),
    [
        pytest.param(MODULE, "linear", 0.01, id="python -m scripts.commands.train, linear"),
        pytest.param(FILE, "ridge", 1.0, id="python scripts/commands/train.py, ridge"),
        pytest.param(LAUNCHER, "forest", 5.0, id="scripts/train, forest"),
    ],
)
def test_a_model_is_trained_and_both_loaders_predict_the_same(
    tmp_path: Path, january: Path, command: list[str], model: str, tolerance: float
) -> None:
    """Each kind of model, each way to start: the printed folder is one that the function can be given."""
    finished = run(tmp_path, january, "--model", model, command=command)

    location = printed(finished, "model location")
    predicted = load_model(location).predict([*RIDES, UNKNOWN_PAIR])
    by_mlflow = mlflow.sklearn.load_model(location).predict([prepare_features(ride) for ride in [*RIDES, UNKNOWN_PAIR]])
    assert predicted == pytest.approx(by_mlflow.tolist(), abs=1e-9)
    assert predicted[:-1] == pytest.approx(
        [linear_duration(ride.PULocationID, ride.trip_distance) for ride in RIDES], abs=tolerance
    )


def test_a_run_says_what_it_was_trained_on_and_how_well_it_does(tmp_path: Path, january: Path, february: Path) -> None:
    """Parameters, metrics beside the mean's, and tags that hold the files' names without their folders."""
    finished = run(tmp_path, january, "--validate", february, "--experiment", "linear rides")

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


def test_an_s3_artifact_root_gets_the_layout_that_the_function_looks_in(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MODEL_BUCKET, the experiment's id and the run's are enough to find the model."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}")

    finished = run(tmp_path, january, "--model", "ridge")

    location = printed(finished, "model location")
    run_id, _, experiment = printed(finished, "run id").partition(" ")
    assert experiment == "(experiment 1)"
    assert find_run(bucket, "1", run_id) == location
    assert load_model(location).predict(RIDES) == pytest.approx(
        mlflow.sklearn.load_model(location).predict([prepare_features(ride) for ride in RIDES]).tolist(), abs=1e-9
    )


def test_a_missing_bucket_is_one_line_and_stays_the_experiments(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload fails with S3's own reason; a second try with another root is told that this one keeps its own."""
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
    tmp_path: Path, trips: list[dict[str, object]] | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exits before anything is logged."""
    if trips is not None:
        write(tmp_path / "trips.parquet", trips)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "trips.parquet"])

    with pytest.raises(SystemExit, match=rf"^train: trips\.parquet: .*{message}$"):
        train.main()

    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="no file"),
        pytest.param(["trips.parquet", "--model", "boosting"], id="unknown model"),
        pytest.param(["trips.parquet", "--min-pair-count", "0"], id="no positive count"),
        pytest.param(["trips.parquet", "--min-pair-count", "many"], id="no number"),
    ],
)
def test_a_wrong_command_line_exits_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is wrong after the usage."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])

    with pytest.raises(SystemExit) as exit_:
        train.main()

    assert exit_.value.code == 2
    assert "train: error: " in capsys.readouterr().err


def test_help_explains_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow's variables, which are options as well, are among them."""
    monkeypatch.setattr(sys, "argv", ["train", "--help"])

    with pytest.raises(SystemExit) as exit_:
        train.main()

    assert exit_.value.code == 0
    text = capsys.readouterr().out
    options = ["--validate", "--model", "--min-pair-count", "--experiment"]
    assert [
        word for word in [*options, "MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"] if word not in text
    ] == []


def test_rare_pairs_are_left_to_their_distance() -> None:
    """A pair that occurs as often as asked for keeps its feature."""
    rides = [Ride(1, 2, 1.0), Ride(3, 4, 2.0), Ride(1, 2, 3.0)]

    assert list(train.features(rides, 2)) == [
        {"PU_DO": "1_2", "trip_distance": 1.0},
        {"trip_distance": 2.0},
        {"PU_DO": "1_2", "trip_distance": 3.0},
    ]


def test_a_rare_pair_is_answered_as_an_unknown_one() -> None:
    """The model keeps nothing of it."""
    rides = [*RIDES, Ride(7, 8, 2.0)]
    durations = [linear_duration(ride.PULocationID, ride.trip_distance) for ride in RIDES] + [59.0]

    pipeline = train.fit(train.MODELS["ridge"](), train.features(rides, 2), durations)

    rare, unknown = pipeline.predict([prepare_features(Ride(7, 8, 2.0)), prepare_features(UNKNOWN_PAIR)])
    assert rare == unknown


def test_a_forest_grown_in_steps_is_the_forest_of_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing progress changes no tree; the last step is as small as it has to be."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    draw = np.random.default_rng(0)
    matrix, durations = draw.random((200, 3)), draw.random(200).tolist()
    shown: list[tuple[int, int]] = []
    grown = RandomForestRegressor(n_estimators=10, random_state=0)

    train.grow(grown, matrix, durations, lambda done, total: shown.append((done, total)))

    at_once = RandomForestRegressor(n_estimators=10, random_state=0).fit(matrix, durations)
    assert np.array_equal(grown.predict(matrix), at_once.predict(matrix))
    assert grown.get_params() == at_once.get_params()
    assert shown == [(4, 10), (8, 10), (10, 10)]


def test_a_fifth_is_held_out_where_there_is_no_second_file(january: Path) -> None:
    """No ride is on both sides, and the split is the same every time."""
    training, held_out = train.read(str(january), None)

    assert (len(training.rides), len(held_out.rides)) == (400, 100)
    assert (len(training.durations), len(held_out.durations)) == (400, 100)
    together = sorted(zip([*training.durations, *held_out.durations], [*training.rides, *held_out.rides], strict=True))
    every = train.read(str(january), str(january))[0]
    assert together == sorted(zip(every.durations, every.rides, strict=True))
    assert train.read(str(january), None) == (training, held_out)


def test_errors_are_measured_in_minutes_beside_the_training_means() -> None:
    """RMSE and MAE of what the pipeline predicts, and of the mean of other rides."""

    class Tens:
        def predict(self, features: list[object]) -> list[float]:
            return [10.0] * len(features)

    validation = Trips([Ride(1, 1, 1.0), Ride(2, 2, 2.0)], [10.0, 14.0], 0)

    assert train.measure(Tens(), [12.0, 14.0], validation) == pytest.approx(
        {"rmse": 8**0.5, "mae": 2.0, "mean_rmse": 5**0.5, "mean_mae": 2.0}
    )


def logged_at(location: str) -> train.Logged:
    """Build what was logged to the location."""
    return train.Logged("1", "run", "m-1", location)


def test_what_is_printed_to_try_next_names_the_model() -> None:
    """It can be pasted as it is."""
    assert train.report(logged_at("/runs/m-1"), {}) == [
        "run id:          run (experiment 1)",
        "model location:  /runs/m-1",
        "try it:          TEST_RUN=True MODEL_LOCATION=/runs/m-1 ./scripts/invoke events/kinesis-one.json",
    ]


def test_a_file_uri_is_printed_as_a_folder() -> None:
    """The function takes folders and no file: URIs."""
    assert train.report(logged_at("file:///tmp/my%20runs/m-1"), {})[1:] == [
        "model location:  /tmp/my runs/m-1",
        "try it:          TEST_RUN=True MODEL_LOCATION='/tmp/my runs/m-1' ./scripts/invoke events/kinesis-one.json",
    ]


def test_another_s3_by_mlflows_variable_is_told_to_the_function() -> None:
    """The SDK has a variable of its own for it, and does not know MLflow's."""
    lines = train.report(logged_at("s3://models/m-1"), {"MLFLOW_S3_ENDPOINT_URL": "http://localhost:9000"})

    assert "MODEL_LOCATION=s3://models/m-1 AWS_ENDPOINT_URL_S3=http://localhost:9000 ./scripts/invoke" in lines[-1]


def test_a_model_behind_a_tracking_server_is_to_be_fetched_first() -> None:
    """The function cannot read from a tracking server, and the command to paste says how to get a folder."""
    lines = train.report(logged_at("mlflow-artifacts:/1/models/m-1/artifacts"), {})

    assert lines[-1] == "./scripts/environment training -- mlflow artifacts download -u models:/m-1 -d model"
    assert not any("invoke" in line for line in lines)
