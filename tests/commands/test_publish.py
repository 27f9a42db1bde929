"""Publishing a model: what is proved, what is refused, what is written, and that the services load it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import msgspec
import pytest
import yaml
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from artifacts import open_artifact
from batch import objects
from digests import MANIFEST, digest_of_files
from features import prepare_features
from model import load_model
from rides import Ride
from scripts import cli, interrupts
from scripts.commands import publish
from scripts.localaws.faults import Call, FailedRequest, Fault
from scripts.localaws.setup import FUNCTION_VARIABLES
from scripts.models import publishing_proof, served_flavor
from scripts.models.compiling import compile_pipeline
from scripts.models.golden_rides import golden_rides
from scripts.models.publishing_places import LIVE, LiveModel, PublishTarget, open_target
from scripts.models.publishing_proof import PublishError
from sklearn_flavor import TRUSTED_TYPES
from tests.batch.outputs import behind
from tests.builders import copy_saying
from tests.conftest import SAMPLE_MODEL
from tests.core.saved_models import MODELS, copy_without_served_form
from tests.test_architecture import PRODUCT, find_closure
from tests.trip_records import linear_trips, write
from trips import training_trips

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.slow

RIDES = [Ride(130, 205, 3.66), Ride(0, 0, 0.0), Ride(1, 1, 2.5)]
Run = Callable[..., str]


@pytest.fixture(autouse=True)
def one_environment(aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use the Python of the tests where the command would install the packages of an image, which takes a minute."""
    monkeypatch.setattr(publishing_proof, "install_python", lambda _: Path(sys.executable))
    monkeypatch.setattr(publishing_proof, "COLD_LOADS", 1)
    # As the launcher does.
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    for name in (*FUNCTION_VARIABLES, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    objects.client.cache_clear()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that publishes, and returns what was printed; of an error, it is the one line."""

    def run_command(*arguments: str | Path, refused: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["publish", *map(str, arguments)])
        # The handlers would stay for the tests that follow.
        monkeypatch.setattr(interrupts, "handle_with", lambda _: None)
        code = cli.run(publish.main, publish.EXPLAINED)
        output = capsys.readouterr()
        assert code == int(refused), output.err
        return output.err.splitlines()[-1] if refused else output.out

    return run_command


@pytest.fixture(params=["folder", "S3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: "S3Client", bucket: str) -> str:
    """Give a place to publish to."""
    return str(tmp_path / "published") if request.param == "folder" else f"s3://{bucket}/models"


@pytest.fixture
def month(tmp_path: Path) -> Path:
    """Give a month of trips of which ``train`` learns all."""
    return write(tmp_path / "green_tripdata_2023-02.parquet", linear_trips(500))


@pytest.fixture
def train(tmp_path: Path, month: Path) -> Callable[..., str]:
    """Give a function that trains a model on the month, with its served form, and returns its folder."""

    def fit(run_id: str = "b" * 32, factor: float = 1.0, form_of: float | None = None) -> str:
        trips = training_trips(month)
        features = [prepare_features(ride) for ride in trips.rides]

        def fit_to(factor: float) -> Any:
            values = [value * factor for value in trips.values]
            return make_pipeline(DictVectorizer(), LinearRegression()).fit(features, values)

        pipeline, other = fit_to(factor), fit_to(form_of or factor)
        folder = str(tmp_path / f"{run_id[:4]}-{factor}")
        options: dict[str, Any] = {
            "serialization_format": "skops",
            "skops_trusted_types": TRUSTED_TYPES,
            "pip_requirements": [],
        }
        form = compile_pipeline(other, other.predict)
        served_flavor.save_model(pipeline, folder, mlflow.models.Model(run_id=run_id), form, **options)
        return folder

    return fit


def find_published(output: str) -> tuple[str, str]:
    """Return the location and the digest that the command printed."""
    location, digest = (part.partition("=")[2] for part in output.splitlines()[0].split(" "))
    return location, digest


def read_all(location: str) -> dict[str, bytes]:
    """Return all files at a location."""
    artifact = open_artifact(location)
    return {name: artifact.read(name) for name in artifact.names()}


def test_a_published_model_is_what_the_entry_points_read(run: Run, place: str) -> None:
    """The manifest names the files, live.json names the model, and publishing the model again changes nothing."""
    location, digest = find_published(run(SAMPLE_MODEL, "--to", place))
    files = read_all(location)
    assert set(files) == {"MLmodel", "served_form.safetensors", "baseline.json", MANIFEST}
    assert digest_of_files(files) == digest
    manifest = json.loads(files[MANIFEST])
    assert {name: file["bytes"] for name, file in manifest["files"].items()} == {
        name: len(content) for name, content in files.items() if name != MANIFEST
    }
    assert manifest["proof"]["largest_relative_difference"] <= 1e-12
    assert load_model(location, sha256=digest).predict(RIDES) == load_model(SAMPLE_MODEL).predict(RIDES)
    live = read_all(place)[LIVE]
    assert msgspec.json.decode(live, type=LiveModel).sha256 == digest
    assert find_published(run(SAMPLE_MODEL, "--to", place)) == (location, digest)
    assert read_all(place)[LIVE] == live
    assert read_all(location) == files


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_publish_that_was_killed_is_completed(
    run: Run, place: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish that was killed between two objects leaves no live model, and the same command completes it."""
    written, put = list[str](), PublishTarget.put_new

    def put_some(self: PublishTarget, name: str, content: bytes) -> None:
        if len(written) == kept:
            raise KeyboardInterrupt("killed")
        written.append(name)
        put(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(PublishTarget, "put_new", put_some)
        patch.setattr(PublishTarget, "replace_live", lambda self, live: put_some(self, LIVE, b""))
        with pytest.raises(AssertionError, match="killed"):
            run(SAMPLE_MODEL, "--to", place)
    assert LIVE not in read_all(place)
    location, digest = find_published(run(SAMPLE_MODEL, "--to", place))
    assert load_model(location, sha256=digest)
    assert [name for name in read_all(place) if name.startswith(".")] == []


@pytest.mark.parametrize("name", ["MLmodel", "more"])
def test_another_object_in_the_models_folder_is_refused(run: Run, place: str, s3: "S3Client", name: str) -> None:
    """A published object is never replaced, and an additional object is found when all files are read back."""
    location, _ = find_published(run(SAMPLE_MODEL, "--to", place))
    if place.startswith("s3://"):
        bucket, key = objects.split_uri(f"{location}/{name}")
        s3.put_object(Bucket=bucket, Key=key, Body=b"other")
    else:
        Path(location, name).write_bytes(b"other")
    line = run(SAMPLE_MODEL, "--to", place, refused=True)
    text = "a published one is never replaced" if name == "MLmodel" else "more is not in the manifest"
    assert text in line


def test_a_live_json_that_was_changed_is_put_right(run: Run, tmp_path: Path) -> None:
    """It names the model that is published again, but with another digest, which a deployment would use."""
    run(SAMPLE_MODEL, "--to", tmp_path)
    content = json.loads((tmp_path / LIVE).read_text())
    (tmp_path / LIVE).write_text(json.dumps(content | {"sha256": "0" * 64}))
    run(SAMPLE_MODEL, "--to", tmp_path)
    assert json.loads((tmp_path / LIVE).read_text())["sha256"] == content["sha256"]
    (tmp_path / LIVE).write_text(json.dumps(content | {"format": 2}))
    assert "it does not name a published model" in run(SAMPLE_MODEL, "--to", tmp_path, refused=True)


@pytest.mark.parametrize("place", ["", "http://models", "s3://", "s3:///models"])
def test_a_place_that_is_neither_a_bucket_nor_a_folder_is_refused(place: str) -> None:
    """Nothing was read of it."""
    with pytest.raises(PublishError, match="--to is an s3://bucket/prefix URI or a folder"):
        open_target(place)


def test_a_worse_model_is_refused_unless_forced(run: Run, place: str, train: Callable[..., str], month: Path) -> None:
    """A model that was not compared, or is worse, is refused without --force. A better model becomes live."""
    good, bad = train("a" * 32), train("b" * 32, factor=1.3)
    run(bad, "--to", place)
    assert "compare with it by --months FILE" in run(good, "--to", place, refused=True)
    location, _ = find_published(run(good, "--to", place, "--months", month))
    comparison = json.loads(read_all(location)[MANIFEST])["comparison"]
    assert comparison["verdict"]["verdict"] == "better"
    assert comparison["errors"]["mae"] < 0.01 < comparison["live_errors"]["mae"]
    assert comparison["months"] == [month.name]
    assert f"worse than {location}, which stays live" in run(bad, "--to", place, "--months", month, refused=True)
    assert json.loads(read_all(place)[LIVE])["version"] == "a" * 32
    run(bad, "--to", place, "--force")
    assert json.loads(read_all(place)[LIVE])["version"] == "b" * 32


def test_a_model_of_another_target_never_replaces_the_live_one(
    run: Run, tmp_path: Path, train: Callable[..., str]
) -> None:
    """Not even with --force: whoever reads the predictions would take dollars for minutes."""
    run(SAMPLE_MODEL, "--to", tmp_path / "out")
    tips = copy_saying({"target": "tip", "field": "tip_amount", "unit": "dollars"}, tmp_path / "tips")
    line = run(tips, "--to", tmp_path / "out", "--force", refused=True)
    assert "predicts the duration, and this model predicts the tip: publish it to another place" in line


@pytest.mark.parametrize("first", [True, False], ids=["nothing live", "a model live"])
def test_of_two_publishers_at_once_one_fails(place: str, first: bool) -> None:
    """The second publisher has compared its model with a model that is no longer live, so it must start again."""
    if not first:
        one = open_target(place)
        one.read_live()
        one.replace_live(LiveModel("before", "v", "duration", "0" * 64, "then"))
    targets = [open_target(place), open_target(place)]
    for target in targets:
        target.read_live()
    targets[0].replace_live(LiveModel("won", "v", "duration", "0" * 64, "now"))
    with pytest.raises(PublishError, match="another publish has just changed it: run the same command again"):
        targets[1].replace_live(LiveModel("lost", "v", "duration", "0" * 64, "now"))
    live = targets[1].read_live()
    assert live is not None
    assert live.location == "won"


def test_a_served_form_that_predicts_something_else_is_refused(run: Run, train: Callable[..., str], place: str) -> None:
    """A served form that differs from its pipeline by a hundredth is refused, and no model becomes live."""
    line = run(train(form_of=1.01), "--to", place, refused=True)
    assert "as served and" in line
    assert "log it again with ./scripts/train" in line
    assert open_target(place).read_live() is None


def test_a_pickle_needs_its_digest(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled model is refused without its digest, and copied whole with its digest."""
    folder = tmp_path / "pickle"
    MODELS["cloudpickle"](str(folder))
    description = yaml.safe_load((folder / "MLmodel").read_text()) | {"run_id": "a-run"}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    assert "can run any code when it is loaded: if you trust it, set MODEL_SHA256=" in run(
        folder, "--to", "out", refused=True
    )
    monkeypatch.setenv("MODEL_SHA256", digest_of_files(read_all(str(folder))))
    location, digest = find_published(run(folder, "--to", "out"))
    assert set(read_all(location)) == {*read_all(str(folder)), MANIFEST}
    assert load_model(location, sha256=digest).predict(RIDES)


def test_the_digest_of_the_served_form_does_not_cover_a_pickle(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle beside a served form is refused and not loaded, even if the served form's digest is set."""
    folder = shutil.copytree(SAMPLE_MODEL, tmp_path / "mixed")
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["flavors"]["sklearn"] |= {"pickled_model": "model.pkl", "serialization_format": "pickle"}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    evil = tmp_path / "was-run"
    (folder / "model.pkl").write_bytes(f"cposix\nsystem\n(S'touch {evil}'\ntR.".encode())
    for pin in ("", description["flavors"]["served_form"]["sha256"]):
        monkeypatch.setenv("MODEL_SHA256", pin)
        line = run(folder, "--to", "out", refused=True)
        assert (
            f"code of the model would run: set MODEL_SHA256, if you trust it, to the digest of its whole {''}" in line
        )
    assert not evil.exists()


def test_a_pipeline_without_a_served_form_is_published_whole(run: Run, tmp_path: Path) -> None:
    """A model in the skops format needs no digest, because only types that are known to be safe are loaded."""
    folder = copy_without_served_form(SAMPLE_MODEL, tmp_path / "skops")
    location, digest = find_published(run(folder, "--to", "out"))
    assert "model.skops" in read_all(location)
    assert load_model(location, sha256=digest).predict(RIDES) == load_model(folder).predict(RIDES)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Give a run that logged the sample model and registered it as ``duration``, and a run without a model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("rides", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("rides")
    pipeline = mlflow.sklearn.load_model(SAMPLE_MODEL)
    form = compile_pipeline(pipeline, pipeline.predict)
    with mlflow.start_run() as run:
        options: dict[str, Any] = {
            "serialization_format": "skops",
            "skops_trusted_types": TRUSTED_TYPES,
            "pip_requirements": [],
        }
        model = mlflow.models.Model.log(
            artifact_path=None, flavor=served_flavor, sk_model=pipeline, served_form=form, name="model", **options
        )
    with mlflow.start_run() as empty:
        pass
    version = mlflow.register_model(f"models:/{model.model_id}", "duration")
    mlflow.MlflowClient().set_registered_model_alias("duration", "challenger", version.version)
    return run.info.run_id, empty.info.run_id


def test_a_registered_model_gets_its_alias_and_its_run_the_tags(run: Run, registry: tuple[str, str]) -> None:
    """The run's id, the logged model and the version all name the same model, which becomes live."""
    run_id, empty = registry
    location, digest = find_published(run("models:/duration@challenger", "--to", "out"))
    client = mlflow.MlflowClient()
    assert client.get_run(run_id).data.tags.items() >= {("served_at", location), ("model_sha256", digest)}
    assert str(client.get_model_version_by_alias("duration", "champion").version) == "1"
    assert json.loads(read_all(location)[MANIFEST])["source"] == {"run_id": run_id, "registered": ["duration", "1"]}
    model_id = client.get_run(run_id).outputs.model_outputs[0].model_id
    for source in (run_id, f"models:/{model_id}", "models:/duration/1"):
        client.delete_registered_model_alias("duration", "champion")
        assert find_published(run(source, "--to", "out")) == (location, digest)
        assert str(client.get_model_version_by_alias("duration", "champion").version) == "1"
    for source, text in (
        (empty, "logged no model"),
        ("0" * 32, "cannot give 00"),
        ("models:/other@champion", "cannot give models:/other@champion"),
        ("models:/duration", "is not models:/NAME@ALIAS"),
        ("nowhere", "there is no folder"),
    ):
        assert text in run(source, "--to", "out", refused=True)


def test_without_a_tracking_server_nothing_is_created(run: Run, tmp_path: Path) -> None:
    """A missing database is an error, because MLflow itself would create an empty one."""
    line = run("0" * 32, "--to", "out", refused=True)
    assert "there is no database mlflow.db: set MLFLOW_TRACKING_URI" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (FailedRequest(403, "AccessDenied"), "publishing needs s3:PutObject and s3:GetObject on s3://"),
        (FailedRequest(404, "NoSuchBucket"), "create the bucket, or check the URI"),
        (FailedRequest(503, "SlowDown"), "try again later"),
        (FailedRequest(412, "PreconditionFailed"), "a published one is never replaced"),
    ],
    ids=lambda value: value.code if isinstance(value, FailedRequest) else "",
)
def test_a_refusal_of_s3_says_what_to_do(
    run: Run, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, fault: FailedRequest, text: str
) -> None:
    """Each error of S3 becomes one line, and no model becomes live."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)

    def refuse(call: Call) -> Fault | None:
        return fault if call.operation == "PutObject" else None

    with behind(endpoint, refuse):
        assert text in run(SAMPLE_MODEL, "--to", f"s3://{bucket}/models", refused=True)
    assert read_all(f"s3://{bucket}/models") == {}


def test_the_serving_process_has_only_the_products_modules() -> None:
    """The serving process imports only modules of the product, because its environment has only their packages."""
    others = find_closure("scripts.models.serving_check") - set(PRODUCT)
    assert others == {"scripts", "scripts.models", "scripts.models.serving_check"}


def test_the_golden_rides_are_always_the_same_and_of_all_kinds() -> None:
    """The golden rides have each hour of a week, both clock changes, and the limits of the contract."""
    rides = golden_rides()
    assert rides == golden_rides()
    local = [ride.pickup_datetime for ride in rides if ride.pickup_datetime and not ride.pickup_datetime.tzinfo]
    assert {(moment.weekday(), moment.hour) for moment in local} == {
        (day, hour) for day in range(7) for hour in range(24)
    }
    changes = {moment.date() for ride in rides if (moment := ride.pickup_datetime) and moment.tzinfo}
    assert {str(day) for day in changes} >= {"2023-03-12", "2023-11-05"}
    assert {0.0, 100.0} <= {ride.trip_distance for ride in rides}
    assert len(rides) < 1_000
