"""What the environment variables say."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rides import RIDE_ID

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
S3_URI = "s3://[^/]+(/.*)?"
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


class SettingsError(Exception):
    """An environment variable is missing, malformed or contradicts another. The message names it in one line."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model to load and what to tag its predictions with. Every entry point has these settings."""

    location: str | None
    """The folder or ``s3://`` URI of the model; None if bucket and run are given instead."""
    bucket: str
    experiment_id: str
    run_id: str
    """The version that predictions are tagged with; if empty, the artifact's own run id is used."""
    name: str
    prediction_field: str
    """What predictions call the predicted value."""
    sha256: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ModelSettings":
        """Read the settings from environment variables. Raises SettingsError."""
        variables = _strip(environment)
        _check_model_place(variables)
        return cls(
            location=variables.get("MODEL_LOCATION") or None,
            bucket=variables.get("MODEL_BUCKET", ""),
            experiment_id=variables.get("MLFLOW_EXPERIMENT_ID") or "1",
            run_id=variables.get("RUN_ID", ""),
            name=variables.get("MODEL_NAME") or "ride_duration_prediction_model",
            prediction_field=_field(variables, "PREDICTION_FIELD"),
            sha256=_digest(variables, "MODEL_SHA256"),
        )


@dataclass(frozen=True)
class StreamSettings:
    """The Lambda function's settings. A variable that is set to nothing counts as not set."""

    model: ModelSettings
    predictions_stream: str
    """The output stream's name; may be empty in a dry run."""
    failures_location: str | None
    """``s3://bucket/prefix`` for rejections. If None, rejected records are reported as failures, and the event source
    mapping retries or discards them."""
    dry_run: bool
    log_level: str
    metrics_namespace: str | None
    """None if nothing is counted: in a dry run, or if Powertools' own variable says so."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "StreamSettings":
        """Read the settings from environment variables.

        Raises:
            SettingsError: if one is missing, malformed or contradicts another.
        """
        variables = _strip(environment)
        dry_run = _flag(variables, "TEST_RUN")
        uncounted = dry_run or _flag(variables, "POWERTOOLS_METRICS_DISABLED")
        return cls(
            model=ModelSettings.from_environment(variables),
            predictions_stream=_required(variables, "PREDICTIONS_STREAM_NAME", unless=dry_run),
            failures_location=_s3_uri(variables, "FAILURES_LOCATION"),
            dry_run=dry_run,
            log_level=_log_level(variables),
            metrics_namespace=None if uncounted else variables.get("POWERTOOLS_METRICS_NAMESPACE") or "RidePredictions",
        )


def _strip(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in environment.items()}


def _check_model_place(variables: Mapping[str, str]) -> None:
    location, bucket = variables.get("MODEL_LOCATION"), variables.get("MODEL_BUCKET")
    if location and bucket:
        raise SettingsError("MODEL_LOCATION and MODEL_BUCKET are both set: keep the one that names the model")
    if not location and not bucket:
        raise SettingsError(
            "MODEL_LOCATION is not set: name the model's folder or s3:// URI, or MODEL_BUCKET and RUN_ID"
        )
    if location and "://" in location and not re.fullmatch(S3_URI, location):
        raise SettingsError(f"MODEL_LOCATION is a folder or an s3://bucket/prefix URI, not {location}")
    if bucket and ("/" in bucket or ":" in bucket):
        raise SettingsError(f"MODEL_BUCKET is a bucket's bare name, not {bucket}: give a URI as MODEL_LOCATION instead")
    if bucket and not variables.get("RUN_ID"):
        raise SettingsError("RUN_ID is not set: MODEL_BUCKET needs the id of the MLflow run that logged the model")


def _required(variables: Mapping[str, str], name: str, *, unless: bool) -> str:
    value = variables.get(name, "")
    if not value and not unless:
        raise SettingsError(f"{name} is not set (only a dry run, TEST_RUN=True, does without)")
    return value


def _flag(variables: Mapping[str, str], name: str) -> bool:
    value = variables.get(name, "").lower()
    if value not in (*TRUE, *FALSE):
        raise SettingsError(f"{name} is True or False, not {variables[name]}")
    return value in TRUE


def _field(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name) or "ride_duration"
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,127}", value) or value == RIDE_ID:
        raise SettingsError(f"{name} is a field's name, such as tip_amount, and not {RIDE_ID}: {value} will not do")
    return value


def _digest(variables: Mapping[str, str], name: str) -> str | None:
    value = variables.get(name, "")
    if value and not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise SettingsError(f"{name} is a SHA-256 digest of 64 hexadecimal digits, not {value}")
    return value.lower() or None


def _s3_uri(variables: Mapping[str, str], name: str) -> str | None:
    value = variables.get(name, "").rstrip("/")
    if value and not re.fullmatch(S3_URI, value):
        raise SettingsError(f"{name} is an s3://bucket/prefix URI, not {variables[name]}")
    return value or None


def _log_level(variables: Mapping[str, str]) -> str:
    value = variables.get("LOG_LEVEL", "").upper() or "INFO"
    if value not in LOG_LEVELS:
        raise SettingsError(f"LOG_LEVEL is one of {', '.join(LOG_LEVELS)}, not {value}")
    return value
