"""A month's predictions under a prefix in S3."""

import base64
import contextlib
import hashlib
import shutil
import time
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from batch.manifests import MANIFEST, Manifest, OutputFile, encode_manifest, find_sha256
from batch.objects import client, error_code, explained, split_uri, temporary_file
from batch.outputs import OUR_NAME, REPLACED_LENGTH, BusyError, OutputError, Place

CONFLICT = "ConditionalRequestConflict"
LOST_RACES = ("PreconditionFailed", "NoSuchKey", CONFLICT)
"""The codes of a conditional put that was not applied (API reference, PutObject): the manifest is there, is gone, or is
being written. In the last case, the client must send the same request again."""
CONFLICT_ATTEMPTS, CONFLICT_SECONDS = 5, 1.0
MAX_PUT_BYTES = 5 * 2**30
"""The largest object that one request can put (S3 user guide, "Uploading objects"). S3 verifies the SHA-256 only of
such an object as a whole."""


class ObjectPlace(Place):
    """A prefix in S3."""

    def __init__(self, location: str) -> None:
        """Take the ``s3://`` URI without a slash at the end."""
        self.location = location
        self._bucket, prefix = split_uri(location)
        self._prefix = f"{prefix}/"
        self._tag: str | None = None
        """The manifest's ETag; None if there is no manifest."""

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep nobody out: ``commit`` finds out whether another run was faster."""
        yield

    def _read_manifest(self) -> bytes | None:
        """Return the manifest's content, and remember its ETag for ``commit``."""
        try:
            with self._explained(FileNotFoundError):
                found = client().get_object(**self._object(MANIFEST))
                content = found["Body"].read()
        except FileNotFoundError:
            self._tag, self.suffix = None, ""
            return None
        self._remember(found["ETag"], content)
        return content

    def _remember(self, tag: str, content: bytes) -> None:
        # Made of the content. S3 may give the object a new ETag when it copies or encrypts it.
        self._tag, self.suffix = tag, f"-{hashlib.sha256(content).hexdigest()[:REPLACED_LENGTH]}"

    def names(self) -> set[str]:
        """Return the names of all objects right below the prefix."""
        with self._explained():
            pages = (
                client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self._bucket, Prefix=self._prefix, Delimiter="/")
            )
            return {found["Key"].removeprefix(self._prefix) for page in pages for found in page.get("Contents", [])}

    def _is_unused(self, name: str) -> bool:
        """Return whether a run that has lost wrote the file: a run that would have replaced an older manifest."""
        found = OUR_NAME.fullmatch(name)
        return found is not None and found[1] != self.suffix

    @contextlib.contextmanager
    def temporary(self) -> Iterator[BinaryIO]:
        """Give a file of this machine that has no name, so that even a killed process leaves nothing behind."""
        try:
            with temporary_file() as file:
                yield file
        except OSError as error:
            reason = error.strerror or error
            hint = "set TMPDIR to a folder that has space for the month's predictions"
            raise OutputError(f"a temporary file cannot be written: {reason}: {hint}") from error

    def publish(self, file: BinaryIO, output: OutputFile) -> None:
        """Put the object. Another run that puts an object of this name puts the same content."""
        if output.bytes > MAX_PUT_BYTES:
            limit = f"{output.bytes:,} bytes, and S3 takes at most {MAX_PUT_BYTES:,} in one request"
            raise OutputError(f"{self.location}/{output.name}: has {limit}: choose a folder as output, and copy it")
        file.seek(0)
        # S3 computes the digest too, and refuses the object if it differs.
        digest: dict[str, Any] = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _base64(output.sha256)}
        with self._explained():
            client().put_object(**self._object(output.name), Body=file, **digest)

    def commit(self, manifest: Manifest) -> None:
        """Put the manifest on the condition that no other run has put one since this run read it."""
        content = encode_manifest(manifest)
        condition: dict[str, Any] = {"IfMatch": self._tag} if self._tag else {"IfNoneMatch": "*"}
        for _ in range(CONFLICT_ATTEMPTS):
            with self._explained():
                try:
                    put = client().put_object(**self._object(MANIFEST), Body=content, **condition)
                    return self._remember(put["ETag"], content)
                except ClientError as error:
                    if (code := error_code(error)) not in LOST_RACES:
                        raise
            # The SDK repeats a request whose response was lost, and then the first request may have won this race.
            if self._read_manifest() == content:
                return None
            if code != CONFLICT:
                break
            time.sleep(CONFLICT_SECONDS)
        raise BusyError(
            f"{self.location}: another run has just written this month: run again to see whether the month is done"
        )

    def holds(self, file: OutputFile) -> bool:
        """Compare the digest that S3 verified when it got the object, or else the digest of a copy."""
        try:
            with self._explained(FileNotFoundError):
                found = client().head_object(**self._object(file.name), ChecksumMode="ENABLED")
            if found["ContentLength"] != file.bytes:
                return False
            # If there is no digest, the server keeps none, or another program put the object.
            if "ChecksumSHA256" in found:
                return found["ChecksumSHA256"] == _base64(file.sha256)
            with self.open(file.name) as copy:
                return find_sha256(copy) == file.sha256
        except FileNotFoundError:
            return False

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
                shutil.copyfileobj(client().get_object(**self._object(name))["Body"], file)
            file.seek(0)
            yield file

    def _object(self, name: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _explained(self, missing: type[Exception] | None = None) -> contextlib.AbstractContextManager[None]:
        return explained(self.location, OutputError, missing)


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
