"""Training from the command line, and what it logs."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.sklearn
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.tracking import MlflowClient
from sklearn.linear_model import PoissonRegressor

from artifacts import S3Artifact, find_run
from digests import digest_of
from features import DEFAULT_FEATURES, prepare_features
from model import load_model
from model_metadata import TrainedOn
from rides import Ride
from scripts import cli
from scripts.commands import train
from scripts.models import runs, training
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm
from scripts.models.proving import Proof
from tests.tools import PATIENCE, finish, start
from tests.trip_records import PICKUP, linear_duration, linear_trips, trip, write

pytestmark = pytest.mark.slow

RIDES = [Ride(zone, zone, miles / 10, PICKUP) for zone in (1, 2, 3) for miles in range(1, 50)]
UNKNOWN_PAIR = Ride(264, 265, 2.0, PICKUP)
RIDGE = ("--model", "ridge", "--alone")


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
    ("options", "tolerance", "kind"),
    [
        (("--model", "linear"), 0.01, "linear"),
        (("--model", "ridge"), 1.0, "linear"),
        (("--model", "forest"), 5.0, "table"),
        (("--without-time",), 2.0, "trees"),
        ((), 2.0, "trees"),
    ],
    ids=["linear", "ridge", "forest", "boosted without time", "boosted"],
)
def test_both_loaders_predict_the_same(
    tmp_path: Path, january: Path, options: tuple[str, ...], tolerance: float, kind: str
) -> None:
    """The services can load any model at the printed location, and it has a served form and a baseline."""
    finished = run(tmp_path, january, "--alone", *options)
    location = printed(finished, "model location")
    size = (Path(location) / "served_form.safetensors").stat().st_size / 1e3
    line = printed(finished, "served form")
    assert re.fullmatch(
        rf"{kind}, {size:,.0f} KB, whose predictions for 1\d\d,\d{{3}} rides are the same to the .*", line
    )
    model = load_model(location)
    predicted, names = model.predict([*RIDES, UNKNOWN_PAIR]), model.metadata.features
    by_mlflow = training.predict_rides(mlflow.sklearn.load_model(location), [*RIDES, UNKNOWN_PAIR], names)
    assert predicted == pytest.approx(by_mlflow.tolist(), abs=1e-9)
    assert predicted[:-1] == pytest.approx(
        [linear_duration(ride.PULocationID, ride.trip_distance) for ride in RIDES], abs=tolerance
    )
    frame = pd.DataFrame([prepare_features(ride, names) for ride in RIDES])
    assert mlflow.pyfunc.load_model(location).predict(frame).tolist() == pytest.approx(predicted[:-1])
    assert model.metadata.wants_time == (options == ())
    assert model.metadata.trained_on == TrainedOn([january.name], 400, "2023-02-01T12:00:00", "2023-02-01T12:00:00")
    baseline = model.metadata.baseline
    assert baseline is not None
    assert baseline.sha256 == digest_of((Path(location) / baseline.file).read_bytes())


def test_a_run_has_its_data_parameters_errors_plots_and_card(tmp_path: Path, january: Path, february: Path) -> None:
    """The tags of a run have the names of the files without their folders."""
    arguments = ("--model", "linear", "--alone", "--validate", february, "--experiment", "linear rides")
    finished = run(tmp_path, january, *arguments)
    run_id = printed(finished, "run id").partition(" ")[0]
    assert load_model(printed(finished, "model location")).version == run_id
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(run_id)
    assert client.get_experiment(logged.info.experiment_id).name == "linear rides"
    assert logged.info.status == "FINISHED"
    assert logged.data.params == {
        "estimator": "LinearRegression()",
        "features": "PU_DO,trip_distance",
        "min_pair_count": "1",
        "min_duration": "1",
        "max_duration": "60",
        "max_trip_distance": "100.0",
    }
    assert logged.data.tags.items() >= {
        ("model", "linear"),
        ("target", "duration"),
        ("training_data", january.name),
        ("validation_data", february.name),
        ("uses_time", "False"),
    }
    metrics = logged.data.metrics
    assert {name: metrics[name] for name in metrics if name.endswith(("rides", "left_out"))} == {
        "training_rides": 500,
        "training_left_out": 0,
        "validation_rides": 100,
        "validation_left_out": 1,
    }
    for name in ("rmse", "mae"):
        assert metrics[name] < 0.01 < 1 < metrics[f"pair_median_{name}"] < metrics[f"mean_{name}"]
    card = Path(printed(finished, "model card"))
    assert run_id in card.read_text()
    assert {path.suffix for path in (card.parent / "plots").iterdir()} == {".png"}


def test_one_table_shows_all_models(tmp_path: Path, january: Path) -> None:
    """The model that is logged has a star, and trains on the earlier rides."""
    finished = run(tmp_path, january, "--model", "ridge")
    printed(finished, "run id")
    rows = [line.split("│")[1].strip() for line in finished.stderr.splitlines() if line.startswith("│")]
    names = ["mean", "pair median", "linear", "ridge *", "forest", "boosted without time", "boosted"]
    assert rows == names
    assert "┃ minutes" in finished.stderr
    assert "train on   400 rides: 2023-02-01 12:00:00 to 2023-02-01 12:00:00" in finished.stderr
    assert "measure on 100 rides: " in finished.stderr


def test_a_model_is_registered_as_the_next_version(tmp_path: Path, january: Path) -> None:
    """The alias names the last version, and the registered model is the model at the printed location."""
    for version in (1, 2):
        finished = run(tmp_path, january, *RIDGE, "--register", "rides")
        assert printed(finished, "registered as") == f"rides, version {version}, alias challenger"
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    found = mlflow.sklearn.load_model("models:/rides@challenger")
    assert MlflowClient().get_model_version_by_alias("rides", "challenger").version == 2
    expected = load_model(printed(finished, "model location")).predict(RIDES)
    assert training.predict_rides(found, RIDES).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("uri", "arguments", "message"),
    [
        ("runs", ("--register", "rides"), "runs is a folder, which has no registry: set MLFLOW_TRACKING_URI to"),
        ("", ("--register", "rides", "--alias", "v1"), "Version alias name 'v1' is reserved"),
        ("", ("--register", "my/rides"), "Invalid model name 'my/rides'"),
        ("http://127.0.0.1:1", ("--register", "rides"), "API request to http://127.0.0.1:1/api"),
    ],
    ids=["folder", "alias", "name", "no server"],
)
def test_what_cannot_be_registered_is_found_out_before_the_training(
    tmp_path: Path,
    uri: str,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name or a registry that cannot be used is an error before any file is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sys, "argv", ["train", "no-such-file.parquet", *arguments])
    assert cli.run(train.main, explained=train.EXPLAINED) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"train: {message}")


def test_an_interrupted_run_has_failed_and_nothing_is_registered(tmp_path: Path, january: Path) -> None:
    """Ctrl-C comes while the run waits for S3, which accepts the connection and does not answer."""
    variables = {"MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://models", "AWS_MAX_ATTEMPTS": "1"}
    with socket.create_server(("127.0.0.1", 0)) as s3:
        variables["MLFLOW_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{s3.getsockname()[1]}"
        with start("train", str(january), *RIDGE, "--register", "rides", cwd=tmp_path, **variables) as tool:
            s3.settimeout(PATIENCE)
            connection, _ = s3.accept()
            with connection:
                tool.send_signal(signal.SIGINT)
                s3.close()
            _, errors = tool.communicate(timeout=PATIENCE)
    assert (tool.returncode, errors.splitlines()[-1]) == (130, "train: interrupted")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (only,) = client.search_runs(["1"])
    assert only.info.status == "FAILED"
    assert client.search_registered_models() == []


RIDE_FEATURES = {"PU_DO": "1_1", "trip_distance": 2.5}
OTHER_FEATURES = {"PU_DO": "3_3", "trip_distance": 4}


def test_mlflows_server_takes_every_form_of_payload(tmp_path: Path, january: Path) -> None:
    """The signature is true: the server predicts what the function predicts, and names a missing feature."""
    model = mlflow.pyfunc.load_model(location := printed(run(tmp_path, january, *RIDGE), "model location"))
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


def test_an_s3_artifact_root_gets_the_layout_that_the_function_searches(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket, the experiment's id and the run's id are enough to find the model."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}")
    finished = run(tmp_path, january, *RIDGE)
    location = printed(finished, "model location")
    run_id, _, experiment = printed(finished, "run id").partition(" ")
    assert experiment == "(experiment 1)"
    assert find_run(bucket, "1", run_id) == location
    assert {"MLmodel", "model.skops", "served_form.safetensors", "baseline.json"} < set(S3Artifact(location).names())
    assert load_model(location).predict(RIDES) == pytest.approx(
        mlflow.sklearn.load_model(location).predict([prepare_features(ride) for ride in RIDES]).tolist(), abs=1e-9
    )


def test_a_missing_bucket_is_one_line_and_stays_the_experiments(
    tmp_path: Path, january: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has S3's reason. A second attempt with another root fails, because the experiment keeps its own."""
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}-2")
    no_bucket = run(tmp_path, january, *RIDGE)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", f"s3://{bucket}")
    other_root = run(tmp_path, january, *RIDGE)
    assert (no_bucket.returncode, other_root.returncode) == (1, 1)
    assert "train: Failed to upload" in no_bucket.stderr.splitlines()[-1]
    assert "The specified bucket does not exist" in no_bucket.stderr.splitlines()[-1]
    assert other_root.stderr.splitlines()[-1] == (
        f"train: the experiment ride-duration keeps its artifacts in s3://{bucket}-2/1, which cannot be changed:"
        f" name another with --experiment to have them in s3://{bucket}"
    )
    assert no_bucket.stdout == other_root.stdout == ""


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
    logged = runs.LoggedRun("1", "run", "m-1", "/runs/m-1", "/card.md", served_form)
    assert train.report(logged, {})[3] == f"served form:     {line}"


def test_a_model_without_a_served_form_is_logged_without_one() -> None:
    """Training does not fail, and returns the reason."""
    shown: list[tuple[int, int]] = []
    pipeline = training.fit(PoissonRegressor(), [{"trip_distance": 1.0}, {"trip_distance": 2.0}], [1.0, 2.0])
    outcome = runs.compile_served_form(pipeline, DEFAULT_FEATURES, lambda done, total: shown.append((done, total)))
    assert (str(outcome), shown) == ("a PoissonRegressor is not known", [])


@pytest.mark.parametrize(
    ("logged", "location", "prefix"),
    [
        ("/runs/m-1", "/runs/m-1", ""),
        ("/my runs/m-1", "'/my runs/m-1'", ""),
        # boto3 has another variable than MLflow for an S3 other than AWS's.
        ("s3://models/m-1", "s3://models/m-1", "AWS_ENDPOINT_URL_S3=http://localhost:9000 "),
    ],
)
def test_the_last_lines_are_commands_that_use_the_model(logged: str, location: str, prefix: str) -> None:
    """They can be pasted as they are."""
    variables = {"MLFLOW_S3_ENDPOINT_URL": "http://localhost:9000"}
    assert train.report(runs.LoggedRun("1", "run", "m-1", logged, "/card.md", SERVED_FORM), variables) == [
        "run id:          run (experiment 1)",
        f"model location:  {logged}",
        "model card:      /card.md",
        "served form:     table, 6,455 KB, whose predictions for 156,220 rides are the same to the last bit",
        f"try it:          {prefix}./scripts/invoke --model {location} events/kinesis-one.json",
        f"run it:          {prefix}./scripts/run --model {location}",
        f"serve it:        {prefix}./scripts/serve --model {location}",
        f"score a month:   {prefix}./scripts/score green 2023 2 --model {location}",
        "publish it:      ./scripts/publish run --to s3://…",
    ]


def test_a_model_behind_a_tracking_server_must_be_fetched_first() -> None:
    """The function cannot read from a tracking server."""
    location = "mlflow-artifacts:/1/models/m-1/artifacts"
    lines = train.report(runs.LoggedRun("1", "run", "m-1", location, "/card.md", SERVED_FORM), {})
    assert lines[-1] == "./scripts/environment training -- mlflow artifacts download -u models:/m-1 -d model"
    assert not any("invoke" in line for line in lines)
