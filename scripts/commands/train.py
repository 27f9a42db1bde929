"""Train a duration model on TLC trip records and log it with MLflow, in the form that the function loads."""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from features import PAIR_AND_DISTANCE, prepare_features
from model_metadata import ModelMetadata
from scripts import cli
from scripts.models import boosting, training
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm
from scripts.models.training import LoggedRun
from trip_cells import TripRecordError
from trips import Trips

EPILOG = f"""\
MLflow's own variables say where the model is logged:
  MLFLOW_TRACKING_URI           a tracking server or a database (default: {training.TRACKING_URI}, in this folder)
  MLFLOW_DEFAULT_ARTIFACT_ROOT  where a new experiment in a database keeps its artifacts, such as s3://my-models
                                (default: ./mlruns). A tracking server has its own setting for this
  MLFLOW_S3_ENDPOINT_URL        an S3 other than AWS's; AWS_ENDPOINT_URL does the same

examples:
  train green_tripdata_2023-01.parquet --validate green_tripdata_2023-02.parquet
  train green_tripdata_2023-01.parquet --min-pair-count 8
"""
EXPLAINED = (training.TrainingError, TripRecordError, *training.MLFLOW_ERRORS)


def main() -> int:
    """Train as the command line says, print the run and the model's location, and return the exit code."""
    options = parse_arguments()
    trips, validation = training.read_trips(options.file, options.validate)
    experiment_id = training.open_experiment(options.experiment)
    names: Sequence[str] = PAIR_AND_DISTANCE
    if options.model == "boosted":
        names = boosting.WITHOUT_TIME if options.without_time else boosting.WITH_TIME
        prepared = [prepare_features(ride, names) for ride in trips.rides]
        pipeline = boosting.fit_boosted(prepared, trips.values, names, training.SEED)
    else:
        estimator = training.MODELS[options.model]()
        features = training.features(trips.rides, options.min_pair_count)
        pipeline = training.fit(estimator, features, trips.values)
    errors = training.measure(pipeline, trips.values, validation, names)
    show(errors)
    metrics = {**errors, **counts("training", trips), **counts("validation", validation)}
    held_out = "a fifth of the training data, held out"
    # Names without folders: a run may be seen by others than whoever trained it.
    validated_on = Path(options.validate).name if options.validate else held_out
    tags = {"model": options.model, "training_data": Path(options.file).name, "validation_data": validated_on}
    logged = training.log_run(
        experiment_id,
        pipeline,
        {"min_pair_count": options.min_pair_count},
        metrics,
        tags,
        ModelMetadata(features=tuple(names)),
    )
    print("\n".join(report(logged, os.environ)))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EPILOG)
    add = parser.add_argument
    add("file", metavar="FILE", help="trip records of green or yellow taxis: a parquet file, or its http(s) URL")
    add("--validate", metavar="FILE", help="measure the model on this file or URL (default: a fifth of FILE's rides)")
    add(
        "--model",
        choices=[*training.MODELS, "boosted"],
        default=training.DEFAULT_MODEL,
        help="the regressor (default: %(default)s)",
    )
    add("--without-time", action="store_true", help="train the boosted model without the pickup's time")
    pairs = (
        "learn only pairs of zones that N rides or more have, and predict rides of other pairs from their distance"
        " alone: this makes the model smaller and a little worse (default: %(default)s, all pairs)"
    )
    add("--min-pair-count", type=cli.count, default=1, metavar="N", help=pairs)
    add("--experiment", metavar="NAME", default="ride-duration", help="MLflow's experiment (default: %(default)s)")
    return parser.parse_args()


def counts(name: str, trips: Trips) -> dict[str, int]:
    """Return the metrics that count the rows used and left out; their names begin with ``name``."""
    return {f"{name}_rides": len(trips.rides), f"{name}_left_out": trips.left_out}


def show(errors: Mapping[str, float]) -> None:
    """Print the errors as a table, on stderr."""
    table = Table("minutes", "the model", "the mean")
    for name in ("rmse", "mae"):
        table.add_row(name.upper(), f"{errors[name]:.3f}", f"{errors[f'mean_{name}']:.3f}")
    cli.CONSOLE.print(table)


def describe(served_form: ServedForm | NotUnderstoodError) -> str:
    """Return the line about a model's served form, or about why it has none."""
    if isinstance(served_form, NotUnderstoodError):
        return f"none, so scikit-learn serves the model: {served_form}"
    largest = served_form.proof.largest_relative_difference
    difference = f"differ by at most {largest:.1g} of their value" if largest else "are the same to the last bit"
    size = f"{len(served_form.content) / 1e3:,.0f} KB"
    return f"{served_form.kind}, {size}, whose predictions for {served_form.proof.rides:,} rides {difference}"


def report(logged: LoggedRun, environment: Mapping[str, str]) -> list[str]:
    """Return the lines that say where the model is and how to use it."""
    location = training.as_path(logged.location)
    lines = [
        f"run id:          {logged.run_id} (experiment {logged.experiment_id})",
        f"model location:  {location}",
        f"served form:     {describe(logged.served_form)}",
    ]
    if not location.startswith(("/", "s3://")):
        note = "the function reads folders and s3:// URIs: fetch the model into a folder first, with"
        fetch = f"./scripts/environment training -- mlflow artifacts download -u models:/{logged.model_id} -d model"
        return [*lines, note, fetch]
    variables = ""
    if location.startswith("s3://") and "MLFLOW_S3_ENDPOINT_URL" in environment:
        # boto3 does not know MLflow's variable.
        variables = f"AWS_ENDPOINT_URL_S3={shlex.quote(environment['MLFLOW_S3_ENDPOINT_URL'])} "
    model = f"--model {shlex.quote(location)}"
    return [
        *lines,
        f"try it:          {variables}./scripts/invoke {model} events/kinesis-one.json",
        f"run it:          {variables}./scripts/run {model}",
        f"serve it:        {variables}./scripts/serve {model}",
        f"score a month:   {variables}./scripts/score green 2023 2 {model}",
    ]
