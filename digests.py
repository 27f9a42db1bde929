"""The digest that ``MODEL_SHA256`` pins: whoever sets it trusts the model, and gets exactly that model."""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from artifacts import Artifact, FolderArtifact, ModelError


def digest_of(content: bytes) -> str:
    """Return the SHA-256 digest of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """Return the digest of a folder with these files, by name: the digest of the lines that ``sha256sum`` prints."""
    return digest_of("".join(f"{digest_of(content)}  ./{name}\n" for name, content in files.items()).encode())


def check_digest(what: str, form: str, digest: str, sha256: str | None) -> None:
    """Refuse a model if no digest is pinned for it, or if its digest is not the pinned one. Raises ModelError."""
    if sha256 is None:
        raise ModelError(
            f"{what}, {form}, can run any code when it is loaded: if you trust it, set MODEL_SHA256={digest}"
        )
    if sha256.lower() != digest:
        raise ModelError(f"{what}, {form}, is not what MODEL_SHA256 names: its digest is {digest}, not {sha256}")


def verified_copy(artifact: Artifact, form: str, sha256: str | None) -> Artifact:
    """Return a copy of the whole model, whose digest was verified, in a folder that lasts as long as the process."""
    files = {name: artifact.read(name) for name in artifact.names()}
    check_digest(artifact.location, form, digest_of_files(files), sha256)
    # A copy, because the files could change after their digest was verified, and some models keep reading them.
    folder = tempfile.mkdtemp(prefix="model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return FolderArtifact(folder)
