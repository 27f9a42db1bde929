"""Logging a trained model with MLflow: the run, and the artifact in the form that the services load."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Before mlflow, because it configures mlflow.
from scripts.models import tracking  # isort: skip
import mlflow
import mlflow.pyfunc
import msgspec
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from digests import digest_of
from features import SAMPLE_RIDE, prepare_features, wants_time
from model_metadata import KEY, NO_METADATA, BaselineFile, ModelMetadata, TrainedOn
from rides import MAX_TRIP_DISTANCE
from scripts.models import card, plots, served_flavor
from scripts.models.baseline import FILE as BASELINE_FILE
from scripts.models.baseline import encode, make_baseline
from scripts.models.candidates import MEAN, PAIR_MEDIAN, TrainingResult
from scripts.models.compiled_inputs import NotUnderstoodError
from scripts.models.compiling import ServedForm, compile_pipeline
from scripts.models.training import ShowProgress, predict_rides, predict_with, stage
from sklearn_flavor import TRUSTED_TYPES

PACKAGES = ("scikit-learn", "skops")
"""The artifact's requirements beside mlflow. Without this list MLflow guesses, and adds packages such as pytest."""
CARD = "model_card.md"
"""The card among the artifacts of a run."""


@dataclass(frozen=True)
class LoggedRun:
    """A run and the location of the model that it logged: a folder or a URI."""

    experiment_id: str
    run_id: str
    model_id: str
    location: str
    card: str
    """The location of the model's card."""
    served_form: ServedForm | NotUnderstoodError
    """The model's served form, or why it has none."""


def log_run(experiment_id: str, result: TrainingResult) -> LoggedRun:
    """Log a run with its parameters, errors, plots, model and card; the model is in the form that the services load.

    If anything fails, the run has the status FAILED.
    """
    chosen, evaluation = result.chosen, result.evaluation
    with stage("Compiling the served form") as show_progress:
        served_form = compile_served_form(chosen.pipeline, chosen.features, show_progress)
    compiled = served_form if isinstance(served_form, ServedForm) else None
    with stage("Predicting the training rides") as show_progress:
        baseline = make_baseline(
            result.rides,
            result.validation,
            evaluation.predicted,
            evaluation.target,
            lambda rides: predict_rides(chosen.pipeline, rides, chosen.features, show_progress),
        )
    content = encode(baseline)
    metadata = describe(result, BaselineFile(BASELINE_FILE, digest_of(content)))
    with stage("Logging to MLflow"), mlflow.start_run(experiment_id=experiment_id) as run:
        mlflow.log_params(parameters_of(result))
        mlflow.log_metrics(metrics_of(result))
        mlflow.set_tags(tags_of(result))
        for name, figure in plots.draw(evaluation).items():
            mlflow.log_figure(figure, f"{card.PLOTS}/{name}")
        model = log_model(chosen.pipeline, compiled, metadata, content)
        location = tracking.as_path(model.artifact_path)
        digest = digest_of(compiled.content) if compiled else None
        mlflow.log_text(card.write_card(metadata, evaluation, baseline, run.info.run_id, location, digest), CARD)
        card_location = tracking.as_path(mlflow.get_artifact_uri(CARD))
    return LoggedRun(experiment_id, run.info.run_id, model.model_id, location, card_location, served_form)


def describe(result: TrainingResult, baseline: BaselineFile) -> ModelMetadata:
    """Return what the artifact says about the chosen model."""
    target, rides = result.evaluation.target, result.rides
    return ModelMetadata(
        target=target.name,
        field=target.field,
        unit=target.unit,
        features=tuple(result.chosen.features),
        trained_on=TrainedOn(list(rides.files), len(rides.rides), rides.first, rides.last),
        baseline=baseline,
    )


def parameters_of(result: TrainingResult) -> dict[str, Any]:
    """Return the parameters of the run: of the model, and of the rides that it was trained and measured on."""
    target = result.evaluation.target
    return {
        "estimator": str(result.chosen.pipeline[-1]),
        "features": ",".join(result.chosen.features),
        "min_pair_count": result.min_pair_count,
        f"min_{target.name}": target.least,
        f"max_{target.name}": target.most,
        "max_trip_distance": MAX_TRIP_DISTANCE,
    }


def metrics_of(result: TrainingResult) -> dict[str, float]:
    """Return the errors of the chosen model, of the mean and of the pair's median, and the numbers of rows."""
    table = result.evaluation.table
    rows = {"": table[result.chosen.name], "mean_": table[MEAN], "pair_median_": table[PAIR_MEDIAN]}
    metrics: dict[str, float] = {}
    for prefix, errors in rows.items():
        metrics |= {f"{prefix}rmse": errors.rmse, f"{prefix}mae": errors.mae}
    for name, part in (("training", result.rides), ("validation", result.validation)):
        metrics |= {f"{name}_rides": len(part.rides), f"{name}_left_out": part.left_out}
    return metrics


def tags_of(result: TrainingResult) -> dict[str, str]:
    """Return the tags of the run, by which people look for it."""
    return {
        "model": result.chosen.name,
        "target": result.evaluation.target.name,
        "training_data": ", ".join(result.rides.files),
        "validation_data": ", ".join(result.validation.files),
        "uses_time": str(wants_time(result.chosen.features)),
    }


def compile_served_form(
    pipeline: Any, names: Sequence[str], show_progress: ShowProgress
) -> ServedForm | NotUnderstoodError:
    """Return the pipeline's served form, or the error that says why it has none."""
    try:
        return compile_pipeline(pipeline, predict_with(pipeline, names), show_progress, names)
    except NotUnderstoodError as error:
        return error


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
