"""Loading a model safely, and predicting a batch with it."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import skops.io
import yaml
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from artifacts import ModelError
from model import (
    TRUSTED_TYPES,
    Features,
    Model,
    NotTriedError,
    PredictionError,
    load_from_settings,
    load_model,
    prepare_features,
)
from rides import Ride
from settings import ModelSettings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
Saved = Callable[[str], str]
RIDES = [Ride(number % 7, number % 5, number / 3) for number in range(80)]
UNSEEN = [Ride(130, 205, 3.66), Ride(0, 0, 0.0), Ride(10**30, -1, 100.0)]


class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model that is not a scikit-learn pipeline."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # mlflow reads the hints
        """Predict two minutes for each mile."""
        return model_input["trip_distance"] * 2


def fitted(estimator: Any, sparse: bool = True) -> Any:
    """Fit a pipeline on rides that take three minutes for each mile."""
    features = [prepare_features(ride) for ride in RIDES]
    durations = [ride.trip_distance * 3 for ride in RIDES]
    return make_pipeline(DictVectorizer(sparse=sparse), estimator).fit(features, durations)


def save_sklearn(serialization: str, estimator: Any, sparse: bool = True) -> Callable[[str], None]:
    """Prepare to save a pipeline with MLflow's sklearn flavor."""
    return lambda folder: mlflow.sklearn.save_model(
        fitted(estimator, sparse),
        folder,
        serialization_format=serialization,
        skops_trusted_types=TRUSTED_TYPES,
        pip_requirements=[],  # otherwise MLflow loads the model in another process to find them
    )


MODELS: dict[str, Callable[[str], None]] = {
    "skops": save_sklearn("skops", Ridge()),
    "cloudpickle": save_sklearn("cloudpickle", Ridge()),
    "pickle": save_sklearn("pickle", Ridge()),
    "forest": save_sklearn("skops", RandomForestRegressor(3, n_jobs=-1), sparse=False),
    "transformed": save_sklearn("skops", TransformedTargetRegressor(RandomForestRegressor(3, n_jobs=-1)), sparse=False),
    "boosted": save_sklearn("skops", HistGradientBoostingRegressor(max_iter=3), sparse=False),
    "pyfunc": lambda folder: mlflow.pyfunc.save_model(folder, python_model=Doubler(), pip_requirements=[]),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Give a function that saves one of MODELS with MLflow, once, and returns its folder."""
    folders: dict[str, str] = {}

    def save(kind: str) -> str:
        if kind not in folders:
            folders[kind] = str(tmp_path_factory.mktemp("models") / kind)
            MODELS[kind](folders[kind])
        return folders[kind]

    return save


@pytest.fixture
def changed(saved: Saved, tmp_path: Path) -> Callable[..., str]:
    """Give a function that copies a saved model, changes its MLmodel, and returns the copy's folder."""

    def change(kind: str, **sklearn: Any) -> str:
        folder = tmp_path / kind
        shutil.copytree(saved(kind), folder)
        description = yaml.safe_load((folder / "MLmodel").read_text())
        description["flavors"]["sklearn"] |= sklearn
        (folder / "MLmodel").write_text(yaml.safe_dump(description))
        return str(folder)

    return change


def digest(folder: str, name: str) -> str:
    """Return a file's SHA-256 digest."""
    return hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest()


def folder_digest(folder: str) -> str:
    """Return the digest of a whole folder, as the documented shell command prints it."""
    command = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    if sys.platform == "darwin":
        command = command.replace("sha256sum", "shasum -a 256")
    return subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[0]  # noqa: S602


def test_features_are_the_pair_of_zones_and_the_distance() -> None:
    """Their names are those that the course's models are trained on."""
    assert prepare_features(Ride(130, 205, 3.66)) == {"PU_DO": "130_205", "trip_distance": 3.66}


class TestLoading:
    """Loading models that MLflow saved."""

    @pytest.mark.parametrize(
        ("kind", "file"),
        [("skops", None), ("forest", None), ("boosted", None), ("cloudpickle", "model.pkl"), ("pickle", "model.pkl")],
    )
    def test_our_loader_predicts_what_mlflow_predicts(self, saved: Saved, kind: str, file: str | None) -> None:
        """Both loaders give the same numbers, for rides that the model was trained on and for others."""
        folder = saved(kind)
        ours = load_model(folder, sha256=digest(folder, file) if file else None)
        theirs = mlflow.sklearn.load_model(folder).predict([prepare_features(ride) for ride in [*RIDES, *UNSEEN]])
        assert ours.predict([*RIDES, *UNSEEN]) == pytest.approx(theirs.tolist(), abs=1e-9)

    def test_a_model_loads_from_s3_as_from_a_folder(self, saved: Saved, s3: "S3Client", bucket: str) -> None:
        """The same model under a prefix predicts the same durations."""
        folder = saved("skops")
        for name in ("MLmodel", "model.skops"):
            s3.upload_file(f"{folder}/{name}", bucket, f"1/models/m-1/artifacts/{name}")
        from_s3 = load_model(f"s3://{bucket}/1/models/m-1/artifacts")
        assert from_s3.predict(UNSEEN) == load_model(folder).predict(UNSEEN)

    def test_other_flavors_go_through_mlflow(self, saved: Saved) -> None:
        """A pyfunc gets a data frame of the features. The digest to pin is that of the whole folder."""
        folder = saved("pyfunc")
        with pytest.raises(ModelError, match="MODEL_SHA256=" + folder_digest(folder)):
            load_model(folder)
        assert load_model(folder, sha256=folder_digest(folder)).predict(UNSEEN[:1]) == [7.32]

    def test_without_mlflow_the_error_says_which_build_includes_it(
        self, saved: Saved, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The image holds mlflow only if it was built with it."""
        monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
        with pytest.raises(ModelError, match="--build-arg CATEGORIES="):
            load_model(saved("pyfunc"), sha256="0" * 64)

    def test_every_n_jobs_is_set_to_one(self, saved: Saved) -> None:
        """The forest was saved with a job for every core."""
        predict: Any = load_model(saved("forest"))._call
        jobs = {name: value for name, value in predict.__self__.get_params().items() if name.endswith("n_jobs")}
        assert jobs == {"randomforestregressor__n_jobs": 1}

    def test_n_jobs_of_a_fitted_clone_is_set_too(self, saved: Saved) -> None:
        """A clone inside the pipeline is the estimator that predicts."""
        predict: Any = load_model(saved("transformed"))._call
        clone = predict.__self__[-1].regressor_
        assert type(clone) is RandomForestRegressor
        assert clone.n_jobs == 1

    @pytest.mark.slow
    def test_mlflow_is_not_imported_for_scikit_learn(self, saved: Saved) -> None:
        """Importing mlflow would take half of the cold start."""
        code = f"import sys, model; model.load_model({saved('skops')!r}); sys.exit('mlflow' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    @pytest.mark.parametrize("by_run", [False, True], ids=["location", "bucket and run"])
    def test_settings_name_the_model(self, saved: Saved, s3: "S3Client", bucket: str, by_run: bool) -> None:
        """The settings give the model's location, or the bucket and the run that logged it."""
        for path in Path(saved("skops")).iterdir():
            if path.is_file():
                s3.upload_file(str(path), bucket, f"1/abc/artifacts/model/{path.name}")
        variables = {"MODEL_BUCKET": bucket} if by_run else {"MODEL_LOCATION": f"s3://{bucket}/1/abc/artifacts/model"}
        model = load_from_settings(ModelSettings.from_environment({**variables, "RUN_ID": "abc"}))
        assert model.version == "abc"
        assert model.predict(UNSEEN) == load_model(saved("skops")).predict(UNSEEN)


class TestVersion:
    """The version that predictions are tagged with."""

    def test_version_defaults_to_the_run_id(self, saved: Saved, tmp_path: Path) -> None:
        """MLflow writes the run id into a logged model."""
        shutil.copytree(saved("skops"), tmp_path / "model")
        with (tmp_path / "model" / "MLmodel").open("a") as file:
            file.write("run_id: e1efc53e9bd149078b0c12aeaa6365df\n")
        assert load_model(str(tmp_path / "model")).version == "e1efc53e9bd149078b0c12aeaa6365df"


class TestRefusing:
    """Models that are not loaded, and what the error says."""

    @pytest.mark.parametrize("kind", ["cloudpickle", "pickle"])
    def test_a_pickle_needs_a_pinned_digest(self, saved: Saved, kind: str) -> None:
        """Loading it would run code. The error names the digest to pin."""
        folder = saved(kind)
        with pytest.raises(ModelError, match=f"MODEL_SHA256={digest(folder, 'model.pkl')}"):
            load_model(folder)

    @pytest.mark.parametrize("kind", ["skops", "cloudpickle", "pyfunc"])
    def test_another_digest_is_refused(self, saved: Saved, kind: str) -> None:
        """A given digest is verified for every format."""
        with pytest.raises(ModelError, match="MODEL_SHA256"):
            load_model(saved(kind), sha256="0" * 64)

    @pytest.mark.parametrize(
        ("kind", "sklearn", "message"),
        [
            # The MLmodel file cannot make the loader unpickle.
            pytest.param("cloudpickle", {"serialization_format": "skops"}, "cannot be loaded", id="pickle as skops"),
            pytest.param("skops", {"serialization_format": "carrier pigeon"}, "carrier pigeon", id="format"),
            pytest.param("skops", {"pickled_model": "gone.skops"}, r"no gone\.skops", id="missing file"),
            *(
                pytest.param("skops", {"sklearn_version": version}, rf"scikit-learn {version} and here is 1\.9\.")
                for version in ("1.8.1", "2.9.1", "1.10.1", None)
            ),
        ],
    )
    def test_an_mlmodel_that_does_not_fit_is_refused(
        self, changed: Callable[..., str], kind: str, sklearn: dict[str, Any], message: str
    ) -> None:
        """The error names what does not fit, and both versions if it is scikit-learn's."""
        with pytest.raises(ModelError, match=message):
            load_model(changed(kind, **sklearn))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            *((content, r"model\.skops cannot be loaded") for content in (b"", b"not a zip file", b"PK\x03\x04")),
            (skops.io.dumps(DictVectorizer()), "DictVectorizer, which cannot predict"),
        ],
        ids=["empty", "text", "truncated", "transformer"],
    )
    def test_a_file_without_a_model_is_refused(self, changed: Callable[..., str], content: bytes, message: str) -> None:
        """The error names the file, or the object in it that cannot predict."""
        folder = changed("skops")
        (Path(folder) / "model.skops").write_bytes(content)
        with pytest.raises(ModelError, match=message):
            load_model(folder)

    def test_types_that_only_the_artifact_trusts_are_refused(self, changed: Callable[..., str]) -> None:
        """The list of trusted types is ours, not the artifact's."""
        folder = changed("skops", skops_trusted_types=[f"{__name__}.Stranger"])
        skops.io.dump(make_pipeline(DictVectorizer(), Stranger()), f"{folder}/model.skops")
        with pytest.raises(ModelError, match=r"Stranger.*TRUSTED_TYPES") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

    def test_a_newer_patch_of_scikit_learn_is_accepted(self, changed: Callable[..., str]) -> None:
        """A patch does not change the inner state."""
        assert load_model(changed("skops", sklearn_version="1.9.99")).predict(UNSEEN)

    def test_a_model_of_another_flavor_is_refused(self, tmp_path: Path) -> None:
        """The error names the model's flavors."""
        (tmp_path / "MLmodel").write_text("flavors: {spark: {}}\nrun_id: abc\n")
        with pytest.raises(ModelError, match="spark"):
            load_model(str(tmp_path))


class Stranger(Ridge):  # type: ignore[misc]
    """An estimator that is on nobody's list."""


class Calls:
    """A model that records the size of each call, and raises for some pickup zones."""

    def __init__(self, *poison: int, answer: Callable[[Features], float] = lambda ride: ride["trip_distance"]) -> None:
        """Raise for the zones ``poison``; predict ``answer`` for others, by default the distance."""
        self.sizes: list[int] = []
        self._poison = {f"{zone}_1" for zone in poison}
        self._answer = answer

    def __call__(self, features: list[Features]) -> list[float]:
        """Predict all rides or raise, as a pipeline does."""
        self.sizes.append(len(features))
        if any(ride["PU_DO"] in self._poison for ride in features):
            raise ValueError("zone?")
        return [self._answer(ride) for ride in features]


def rides(count: int) -> list[Ride]:
    """Build rides whose pickup zone is their number."""
    return [Ride(number, 1, float(number)) for number in range(count)]


class TestPredicting:
    """Predicting a batch: one call, and one bad ride does not fail the others."""

    def test_a_batch_is_one_call(self) -> None:
        """The number of rides makes no difference."""
        calls = Calls()
        assert Model(calls, "v").predict(rides(100)) == [float(number) for number in range(100)]
        assert calls.sizes == [100]

    def test_the_model_is_not_called_for_an_empty_batch(self) -> None:
        """For an empty batch, scikit-learn would raise an exception."""
        calls = Calls()
        assert Model(calls, "v").predict([]) == []
        assert calls.sizes == []

    @pytest.mark.parametrize("poison", [{0}, {99}, {37, 38}, {0, 50, 99}, set(range(100))])
    def test_each_ride_that_the_model_cannot_predict_is_an_error(self, poison: set[int]) -> None:
        """Every other ride gets its prediction, in its place."""
        durations = Model(Calls(*poison), "v").predict(rides(100))
        assert len(durations) == 100
        for number, duration in enumerate(durations):
            if number in poison:
                assert isinstance(duration, PredictionError)
                assert "ValueError: zone?" in str(duration)
            else:
                assert duration == number

    def test_isolating_one_ride_takes_few_calls(self) -> None:
        """Halving finds the ride without a call for every ride."""
        calls = Calls(700)
        Model(calls, "v").predict(rides(1024))
        assert len(calls.sizes) == 21

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_a_number_that_is_not_finite_is_an_error(self, value: float) -> None:
        """JSON cannot express it. The other rides keep their predictions."""
        model = Model(Calls(answer=lambda ride: value if ride["PU_DO"] == "1_1" else 2.0), "v")
        durations = model.predict(rides(3))
        assert isinstance(durations[1], PredictionError)
        assert [durations[0], durations[2]] == [2.0, 2.0]

    def test_rides_are_not_tried_once_the_time_is_over(self) -> None:
        """The first half is tried, and the second gets NotTriedError, which is not a rejection."""
        checks = iter([False, True])
        answers = Model(Calls(0, 1, 2), "v").predict(rides(2), lambda: next(checks))
        assert [type(answer) for answer in answers] == [PredictionError, NotTriedError]

    def test_a_column_of_predictions_is_accepted(self) -> None:
        """Some estimators return an array of the shape (n, 1)."""
        assert Model(lambda features: [[1.0] for _ in features], "v").predict(rides(3)) == [1.0, 1.0, 1.0]

    def test_a_wrong_number_of_predictions_is_an_error(self) -> None:
        """It is unknown which prediction belongs to which ride."""
        durations = Model(lambda features: [1.0] * (len(features) + 1), "v").predict(rides(2))
        assert all(isinstance(duration, PredictionError) for duration in durations)

    def test_running_out_of_memory_is_raised(self) -> None:
        """The invocation fails, and Lambda redelivers the whole batch."""

        def call(features: list[Features]) -> list[float]:
            raise MemoryError

        with pytest.raises(MemoryError):
            Model(call, "v").predict(rides(2))
