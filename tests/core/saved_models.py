"""Models of many kinds, saved with MLflow as its users save them."""

import datetime
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import pandas as pd
import pytest
import yaml
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor, StackingRegressor, VotingRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from features import prepare_features
from model_metadata import KEY, ModelMetadata
from rides import Ride
from scripts.models import served_flavor
from scripts.models.boosting import WITH_TIME, fit_boosted
from scripts.models.compiling import compile_pipeline
from scripts.models.training import predict_with
from sklearn_flavor import TRUSTED_TYPES

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow

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


SAVE_OPTIONS: dict[str, Any] = {
    "serialization_format": "skops",
    "skops_trusted_types": TRUSTED_TYPES,
    "pip_requirements": [],
}


def save_with_served_form(estimator: Any, sparse: bool = True) -> Callable[[str], None]:
    """Prepare to save a pipeline and its served form, as ``./scripts/train`` logs them."""

    def save(folder: str) -> None:
        pipeline = fitted(estimator, sparse)
        form = compile_pipeline(pipeline, pipeline.predict)
        options: dict[str, Any] = {
            "serialization_format": "skops",
            "skops_trusted_types": TRUSTED_TYPES,
            "pip_requirements": [],
        }
        served_flavor.save_model(pipeline, folder, mlflow.models.Model(run_id="a-run"), form, **options)

    return save


WANTS_TIME = ModelMetadata(features=WITH_TIME)
"""What the artifact of a boosted duration model says."""
FIRST_HOUR = datetime.datetime(2023, 1, 2)
"""A Monday."""
WEEK_OF_RIDES = [
    Ride(number % 7, number % 5, 1 + number % 9 / 3, FIRST_HOUR + datetime.timedelta(minutes=15 * number))
    for number in range(7 * 24 * 4)
]
"""Rides in every quarter of an hour of a week."""


def save_boosted(folder: str, metadata: ModelMetadata = WANTS_TIME) -> None:
    """Save a boosted model and its served form, as ``./scripts/train`` logs them, with the features in the metadata.

    A ride takes longer the later it is in its day and in its week: about a minute an hour, and a day as long a day.
    """
    names = metadata.features
    features = [prepare_features(ride, names) for ride in WEEK_OF_RIDES]
    durations = [5 + number // 4 + ride.trip_distance for number, ride in enumerate(WEEK_OF_RIDES)]
    # Threads that wait for each other are twenty times as slow on a busy machine.
    with threadpool_limits(1):
        pipeline = fit_boosted(features, durations, names, seed=0)
        form = compile_pipeline(pipeline, predict_with(pipeline, names), names=names)
    model = mlflow.models.Model(run_id="a-run", metadata={KEY: msgspec.to_builtins(metadata)})
    options: dict[str, Any] = {
        "serialization_format": "skops",
        "skops_trusted_types": TRUSTED_TYPES,
        "pip_requirements": [],
    }
    served_flavor.save_model(pipeline, folder, model, form, **options)


def save_frame_pipeline(folder: str) -> None:
    """Save a pipeline that was fitted on a DataFrame, with its signature."""
    frame = pd.DataFrame([prepare_features(ride) for ride in RIDES])
    one_hot = ColumnTransformer([("zones", OneHotEncoder(handle_unknown="ignore"), ["PU_DO"])], remainder="passthrough")
    # Most estimators insist on the order of the columns in which they were fitted.
    frame = frame[["trip_distance", "PU_DO"]]
    pipeline = make_pipeline(one_hot, Ridge()).fit(frame, frame["trip_distance"] * 3)
    signature = mlflow.models.infer_signature(frame, pipeline.predict(frame))
    mlflow.sklearn.save_model(pipeline, folder, signature=signature, serialization_format="skops", pip_requirements=[])


def save_with_code(serialization: str) -> Callable[[str], None]:
    """Prepare to save a pipeline whose own transformer comes along by ``code_paths``."""

    def save(folder: str) -> None:
        code = Path(folder).parent / "own_features.py"
        code.write_text(OWN_FEATURES)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(code.parent))
            own = importlib.import_module("own_features")
            pipeline = make_pipeline(own.LongTrip(), DictVectorizer(), Ridge())
            features = [prepare_features(ride) for ride in RIDES]
            mlflow.sklearn.save_model(
                pipeline.fit(features, [ride.trip_distance * 3 for ride in RIDES]),
                folder,
                serialization_format=serialization,
                skops_trusted_types=["own_features.LongTrip"],
                code_paths=[str(code)],
                pip_requirements=[],
            )
            del sys.modules["own_features"]

    return save


OWN_FEATURES = """\
from sklearn.base import BaseEstimator, TransformerMixin


class LongTrip(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return [{**ride, "long": float(ride["trip_distance"] > 10)} for ride in X]
"""


class FrameReader(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A first step that takes DataFrames, and does not keep the names of their columns."""

    def fit(self, X: Any, y: Any = None) -> "FrameReader":  # noqa: N803
        """Learn nothing."""
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Take one column."""
        return X[["trip_distance"]].to_numpy()


def save_pyfunc_by_value(compression: str = "") -> Callable[[str], None]:
    """Prepare to save a model with its class, as MLflow does if the class comes from a notebook."""

    def save(folder: str) -> None:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_LOG_MODEL_COMPRESSION", compression)
            mlflow.pyfunc.save_model(folder, python_model=Doubler(), pip_requirements=[])
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

    return save


MODELS: dict[str, Callable[[str], None]] = {
    "skops": save_sklearn("skops", Ridge()),
    "cloudpickle": save_sklearn("cloudpickle", Ridge()),
    "pickle": save_sklearn("pickle", Ridge()),
    "forest": save_sklearn("skops", RandomForestRegressor(3, n_jobs=-1), sparse=False),
    "transformed": save_sklearn("skops", TransformedTargetRegressor(RandomForestRegressor(3, n_jobs=-1)), sparse=False),
    "voting": save_sklearn("skops", VotingRegressor([("a", Ridge()), ("b", LinearRegression())])),
    "stacking": save_sklearn("skops", StackingRegressor([("a", Ridge()), ("b", LinearRegression())])),
    "grid search": save_sklearn("skops", GridSearchCV(Ridge(), {"alpha": [1, 2]})),
    "data frame": save_frame_pipeline,
    "code skops": save_with_code("skops"),
    "code cloudpickle": save_with_code("cloudpickle"),
    "lambda": save_sklearn("cloudpickle", TransformedTargetRegressor(Ridge(), func=lambda y: y, inverse_func=abs)),
    "boosted": save_sklearn("skops", HistGradientBoostingRegressor(max_iter=3), sparse=False),
    "served table": save_with_served_form(RandomForestRegressor(3, n_jobs=-1, random_state=0)),
    "pyfunc": lambda folder: mlflow.pyfunc.save_model(folder, python_model=Doubler(), pip_requirements=[]),
    "pyfunc by value": save_pyfunc_by_value(),
    **{f"pyfunc {form}": save_pyfunc_by_value(form) for form in ("gzip", "bzip2", "lzma")},
}


def copy_without_served_form(model: str, folder: Path) -> str:
    """Copy a model to a folder, as it would be without a served form; return the folder."""
    shutil.copytree(model, folder)
    description = yaml.safe_load((folder / "MLmodel").read_text())
    (folder / description["flavors"].pop("served_form")["data"]).unlink()
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    return str(folder)
