"""The files of MLflow models: in a folder, or under a prefix of a bucket in the layout of MLflow 2 or 3."""

import abc
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import clients

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MLMODEL = "MLmodel"
"""The file that makes a folder an MLflow model."""
MAX_MLMODEL_BYTES, MAX_MLMODEL_DEPTH = 256 * 1024, 32
"""The limits of an MLmodel file, because others may have written it. MLflow writes a few kilobytes."""

MAX_MESSAGE_LENGTH = 1000
"""Characters of a message or a reason that are kept: thousands of rides could each bring a long one."""

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml, which is ten times as fast, if PyYAML was built with it."""


MAX_NAME_LENGTH = 1024
"""The longest name of a file that is read, because the errors show it. No object in S3 has a longer key."""


class ModelError(Exception):
    """The model cannot be used; the message says in one line why and what to set."""


class NoSuchFileError(ModelError):
    """A model lacks a file, or there is no model at that location."""


class Artifact(abc.ABC):
    """The files of a logged model. Every method raises ModelError if the files cannot be read."""

    location: str

    def read(self, name: str, at_most: int = -1) -> bytes:
        """Return a file's content, or its first ``at_most`` bytes.

        A name that leads out of the folder, that no file can have, or that would be ambiguous in the list of files that
        a digest covers, is refused.
        """
        if len(name) > MAX_NAME_LENGTH:
            raise ModelError(
                f"{self.location} names a file {name[:40]!r}…: names have at most {MAX_NAME_LENGTH} characters"
            )
        if not name.isprintable() or "\\" in name or name.startswith("/") or ".." in name.split("/"):
            raise ModelError(f"{self.location} names a file {name!r}: names must stay in the folder and be printable")
        return self._read(name, at_most)

    @abc.abstractmethod
    def _read(self, name: str, at_most: int) -> bytes:
        """Return a file's content; its name is valid."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """Return the names of all files, relative to the location, sorted."""


class FolderArtifact(Artifact):
    """A model in a folder."""

    def __init__(self, location: str) -> None:
        """Take the folder, which must exist."""
        self.location = location
        self._folder = Path(location)
        if not self._folder.is_dir():
            hint = "set MODEL_LOCATION to the one that holds the MLmodel file"
            raise ModelError(f"there is no folder {location}: {hint}")

    def _read(self, name: str, at_most: int) -> bytes:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(at_most)
        except FileNotFoundError as error:
            raise _no_such_file(self.location, name) from error
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.location}/{name} cannot be read: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all files."""
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in files)


class S3Artifact(Artifact):
    """A model under a prefix of a bucket."""

    def __init__(self, location: str, client: "S3Client | None" = None) -> None:
        """Take an ``s3://bucket/prefix`` URI."""
        self.location = location.rstrip("/")
        self._bucket, _, prefix = self.location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client or _s3()

    def _read(self, name: str, at_most: int) -> bytes:
        # Imported here: a model in a folder, as in an image that holds its model, needs no SDK.
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            return body.read(None if at_most < 0 else at_most)
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, name) from error

    def names(self) -> list[str]:
        """Return the names of all files."""
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        try:
            keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        except (ClientError, BotoCoreError) as error:
            raise self._explain(error, "") from error
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def _explain(self, error: Exception, name: str) -> ModelError:
        # When a connection is lost, the SDK's error has a response too, which is None.
        details = (getattr(error, "response", None) or {}).get("Error", {})
        match details.get("Code"):
            case "NoSuchBucket":
                return ModelError(f"there is no bucket {self._bucket}: check MODEL_LOCATION or MODEL_BUCKET")
            case "NoSuchKey" | "404":
                return _no_such_file(self.location, name)
            case "AccessDenied" | "403" if name:
                return ModelError(
                    f"no permission to read {self.location}/{name}: the role needs s3:GetObject on it"
                    " (S3 says the same of a missing file to a role without s3:ListBucket on the bucket);"
                    f" S3 said: {details.get('Message')}"
                )
            case "AccessDenied" | "403":
                return ModelError(f"no permission to list {self.location}: the role needs s3:ListBucket on the bucket")
            case _:
                return ModelError(f"{self.location}/{name} cannot be read: {error}")


class KeptArtifact(Artifact):
    """A model whose files are read once and kept in memory, so that the verified bytes are those that are used."""

    def __init__(self, artifact: Artifact) -> None:
        """Take the artifact, of which nothing is read yet."""
        self.location = artifact.location
        self._artifact = artifact
        self._files: dict[str, bytes] = {}
        self._digests: dict[str, str] = {}
        self._names: list[str] | None = None

    def _read(self, name: str, at_most: int) -> bytes:
        if name not in self._files:
            if self._names is not None and name not in self._names:
                raise _no_such_file(self.location, name)
            content = self._artifact.read(name, at_most)
            if 0 <= at_most <= len(content):
                return content  # perhaps not the whole file
            self._files[name] = content
        content = self._files[name]
        return content if at_most < 0 else content[:at_most]

    def names(self) -> list[str]:
        """Return the names of all files. From the first call on, no other file can be read."""
        if self._names is None:
            self._names = self._artifact.names()
        return self._names

    def read_all(self) -> Mapping[str, bytes]:
        """Return all files by name, sorted."""
        names = self.names()
        with ThreadPoolExecutor(8) as threads:
            return dict(zip(names, threads.map(self.read, names), strict=True))

    def digest(self, name: str) -> str:
        """Return the SHA-256 digest of a file, which is computed once, in hexadecimal digits."""
        if name not in self._digests:
            self._digests[name] = hashlib.sha256(self.read(name)).hexdigest()
        return self._digests[name]

    def digests(self) -> Mapping[str, str]:
        """Return the digests of all files by name, sorted."""
        return {name: self.digest(name) for name in self.read_all()}


def open_artifact(location: str) -> Artifact:
    """Return the artifact in a folder or under an ``s3://`` URI. Raises ModelError if there is no such folder."""
    return S3Artifact(location) if location.startswith("s3://") else FolderArtifact(location)


def describe(artifact: Artifact) -> Mapping[str, Any]:
    """Return the content of the artifact's MLmodel file. Raises ModelError if it is missing or not a description."""
    text = artifact.read(MLMODEL, MAX_MLMODEL_BYTES + 1)
    try:
        _check_plain(text)
        description = yaml.load(text, YAML_LOADER)  # noqa: S506  a safe loader, and the check refuses tags
    except Exception as error:
        raise ModelError(f"{artifact.location}/{MLMODEL} is not plain YAML: {in_one_line(error)}") from error
    if not isinstance(description, dict):
        raise ModelError(f"{artifact.location}/{MLMODEL} does not describe a model")
    return description


def _check_plain(text: bytes) -> None:
    """Raise ValueError for YAML beyond plain lists, mappings and scalars: it could take hours or end the process."""
    if len(text) > MAX_MLMODEL_BYTES:
        raise ValueError(f"it has more than {MAX_MLMODEL_BYTES} bytes")
    depth = 0
    for event in yaml.parse(text, YAML_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_MLMODEL_DEPTH:
            raise ValueError(f"it is nested more than {MAX_MLMODEL_DEPTH} levels deep")
        if getattr(event, "anchor", None):
            raise ValueError("it has an anchor or an alias")
        if tag := getattr(event, "tag", None):
            raise ValueError(f"it has a tag, {tag}")


def in_one_line(error: Exception) -> str:
    """Return the error's type and message without line breaks and control characters. A long message is cut.

    The message may quote names in the model's files, and the line goes to a log or a terminal.
    """
    line = " ".join(f"{type(error).__name__}: {error}"[:MAX_MESSAGE_LENGTH].split())
    return "".join(character if character.isprintable() else "?" for character in line)


def find_run(bucket: str, experiment_id: str, run_id: str) -> str:
    """Return the ``s3://`` URI of the model that a run logged into the bucket.

    MLflow 2 puts the model under its run. MLflow 3 puts it beside its run, and only the MLmodel file names the run.

    Raises:
        ModelError: if there is no such model, more than one, or no permission to look.
    """
    client = _s3()
    under_run = S3Artifact(f"s3://{bucket}/{experiment_id}/{run_id}/artifacts/model", client)
    # Listed, not read: to a role that may list this prefix but not the whole bucket, S3 reports a missing file as 403.
    if MLMODEL in under_run.names():
        return under_run.location
    models = S3Artifact(f"s3://{bucket}/{experiment_id}/models", client)
    places = [name.removesuffix(f"/{MLMODEL}") for name in models.names() if fnmatch(name, f"m-*/artifacts/{MLMODEL}")]
    # One slash alone: the * of fnmatch also matches deeper folders, such as those of a model inside another.
    candidates = [S3Artifact(f"{models.location}/{place}", client) for place in places if place.count("/") == 1]
    with ThreadPoolExecutor(8) as threads:
        runs = threads.map(_run_of, candidates)
        found = [candidate.location for candidate, run in zip(candidates, runs, strict=True) if run == run_id]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"run {run_id} logged several models, set MODEL_LOCATION to one of {', '.join(sorted(found))}")
    raise ModelError(
        f"no model of run {run_id} in {under_run.location} nor in {models.location}/m-…/artifacts:"
        " check MODEL_BUCKET, MLFLOW_EXPERIMENT_ID and RUN_ID, or set MODEL_LOCATION"
    )


def _run_of(artifact: Artifact) -> object:
    """Return the run that logged the model; None if its MLmodel cannot be read, which must not hide other models."""
    try:
        return describe(artifact).get("run_id")
    except ModelError:
        return None


def _no_such_file(location: str, name: str) -> NoSuchFileError:
    hint = ": set MODEL_LOCATION to the folder that holds the MLmodel file" if name == MLMODEL else ""
    return NoSuchFileError(f"there is no {name} in {location}{hint}")


def _s3() -> "S3Client":
    try:
        return clients.s3()
    except clients.SDKSettingsError as error:
        raise ModelError(str(error)) from error
