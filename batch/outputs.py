"""A place for a month's predictions: the methods that every kind of place has, and the errors."""

import abc
import contextlib
import re
from collections.abc import Collection
from typing import BinaryIO

from batch.manifests import DamagedManifestError, Manifest, OutputFile, decode_manifest, find_sha256

DIGEST_LENGTH, REPLACED_LENGTH = 16, 8
"""Hexadecimal digits that are part of a file's name: the file's digest, and the digest of the replaced manifest."""
OUR_NAME = re.compile(r"(?:part|_rejected)-[0-9a-f]{16}(|-[0-9a-f]{8})\.(?:parquet|jsonl\.gz)")
"""The names of predictions and rejected rows. A file with another name is somebody else's, and is never removed."""


class OutputError(Exception):
    """The predictions cannot be written. The message says in one line why."""


class BusyError(OutputError):
    """Another run is writing the same month, or has just written it."""


class Place(abc.ABC):
    """The folder of a month's predictions by a model. Every method raises OutputError if it fails."""

    location: str
    """The folder's path or ``s3://`` URI."""
    suffix = ""
    """The end of the names of the files that this run publishes. It keeps them apart from the files of other runs."""

    @abc.abstractmethod
    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keep other runs out for the length of the block, as far as the place can. Raises BusyError."""

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, or None. A damaged manifest counts as missing, so that the month is scored again."""
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

    def remove_unused(self, names: Collection[str], manifest: Manifest | None) -> None:
        """Remove the files of these names that no manifest needs.

        ``manifest`` is the manifest that was read or committed last. The files were listed or published before that.
        """
        kept = manifest.names if manifest else set()
        self.remove({name for name in names if name not in kept and self._is_unused(name)})

    @abc.abstractmethod
    def _is_unused(self, name: str) -> bool:
        """Return whether no manifest can ever name a file that the current one does not name."""

    @abc.abstractmethod
    def temporary(self) -> contextlib.AbstractContextManager[BinaryIO]:
        """Give an empty file that is gone after the block, unless ``publish`` has given it a name."""

    @abc.abstractmethod
    def publish(self, file: BinaryIO, output: OutputFile) -> None:
        """Make a complete temporary file visible under its name."""

    @abc.abstractmethod
    def commit(self, manifest: Manifest) -> None:
        """Write the manifest. Raises BusyError if another run has written it since ``read_manifest``."""

    @abc.abstractmethod
    def holds(self, file: OutputFile) -> bool:
        """Return whether a file is there, with the content that its digest names."""

    @abc.abstractmethod
    def remove(self, names: Collection[str]) -> None:
        """Remove files, also if they are gone already."""

    @abc.abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Give a file, open at its beginning."""


def describe_file(file: BinaryIO, start: str, ending: str) -> OutputFile:
    """Return the name, with the digest between ``start`` and ``ending``, the size and the digest of a complete file."""
    file.flush()
    file.seek(0)
    digest = find_sha256(file)
    return OutputFile(f"{start}{digest[:DIGEST_LENGTH]}{ending}", file.tell(), digest)
