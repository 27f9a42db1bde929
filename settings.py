"""The settings in environment variables. An empty variable counts as not set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from arns import parse_stream
from rides import RIDE_ID

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LAMBDA_LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
"""The names that Lambda itself gives two of these levels."""
FIELD = rf"(?!{RIDE_ID}\Z)[A-Za-z_][A-Za-z0-9_]{{0,127}}"  # not RIDE_ID: it stands in the same JSON object
ANSWER_FIELDS = ("model_version", "error")
"""Fields of the web service's answers that stand beside the predicted value, or replace it."""
DRAIN_SECONDS = 3.0
"""The default, because load balancers take a second or two to notice that a server is about to stop."""
DEFAULT_TIME_ZONE = "America/New_York"
"""The time zone of TLC's trip records."""
S3_URI = "s3://[^/]+(/.*)?"
TEXT = r"[^\ud800-\udfff]+"
"""Python has bytes that are not UTF-8 as lone surrogates, which no prediction can carry."""


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
    prediction_field: str | None
    """The predicted value's name in predictions; if None, the artifact's own name for it."""
    sha256: str | None
    time_zone: str
    """The time zone in which a model that wants the time gets it."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ModelSettings":
        """Read the settings from environment variables. Raises SettingsError."""
        variables = {name: value.strip() for name, value in environment.items()}
        _check_model_place(variables)
        given_field = _match(
            variables, "PREDICTION_FIELD", FIELD, f"a field's name, such as tip_amount, other than {RIDE_ID}"
        )
        return cls(
            location=variables.get("MODEL_LOCATION") or None,
            bucket=variables.get("MODEL_BUCKET", ""),
            experiment_id=variables.get("MLFLOW_EXPERIMENT_ID") or "1",
            run_id=_match(variables, "RUN_ID", TEXT, "text in UTF-8"),
            name=_match(variables, "MODEL_NAME", TEXT, "text in UTF-8") or "ride_duration_prediction_model",
            prediction_field=given_field or None,
            sha256=read_pin(variables),
            time_zone=read_time_zone(variables),
        )


@dataclass(frozen=True)
class StreamSettings:
    """The Lambda function's settings."""

    model: ModelSettings
    predictions_stream: str
    """The output stream's name or ARN; may be empty in a dry run."""
    failures_location: str | None
    """``s3://bucket/prefix`` for rejections. If None, rejected records are reported as failures, and the event source
    mapping retries or discards them."""
    dry_run: bool
    log_level: str
    metrics_namespace: str | None
    """None if there are no metrics: in a dry run, or if Powertools' own variable disables them."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "StreamSettings":
        """Read the settings from environment variables. Raises SettingsError."""
        variables = {name: value.strip() for name, value in environment.items()}
        dry_run = _flag(variables, "TEST_RUN")
        uncounted = dry_run or _flag(variables, "POWERTOOLS_METRICS_DISABLED")
        name = variables.get("PREDICTIONS_STREAM_NAME", "")
        if not name and not dry_run:
            raise SettingsError("PREDICTIONS_STREAM_NAME is not set (only a dry run, TEST_RUN=True, does without)")
        stream = parse_stream(name)
        if name and not stream:
            raise SettingsError(f"PREDICTIONS_STREAM_NAME is the name or the ARN of a Kinesis stream, not {name!r}")
        failures = _match(variables, "FAILURES_LOCATION", S3_URI, "an s3://bucket/prefix URI")
        return cls(
            model=ModelSettings.from_environment(variables),
            predictions_stream=(stream.arn or stream.name) if stream else "",
            failures_location=failures.rstrip("/") or None,
            dry_run=dry_run,
            log_level=_log_level(variables),
            metrics_namespace=None if uncounted else variables.get("POWERTOOLS_METRICS_NAMESPACE") or "RidePredictions",
        )


@dataclass(frozen=True)
class WebSettings:
    """The web service's settings."""

    model: ModelSettings
    log_level: str
    metrics_port: int | None
    """The only port that serves ``/metrics``. If None, ``/metrics`` is on the port of the other routes."""
    drain_seconds: float
    """How long the service still takes requests after SIGTERM, while its health is 503."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "WebSettings":
        """Read the settings from environment variables. Raises SettingsError."""
        variables = {name: value.strip() for name, value in environment.items()}
        model = ModelSettings.from_environment(environment)
        if model.prediction_field in ANSWER_FIELDS:
            raise SettingsError(
                f"PREDICTION_FIELD is {model.prediction_field!r}, a field that answers have already: choose another"
            )
        port = _match(variables, "METRICS_PORT", "[0-9]{1,5}", "a port from 1 to 65535")
        if port and not 1 <= int(port) <= 65535:
            raise SettingsError(f"METRICS_PORT is a port from 1 to 65535, not {port!r}")
        seconds = _match(variables, "DRAIN_SECONDS", r"[0-9]{1,3}(\.[0-9]+)?", "a number of seconds below 1000")
        return cls(model, _log_level(variables), int(port) if port else None, float(seconds or DRAIN_SECONDS))


def _log_level(variables: Mapping[str, str]) -> str:
    levels = f"(?i:{'|'.join([*LOG_LEVELS, *LAMBDA_LEVELS])})"
    level = _match(variables, "LOG_LEVEL", levels, f"one of {', '.join(LOG_LEVELS)}").upper()
    return LAMBDA_LEVELS.get(level, level) or "INFO"


def _check_model_place(variables: Mapping[str, str]) -> None:
    location, bucket = variables.get("MODEL_LOCATION"), variables.get("MODEL_BUCKET")
    if location and bucket:
        raise SettingsError("MODEL_LOCATION and MODEL_BUCKET are both set: keep the one that names the model")
    if not location and not bucket:
        hint = "name the model's folder or s3:// URI, or MODEL_BUCKET and RUN_ID"
        raise SettingsError(f"MODEL_LOCATION is not set: {hint}")
    if location and "://" in location and not re.fullmatch(S3_URI, location):
        shown = location.partition("?")[0]  # a presigned URL has its signature behind the question mark
        raise SettingsError(f"MODEL_LOCATION is a folder or an s3://bucket/prefix URI, not {shown!r}")
    if bucket and ("/" in bucket or ":" in bucket):
        raise SettingsError(f"MODEL_BUCKET is a bucket's name, not {bucket!r}: give a URI as MODEL_LOCATION instead")
    if bucket and not variables.get("RUN_ID"):
        raise SettingsError("RUN_ID is not set: MODEL_BUCKET needs the id of the MLflow run that logged the model")


def read_pin(variables: Mapping[str, str]) -> str | None:
    """Return the pinned digest of the model in lower case; None if there is none. Raises SettingsError."""
    digest = _match(variables, "MODEL_SHA256", "[0-9a-fA-F]{64}", "a SHA-256 digest of 64 hexadecimal digits")
    return digest.lower() or None


def read_time_zone(variables: Mapping[str, str]) -> str:
    """Return the name of the time zone. Raises SettingsError if there is no such zone."""
    name = _match(variables, "TIME_ZONE", "[A-Za-z0-9_+/-]{1,64}", f"a time zone's name, such as {DEFAULT_TIME_ZONE}")
    if not name:
        return DEFAULT_TIME_ZONE
    # Imported here because few functions set a zone, and the import takes several milliseconds of a cold start.
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:
        raise SettingsError(f"TIME_ZONE is a time zone's name, such as {DEFAULT_TIME_ZONE}, not {name!r}") from error
    return name


def _flag(variables: Mapping[str, str], name: str) -> bool:
    return _match(variables, name, "(?i:true|1|yes|false|0|no)", "True or False").lower() in ("true", "1", "yes")


def _match(variables: Mapping[str, str], name: str, pattern: str, meaning: str) -> str:
    """Return the variable's value; empty if it is not set. Raises SettingsError if the pattern does not match."""
    value = variables.get(name, "")
    if value and not re.fullmatch(pattern, value):
        raise SettingsError(f"{name} is {meaning}, not {value!r}")
    return value
