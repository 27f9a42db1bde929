"""The proof of a published model: an entry point's own packages load it, and predict what MLflow's loader predicts."""

import io
import os
import statistics
import subprocess
import tempfile
import time
import zoneinfo
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import msgspec
import numpy as np
import pandas as pd
import yaml

from artifacts import MLMODEL
from digests import digest_of, digest_of_files
from features import prepare_features
from model_metadata import ModelMetadata
from rides import Ride
from scripts.environment import ROOT
from scripts.models.proving import MOST_DIFFERENT, Predict
from scripts.models.serving_check import ServedResult
from scripts.models.training import predict_with
from scripts.pythons import ENVIRONMENTS, LEAN, MLFLOW, SKLEARN, install_python
from served.forms import FLAVOR
from settings import read_time_zone
from sklearn_flavor import TRUSTED_TYPES
from skops_schema import SchemaError, check_schema

COLD_LOADS = 5
"""The number of processes whose median is the time of a cold load."""
DECIDED_BY_CALLER = ("MODEL_SHA256", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV")
"""Variables that a serving process does not inherit: with some, it would find packages that an image does not have."""


class PublishError(Exception):
    """The model cannot be published; the message says in one line why and what to do."""


class ServingProof(msgspec.Struct, frozen=True):
    """What was compared and measured before a model was published."""

    rides: int
    """The number of golden rides."""
    largest_relative_difference: float
    """The largest difference from MLflow's own loader, relative to the prediction; 0.0 if all doubles are the same."""
    packages: list[str]
    """The categories of the Pipfile that were installed where the model was loaded."""
    python: str
    load_seconds: float
    """The median of several processes: the time from the start of Python until the model was loaded."""
    peak_bytes: int
    """The largest memory of such a process."""
    bytes: int
    """The size of the files."""


def name_environment(flavors: Mapping[str, Any]) -> str:
    """Return the name of the environment that serves a model with these flavors."""
    if FLAVOR in flavors:
        return LEAN
    return SKLEARN if "sklearn" in flavors else MLFLOW


def serve_in_process(location: str, sha256: str | None, environment: str, rides: Sequence[Ride]) -> ServedResult:
    """Load the model in a process of a serving environment, and return the predictions. Raises PublishError."""
    python = install_python(environment)
    variables = {name: value for name, value in os.environ.items() if name not in DECIDED_BY_CALLER}
    done = subprocess.run(
        [python, "-m", "scripts.models.serving_check", location, str(time.monotonic())],
        cwd=ROOT,
        env={**variables, "PYTHONPATH": str(ROOT), "MODEL_SHA256": sha256 or ""},
        input=msgspec.json.encode(rides),
        capture_output=True,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        packages = " and ".join(f"[{category}]" for category in ENVIRONMENTS[environment])
        raise PublishError(f"with the packages of {packages}, the model cannot be loaded: {lines[-1]}")
    return msgspec.json.decode(done.stdout, type=ServedResult)


def prove_serving(
    files: Mapping[str, bytes],
    pipeline_files: Mapping[str, bytes],
    description: Mapping[str, Any],
    metadata: ModelMetadata,
    rides: Sequence[Ride],
    *,
    sha256: str | None,
) -> tuple[ServingProof, list[float]]:
    """Compare what would be published with MLflow's loader; return the proof and the predictions of the rides.

    Args:
        files: the files to publish.
        pipeline_files: all files of the logged model.
        description: the content of the MLmodel file.
        metadata: what the artifact says about the model.
        rides: the golden rides.
        sha256: the digest that the user has pinned, if any. Nothing else that could run code is loaded.

    Raises PublishError if the serving loader refuses the model, or if the predictions differ.
    """
    environment = name_environment(description["flavors"])
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), files)
        pin = digest_of_files(files) if sha256 else None
        results = [serve_in_process(folder, pin, environment, rides) for _ in range(COLD_LOADS)]
    served = as_values(results[0], rides)
    theirs = predict_with_mlflow(pipeline_files, description, metadata, rides, sha256)
    different = np.abs(theirs - np.array(served)) / np.maximum(np.abs(theirs), 1.0)
    kind = description["flavors"].get(FLAVOR, {}).get("kind")
    if not (different <= (0.0 if kind == "table" else MOST_DIFFERENT)).all():
        worst = int(np.argmax(different))
        raise PublishError(
            f"the model predicts {served[worst]} as served and {theirs[worst]} with MLflow for"
            f" {rides[worst]}: log it again with ./scripts/train"
        )
    proof = ServingProof(
        len(rides),
        float(different.max()),
        ENVIRONMENTS[environment],
        results[0].python,
        statistics.median(result.seconds for result in results),
        max(result.peak_bytes for result in results),
        sum(map(len, files.values())),
    )
    return proof, served


def as_values(result: ServedResult, rides: Sequence[Ride]) -> list[float]:
    """Return the predicted values. Raises PublishError if a ride has none."""
    values = [value for value in result.predictions if isinstance(value, float)]
    if len(values) < len(rides):
        first = next(place for place, value in enumerate(result.predictions) if not isinstance(value, float))
        raise PublishError(f"the model has no value for {rides[first]}: {result.predictions[first]}")
    return values


def predict_with_mlflow(
    files: Mapping[str, bytes],
    description: Mapping[str, Any],
    metadata: ModelMetadata,
    rides: Sequence[Ride],
    sha256: str | None,
) -> Any:
    """Return the predictions of the pipeline as MLflow loads it. Raises PublishError if that is not safe or fails."""
    flavors = description["flavors"]
    names, zone = metadata.features, zoneinfo.ZoneInfo(read_time_zone(os.environ))
    features = [prepare_features(ride, names, zone) for ride in rides]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), files)
        if sha256 not in _trusted_digests(files, flavors.get("sklearn")):
            _make_safe(Path(folder), files, description)
        try:
            predict: Predict
            if "sklearn" in flavors:
                predict = predict_with(mlflow.sklearn.load_model(folder), names)
            else:
                loaded = mlflow.pyfunc.load_model(folder)
                predict = lambda rows: loaded.predict(pd.DataFrame(list(rows)))  # noqa: E731
            return np.asarray(predict(features), np.float64).ravel()
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise PublishError(
                f"MLflow's own loader cannot load the model, or predict the golden rides: {message}"
            ) from error


def _trusted_digests(files: Mapping[str, bytes], flavor: Any) -> list[str]:
    """Return the digests that cover everything that MLflow loads. The digest of a served form's file does not."""
    digests = [digest_of_files(files)]
    if isinstance(flavor, dict) and not flavor.get("code") and flavor.get("pickled_model") in files:
        digests.append(digest_of(files[flavor["pickled_model"]]))
    return digests


def _make_safe(folder: Path, files: Mapping[str, bytes], description: Mapping[str, Any]) -> None:
    """Check that MLflow loads nothing that could run code, and replace the artifact's own list of trusted types."""
    flavor = description["flavors"].get("sklearn")
    what = "set MODEL_SHA256, if you trust it, to the digest of its whole folder, " + digest_of_files(files)
    if not isinstance(flavor, dict) or flavor.get("code") or flavor.get("serialization_format") != "skops":
        raise PublishError(f"to compare the model with MLflow's own loader, code of the model would run: {what}")
    content = files.get(str(flavor.get("pickled_model")))
    if content is None:
        raise PublishError(
            f"the model has no file {flavor.get('pickled_model')!r} to compare with: publish the run or the version"
            " that was logged, and not a published copy"
        )
    try:
        check_schema(io.BytesIO(content))
    except SchemaError as error:
        raise PublishError(f"{str(error).partition(': if you trust')[0]}: {what}") from error
    flavors = {**description["flavors"], "sklearn": {**flavor, "skops_trusted_types": TRUSTED_TYPES}}
    (folder / MLMODEL).write_text(yaml.safe_dump({**description, "flavors": flavors}))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
