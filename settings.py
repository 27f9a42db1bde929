"""The environment variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rides import RIDE_ID

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
S3_URI = "s3://[^/]+(/.*)?"
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


class SettingsError(Exception):
    """An environment variable is missing, malformed or contradicts another; the message names it in one line."""


@dataclass(frozen=True)
class Settings:
    """What the function is told by its environment. A variable that is set to nothing counts as not set."""

    predictions_stream: str
    """The output stream's name; empty in a dry run that names none."""
    model_location: str | None
    """The folder or ``s3://`` URI of the model; None where bucket and run are given instead."""
    model_bucket: str
    experiment_id: str
    run_id: str
    """The version that predictions are tagged with; empty where the artifact's own run id is to be taken."""
    model_name: str
    prediction_field: str
    """What predictions call the predicted value."""
    model_sha256: str | None
    failures_location: str | None
    """``s3://bucket/prefix`` for what was rejected; None where the mapping's own policy decides."""
    dry_run: bool
    log_level: str
    metrics_namespace: str | None
    """None where nothing is counted: in a dry run, and where Powertools' own variable says so."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings from environment variables.

        Raises:
            SettingsError: where one is missing, malformed or contradicts another.
        """
        variables = {name: value.strip() for name, value in environment.items()}
        dry_run = _flag(variables, "TEST_RUN")
        uncounted = dry_run or _flag(variables, "POWERTOOLS_METRICS_DISABLED")
        _check_model_place(variables)
        return cls(
            predictions_stream=_required(variables, "PREDICTIONS_STREAM_NAME", unless=dry_run),
            model_location=variables.get("MODEL_LOCATION") or None,
            model_bucket=variables.get("MODEL_BUCKET", ""),
            experiment_id=variables.get("MLFLOW_EXPERIMENT_ID") or "1",
            run_id=variables.get("RUN_ID", ""),
            model_name=variables.get("MODEL_NAME") or "ride_duration_prediction_model",
            prediction_field=_field(variables, "PREDICTION_FIELD"),
            model_sha256=_digest(variables, "MODEL_SHA256"),
            failures_location=_s3_uri(variables, "FAILURES_LOCATION"),
            dry_run=dry_run,
            log_level=_log_level(variables),
            metrics_namespace=None if uncounted else variables.get("POWERTOOLS_METRICS_NAMESPACE") or "RidePredictions",
        )


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
