"""Train a model on months of TLC trip records, compare it with other models, and log it with MLflow."""

import argparse
import os
import shlex
from collections.abc import Mapping

from rich.table import Table

from scripts import cli
from scripts.models import candidates, months, runs, tracking, training
from scripts.models.candidates import BOOSTED, BOOSTED_WITHOUT_TIME
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm
from scripts.models.evaluation import Evaluation
from scripts.models.months import RideSet
from scripts.models.runs import LoggedRun
from targets import DURATION, TARGETS
from trip_cells import TripRecordError

EPILOG = f"""\
the rides are split by time, because a model predicts later rides than it was trained on:
  with --validate       all FILEs train, and the other files measure
  with several months   the last month measures. The month of a file is that of its median pickup
  with one month        the last fifth of the rides measures
Clocks that were never set, and say 2008 for example, do not matter: if fewer than one ride in a thousand has its pickup
in a month, these rides train and measure like others, but the printed pickups and the baseline leave them out.

The table compares all models. If the forest is not the model to log, it learns from at most
{candidates.MOST_FOREST_RIDES:,} rides, drawn at random.

MLflow's own variables say where the model is logged:
  MLFLOW_TRACKING_URI           a tracking server or a database (default: {tracking.TRACKING_URI}, in this folder)
  MLFLOW_DEFAULT_ARTIFACT_ROOT  where a new experiment in a database keeps its artifacts, such as s3://my-models
                                (default: ./mlruns). A tracking server has its own setting for this
  MLFLOW_S3_ENDPOINT_URL        an S3 other than AWS's; AWS_ENDPOINT_URL does the same

examples:
  train green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet
  train green_tripdata_2023-*.parquet --target tip --register ride-tips
  train green_tripdata_2023-01.parquet --model ridge --min-pair-count 8 --alone
"""
EXPLAINED = (months.TrainingError, tracking.TrackingError, TripRecordError, *tracking.MLFLOW_ERRORS)


def main() -> int:
    """Train as the command line says, print the run and the model's location, and return the exit code."""
    options = parse_arguments()
    if options.register:
        with training.stage("Asking MLflow's registry"):
            tracking.check_registry(options.register, options.alias)
    target = TARGETS[options.target]
    rides, validation = months.read_months(options.file, options.validate, target)
    show_rides("train on", rides)
    show_rides("measure on", validation)
    with training.stage("Opening MLflow"):
        experiment_id = tracking.open_experiment(options.experiment or f"ride-{target.name}")
    chosen = BOOSTED_WITHOUT_TIME if options.without_time and options.model == BOOSTED else options.model
    names = [chosen] if options.alone else candidates.MODELS
    result = candidates.compare(chosen, names, rides, validation, target, options.min_pair_count)
    show_errors(result.evaluation)
    logged = runs.log_run(experiment_id, result)
    print("\n".join(report(logged, os.environ)))
    if options.register:
        # Last, so that a run that failed is never registered, and the lines above are printed if this fails.
        version = tracking.register(logged.model_id, options.register, options.alias)
        print(f"registered as:   {options.register}, version {version}, alias {options.alias}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EPILOG)
    add = parser.add_argument
    file = "trip records of green or yellow taxis: parquet files, or their http(s) URLs"
    add("file", nargs="+", metavar="FILE", help=file)
    validate = "measure the models on these files or URLs (default: on the last rides of the FILEs)"
    add("--validate", nargs="+", default=[], metavar="FILE", help=validate)
    add("--target", choices=TARGETS, default=DURATION.name, help="what the model predicts (default: %(default)s)")
    models = [*training.MODELS, BOOSTED]
    add("--model", choices=models, default=BOOSTED, help="the model to log (default: %(default)s)")
    add("--without-time", action="store_true", help="log the boosted model that does not use the time of the pickup")
    add("--alone", action="store_true", help="train only the model to log: the table has no other models")
    pairs = (
        "in linear, ridge and forest, learn only pairs of zones that N rides or more have, and predict rides of other"
        " pairs from their distance alone: this makes the model smaller and a little worse (default: %(default)s, all"
        " pairs)"
    )
    add("--min-pair-count", type=cli.count, default=1, metavar="N", help=pairs)
    add("--experiment", metavar="NAME", help="MLflow's experiment (default: ride-duration, ride-tip, ...)")
    register = "register the model as the next version of this name in MLflow's registry"
    add("--register", metavar="NAME", help=register)
    alias = "the alias that the registered version gets (default: %(default)s)"
    add("--alias", default="challenger", metavar="ALIAS", help=alias)
    return parser.parse_args()


def show_rides(purpose: str, rides: RideSet) -> None:
    """Print which rides train or measure, on stderr."""
    odd = len(rides.rides) - int(rides.is_usual.sum())
    others = f", and {odd:,} of other months" if odd else ""
    span = f"{rides.first} to {rides.last}".replace("T", " ")
    text = f"{purpose:<10} {len(rides.rides):,} rides: {span}{others}; {', '.join(rides.files)}"
    cli.CONSOLE.print(cli.printable(text), markup=False, highlight=False, soft_wrap=True)


def show_errors(evaluation: Evaluation) -> None:
    """Print the errors of all models as a table, on stderr. A star marks the model to log."""
    table = Table(evaluation.target.unit, "RMSE", "MAE")
    for name, errors in evaluation.table.items():
        is_chosen = name == evaluation.model
        row = (f"{name} *" if is_chosen else name, f"{errors.rmse:.3f}", f"{errors.mae:.3f}")
        table.add_row(*row, style="bold" if is_chosen else None)
    cli.CONSOLE.print(table)
    cli.CONSOLE.print(f"* the model to log: {evaluation.target.name} in {evaluation.target.unit}", highlight=False)


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
    location = logged.location
    lines = [
        f"run id:          {logged.run_id} (experiment {logged.experiment_id})",
        f"model location:  {location}",
        f"model card:      {logged.card}",
        f"served form:     {describe(logged.served_form)}",
    ]
    publish = f"publish it:      ./scripts/publish {logged.run_id} --to s3://…"
    if not location.startswith(("/", "s3://")):
        note = "the function reads folders and s3:// URIs: publish the model, or fetch it into a folder first, with"
        fetch = f"./scripts/environment training -- mlflow artifacts download -u models:/{logged.model_id} -d model"
        return [*lines, publish, note, fetch]
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
        publish,
    ]
