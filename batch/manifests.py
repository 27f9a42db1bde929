"""Manifests: what a month's folder holds, from which input and by which model. A manifest is written last."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
from typing import Any, BinaryIO, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from model_metadata import NO_METADATA
from ride_counts import RideCounts
from targets import Target, find_target

MANIFEST = "_manifest.json"
"""The file whose existence says that a month is done. Readers of partitioned tables ignore names that begin with _."""
PACKAGES = ("numpy", "pyarrow", "scikit-learn")
"""Their versions are noted if they are installed, because predictions may depend on them."""


class DamagedManifestError(ValueError):
    """The content of a manifest is not what this program writes."""


class InputIdentity(Struct, frozen=True):
    """A trip record file."""

    location: str
    sha256: str
    bytes: int
    tag: str
    """The ETag of a remote file, or else its date, which changes with the file; empty for a file of this machine."""


# omit_defaults keeps the manifests of most models as they were before models had these fields.
class ModelIdentity(Struct, frozen=True, omit_defaults=True):
    """A model, and the name and version with which its predictions are tagged."""

    name: str
    version: str
    sha256: str
    """The digest with which MODEL_SHA256 pins it."""
    field: str
    """The name of the predicted value's column."""
    target: str = NO_METADATA.target
    """What the model predicts: a name in ``targets.TARGETS``, or a name of the user's own."""
    unit: str = NO_METADATA.unit
    time_zone: str | None = None
    """The time zone of the hours that the model has predicted from; None if it does not want the time."""

    @property
    def actual_field(self) -> str:
        """The name of the actual value's column."""
        return f"actual_{self.target}"

    @property
    def known_target(self) -> Target | None:
        """The target; None if it is the user's own."""
        return find_target(self.target, self.unit)

    def name_change(self, other: "ModelIdentity") -> str:
        """Return what is different in another identity, in a word or two; empty if they are the same."""
        if self == other:
            return ""
        has_same_model = msgspec.structs.replace(self, time_zone=other.time_zone) == other
        return "time zone" if has_same_model else "model"


class OutputFile(Struct, frozen=True):
    """A file beside the manifest."""

    name: str
    bytes: int
    sha256: str


class Counts(Struct, frozen=True):
    """The rows of a month, and the errors of the predictions for usual rides whose actual value is known."""

    rows: int
    predicted: int
    rejected: int
    reasons: dict[str, int]
    """The number of rejected rows by reason."""
    measured: int = 0
    """The number of rides that the errors are computed from: the rides that ``trips.training_trips`` would return."""
    rmse: float | None = None
    """In the unit of the model's target; None if no ride is measured."""
    mae: float | None = None


class Manifest(Struct, frozen=True):
    """All that is known about a month's predictions by a model."""

    colour: str
    year: int
    month: int
    input: InputIdentity
    model: ModelIdentity
    counts: Counts
    predictions: OutputFile
    rejections: OutputFile
    columns: dict[str, str]
    """The type of each column of the predictions."""
    versions: dict[str, str]
    written_at: str
    """The time in UTC, ISO 8601."""
    format: int = 1
    ride_counts: RideCounts | UnsetType = UNSET
    """The rows in the bins of the model's baseline. Without a baseline, and in older manifests, it is absent."""

    def is_of(self, source: InputIdentity, model: ModelIdentity) -> bool:
        """Return whether the predictions are of this input, by this model."""
        return (self.input.sha256, self.model) == (source.sha256, model)

    @property
    def files(self) -> tuple[OutputFile, OutputFile]:
        """The files beside the manifest."""
        return self.predictions, self.rejections

    @property
    def names(self) -> set[str]:
        """The names of the files beside the manifest."""
        return {file.name for file in self.files}


_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON for people to read."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(content: bytes) -> Manifest:
    """Return the manifest in JSON. Raises DamagedManifestError."""
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedManifestError(str(error)) from error


def name_error(name: str, unit: str) -> str:
    """Return the name of an error, such as RMSE, with its unit, unless that is minutes."""
    return name if unit == NO_METADATA.unit else f"{name}, {unit}"


def find_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that predictions depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        # A model with a served form needs no scikit-learn.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    # With microseconds: if two runs wrote the same manifest, S3 could not tell which of them has won.
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def find_sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open file."""
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
