"""Publish a model: prove that it serves, compare it with the live model, copy it, and make it live.

The function, the web service and the batch job load the copy if MODEL_LOCATION names it, and MODEL_SHA256 pins every
byte of it.
"""

import argparse
import os

from rich.table import Table

from artifacts import ModelError
from scripts import cli
from scripts.cli import CONSOLE
from scripts.models import publishing, releasing
from scripts.models.publishing import LiveComparison, Release
from scripts.models.publishing_places import LiveModel, PublishTarget, open_target
from scripts.models.publishing_proof import PublishError
from scripts.models.publishing_sources import fetch, note_published
from scripts.models.tracking import MLFLOW_ERRORS
from settings import read_pin
from targets import TARGETS
from trip_cells import TripRecordError

EPILOG = """\
SOURCE is a run's id, models:/NAME@ALIAS, models:/NAME/VERSION, models:/m-ID, a folder or an s3:// URI.
MLFLOW_TRACKING_URI names the tracking server or the database. A model that can run code when it is
loaded, such as a pickle, needs its digest in MODEL_SHA256.

examples:
  publish e1efc53e9bd149078b0c12aeaa6365df --to s3://my-models/duration
  publish models:/duration@challenger --to s3://my-models/duration --months green_tripdata_2023-02.parquet
"""
EXPLAINED = (PublishError, ModelError, TripRecordError, *MLFLOW_ERRORS)


def main() -> int:
    """Publish as the command line says; print where the model is and how to use it; return the exit code."""
    options = parse_arguments()
    target = open_target(options.to)
    live = target.read_live()
    model = fetch(options.source, read_pin({name: value.strip() for name, value in os.environ.items()}))
    release = publishing.select(model)
    proof, values = releasing.prove(model, release, show)
    comparison = compare(release, live, target, options, model.sha256)
    published = releasing.copy(target, model, release, proof, comparison)
    releasing.verify(published, model, values, show)
    releasing.make_live(target, live, published)
    for line in note_published(model, published.location, published.sha256, options.alias):
        show(line)
    print("\n".join(releasing.list_commands(published)))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = cli.parser(__doc__, EPILOG)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the model: see below")
    add(
        "--to",
        metavar="PLACE",
        required=True,
        help="an s3://bucket/prefix URI, or a folder: each model has a folder below it",
    )
    months = "trip record files or URLs on which the model is compared with the live model"
    add("--months", metavar="FILE", nargs="+", default=[], help=months)
    add(
        "--force",
        action="store_true",
        help="publish a model that is worse than the live model, or was not compared with it",
    )
    alias = "the alias that moves to the version, if SOURCE is a registered model (default: %(default)s)"
    add("--alias", metavar="NAME", default=releasing.CHAMPION, help=alias)
    return parser.parse_args()


def compare(
    release: Release, live: LiveModel | None, target: PublishTarget, options: argparse.Namespace, sha256: str | None
) -> LiveComparison | None:
    """Compare with the model that is live. Raises PublishError if the release may not replace it."""
    is_same = releasing.is_live(release, live, target)
    if live is None or is_same:
        show("This model is live already" if live else "No other model is live there")
        return None
    if not options.months:
        if not options.force:
            raise PublishError(
                f"{live.location} is live: compare with it by --months FILE, or publish without a comparison by --force"
            )
        return None
    months = publishing.read_months(options.months, TARGETS[release.metadata.target])
    found = publishing.compare_with_live(release, live, months, sha256)
    table = Table(release.metadata.unit, "live", "this model")
    for name in ("rmse", "mae"):
        table.add_row(name.upper(), *(f"{getattr(errors, name):.3f}" for errors in (found.live_errors, found.errors)))
    CONSOLE.print(table)
    show(found.summary)
    if found.verdict.verdict == "worse" and not options.force:
        raise PublishError(f"the model is worse than {live.location}, which stays live: --force publishes it anyway")
    return found


def show(line: str) -> None:
    """Print a line for people."""
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
