"""Train a duration model on TLC trip records and log it with MLflow, in the form that the function loads."""

import argparse
import contextlib
import importlib.metadata
import os
import shlex
import sys
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# MLflow reads these when it is imported: no usage data, no log lines and no bars of its own among ours.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# By default it tries seven times, and takes four minutes to say that no server listens.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
import mlflow.sklearn
import numpy as np
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sqlalchemy.exc import SQLAlchemyError

from model import TRUSTED_TYPES, prepare_features
from rides import MAX_TRIP_DISTANCE, Ride
from trips import MAX_DURATION, MIN_DURATION, TripRecordError, Trips, training_trips

TRACKING_URI = "sqlite:///mlflow.db"
EXPERIMENT = "ride-duration"
HELD_OUT_SHARE = 1 / 5
SEED = 0

MODELS: dict[str, Callable[[], Any]] = {
    "linear": LinearRegression,
    "ridge": Ridge,
    "forest": lambda: RandomForestRegressor(
        n_estimators=100, max_depth=20, min_samples_leaf=10, n_jobs=-1, random_state=SEED
    ),
}
"""scikit-learn's regressors by the names that the command line knows."""

PACKAGES = ("scikit-learn", "skops")
"""What the artifact's requirements pin beside mlflow. Left alone, MLflow guesses, and names pytest among them."""

EPILOG = f"""\
Where it is logged, by MLflow's own variables:
  MLFLOW_TRACKING_URI           any tracking server or database; {TRACKING_URI} here when unset
  MLFLOW_DEFAULT_ARTIFACT_ROOT  where an experiment that is new in a database keeps its artifacts, such as
                                s3://my-models; ./mlruns when unset. A tracking server decides that by itself
  MLFLOW_S3_ENDPOINT_URL        another S3 than AWS's; AWS_ENDPOINT_URL does as well
"""

FILTERS = {"min_duration": MIN_DURATION, "max_duration": MAX_DURATION, "max_trip_distance": MAX_TRIP_DISTANCE}
"""What a run's parameters say of the rides it was trained and measured on: minutes and miles."""

MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, Boto3Error, BotoCoreError, ClientError)
"""MLflow's own, and those that it lets through from its database and from S3."""

CONSOLE = Console(stderr=True)


class TrainingError(Exception):
    """Nothing can be trained from what was given; the message is one line."""


@dataclass(frozen=True)
class Logged:
    """A run, and where the model that it logged lies: a folder or a URI."""

    experiment_id: str
    run_id: str
    model_id: str
    location: str


def main() -> None:
    """Train as the command line says, and print the run and the model's location; exit with one line on failure."""
    options = parse_arguments()
    try:
        logged = train(options)
    except (TrainingError, TripRecordError, *MLFLOW_ERRORS) as error:
        sys.exit(f"train: {' '.join(str(error).split())}")
    print("\n".join(report(logged, os.environ)))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="train", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file", metavar="FILE", help="green or yellow taxi trip records: a parquet file, or the http(s) URL of one"
    )
    parser.add_argument(
        "--validate",
        metavar="FILE",
        help="the file or URL to measure the model on; without it, a fifth of FILE's rides are held out for that",
    )
    parser.add_argument("--model", choices=MODELS, default="linear", help="the regressor (default: %(default)s)")
    parser.add_argument(
        "--min-pair-count",
        type=positive,
        default=1,
        metavar="N",
        help="know only the pairs of zones that occur N times or more, and predict the others from their distance"
        " alone: the model gets smaller and a little worse (default: %(default)s, all pairs)",
    )
    parser.add_argument(
        "--experiment", metavar="NAME", default=EXPERIMENT, help="MLflow's experiment (default: %(default)s)"
    )
    return parser.parse_args()


def positive(text: str) -> int:
    """Return the positive integer that an option was given. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def train(options: argparse.Namespace) -> Logged:
    """Read, fit, measure and log.

    Raises:
        TrainingError: where the files leave nothing to train on, or the experiment keeps its artifacts elsewhere.
        TripRecordError: where a file cannot be read.
        MlflowException and the others of MLFLOW_ERRORS: where MLflow, its database or its bucket fails.
    """
    training, validation = read(options.file, options.validate)
    with stage("Opening MLflow"):
        experiment_id = open_experiment(options.experiment)
    estimator = MODELS[options.model]()
    pipeline = fit(estimator, features(training.rides, options.min_pair_count), training.durations)
    errors = measure(pipeline, training.durations, validation)
    show(errors)
    with stage("Logging to MLflow"), mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_params({**FILTERS, "min_pair_count": options.min_pair_count, "estimator": str(estimator)})
        mlflow.log_metrics({**errors, **counts("training", training), **counts("validation", validation)})
        mlflow.set_tags({"model": options.model, **data_names(options.file, options.validate)})
        model = log_model(pipeline)
    return Logged(experiment_id, run.info.run_id, model.model_id, model.artifact_path)


def read(file: str, validate: str | None) -> tuple[Trips, Trips]:
    """Return the rides to train on and those to measure on: the second file's, or some held out of the first."""
    trips = _read_some(file)
    if validate is not None:
        return trips, _read_some(validate)
    rides, held_rides, durations, held_durations = train_test_split(
        trips.rides, trips.durations, test_size=HELD_OUT_SHARE, random_state=SEED
    )
    return Trips(rides, durations, trips.left_out), Trips(held_rides, held_durations, 0)


def _read_some(file: str) -> Trips:
    trips = training_trips(file)
    CONSOLE.print(f"{Path(file).name}: {len(trips.rides):,} rides, {trips.left_out:,} rows left out", highlight=False)
    if len(trips.rides) < 2:
        raise TrainingError(
            f"{file}: of its rides fewer than 2 last {MIN_DURATION} to {MAX_DURATION} minutes"
            f" and go at most {MAX_TRIP_DISTANCE:g} miles"
        )
    return trips


def features(rides: Sequence[Ride], min_pair_count: int) -> Iterator[Mapping[str, Any]]:
    """Yield each ride's features, without the pair of zones where it occurs fewer than ``min_pair_count`` times.

    A pair that the vectorizer has not learned adds nothing to what it knows of the distance. A ride without its pair
    looks the same, so these rides teach the model what to answer for a pair that it does not know.
    """
    seen = Counter(prepare_features(ride)["PU_DO"] for ride in rides)
    for ride in rides:
        pair_and_distance = prepare_features(ride)
        if seen[pair_and_distance["PU_DO"]] >= min_pair_count:
            yield pair_and_distance
        else:
            yield {"trip_distance": pair_and_distance["trip_distance"]}


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


def grow(
    forest: RandomForestRegressor, matrix: Any, durations: Sequence[float], show_progress: Callable[[int, int], None]
) -> None:
    """Fit the forest a few trees at a time, so that progress shows; its trees are those that one fit would make."""
    wanted, step = forest.n_estimators, os.cpu_count() or 1
    forest.set_params(warm_start=True)
    for trees in [*range(step, wanted, step), wanted]:
        forest.set_params(n_estimators=trees).fit(matrix, durations)
        show_progress(trees, wanted)
    forest.set_params(warm_start=False)


def measure(pipeline: Any, training_durations: Sequence[float], validation: Trips) -> dict[str, float]:
    """Return the errors in minutes on the validation rides: the pipeline's, and those of the training rides' mean."""
    predicted = pipeline.predict([prepare_features(ride) for ride in validation.rides])
    mean = np.full(len(validation.rides), np.mean(training_durations))
    return {
        "rmse": root_mean_squared_error(validation.durations, predicted),
        "mae": mean_absolute_error(validation.durations, predicted),
        "mean_rmse": root_mean_squared_error(validation.durations, mean),
        "mean_mae": mean_absolute_error(validation.durations, mean),
    }


def counts(name: str, trips: Trips) -> dict[str, int]:
    """Return how many of the rows were used and how many left out, under names that begin with ``name``."""
    return {f"{name}_rides": len(trips.rides), f"{name}_left_out": trips.left_out}


def data_names(file: str, validate: str | None) -> dict[str, str]:
    """Return what the run is tagged with: the names of its files, without their folders."""
    held_out = "a fifth of the training data, held out"
    return {"training_data": Path(file).name, "validation_data": Path(validate).name if validate else held_out}


def log_model(pipeline: Any) -> Any:
    """Log the pipeline with the run that is open, as skops, and return MLflow's description of it."""
    return mlflow.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=TRUSTED_TYPES,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
    )


def open_experiment(name: str) -> str:
    """Return the id of the experiment, created where it is new.

    Of MLFLOW_DEFAULT_ARTIFACT_ROOT only ``mlflow server`` takes notice, which gives an experiment the folder of its id
    in it. The same is done here for a database that no server stands before.

    Raises:
        TrainingError: where the experiment is there already and keeps its artifacts under another root.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    mlflow.set_tracking_uri(uri)
    if root and uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        store = SqlAlchemyStore(uri, root)
        experiment = store.get_experiment_by_name(name)
        if experiment is None:
            store.create_experiment(name)
        elif not experiment.artifact_location.startswith(f"{store.artifact_root_uri.rstrip('/')}/"):
            raise TrainingError(
                f"the experiment {name} keeps its artifacts in {experiment.artifact_location}, which cannot be changed:"
                f" name another with --experiment to have them in {root}"
            )
    experiment_id: str = mlflow.set_experiment(name).experiment_id
    return experiment_id


@contextlib.contextmanager
def stage(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show the text, a bar and a clock while the block runs, which is given a function to say how much of how much."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=CONSOLE) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        progress.update(task, completed=1, total=1)


def show(metrics: Mapping[str, float]) -> None:
    """Print the errors as a table, on stderr."""
    table = Table("minutes", "the model", "the mean")
    table.add_row("RMSE", f"{metrics['rmse']:.3f}", f"{metrics['mean_rmse']:.3f}")
    table.add_row("MAE", f"{metrics['mae']:.3f}", f"{metrics['mean_mae']:.3f}")
    CONSOLE.print(table)


def report(logged: Logged, environment: Mapping[str, str]) -> list[str]:
    """Return the lines that say what was logged where, and what to do next."""
    location = as_path(logged.location)
    lines = [f"run id:          {logged.run_id} (experiment {logged.experiment_id})", f"model location:  {location}"]
    if not location.startswith(("/", "s3://")):
        download = f"./scripts/environment training -- mlflow artifacts download -u models:/{logged.model_id} -d model"
        return [
            *lines,
            "the function reads folders and s3:// URIs: fetch the model into a folder first, with",
            download,
        ]
    settings = {"TEST_RUN": "True", "MODEL_LOCATION": location}
    if location.startswith("s3://") and "MLFLOW_S3_ENDPOINT_URL" in environment:
        # The function's S3 client does not know MLflow's variable.
        settings["AWS_ENDPOINT_URL_S3"] = environment["MLFLOW_S3_ENDPOINT_URL"]
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return [*lines, f"try it:          {assignments} ./scripts/invoke events/kinesis-one.json"]


def as_path(location: str) -> str:
    """Return the path of a ``file:`` URI, and anything else as it is."""
    if not location.startswith("file:"):
        return location
    return urllib.request.url2pathname(urllib.parse.urlsplit(location).path)


if __name__ == "__main__":
    main()
