"""The note in the project's folder with which other commands find the local AWS of ``run --serve`` while it is up.

The process that wrote the note holds a lock on it. The system releases the lock when the process ends, also after
kill -9. So an old note never counts, even if another process has the port or the process id by then.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

NOTE = Path(__file__).parents[1] / ".serving.json"


@contextlib.contextmanager
def announce(variables: Mapping[str, str], path: Path = NOTE) -> Iterator[None]:
    """Keep the note for the length of the block: the variables with which a process reaches this local AWS.

    If several local AWS are up, the note is the newest one's. If no file or lock can be made, there is no note.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    with os.fdopen(descriptor, "w") as note:
        try:
            json.dump(variables, note)
            note.flush()
            # Complete and locked before anybody can read it.
            Path(name).replace(path)
            yield
        finally:
            for left in (Path(name), path):
                with contextlib.suppress(OSError):
                    # Another process may have replaced it since.
                    if os.path.samestat(left.stat(), os.fstat(descriptor)):
                        left.unlink()


def find(path: Path = NOTE) -> dict[str, str] | None:
    """Return the variables in the note; None if this user serves no local AWS from this folder."""
    try:
        # A link could lead to a file that somebody else controls, and opening a pipe could wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor) as note:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
            return None
        try:
            fcntl.flock(note, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found: dict[str, str] = json.load(note)
            return found
        except OSError:
            return None  # some network file systems have no locks
    return None
