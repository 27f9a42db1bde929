"""Saving a model with MLflow's sklearn flavor, with its served form as one more flavor, and with its baseline."""

from pathlib import Path
from typing import Any

import mlflow.sklearn
from mlflow.models import Model

from artifacts import MLMODEL
from digests import digest_of
from scripts.models.baseline import FILE as BASELINE_FILE
from scripts.models.compiling import ServedForm
from served.forms import FLAVOR

FILE = "served_form.safetensors"


def save_model(
    sk_model: Any,
    path: str,
    mlflow_model: Model,
    served_form: ServedForm | None = None,
    baseline: bytes | None = None,
    **options: Any,
) -> None:
    """Save a pipeline as ``mlflow.sklearn.save_model`` does, and its served form and its baseline if there are any.

    ``mlflow.models.Model.log`` calls this function, because it is given this module as the flavor.
    """
    mlflow.sklearn.save_model(sk_model, path, mlflow_model=mlflow_model, **options)
    if served_form:
        (Path(path) / FILE).write_bytes(served_form.content)
        proof = served_form.proof
        compared = {"rides": proof.rides, "largest_relative_difference": proof.largest_relative_difference}
        digest = digest_of(served_form.content)
        mlflow_model.add_flavor(FLAVOR, data=FILE, sha256=digest, kind=served_form.kind, compared=compared)
        mlflow_model.save(str(Path(path) / MLMODEL))
    if baseline:
        (Path(path) / BASELINE_FILE).write_bytes(baseline)
