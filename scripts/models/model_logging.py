"""Logging a fitted pipeline with MLflow, in the form that the services load."""

import importlib.metadata
from typing import Any

# Before mlflow, because it configures mlflow.
from scripts.models import tracking  # noqa: F401  # isort: skip
import mlflow.pyfunc
import msgspec
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from features import SAMPLE_RIDE, prepare_features
from model_metadata import KEY, NO_METADATA, ModelMetadata
from scripts.models import served_flavor
from scripts.models.compiling import ServedForm
from sklearn_flavor import TRUSTED_TYPES

PACKAGES = ("scikit-learn", "skops")
"""The artifact's requirements beside mlflow. Without this list MLflow guesses, and adds packages such as pytest."""


def log_model(
    pipeline: Any, served_form: ServedForm | None, metadata: ModelMetadata = NO_METADATA, baseline: bytes | None = None
) -> Any:
    """Log the pipeline with the run that is open, as skops and as its served form; return MLflow's description of it.

    ``baseline`` is the content of the model's baseline file, if it has one.

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
        baseline=baseline,
        name="model",
        signature=signature,
        input_example=example,
        metadata={KEY: msgspec.to_builtins(metadata)},
        serialization_format="skops",
        skops_trusted_types=TRUSTED_TYPES,
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES],
    )
