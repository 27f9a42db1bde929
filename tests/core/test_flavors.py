"""Loading the flavors of MLflow's models: what is loaded, what is refused, and what the error says."""

import hashlib
import importlib.metadata
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pandas as pd
import pytest
import skops.io
import yaml
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from artifacts import ModelError
from features import prepare_features
from model import load_from_settings, load_model
from pickled_code import holds_code
from settings import ModelSettings
from tests.core.saved_models import MODELS, OWN_FEATURES, RIDES, UNSEEN, FrameReader, fitted

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]

Saved = Callable[[str], str]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Give a function that saves one of MODELS with MLflow, once, and returns its folder."""
    folders: dict[str, str] = {}

    def save(kind: str) -> str:
        if kind not in folders:
            folder = str(tmp_path_factory.mktemp("models") / kind)
            MODELS[kind](folder)
            folders[kind] = folder
        return folders[kind]

    return save


@pytest.fixture
def changed(saved: Saved, tmp_path: Path) -> Callable[..., str]:
    """Give a function that copies a saved model, changes its MLmodel, and returns the copy's folder.

    It takes the version of Python that made the model, the signature, and values of the sklearn flavor.
    """

    def change(kind: str, *, made_by: str | None = None, signature: Any = None, **sklearn: Any) -> str:
        folder = tmp_path / kind
        shutil.copytree(saved(kind), folder)
        description = yaml.safe_load((folder / "MLmodel").read_text())
        flavors = description["flavors"]
        if made_by is not None:
            flavors["python_function"]["python_version"] = made_by
        if signature:
            description["signature"] = signature
        if "sklearn" in flavors:
            flavors["sklearn"] |= sklearn
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


def not_installed(name: str) -> str:
    """Find no distribution, as ``importlib.metadata.version`` does if it is not installed."""
    raise importlib.metadata.PackageNotFoundError(name)


class TestLoading:
    """Loading models that MLflow saved."""

    @pytest.mark.parametrize(
        ("kind", "file"),
        [
            *((kind, None) for kind in ("skops", "forest", "boosted", "voting", "stacking", "grid search")),
            *((kind, "model.pkl") for kind in ("cloudpickle", "pickle", "lambda")),
        ],
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

    def test_a_pipeline_fitted_on_a_dataframe_gets_one(self, saved: Saved) -> None:
        """Both loaders give the pipeline a DataFrame, and predict the same."""
        features = pd.DataFrame([prepare_features(ride) for ride in RIDES])
        theirs = mlflow.pyfunc.load_model(saved("data frame")).predict(features)
        assert load_model(saved("data frame"), version="v").predict(RIDES) == theirs.tolist()

    def test_the_signature_tells_that_a_model_takes_dataframes(self, tmp_path: Path) -> None:
        """This pipeline keeps no names of columns, and cannot predict dictionaries."""
        folder, frame = str(tmp_path / "model"), pd.DataFrame([prepare_features(ride) for ride in RIDES])
        pipeline = make_pipeline(FrameReader(), Ridge()).fit(frame, frame["trip_distance"] * 3)
        signature = mlflow.models.infer_signature(frame)
        form = {"serialization_format": "cloudpickle", "pip_requirements": []}
        mlflow.sklearn.save_model(pipeline, folder, signature=signature, **form)
        model = load_model(folder, sha256=digest(folder, "model.pkl"))
        assert model.predict(RIDES) == pipeline.predict(frame).tolist()

    def test_a_signature_does_not_turn_dictionaries_into_a_dataframe(
        self, saved: Saved, changed: Callable[..., str]
    ) -> None:
        """MLflow infers named columns from dictionaries too, but the pipeline's vectorizer takes no DataFrame."""
        inputs = '[{"type": "string", "name": "PU_DO"}, {"type": "double", "name": "trip_distance"}]'
        folder = changed("skops", signature={"inputs": inputs})
        assert load_model(folder).predict(UNSEEN) == load_model(saved("skops")).predict(UNSEEN)

    def test_without_pandas_the_error_says_which_build_includes_it(
        self, saved: Saved, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The image holds pandas only if it was built with it."""
        folder = saved("data frame")
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ModelError, match="--build-arg CATEGORIES=.packages sklearn dataframe"):
            load_model(folder)

    @pytest.mark.parametrize(
        ("kind", "missing"), [("skops", "skops"), ("lambda", "cloudpickle"), ("skops", "scikit-learn")]
    )
    def test_without_scikit_learns_packages_the_error_says_which_build_includes_them(
        self, saved: Saved, kind: str, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lean image has none of these packages, and a user's own image may lack one of them."""
        folder = saved(kind)  # before the packages are missing: this may be the first test that needs the model
        for module in ("skops", "skops.io", "cloudpickle", "cloudpickle.cloudpickle"):
            monkeypatch.setitem(sys.modules, module, None)
        if missing == "scikit-learn":
            monkeypatch.setattr(importlib.metadata, "version", not_installed)
        pinned = digest(folder, "model.pkl") if kind == "lambda" else None
        with pytest.raises(ModelError, match=f"{missing}.*--build-arg CATEGORIES=.packages sklearn") as caught:
            load_model(folder, sha256=pinned)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("kind", ["code skops", "code cloudpickle"])
    def test_a_model_brings_code_of_its_own(self, saved: Saved, kind: str) -> None:
        """The digest to pin covers the code. Without it, nothing of the model is imported."""
        folder = saved(kind)
        with pytest.raises(ModelError, match="code of its own.*MODEL_SHA256=" + folder_digest(folder)):
            load_model(folder)
        assert "own_features" not in sys.modules
        with (Path(folder) / "code" / "own_features.py").open() as file:
            assert file.read() == OWN_FEATURES
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path])
            ours = load_model(folder, sha256=folder_digest(folder), version="v")
            predicted = ours.predict(UNSEEN)
            sys.modules.pop("own_features")
        assert predicted == pytest.approx([10.98, 0.0, 300.0], rel=0.1, abs=1.0)

    @pytest.mark.parametrize("file", ["rides.py", "lambda_function.py", "flask.py", "scripts/features.py"])
    def test_code_with_the_name_of_another_module_is_refused(self, saved: Saved, tmp_path: Path, file: str) -> None:
        """Python would import the module of the function or of a package in its place, now or later."""
        folder = tmp_path / "model"
        shutil.copytree(saved("code skops"), folder)
        (folder / "code" / file).parent.mkdir(exist_ok=True)
        (folder / "code" / file).write_text("")
        name = file.partition("/")[0].removesuffix(".py")
        with pytest.raises(ModelError, match=f"a module {name}, as the function or a package has"):
            load_model(str(folder), sha256=folder_digest(str(folder)))

    def test_data_beside_the_code_may_have_any_name(self, saved: Saved, tmp_path: Path) -> None:
        """It is no module."""
        folder = tmp_path / "model"
        shutil.copytree(saved("code skops"), folder)
        (folder / "code" / "rides.csv").write_text("")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path])
            assert load_model(str(folder), sha256=folder_digest(str(folder)), version="v").predict(UNSEEN)
            sys.modules.pop("own_features")

    def test_a_pinned_skops_file_may_hold_any_type(self, changed: Callable[..., str]) -> None:
        """Whoever pins the digest trusts the file, as with a pickle."""
        folder = changed("skops")
        skops.io.dump(fitted(Stranger()), f"{folder}/model.skops")
        with pytest.raises(ModelError, match=r"Stranger.*MODEL_SHA256"):
            load_model(folder)
        model = load_model(folder, sha256=digest(folder, "model.skops"))
        assert model.predict(UNSEEN[:1]) == pytest.approx([10.98], rel=0.1)

    def test_without_mlflow_the_error_says_which_build_includes_it(
        self, saved: Saved, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The image holds mlflow only if it was built with it."""
        monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
        with pytest.raises(ModelError, match="--build-arg CATEGORIES="):
            load_model(saved("pyfunc"), sha256=folder_digest(saved("pyfunc")))

    def test_every_n_jobs_is_set_to_one(self, saved: Saved) -> None:
        """The forest was saved with a job for every core."""
        tree_sum: Any = load_model(saved("forest"))._call
        pipeline = tree_sum.fall_back.__self__
        jobs = {name: value for name, value in pipeline.get_params().items() if name.endswith("n_jobs")}
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
                pytest.param("skops", {"sklearn_version": version}, rf"scikit-learn {version}, but 1\.9\.")
                for version in ("1.8.1", "2.9.1", "1.10.1")
            ),
            pytest.param("skops", {"sklearn_version": None}, "does not say which scikit-learn", id="no version"),
            pytest.param("skops", {"pickled_model": "n" * 9999}, "nnn'…: names have at most", id="long name"),
            pytest.param("skops", {"pickled_model": None}, "does not name the model's file", id="no file"),
            *(
                pytest.param("skops", {"pickled_model": name}, "names must stay in the folder", id=name)
                for name in ("../skops/model.skops", "/etc/passwd", "data/../../model.skops", "..\\model.skops")
            ),
        ],
    )
    def test_an_mlmodel_that_does_not_fit_is_refused(
        self, changed: Callable[..., str], kind: str, sklearn: dict[str, Any], message: str
    ) -> None:
        """The error names what does not fit, and both versions if it is scikit-learn's."""
        with pytest.raises(ModelError, match=message) as caught:
            load_model(changed(kind, **sklearn))
        assert len(str(caught.value)) < 1000

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
        with pytest.raises(ModelError, match=r"Stranger.*MODEL_SHA256") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["lambda", "pyfunc by value", "pyfunc gzip", "pyfunc bzip2", "pyfunc lzma"])
    @pytest.mark.parametrize(("made_by", "maker"), [("3.9.18", "Python 3.9.18"), ("", "a Python that its MLmodel")])
    def test_code_of_another_python_is_refused(
        self, changed: Callable[..., str], kind: str, made_by: str, maker: str
    ) -> None:
        """Bytecode of another Python could crash or hang the process, which no ``except`` could catch."""
        folder = changed(kind, made_by=made_by)
        pinned = digest(folder, "model.pkl") if kind == "lambda" else folder_digest(folder)
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        with pytest.raises(ModelError, match=f"compiled by {maker}.*this is Python {here},.*log the model"):
            load_model(folder, sha256=pinned)

    @pytest.mark.parametrize("pack", [lambda content: content, zlib.compress, pickle.dumps], ids=["", "zlib", "bytes"])
    def test_code_that_is_packed_in_a_pickle_is_found(self, pack: Callable[[bytes], bytes]) -> None:
        """Some libraries keep what they pickle as compressed data, or as the bytes of another pickle."""
        assert holds_code(pickle.dumps(pack(cloudpickle.dumps(lambda: 0))))
        assert not holds_code(pickle.dumps(pack(cloudpickle.dumps(Ridge()))))

    @pytest.mark.parametrize("kind", ["cloudpickle", "pickle", "pyfunc"])
    @pytest.mark.parametrize("made_by", ["3.9.18", ""])
    def test_a_pickle_without_code_loads_on_every_python(
        self, changed: Callable[..., str], kind: str, made_by: str
    ) -> None:
        """A pickle without code only names functions and classes, which every Python has."""
        folder = changed(kind, made_by=made_by)
        pinned = folder_digest(folder) if kind == "pyfunc" else digest(folder, "model.pkl")
        assert load_model(folder, sha256=pinned).predict(UNSEEN)

    def test_a_format_that_is_not_named_is_mlflows_default(self, changed: Callable[..., str]) -> None:
        """MLflow assumes pickle, which needs a pinned digest."""
        folder = changed("pickle", serialization_format=None)
        with pytest.raises(ModelError, match=r"model\.pkl, a pickle, can run any code"):
            load_model(folder)

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
