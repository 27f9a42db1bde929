"""Publish a model: prove that it serves, compare it with the live model, copy it, and make it live.

The function, the web service and the batch job load the copy if MODEL_LOCATION names it, and MODEL_SHA256 pins every
byte of it.
"""

import argparse
import os
import shlex
from collections.abc import Sequence

import msgspec
from rich.table import Table

from artifacts import ModelError
from batch.objects import split_uri
from scripts import cli
from scripts.cli import CONSOLE
from scripts.models import publishing
from scripts.models.golden_rides import golden_rides
from scripts.models.publishing import LiveComparison, Release
from scripts.models.publishing_places import LiveModel, PublishTarget, open_target
from scripts.models.publishing_proof import (
    PublishError,
    ServingProof,
    as_values,
    name_environment,
    prove_serving,
    serve_in_process,
)
from scripts.models.publishing_sources import FetchedModel, fetch, note_published
from scripts.models.tracking import MLFLOW_ERRORS
from settings import read_pin
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
    proof, values = prove(model, release)
    comparison = compare(release, live, target, options, model.sha256)
    published = copy(target, model, release, proof, comparison)
    verify(published, model, values)
    # Also if it names this model with another digest or version: people deploy what it says.
    if live is None or msgspec.structs.replace(live, published_at=published.published_at) != published:
        target.replace_live(published)
    for line in note_published(model, published.location, published.sha256, options.alias):
        show(line)
    print("\n".join(report(published)))
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
    add("--alias", metavar="NAME", default="champion", help=alias)
    return parser.parse_args()


def prove(model: FetchedModel, release: Release) -> tuple[ServingProof, list[float]]:
    """Prove that the model serves, and say so."""
    rides = golden_rides()
    proof, values = prove_serving(
        release.files, model.files, model.description, release.metadata, rides, sha256=model.sha256
    )
    largest = proof.largest_relative_difference
    difference = f"differ by at most {largest:.1g} of their value" if largest else "are the same to the last bit"
    packages = " and ".join(f"[{category}]" for category in proof.packages)
    show(f"Serves with {packages}: {proof.rides} golden rides, whose predictions here and with MLflow {difference}")
    size, peak = proof.bytes / 1e6, proof.peak_bytes / 1e6
    show(f"A cold load takes {proof.load_seconds:.2f} s and {peak:,.0f} MB; the files have {size:,.1f} MB")
    return proof, values


def compare(
    release: Release, live: LiveModel | None, target: PublishTarget, options: argparse.Namespace, sha256: str | None
) -> LiveComparison | None:
    """Compare with the model that is live. Raises PublishError if the release may not replace it."""
    if live is None or live.location == f"{target.location}/{release.folder}":
        show("No other model is live there" if live is None else "This model is live already")
        return None
    if live.target != release.metadata.target:
        raise PublishError(
            f"{live.location} is live and predicts the {live.target}, and this model predicts the"
            f" {release.metadata.target}: publish it to another place"
        )
    if not options.months:
        if not options.force:
            raise PublishError(
                f"{live.location} is live: compare with it by --months FILE, or publish without a comparison by --force"
            )
        return None
    found = publishing.compare_with_live(release, live, options.months, sha256)
    table = Table(release.metadata.unit, "live", "this model")
    for name in ("rmse", "mae"):
        table.add_row(name.upper(), *(f"{getattr(errors, name):.3f}" for errors in (found.live_errors, found.errors)))
    CONSOLE.print(table)
    verdict = found.verdict
    between = f" ({verdict.low:+.3f} to {verdict.high:+.3f})" if verdict.low > float("-inf") else ""
    show(f"{verdict.verdict} on {found.rides:,} rides: the MAE changes by {verdict.difference:+.3f}{between}")
    if verdict.verdict == "worse" and not options.force:
        raise PublishError(f"the model is worse than {live.location}, which stays live: --force publishes it anyway")
    return found


def copy(
    target: PublishTarget, model: FetchedModel, release: Release, proof: ServingProof, comparison: LiveComparison | None
) -> LiveModel:
    """Write the model's files, the manifest last, and return where it is."""
    digest = publishing.write(target, release, publishing.make_manifest(model, release, proof, comparison))
    location = f"{target.location}/{release.folder}"
    return LiveModel(location, release.version, release.metadata.target, digest, publishing.now())


def verify(published: LiveModel, model: FetchedModel, values: Sequence[float]) -> None:
    """Read everything back, and load it from there with the pin. Raises ModelError or PublishError."""
    publishing.verify(published.location, published.sha256)
    environment, rides = name_environment(model.description["flavors"]), golden_rides()
    served = serve_in_process(published.location, published.sha256, environment, rides)
    if as_values(served, rides) != values:
        raise PublishError(f"{published.location} does not predict what the model predicted before it was copied")
    show(f"Verified: {published.location} has the digest {published.sha256}, and predicts the same")


def report(published: LiveModel) -> list[str]:
    """Return the lines that say where the model is and how to use it."""
    location = shlex.quote(published.location)
    pin = f"MODEL_SHA256={published.sha256}"
    lines = [f"MODEL_LOCATION={location} {pin}"]
    if published.location.startswith("s3://"):
        bucket, path = split_uri(published.location)
        # A stack takes the model from its path or from a run, so the run that it may have is emptied.
        names = f"ModelBucket={bucket} ModelPath={shlex.quote(path)} RunId= ModelSha256={published.sha256}"
        lines.append(f"deploy it:       ./scripts/deploy {names}")
    return [
        *lines,
        f"run it:          {pin} ./scripts/run --model {location}",
        f"serve it:        {pin} ./scripts/serve --model {location}",
        f"score a month:   {pin} ./scripts/score green 2023 2 --model {location}",
    ]


def show(line: str) -> None:
    """Print a line for people."""
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)
