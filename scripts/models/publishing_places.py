"""Where models are published: below a prefix in S3 or a folder. An object that is there is never replaced.

Only ``live.json``, which names the model that is live, is replaced, and only if it is still the one that was read.
"""

import abc
import base64
import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from botocore.exceptions import ClientError
from msgspec import Struct

from batch.buckets import CONFLICT, CONFLICT_ATTEMPTS, CONFLICT_SECONDS, LOST_RACES
from batch.objects import FORBIDDEN, client, error_code, explained, split_uri
from scripts.models.publishing_proof import PublishError

LIVE = "live.json"
CHANGED = "another publish has just changed it: run the same command again, to compare with the model that is live now"


class LiveModel(Struct, frozen=True):
    """The content of ``live.json``."""

    location: str
    version: str
    target: str
    """What the model predicts, such as the duration: a model of another target never replaces it."""
    sha256: str
    """The digest of the whole folder, for MODEL_SHA256."""
    published_at: str
    """The time in UTC, ISO 8601."""
    format: Literal[1] = 1


class PublishTarget(abc.ABC):
    """A place below which each model has a folder of its own. Every method raises PublishError."""

    location: str
    _live_before: bytes | None = None
    """The content of ``live.json`` as it was read."""

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object that is not there yet, or is there with the same content, from a publish that was killed."""
        if not self._put_if_missing(name, content) and self.read(name) != content:
            raise PublishError(
                f"{self.location}/{name}: there is another object of this name, and a published one is never replaced:"
                " remove its folder if it is not in use, or publish to another place"
            )

    def read_live(self) -> LiveModel | None:
        """Return the model that is live, and remember it for ``replace_live``. It is None if no model was published."""
        self._live_before = self.read(LIVE)
        if self._live_before is None:
            return None
        try:
            return msgspec.json.decode(self._live_before, type=LiveModel)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            hint = "it does not name a published model: restore it, or remove it"
            raise PublishError(f"{self.location}/{LIVE}: {error}: {hint}") from error

    def replace_live(self, live: LiveModel) -> None:
        """Name another model as live, if nobody else has done so since ``read_live``."""
        content = msgspec.json.format(msgspec.json.encode(live), indent=2) + b"\n"
        if not self._replace_live(content):
            raise PublishError(f"{self.location}/{LIVE}: {CHANGED}")

    @abc.abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return an object's content; None if it is not there."""

    @abc.abstractmethod
    def _put_if_missing(self, name: str, content: bytes) -> bool:
        """Write an object, unless there is one of this name. Return whether this call wrote it."""

    @abc.abstractmethod
    def _replace_live(self, content: bytes) -> bool:
        """Write ``live.json`` if it is as it was read. Return whether it has this content now."""


class BucketTarget(PublishTarget):
    """A prefix in S3."""

    def __init__(self, location: str) -> None:
        """Take the ``s3://`` URI without a slash at the end."""
        self.location = location
        self._bucket, prefix = split_uri(location)
        self._prefix = f"{prefix}/" if prefix else ""
        self._live_tag: str | None = None

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None if it is not there."""
        try:
            with self._explained(name, FileNotFoundError):
                found = client().get_object(Bucket=self._bucket, Key=self._prefix + name)
                content = found["Body"].read()
        except FileNotFoundError:
            return None
        if name == LIVE:
            self._live_tag = found["ETag"]
        return content

    def _put_if_missing(self, name: str, content: bytes) -> bool:
        return self._put(name, content, {"IfNoneMatch": "*"})

    def _replace_live(self, content: bytes) -> bool:
        condition = {"IfNoneMatch": "*"} if self._live_before is None else {"IfMatch": self._live_tag}
        # The SDK retries a request whose response was lost, and then the first attempt may have written the object.
        return self._put(LIVE, content, condition) or self.read(LIVE) == content

    def _put(self, name: str, content: bytes, condition: dict[str, Any]) -> bool:
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        for _ in range(CONFLICT_ATTEMPTS):
            with self._explained(name):
                try:
                    client().put_object(
                        Bucket=self._bucket,
                        Key=self._prefix + name,
                        Body=content,
                        # S3 computes the digest too, and refuses the object if it differs.
                        ChecksumAlgorithm="SHA256",
                        ChecksumSHA256=digest,
                        **condition,
                    )
                except ClientError as error:
                    if (code := error_code(error)) not in LOST_RACES:
                        raise
                else:
                    return True
            if code != CONFLICT:
                break
            time.sleep(CONFLICT_SECONDS)
        return False

    @contextlib.contextmanager
    def _explained(self, name: str, missing: type[Exception] | None = None) -> Iterator[None]:
        where = f"{self.location}/{name}"
        with explained(where, PublishError, missing):
            try:
                yield
            except ClientError as error:
                if error_code(error) not in FORBIDDEN:
                    raise
                rights = f"s3:PutObject and s3:GetObject on {self.location}/*, and s3:ListBucket on the bucket"
                raise PublishError(f"{where}: no permission ({error}): publishing needs {rights}") from error


class FolderTarget(PublishTarget):
    """A folder of this machine."""

    def __init__(self, location: str) -> None:
        """Take the folder, which is made when it is needed."""
        self._folder = Path(location).absolute()
        self.location = str(self._folder)

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if it is not there."""
        with self._explained():
            try:
                return (self._folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def _put_if_missing(self, name: str, content: bytes) -> bool:
        path = self._folder / name
        with self._explained(), self._temporary(content) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Unlike a rename, a link replaces nothing. Unlike open("xb"), it never shows a part of the content.
                path.hardlink_to(temporary)
            except FileExistsError:
                return False
        return True

    def _replace_live(self, content: bytes) -> bool:
        with self._explained(), self._temporary(content) as temporary:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                if self.read(LIVE) != self._live_before:
                    return False
                temporary.replace(self._folder / LIVE)
            finally:
                os.close(folder)
        return True

    @contextlib.contextmanager
    def _temporary(self, content: bytes) -> Iterator[Path]:
        """Give a file with the content. It is not in a model's folder, whose digest it would change."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".unfinished-{uuid.uuid4().hex}"
        try:
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.location
            raise PublishError(
                f"{where}: cannot be read or written: {error.strerror or error}: choose another place"
            ) from error


def open_target(location: str) -> PublishTarget:
    """Return the place at an ``s3://`` URI or a folder. Raises PublishError for any other URI."""
    uri = location.rstrip("/")
    if uri.startswith("s3://") and split_uri(uri)[0]:
        return BucketTarget(uri)
    if "://" in location or not location:
        raise PublishError(f"--to is an s3://bucket/prefix URI or a folder, not {location!r}")
    return FolderTarget(location)
