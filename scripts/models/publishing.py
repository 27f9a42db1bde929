"""Publishing a model: what is copied, how it is judged against the model that is live, and its manifest."""

import datetime
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from artifacts import MLMODEL, ModelError
from digests import MANIFEST, FileDigest, FileList, digest_of, digest_of_files, open_pinned
from model import Model, describe_model, load_model
from model_metadata import ModelMetadata
from scripts.models.evaluation import Errors, measure_errors
from scripts.models.months import RideSet
from scripts.models.publishing_places import LiveModel, PublishTarget
from scripts.models.publishing_proof import PublishError, ServingProof, write_files
from scripts.models.publishing_sources import FetchedModel
from scripts.models.verdicts import Verdict, judge
from scripts.sources.download import open_trips
from served.arrays import Floats
from served.forms import FLAVOR
from settings import read_time_zone
from targets import Target
from trips import training_trips

DIGITS = 12
"""The digits of the files' digest in the name of a published model's folder."""
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A version that can be part of a folder's name. MLflow's run ids are."""


@dataclass(frozen=True)
class Release:
    """A model to publish."""

    version: str
    metadata: ModelMetadata
    files: Mapping[str, bytes]
    """The files to copy, without the manifest."""

    @property
    def folder(self) -> str:
        """The name of its folder, which is the same whenever the same files are published."""
        return f"{self.version}-{digest_of_files(self.files)[:DIGITS]}"


class LiveComparison(msgspec.Struct, frozen=True):
    """The errors of the model that was live and of the published model, on the same rides."""

    live: str
    """The location of the model that was live."""
    months: list[str]
    """The names of the files, without folders."""
    rides: int
    live_errors: Errors
    errors: Errors
    verdict: Verdict

    @property
    def summary(self) -> str:
        """The verdict in one line."""
        verdict = self.verdict
        between = f" ({verdict.low:+.3f} to {verdict.high:+.3f})" if verdict.low > float("-inf") else ""
        return f"{verdict.verdict} on {self.rides:,} rides: the MAE changes by {verdict.difference:+.3f}{between}"


def select(model: FetchedModel) -> Release:
    """Return the model with the files that the services read.

    Of a model with a served form, these are the MLmodel file, the form's file and the baseline. Any other model is
    copied whole. Raises PublishError if a file is missing, and ModelError if the model cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), model.files)
        found = describe_model(folder)
    if not VERSION.fullmatch(found.version):
        raise PublishError(f"{model.origin}: its version {found.version!r} cannot be part of a folder's name")
    files = {name: content for name, content in model.files.items() if name != MANIFEST}
    form, baseline = model.description["flavors"].get(FLAVOR), found.metadata.baseline
    wanted = [baseline.file] if baseline else []
    wanted += [MLMODEL, str(form.get("data"))] if isinstance(form, dict) else []
    if missing := sorted(set(wanted) - set(files)):
        raise PublishError(f"{model.origin}: its {MLMODEL} names {missing[0]}, which is not there: log it again")
    if baseline and digest_of(files[baseline.file]) != baseline.sha256:
        raise PublishError(f"{model.origin}: {baseline.file} is not the file that its {MLMODEL} names: log it again")
    if isinstance(form, dict):
        files = {name: files[name] for name in sorted(set(wanted))}
    return Release(found.version, found.metadata, files)


def read_months(files: Sequence[str], target: Target) -> RideSet:
    """Return the rides of some months, to compare models on. Raises PublishError if there are none."""
    zone = read_time_zone(os.environ)
    rides, values, left_out = [], list[float](), 0
    for file in files:
        with open_trips(file) as path:
            trips = training_trips(path, target, zone)
        rides += trips.rides
        values += trips.values
        left_out += trips.left_out
    if not rides:
        raise PublishError(f"{', '.join(files)}: no rides to compare the models with: give other months")
    return RideSet(tuple(Path(file).name for file in files), rides, np.array(values), left_out)


def compare_with_live(release: Release, live: LiveModel, months: RideSet, sha256: str | None) -> LiveComparison:
    """Measure the live model and the release on the same rides. Raises PublishError if that is not possible."""
    live_model = load_live(live)
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), release.files)
        pin = digest_of_files(release.files) if sha256 else None
        model = load_model(folder, sha256=pin, time_zone=read_time_zone(os.environ))
        ours = _predict(model, months.rides, "the model to publish")
    theirs, actual = _predict(live_model, months.rides, live.location), months.values
    return LiveComparison(
        live.location,
        list(months.files),
        len(months.rides),
        measure_errors(actual, theirs),
        measure_errors(actual, ours),
        judge(theirs - actual, ours - actual),
    )


def load_live(live: LiveModel) -> Model:
    """Load the live model. Raises PublishError if that is not possible without running its code.

    Whoever can write to the bucket can write the model's digest too.
    """
    try:
        artifact, _ = open_pinned(live.location, live.sha256)
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), artifact.read_all())
            return load_model(folder, time_zone=read_time_zone(os.environ))
    except ModelError as error:
        hint = "--force publishes without a comparison"
        raise PublishError(f"the live model in {live.location} cannot be compared: {error}: {hint}") from error


def _predict(model: Model, rides: Sequence[Any], name: str) -> Floats:
    predicted = model.predict(rides)
    values = [value for value in predicted if isinstance(value, float)]
    if len(values) < len(rides):
        reason = next(value for value in predicted if not isinstance(value, float))
        raise PublishError(f"{name} has no value for {len(rides) - len(values):,} of {len(rides):,} rides: {reason}")
    return np.array(values)


def write(target: PublishTarget, release: Release, manifest: Mapping[str, Any]) -> str:
    """Write the files and the manifest, which comes last; return the digest of the whole folder. Raises PublishError.

    A publish that was killed is completed. The manifest of an earlier publish of these files stays as it is.
    """
    folder = release.folder
    files = {name: FileDigest(len(content), digest_of(content)) for name, content in release.files.items()}
    content = msgspec.json.format(msgspec.json.encode({"format": 1, "files": files, **manifest}), indent=2) + b"\n"
    found = target.read(f"{folder}/{MANIFEST}")
    if found is not None and _names_files(found, files):
        content = found
    for name, part in release.files.items():
        target.put_new(f"{folder}/{name}", part)
    target.put_new(f"{folder}/{MANIFEST}", content)
    return digest_of_files({**release.files, MANIFEST: content})


def _names_files(manifest: bytes, files: Mapping[str, FileDigest]) -> bool:
    try:
        return msgspec.json.decode(manifest, type=FileList).files == files
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def make_manifest(
    model: FetchedModel, release: Release, proof: ServingProof, comparison: LiveComparison | None
) -> dict[str, Any]:
    """Return what the manifest says beside the files and their digests."""
    metadata = release.metadata
    return {
        "model": {
            "version": release.version,
            "target": metadata.target,
            "field": metadata.field,
            "unit": metadata.unit,
            "features": metadata.features,
        },
        # Only MLflow's names: a folder's name says nothing to others.
        "source": {"run_id": model.run_id, "registered": model.registered},
        "proof": proof,
        "comparison": comparison,
        "published_at": now(),
    }


def verify(location: str, sha256: str) -> None:
    """Read everything back and compare its digest. Raises ModelError."""
    open_pinned(location, sha256)[0].read_all()


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    # With microseconds, so that no two publishes write the same content.
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
