"""A month's predictions in a folder on this machine."""

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from batch.manifests import MANIFEST, Manifest, OutputFile, encode_manifest, find_sha256
from batch.outputs import OUR_NAME, BusyError, OutputError, Place
from rides import encodable

TEMPORARY = ".unfinished-"
"""How the names of temporary files begin. Readers of partitioned tables ignore names that begin with a dot."""
HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or "),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "run as a user who may write there, or "),
}
"""What to do about some errors of the file system, besides choosing another folder."""


class FolderPlace(Place):
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which is made when it is needed."""
        self.location = encodable(str(folder))
        self._folder = folder

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the folder, and remove unfinished files of a killed run. The kernel unlocks it however a run ends."""
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
            # Errors are suppressed, because a run for a month that is done need not write to the folder.
            with contextlib.suppress(OutputError):
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
            return set(os.listdir(self._folder))  # noqa: PTH208

    def _is_unused(self, name: str) -> bool:
        """Return whether a run wrote the file. It was killed or replaced, because no other run holds the lock."""
        return bool(OUR_NAME.fullmatch(name))

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

    def publish(self, file: BinaryIO, output: OutputFile) -> None:
        """Rename the temporary file."""
        self._rename(file, output.name)

    def _rename(self, file: BinaryIO, name: str) -> None:
        """Give a temporary file its name, after the disk has its content."""
        with self._explained():
            os.fsync(file.fileno())
            os.replace(file.name, self._folder / name)  # noqa: PTH105  file.name is text

    def commit(self, manifest: Manifest) -> None:
        """Replace the manifest. The lock keeps other runs from doing the same."""
        with self.temporary() as file:
            file.write(encode_manifest(manifest))
            file.flush()
            self._sync()
            self._rename(file, MANIFEST)
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
            raise explain_os_error(error, str(error.filename or self.location)) from error


def explain_os_error(error: OSError, where: str) -> OutputError:
    """Return an error that says in one line what to do."""
    reason = error.strerror or str(error)
    return OutputError(f"{where}: cannot be written: {reason}: {HINTS.get(error.errno or 0, '')}choose another output")
