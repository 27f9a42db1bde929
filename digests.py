"""The digest that ``MODEL_SHA256`` pins: whoever sets it trusts the model, and gets exactly that model."""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from artifacts import FolderArtifact, KeptArtifact, ModelError, describe, open_artifact
from served.forms import FLAVOR

MANIFEST = "manifest.json"
"""The file in which ``./scripts/publish`` names the files of a published model, with their digests."""
MAX_NAMED = 3
"""The most files that an error names."""


class FileDigest(Struct, frozen=True):
    """A file of a published model."""

    bytes: int
    sha256: str


class FileList(Struct, frozen=True):
    """The part of a manifest that names the files beside it."""

    files: dict[str, FileDigest]


def digest_of(content: bytes) -> str:
    """Return the SHA-256 digest of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """Return the digest of a folder with these files, by name: the digest of the lines that ``sha256sum`` prints."""
    return digest_of_digests({name: digest_of(content) for name, content in files.items()})


def digest_of_digests(digests: Mapping[str, str]) -> str:
    """Return the digest of a folder whose files have these digests, by name."""
    return digest_of("".join(f"{digest}  ./{name}\n" for name, digest in sorted(digests.items())).encode())


def open_pinned(location: str, sha256: str | None) -> tuple[KeptArtifact, Mapping[str, Any]]:
    """Return a model's files and the content of its MLmodel file, verified if a digest is pinned.

    The digest is that of the file that is loaded, or that of the whole folder. If it is that of the folder, the MLmodel
    file and all others are used from the verified bytes. Raises ModelError if the digest differs, or there is no model.
    """
    artifact = KeptArtifact(open_artifact(location))
    if sha256 is None:
        return artifact, describe(artifact)
    try:
        description = describe(artifact)
        found = find_digest(artifact, description)
    except ModelError as error:
        # A changed MLmodel file may name a file that does not exist. An error about the digest then says more.
        _check_folder(artifact, sha256, str(error))
        raise
    if found != sha256.lower():
        name = find_file(description)
        _check_folder(artifact, sha256, f"the digest of its {name}, which is loaded, is {found}" if name else "")
    return artifact, description


def find_file(description: Mapping[str, Any]) -> str | None:
    """Return the name of the only file that is loaded; None for a model of which the whole folder is loaded.

    It is the served form's file; without a served form, it is the scikit-learn pipeline's file. The whole folder is
    loaded for a model with code of its own, and for other flavors.
    """
    flavors = description.get("flavors")
    found = flavors if isinstance(flavors, dict) else {}
    served, pipeline = found.get(FLAVOR), found.get("sklearn")
    name = None
    if isinstance(served, dict):
        name = served.get("data")
    elif isinstance(pipeline, dict) and not pipeline.get("code"):
        name = pipeline.get("pickled_model")
    return name if isinstance(name, str) else None


def find_digest(artifact: KeptArtifact, description: Mapping[str, Any]) -> str:
    """Return the digest of the file that is loaded, or of the whole folder if more than one file is loaded.

    This digest is the model's identity: the same with and without a pin, and with either pin. Raises ModelError.
    """
    name = find_file(description)
    return artifact.digest(name) if name else digest_of_digests(artifact.digests())


def _check_folder(artifact: KeptArtifact, sha256: str, reason: str) -> None:
    """Raise ModelError unless the digest of the whole folder is the pinned one. ``reason`` goes into the error."""
    digest = digest_of_digests(artifact.digests())
    if digest != sha256.lower():
        found = [f"the digest of the whole folder is {digest}", reason, compare_with_manifest(artifact)]
        raise ModelError(
            f"{artifact.location} is not what MODEL_SHA256 names, {sha256}: {'; '.join(filter(None, found))}"
        )


def compare_with_manifest(artifact: KeptArtifact) -> str:
    """Return which files differ from those that the manifest names. Return empty text if there is no manifest."""
    if MANIFEST not in artifact.names():
        return ""
    try:
        listed = msgspec.json.decode(artifact.read(MANIFEST), type=FileList).files
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"its {MANIFEST} cannot be read"
    others = {name: artifact.digest(name) for name in artifact.names() if name != MANIFEST}
    differences = {
        "changed": [name for name in others if name in listed and listed[name].sha256 != others[name]],
        "missing": [name for name in listed if name not in others],
        "not in the manifest": [name for name in others if name not in listed],
    }
    # A changed manifest can name anything, and an error is one line.
    found = [f"{ascii(name[:100])[1:-1]} is {what}" for what, names in differences.items() for name in names]
    if not found:
        return f"only its {MANIFEST} can have changed, or MODEL_SHA256 names another model"
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return f"{', '.join(found[:MAX_NAMED])}{more}, according to its {MANIFEST}"


def refuse_unpinned(what: str, form: str, digest: str) -> None:
    """Raise ModelError for a model that can run code and has no pinned digest. The error names the digest."""
    raise ModelError(f"{what}, {form}, can run any code when it is loaded: if you trust it, set MODEL_SHA256={digest}")


def copy_pinned(artifact: KeptArtifact, form: str, *, is_pinned: bool) -> KeptArtifact:
    """Return a copy of the whole model in a folder that lasts as long as the process. Raises ModelError if not pinned.

    It is a copy because the files could change after their digest was verified, and some models keep reading them.
    """
    if not is_pinned:
        refuse_unpinned(artifact.location, form, digest_of_digests(artifact.digests()))
    folder = tempfile.mkdtemp(prefix="model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in artifact.read_all().items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return KeptArtifact(FolderArtifact(folder))
