"""Training a duration model: reading rides, fitting, measuring, and logging the model with MLflow."""

import contextlib
import importlib.metadata
import os
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

# MLflow reads these variables when it is imported. They switch off usage data, and its own log lines and progress bars.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow's default is seven retries, which take four minutes if the tracking server does not listen.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
import mlflow.pyfunc
import mlflow.sklearn
import msgspec
import numpy as np
import pandas as pd
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.types import ColSpec, DataType, Schema
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sqlalchemy.exc import SQLAlchemyError

from features import PAIR_AND_DISTANCE, SAMPLE_RIDE, prepare_features
from model_metadata import KEY, NO_METADATA, ModelMetadata
from rides import MAX_TRIP_DISTANCE, Ride
from scripts import cli
from scripts.models import served_flavor
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm, compile_pipeline
from scripts.models.proving import Predict
from scripts.sources.download import open_trips
from sklearn_flavor import TRUSTED_TYPES
from targets import DURATION
from trips import Trips, training_trips

TRACKING_URI = "sqlite:///mlflow.db"
HELD_OUT_SHARE = 1 / 5
SEED = 0

DEFAULT_MODEL = "ridge"
"""On February 2023 its errors are smaller than the linear model's. The forest's RMSE is 0.3 % smaller still, but the
forest takes a hundred times as long to train, and its skops file is four times as large."""
MODELS: dict[str, Callable[[], Any]] = {
    "linear": LinearRegression,
    "ridge": Ridge,
    "forest": lambda: RandomForestRegressor(
        n_estimators=100, max_depth=20, min_samples_leaf=10, n_jobs=-1, random_state=SEED
    ),
}
"""scikit-learn's regressors by their names on the command line."""
PACKAGES = ("scikit-learn", "skops")
"""The artifact's requirements beside mlflow. Without this list MLflow guesses, and adds packages such as pytest."""
FILTERS = {"min_duration": DURATION.least, "max_duration": DURATION.most, "max_trip_distance": MAX_TRIP_DISTANCE}
"""The run's parameters about the rides that it was trained and measured on, in minutes and miles."""
MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, Boto3Error, BotoCoreError, ClientError)
"""MLflow's own exceptions, and those of its database and of S3 that it does not catch."""


ShowProgress: TypeAlias = Callable[[int, int], None]
"""Takes the steps done and their total."""


class TrainingError(Exception):
    """A model cannot be trained from these files, or logged to this experiment; the message is one line."""


@dataclass(frozen=True)
class LoggedRun:
    """A run and the location of the model that it logged: a folder or a URI."""

    experiment_id: str
    run_id: str
    model_id: str
    location: str
    served_form: ServedForm | NotUnderstoodError
    """The model's served form, or why it has none."""


def read_trips(file: str, validate: str | None) -> tuple[Trips, Trips]:
    """Return the rides to train on, and those to measure on: of the second file, or else held out of the first.

    Raises TrainingError if a file has fewer than two rides, and TripRecordError if it cannot be read.
    """
    trips = _read_file(file)
    if validate is not None:
        return trips, _read_file(validate)
    rides, held_rides, durations, held_durations = train_test_split(
        trips.rides, trips.values, test_size=HELD_OUT_SHARE, random_state=SEED
    )
    return Trips(rides, durations, trips.left_out), Trips(held_rides, held_durations, 0)


def _read_file(file: str) -> Trips:
    with open_trips(file) as path:
        trips = training_trips(path)
    text = f"{Path(file).name}: {len(trips.rides):,} rides, {trips.left_out:,} rows left out"
    cli.CONSOLE.print(text, highlight=False)
    if len(trips.rides) < 2:
        raise TrainingError(
            f"{file}: of its rides fewer than 2 last {DURATION.least:g} to {DURATION.most:g} minutes"
            f" and go at most {MAX_TRIP_DISTANCE:g} miles"
        )
    return trips


def fit(estimator: Any, training: Iterable[Mapping[str, Any]], durations: Sequence[float]) -> Any:
    """Return a pipeline of a DictVectorizer and the estimator, fitted to the durations in minutes."""
    vectorizer = DictVectorizer()
    with stage(f"Fitting {type(estimator).__name__}") as show_progress:
        matrix = vectorizer.fit_transform(training)
        if isinstance(estimator, RandomForestRegressor):
            grow(estimator, matrix, durations, show_progress)
        else:
            estimator.fit(matrix, durations)
    return make_pipeline(vectorizer, estimator)


def features(rides: Iterable[Ride], min_pair_count: int) -> Iterator[Mapping[str, Any]]:
    """Yield the features of each ride, without its pair of zones if fewer than ``min_pair_count`` rides have that pair.

    The vectorizer ignores a pair that it has not seen. So a ride without its pair looks like a ride of an unknown pair,
    and teaches the model what to predict for those.
    """
    every = [prepare_features(ride) for ride in rides]
    times = Counter(one["PU_DO"] for one in every)
    for one in every:
        yield one if times[one["PU_DO"]] >= min_pair_count else {"trip_distance": one["trip_distance"]}


def grow(forest: RandomForestRegressor, matrix: Any, durations: Sequence[float], show_progress: ShowProgress) -> None:
    """Fit a forest a few trees at a time, to show progress; the trees are the same as those of a single fit."""
    wanted, step = forest.n_estimators, os.cpu_count() or 1
    forest.set_params(warm_start=True)
    for trees in [*range(step, wanted, step), wanted]:
        forest.set_params(n_estimators=trees).fit(matrix, durations)
        show_progress(trees, wanted)
    forest.set_params(warm_start=False)


def measure(
    pipeline: Any, training_durations: Sequence[float], validation: Trips, names: Sequence[str] = PAIR_AND_DISTANCE
) -> dict[str, float]:
    """Return the errors on the validation rides in minutes: the pipeline's, and those of the training rides' mean."""
    predicted = predict_with(pipeline, names)([prepare_features(ride, names) for ride in validation.rides])
    mean = np.full(len(validation.rides), np.mean(training_durations))
    return {
        "rmse": root_mean_squared_error(validation.values, predicted),
        "mae": mean_absolute_error(validation.values, predicted),
        "mean_rmse": root_mean_squared_error(validation.values, mean),
        "mean_mae": mean_absolute_error(validation.values, mean),
    }


def open_experiment(name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    MLflow itself reads MLFLOW_DEFAULT_ARTIFACT_ROOT only in ``mlflow server``, which gives an experiment the folder of
    its id below that root. This function does the same for a database without a server. It raises TrainingError if the
    experiment exists and keeps its artifacts below another root.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    with stage("Opening MLflow"):
        mlflow.set_tracking_uri(uri)
        if root and uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
            store = SqlAlchemyStore(uri, root)
            experiment = store.get_experiment_by_name(name)
            if experiment is None:
                store.create_experiment(name)
            elif not experiment.artifact_location.startswith(f"{store.artifact_root_uri.rstrip('/')}/"):
                raise TrainingError(
                    f"the experiment {name} keeps its artifacts in {experiment.artifact_location}, which cannot be"
                    f" changed: name another with --experiment to have them in {root}"
                )
        experiment_id: str = mlflow.set_experiment(name).experiment_id
    return experiment_id


def log_run(
    experiment_id: str,
    pipeline: Any,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: dict[str, str],
    metadata: ModelMetadata = NO_METADATA,
) -> LoggedRun:
    """Log a run with its parameters, metrics, tags and model; the model is in the form that the function loads."""
    with stage("Compiling the served form") as show_progress:
        served_form = compile_served_form(pipeline, metadata.features, show_progress)
    with stage("Logging to MLflow"), mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_params({**FILTERS, **parameters, "estimator": str(pipeline[-1])})
        mlflow.log_metrics(dict(metrics))
        mlflow.set_tags(tags)
        model = log_model(pipeline, served_form if isinstance(served_form, ServedForm) else None, metadata)
    return LoggedRun(experiment_id, run.info.run_id, model.model_id, model.artifact_path, served_form)


def predict_with(pipeline: Any, names: Sequence[str]) -> Predict:
    """Return the pipeline's predictions for features: some pipelines take a DataFrame, and others take dictionaries."""
    if not hasattr(pipeline, "feature_names_in_"):
        predict: Predict = pipeline.predict
        return predict
    return lambda features: pipeline.predict(pd.DataFrame(list(features), columns=list(names)))


def compile_served_form(
    pipeline: Any, names: Sequence[str], show_progress: ShowProgress
) -> ServedForm | NotUnderstoodError:
    """Return the pipeline's served form, or the error that says why it has none."""
    try:
        return compile_pipeline(pipeline, predict_with(pipeline, names), show_progress, names)
    except NotUnderstoodError as error:
        return error


def log_model(pipeline: Any, served_form: ServedForm | None, metadata: ModelMetadata = NO_METADATA) -> Any:
    """Log the pipeline with the run that is open, as skops and as its served form; return MLflow's description of it.

    Most pipelines take a list of dictionaries. MLflow's server makes a DataFrame of every request, and turns it into a
    list of dictionaries again if the signature says that the input must look like the example.
    """
    sample = prepare_features(SAMPLE_RIDE, metadata.features)
    types = [DataType.string if isinstance(value, str) else DataType.double for value in sample.values()]
    columns = [ColSpec(kind, name) for kind, name in zip(types, sample, strict=True)]
    signature = ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec(DataType.double)]))
    example: Any = [dict(sample)]
    if hasattr(pipeline, "feature_names_in_"):
        example = pd.DataFrame(example)
    else:
        mlflow.pyfunc.update_signature_for_type_hint_from_example(example, signature)
    return Model.log(
        artifact_path=None,
        flavor=served_flavor,
        sk_model=pipeline,
        served_form=served_form,
        name="model",
        signature=signature,
        input_example=example,
        metadata={KEY: msgspec.to_builtins(metadata)},
        serialization_format="skops",
        skops_trusted_types=TRUSTED_TYPES,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
    )


def as_path(location: str) -> str:
    """Return the path of a ``file:`` URI, and any other location as it is."""
    uri = urllib.parse.urlsplit(location)
    return urllib.request.url2pathname(uri.path) if uri.scheme == "file" else location


@contextlib.contextmanager
def stage(text: str) -> Iterator[ShowProgress]:
    """Show a progress bar during the block, which is given a function that moves it."""
    with cli.progress_bar("steps") as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        steps = progress.tasks[0].total or 1
        progress.update(task, completed=steps, total=steps)
