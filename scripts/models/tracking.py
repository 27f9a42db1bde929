"""MLflow: where runs and models are logged, and its registry.

Whoever imports mlflow imports this module first, because it configures mlflow.
"""

import contextlib
import fcntl
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

# MLflow reads these variables when it is imported. They switch off usage data, and its own log lines and progress bars.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow's default is seven retries, which take four minutes if the tracking server does not listen.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

import mlflow
from alembic.util.exc import CommandError as MigrationError
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)
from sqlalchemy.exc import SQLAlchemyError

TRACKING_URI = "sqlite:///mlflow.db"
MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, MigrationError, Boto3Error, BotoCoreError, ClientError)
"""MLflow's own exceptions, and those of its database and of S3 that it does not catch."""


class TrackingError(Exception):
    """MLflow cannot be used as the user wants; the message is one line."""


def tracking_uri() -> str:
    """Return where MLflow keeps its runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI


def open_experiment(name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist.

    MLflow itself reads MLFLOW_DEFAULT_ARTIFACT_ROOT only in ``mlflow server``, which gives an experiment the folder of
    its id below that root. This function does the same for a database without a server. It raises TrackingError if the
    experiment exists and keeps its artifacts below another root.
    """
    with _one_at_a_time():
        return _open_experiment(name)


def _open_experiment(name: str) -> str:
    uri, root = tracking_uri(), os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    mlflow.set_tracking_uri(uri)
    if root and uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
        store = SqlAlchemyStore(uri, root)
        experiment = store.get_experiment_by_name(name)
        if experiment is None:
            store.create_experiment(name)
        elif not experiment.artifact_location.startswith(f"{store.artifact_root_uri.rstrip('/')}/"):
            raise TrackingError(
                f"the experiment {name} keeps its artifacts in {experiment.artifact_location}, which cannot be"
                f" changed: name another with --experiment to have them in {root}"
            )
    experiment_id: str = mlflow.set_experiment(name).experiment_id
    return experiment_id


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let no other command use a SQLite database during the block, in which MLflow may make its tables.

    Two commands that made them at once would leave a database that no command could use.
    """
    uri = tracking_uri()
    folder = Path(uri.removeprefix("sqlite:///")).absolute().parent
    if not uri.startswith("sqlite:///") or not folder.is_dir():
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def as_path(location: str) -> str:
    """Return the path of a ``file:`` URI, and any other location as it is."""
    uri = urllib.parse.urlsplit(location)
    return urllib.request.url2pathname(uri.path) if uri.scheme == "file" else location


def check_registry(name: str, alias: str) -> None:
    """Raise TrackingError or MlflowException if MLflow has no registry, or cannot register this name and alias."""
    mlflow.set_tracking_uri(tracking_uri())
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()
    if urllib.parse.urlsplit(registry).scheme in ("", "file"):
        raise TrackingError(
            f"{registry} is a folder, which has no registry: set MLFLOW_TRACKING_URI to a database, such as"
            f" {TRACKING_URI}, or to a tracking server, or leave --register out"
        )
    # Checked here, because MLflow would refuse a wrong name only after the training.
    for validate, text in (
        (_validate_model_name, name),
        (_validate_model_alias_name, alias),
        (_validate_model_alias_name_reserved, alias),
    ):
        validate(text)
    with _one_at_a_time():
        MlflowClient().search_registered_models(max_results=1)


def register(model_id: str, name: str, alias: str) -> str:
    """Register a logged model as the next version of this name, let the alias name it, and return the version."""
    version = str(mlflow.register_model(f"models:/{model_id}", name).version)
    MlflowClient().set_registered_model_alias(name, alias, version)
    return version
