"""The model to publish: the files of a run, of a registered model, of a logged model, or of any folder or prefix."""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from artifacts import MLMODEL
from digests import open_pinned
from scripts.models.publishing_proof import PublishError
from scripts.models.tracking import TRACKING_URI

RUN_ID = re.compile("[0-9a-f]{32}")
REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
LOGGED = re.compile("models:/m-[^/@]+")
SET_TRACKING = "set MLFLOW_TRACKING_URI to the tracking server or the database that has it"


@dataclass(frozen=True)
class FetchedModel:
    """A model's files in memory, with what MLflow knows about it."""

    origin: str
    """What the user named."""
    files: Mapping[str, bytes]
    description: Mapping[str, Any]
    """The content of the MLmodel file."""
    sha256: str | None
    """The digest that the user has pinned, of the folder or of the file that is loaded. It was verified."""
    run_id: str | None = None
    """The run to tag; None if the model does not come from MLflow."""
    registered: tuple[str, str] | None = None
    """The name and the version in the registry."""


def fetch(source: str, sha256: str | None) -> FetchedModel:
    """Read the model that the user names. ``sha256`` is the digest that the user has pinned.

    Raises:
        PublishError: if MLflow has no such model, or more than one.
        ModelError: if the files cannot be read, or are not those that are pinned.
    """
    if not (RUN_ID.fullmatch(source) or source.startswith("models:/")):
        return _read(source, source, sha256)
    client = _open_client(source)
    run_id, registered = None, None
    if RUN_ID.fullmatch(source):
        uri, run_id = _find_in_run(client, source), source
    elif found := REGISTERED.fullmatch(source):
        version = _find_version(client, source, **found.groupdict())
        # MLflow's version is a text or a number, depending on the tracking server.
        registered = version.name, str(version.version)
        uri, run_id = f"models:/{'/'.join(registered)}", version.run_id
    elif LOGGED.fullmatch(source):
        uri, run_id = source, _ask(client.get_logged_model, source, source.removeprefix("models:/")).source_run_id
    else:
        raise PublishError(f"{source} is not models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-ID")
    if run_id and not registered:
        registered = _find_registered(client, run_id)
    with tempfile.TemporaryDirectory() as folder:
        _ask(mlflow.artifacts.download_artifacts, source, artifact_uri=uri, dst_path=folder)
        # MLflow puts the files into a folder of their own, or not, depending on where they were.
        (place,) = [path.parent for path in Path(folder).rglob(MLMODEL)][:1] or [Path(folder)]
        return _read(source, str(place), sha256, run_id or None, registered)


def note_published(model: FetchedModel, location: str, sha256: str, alias: str) -> list[str]:
    """Tag the run with the place where its model is served, and move the alias; return lines that say so."""
    if model.run_id is None:
        return []
    client = MlflowClient()
    client.set_tag(model.run_id, "served_at", location)
    client.set_tag(model.run_id, "model_sha256", sha256)
    lines = [f"The run {model.run_id} has the tags served_at and model_sha256"]
    if model.registered:
        name, version = model.registered
        client.set_registered_model_alias(name, alias, version)
        lines.append(f"models:/{name}@{alias} is version {version} now")
    return lines


def _read(
    origin: str, location: str, sha256: str | None, run_id: str | None = None, registered: tuple[str, str] | None = None
) -> FetchedModel:
    if not location.startswith("s3://"):
        location = str(Path(location).absolute())
    artifact, description = open_pinned(location, sha256)
    if not isinstance(description.get("flavors"), dict):
        raise PublishError(f"{origin}: its {MLMODEL} names no flavors")
    return FetchedModel(origin, artifact.read_all(), description, sha256, run_id, registered)


def _open_client(source: str) -> MlflowClient:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or TRACKING_URI
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        # MLflow would make an empty database.
        raise PublishError(f"{source} is looked up in MLflow, and there is no database {path}: {SET_TRACKING}")
    mlflow.set_tracking_uri(uri)
    return MlflowClient()


def _ask(call: Any, source: str, *arguments: Any, **options: Any) -> Any:
    """Call MLflow. Raises PublishError if MLflow has no such source; the command explains other errors."""
    try:
        return call(*arguments, **options)
    except MlflowException as error:
        message = " ".join(str(error).split())
        raise PublishError(
            f"MLflow at {mlflow.get_tracking_uri()} cannot give {source}: {message}: {SET_TRACKING}"
        ) from error


def _find_version(client: MlflowClient, source: str, name: str, alias: str | None, version: str | None) -> Any:
    if alias:
        return _ask(client.get_model_version_by_alias, source, name, alias)
    return _ask(client.get_model_version, source, name, version)


def _find_registered(client: MlflowClient, run_id: str) -> tuple[str, str] | None:
    """Return the name and the version under which a run's model is registered, unless there are several."""
    versions = _ask(client.search_model_versions, run_id, f"run_id='{run_id}'")
    return (versions[0].name, str(versions[0].version)) if len(versions) == 1 else None


def _find_in_run(client: MlflowClient, run_id: str) -> str:
    """Return the URI of the only model that a run logged. Raises PublishError."""
    run = _ask(client.get_run, run_id, run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    models = sorted({output.model_id for output in outputs})
    if len(models) == 1:
        return f"models:/{models[0]}"
    if models:
        names = ", ".join(f"models:/{model}" for model in models)
        raise PublishError(f"the run {run_id} logged {len(models)} models: name one of {names}")
    # MLflow 2 put the model below its run.
    if any(found.path == "model" for found in _ask(client.list_artifacts, run_id, run_id)):
        return f"runs:/{run_id}/model"
    raise PublishError(f"the run {run_id} logged no model: name a run of ./scripts/train")
