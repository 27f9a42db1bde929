"""Where predictions lie: a month's folder on this machine, or a prefix in S3.

Files get a name that depends on their content, and no file is ever changed. Only the manifest says which files count,
and it is written last: it appears, or replaces another, at one instant.

    folder   one run at a time holds the folder's lock; a temporary file gets its name when it is complete
    S3       a conditional put of the manifest succeeds for one of several runs
"""

import abc
import base64
import contextlib
import fcntl
import os
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from batch.manifests import (
    MANIFEST,
    DamagedManifestError,
    Manifest,
    OutputFile,
    decode_manifest,
    encode_manifest,
    find_sha256,
)
from batch.objects import client, error_code, explained, split_uri

TEMPORARY = ".unfinished-"
"""How the names of temporary files begin. Readers of partitioned tables ignore names that begin with a dot."""
LOST_RACES = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")
"""The codes of a conditional put that came too late (API reference, PutObject): the manifest was written, is being
written, or is gone."""
DIGEST_LENGTH = 16
"""Hexadecimal digits of a file's digest that are part of its name."""


class OutputError(Exception):
    """The predictions cannot be written. The message says in one line why."""


class BusyError(OutputError):
    """Another run is writing the same month, or has just written it."""


class Place(abc.ABC):
    """The folder of a month's predictions by a model. Every method raises OutputError if it fails."""

    location: str
    """The folder's path or ``s3://`` URI."""

    @abc.abstractmethod
    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keep other runs out for the length of the block, as far as the place can. Raises BusyError."""

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None. A damaged one counts as none, so that the month is scored again."""
        content = self._read_manifest()
        try:
            return None if content is None else decode_manifest(content)
        except DamagedManifestError:
            return None

    @abc.abstractmethod
    def _read_manifest(self) -> bytes | None:
        """Return the manifest's content, or None."""

    @abc.abstractmethod
    def names(self) -> set[str]:
        """Return the names of all files."""

    @abc.abstractmethod
    def temporary(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Give an empty file that is gone after the block, unless ``publish`` has given it a name."""

    @abc.abstractmethod
    def publish(self, file: BinaryIO, name: str) -> None:
        """Make a complete temporary file visible under its name."""

    @abc.abstractmethod
    def commit(self, manifest: Manifest) -> None:
        """Write the manifest. Raises BusyError if it is not the one any more that ``read_manifest`` has returned."""

    @abc.abstractmethod
    def holds(self, file: OutputFile) -> bool:
        """Return whether a file is there, with the content that its digest names."""

    @abc.abstractmethod
    def remove(self, names: Collection[str]) -> None:
        """Remove files, also if they are gone already."""

    @abc.abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Give a file, open at its beginning."""


def open_place(output: str, path: str) -> Place:
    """Return the place below a folder or an ``s3://`` URI."""
    if output.startswith("s3://"):
        return ObjectPlace(f"{output.rstrip('/')}/{path}")
    return FolderPlace(Path(output) / path)


def describe_file(file: BinaryIO, start: str, ending: str) -> OutputFile:
    """Return the name, with the digest between ``start`` and ``ending``, the size and the digest of a complete file."""
    file.flush()
    file.seek(0)
    digest = find_sha256(file)
    return OutputFile(f"{start}{digest[:DIGEST_LENGTH]}{ending}", file.tell(), digest)


class FolderPlace(Place):
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made when it is needed."""
        self.location = str(folder)
        self._folder = folder

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the folder, and remove what a killed run has left unfinished. The kernel unlocks it after any end."""
        with self._explained():
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"{self.location}: another run is writing this month: wait until it ends") from error
            except OSError as error:
                reason = f"the folder cannot be locked ({error.strerror}): write to a local disk or to S3"
                raise OutputError(f"{self.location}: {reason}") from error
            self.remove({name for name in self.names() if name.startswith(TEMPORARY)})
            yield
        finally:
            os.close(lock)

    def _read_manifest(self) -> bytes | None:
        """Return the manifest's content."""
        with self._explained():
            try:
                return (self._folder / MANIFEST).read_bytes()
            except FileNotFoundError:
                return None

    def names(self) -> set[str]:
        """Return the names of all files."""
        with self._explained():
            return set(os.listdir(self._folder)) if self._folder.is_dir() else set()  # noqa: PTH208

    @contextlib.contextmanager
    def temporary(self) -> Iterator[BinaryIO]:
        """Give a file in the same folder, because only there a file gets its name in one step."""
        path = self._folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        with self._explained():
            try:
                with path.open("x+b") as file:
                    yield file
            finally:
                path.unlink(missing_ok=True)

    def publish(self, file: BinaryIO, name: str) -> None:
        """Rename the temporary file, after the disk has its content."""
        with self._explained():
            os.fsync(file.fileno())
            os.replace(file.name, self._folder / name)  # noqa: PTH105  file.name is text

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest. The lock keeps other runs from doing the same."""
        with self.temporary() as file:
            file.write(encode_manifest(manifest))
            file.flush()
            self._sync()
            self.publish(file, MANIFEST)
            self._sync()

    def holds(self, file: OutputFile) -> bool:
        """Read the file and compare its digest."""
        with self._explained():
            try:
                with (self._folder / file.name).open("rb") as found:
                    return find_sha256(found) == file.sha256
            except FileNotFoundError:
                return False

    def remove(self, names: Collection[str]) -> None:
        """Remove files."""
        with self._explained():
            for name in names:
                (self._folder / name).unlink(missing_ok=True)

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open a file."""
        with self._explained():
            return (self._folder / name).open("rb")

    def _sync(self) -> None:
        """Make the names in the folder survive a loss of power."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.location}: cannot be written: {error.strerror or error}") from error


class ObjectPlace(Place):
    """A prefix in S3."""

    def __init__(self, location: str) -> None:
        """Take the ``s3://`` URI without a slash at the end."""
        self.location = location
        self._bucket, prefix = split_uri(location)
        self._prefix = f"{prefix}/"
        self._tag: str | None = None

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep nobody out: ``commit`` finds out whether another run was faster."""
        yield

    def _read_manifest(self) -> bytes | None:
        """Return the manifest's content, and remember its ETag for ``commit``."""
        try:
            with self._explained(FileNotFoundError):
                found = client().get_object(**self._object(MANIFEST))
                self._tag = found["ETag"]
                return found["Body"].read()
        except FileNotFoundError:
            self._tag = None
            return None

    def names(self) -> set[str]:
        """Return the names of all objects right below the prefix."""
        with self._explained():
            pages = (
                client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self._bucket, Prefix=self._prefix, Delimiter="/")
            )
            return {found["Key"].removeprefix(self._prefix) for page in pages for found in page.get("Contents", [])}

    @contextlib.contextmanager
    def temporary(self) -> Iterator[BinaryIO]:
        """Give a file of this machine that has no name, so that even a killed process leaves nothing behind."""
        try:
            with tempfile.TemporaryFile() as file:
                yield file
        except OSError as error:
            raise OutputError(f"a temporary file cannot be written: {error.strerror or error}") from error

    def publish(self, file: BinaryIO, name: str) -> None:
        """Put the object. Another run that puts an object of this name puts the same content."""
        file.seek(0)
        with self._explained():
            client().put_object(**self._object(name), Body=file, ChecksumAlgorithm="SHA256")

    def commit(self, manifest: Manifest) -> None:
        """Put the manifest on the condition that it is still the one that this run has read."""
        content = encode_manifest(manifest)
        condition: dict[str, Any] = {"IfMatch": self._tag} if self._tag else {"IfNoneMatch": "*"}
        with self._explained():
            try:
                client().put_object(**self._object(MANIFEST), Body=content, **condition)
            except ClientError as error:
                if error_code(error) not in LOST_RACES:
                    raise
                # The SDK repeats a request whose response was lost, and then the first one may have won this race.
                if self._read_manifest() != content:
                    raise BusyError(f"{self.location}: another run has just written this month") from error

    def holds(self, file: OutputFile) -> bool:
        """Compare the size and, if the server knows it, the digest that S3 verified when it got the object."""
        try:
            with self._explained(FileNotFoundError):
                found = client().head_object(**self._object(file.name), ChecksumMode="ENABLED")
        except FileNotFoundError:
            return False
        return found["ContentLength"] == file.bytes and found.get("ChecksumSHA256") in (None, _base64(file.sha256))

    def remove(self, names: Collection[str]) -> None:
        """Delete objects."""
        with self._explained():
            for name in names:
                client().delete_object(**self._object(name))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Give a copy of the object."""
        with self.temporary() as file:
            with self._explained():
                client().download_fileobj(Fileobj=file, **self._object(name))
            file.seek(0)
            yield file

    def _object(self, name: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _explained(self, missing: type[Exception] | None = None) -> contextlib.AbstractContextManager[None]:
        return explained(self.location, OutputError, missing)


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
