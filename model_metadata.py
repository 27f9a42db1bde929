"""What a model's artifact says about the model: the value that it predicts, its features, its training and baseline.

``./scripts/train`` writes it as MLflow's ``metadata`` into the MLmodel file, under the key ``ride_model``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from artifacts import ModelError
from features import DEFAULT_FEATURES, KNOWN, wants_time
from settings import FIELD

KEY = "ride_model"
"""The key in the metadata of an MLmodel file."""
MAX_FEATURES = 100
"""A served form has at most this number of columns."""

Name: TypeAlias = Annotated[str, Meta(pattern=rf"^{FIELD}\Z")]
Unit: TypeAlias = Annotated[str, Meta(pattern=r"^[\w $€£%/.-]{1,32}\Z")]
"""A few words or signs, because pages and documents show them."""
FileName: TypeAlias = Annotated[str, Meta(pattern=r"^[\w-][\w.-]{0,127}\Z")]
"""The name of a file in the artifact's own folder."""
Digest: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class TrainedOn(msgspec.Struct, frozen=True):
    """The rides that a model was trained on."""

    files: list[str]
    """The names of the files, without folders."""
    rides: int
    first: str
    """The first pickup, in ISO 8601."""
    last: str


class BaselineFile(msgspec.Struct, frozen=True):
    """The file in the artifact that has the model's baseline."""

    file: FileName
    sha256: Digest


class ModelMetadata(msgspec.Struct, frozen=True):
    """What an artifact says about its model. The defaults hold for an artifact that says nothing."""

    target: Name = "duration"
    """The name in ``targets.TARGETS``, or a name of the user's own."""
    field: Name = "ride_duration"
    """The name of the predicted value in the stream's predictions."""
    unit: Unit = "minutes"
    features: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_FEATURES)] = DEFAULT_FEATURES
    """The names of the features that the model wants: see ``features.KNOWN``."""
    trained_on: TrainedOn | None = None
    baseline: BaselineFile | None = None

    @property
    def wants_time(self) -> bool:
        """Whether the model wants the time of the pickup."""
        return wants_time(self.features)


NO_METADATA = ModelMetadata()


def read_metadata(description: Mapping[str, Any], location: str) -> ModelMetadata:
    """Return what the content of an MLmodel file says about the model. Raises ModelError if it cannot be used."""
    found = description.get("metadata")
    if not isinstance(found, dict) or KEY not in found:
        return NO_METADATA
    try:
        metadata = msgspec.convert(found[KEY], ModelMetadata)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"{location}: its MLmodel has metadata.{KEY} that cannot be read: {error}; correct it, or train again"
        ) from error
    if unknown := sorted(set(metadata.features) - set(KNOWN)):
        raise ModelError(
            f"{location} wants the features {', '.join(unknown)}, which are not known here: update this service"
        )
    if metadata.features == DEFAULT_FEATURES:
        # ``prepare_features`` asks for this very object, because comparing the names for each ride would take longer.
        return msgspec.structs.replace(metadata, features=DEFAULT_FEATURES)
    return metadata
