"""Where predictions lie: a month's folder on this machine, or a prefix in S3.

Files get a name that depends on their content, and no file is ever changed. Only the manifest says which files count,
and it is written last: it appears, or replaces another, at one instant.

    folder   one run at a time holds the folder's lock; a temporary file gets its name when it is complete
    S3       a conditional put of the manifest succeeds for one of several runs

S3 has no lock, so a run that removes files must not remove one that a later manifest names. Therefore the names that
a run gives to its files depend also on the manifest that it will replace. When that manifest is replaced, no
manifest can name such a file any more, however late it is removed.
"""

import re
from pathlib import Path

from batch.buckets import ObjectPlace
from batch.folders import FolderPlace
from batch.outputs import OutputError, Place


def open_place(output: str, path: str) -> Place:
    """Return the place below a folder or an ``s3://`` URI. Raises OutputError for a location of another kind."""
    if re.match("s3://[^/]", output):
        return ObjectPlace(f"{output.rstrip('/')}/{path}")
    if "://" in output:
        raise OutputError(f"{output}: is not an output: name a folder or an s3://bucket/prefix URI")
    return FolderPlace(Path(output) / path)
