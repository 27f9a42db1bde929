"""Retrain: train on months of trips if there is a new one or drift, compare with the live model, and publish.

A person approves once: here, if this is a terminal; in Prefect, if PREFECT_API_URL names its server; or by running the
same command again with --approve RUN.
"""

import argparse
import os
import sys
from typing import Any

from scripts import cli, flow_runs
from scripts.cli import CONSOLE, CommandError
from scripts.models import candidates, training
from targets import DURATION, TARGETS

FLOW = "scripts.models.retraining_flow:retrain"
WAITING = 3
"""The exit code if a challenger waits for an approval."""
EPILOG = f"""\
The last fifth of the newest month measures the model, and all other rides train it. If the live model was trained on
all FILEs, and the newest month has not drifted, nothing is done. MLFLOW_TRACKING_URI names the tracking server or the
database.

exit codes: 0 published, rejected, or nothing to do; 1 an error, or the challenger is not better; {WAITING} it waits for
an approval

examples:
  retrain green_tripdata_2023-01.parquet green_tripdata_2023-02.parquet --to s3://my-models/duration
  retrain green_tripdata_2023-*.parquet --to s3://my-models/duration --approve e1efc53e9bd149078b0c12aeaa6365df
"""


def main() -> int:
    """Run the flow as the command line says, ask for the approval if this is a terminal, and return the exit code."""
    options = parse_arguments()
    parameters = {
        "files": options.file,
        "to": options.to,
        "registered_name": options.register,
        "target": options.target,
        "model": options.model,
        "approve": options.approve,
        "wait": bool(os.environ.get("PREFECT_API_URL")),
        "force": options.force,
    }
    outcome = run(parameters)
    if outcome["state"] == "waiting" and is_terminal():
        if not confirm():
            CONSOLE.print("Nothing was published", highlight=False)
            return 0
        outcome = run({**parameters, "approve": outcome["run"]})
    if outcome["state"] == "waiting":
        line = f"publish it by running the same command with --approve {outcome['run']}"
        CONSOLE.print(f"The challenger waits for an approval: {line}", highlight=False, soft_wrap=True)
        return WAITING
    if outcome["state"] == "published":
        print("\n".join(outcome["lines"]))
    else:
        CONSOLE.print(f"{outcome['state']}: {outcome['lines'][0]}", markup=False, highlight=False, soft_wrap=True)
    return 0


def run(parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the flow, and return what became of it. Raises CommandError if it failed."""
    outcome, error = flow_runs.run_flow(FLOW, parameters)
    if error:
        raise CommandError(error)
    found: dict[str, Any] = outcome
    return found


def is_terminal() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm() -> bool:
    """Ask a person on the terminal, and return whether the answer is yes."""
    try:
        return CONSOLE.input("Publish the challenger? [y/N] ", markup=False).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = cli.parser(__doc__, EPILOG)
    add = parser.add_argument
    add("file", nargs="+", metavar="FILE", help="trip record files of months, or their http(s) URLs")
    place = "where models are published: an s3://bucket/prefix URI, or a folder. Its live.json names the live model"
    add("--to", metavar="PLACE", required=True, help=place)
    add("--register", metavar="NAME", help="the name in MLflow's registry (default: ride-duration, ride-tip, ...)")
    add("--target", choices=TARGETS, default=DURATION.name, help="what the model predicts (default: %(default)s)")
    models = [*training.MODELS, candidates.BOOSTED]
    add("--model", choices=models, default=candidates.BOOSTED, help="the model to train (default: %(default)s)")
    add("--approve", metavar="RUN", help="publish the challenger of this run, which an earlier run has shown")
    force = "train without a reason, and offer a challenger that is not better than the live model"
    add("--force", action="store_true", help=force)
    return parser.parse_args()
