"""The model: loading one, and predicting a batch of rides."""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from artifacts import MAX_MESSAGE_LENGTH, MLMODEL, ModelError, find_run, in_one_line
from baselines import Bins, read_baseline
from digests import find_digest, open_pinned
from features import SAMPLE_RIDE, Features, NoTimeError, prepare_features
from flavors import load_calls
from model_metadata import NO_METADATA, ModelMetadata, read_metadata
from served.arrays import Floats
from settings import DEFAULT_TIME_ZONE

if TYPE_CHECKING:
    from ride_counts import Counter
    from rides import Ride
    from settings import ModelSettings


class PredictionError(Exception):
    """The model has no value for a ride. The message says why."""


class NotTriedError(PredictionError):
    """The call for the batch failed, and the time was over before the model was called again for this ride."""


MAX_VERSION_LENGTH = 256
"""Each prediction carries the version. A run's id has 32 characters."""


class Model:
    """A loaded model with its version, and with what its artifact says about it."""

    def __init__(
        self,
        call: Callable[[list[Features]], Any],
        version: str,
        metadata: ModelMetadata = NO_METADATA,
        time_zone: str = DEFAULT_TIME_ZONE,
        bins: Bins | None = None,
    ) -> None:
        """Wrap ``call``, which returns a number, such as minutes, for each ride whose features it is given.

        ``time_zone`` is the zone in which a model that wants the time gets it. Raises ModelError if it is not known.
        ``bins`` are those of the model's baseline.
        """
        self._call = call
        self.version = version
        self.metadata = metadata
        self.bins = bins
        """The bins in which rides are counted; None if the model has no baseline."""
        self._zone = _find_zone(time_zone) if metadata.wants_time else None

    def predict(
        self, rides: "Sequence[Ride]", is_over: Callable[[], bool] = lambda: False, counter: "Counter | None" = None
    ) -> list[float | PredictionError]:
        """Return each ride's predicted value, in order, or an error in its place if the model has no value for it.

        For a model that wants the time, give each ride a pickup (``rides.with_time``): a ride without it gets an error.
        The model is called once for all rides. Only if that call raises, the batch is halved, and halved again, until
        each ride that the model cannot predict is alone. As soon as ``is_over`` returns True, no further half is
        tried, and its rides get a NotTriedError. The ``counter`` counts the rides that have a predicted value.
        """
        if not rides:
            return []
        try:
            names, zone = self.metadata.features, self._zone
            features = [prepare_features(ride, names, zone) for ride in rides]
            values = _as_values(self._call(features), len(rides))
        except MemoryError:
            # Halves would run out of memory too. Lambda redelivers the batch, by then perhaps in a new sandbox.
            raise
        except NoTimeError as error:
            if len(rides) == 1:
                return [PredictionError(str(error))]
        except Exception as error:
            if len(rides) == 1:
                return [PredictionError(f"the model raised {type(error).__name__}: {error}"[:MAX_MESSAGE_LENGTH])]
        else:
            return _finish(rides, features, values, counter)
        middle = len(rides) // 2
        predictions: list[float | PredictionError] = []
        for half in (rides[:middle], rides[middle:]):
            not_tried = [NotTriedError("the time was over")] * len(half)
            predictions += not_tried if is_over() else self.predict(half, is_over, counter)
        return predictions


def _finish(
    rides: "Sequence[Ride]", features: "list[Features]", values: Floats, counter: "Counter | None"
) -> list[float | PredictionError]:
    """Return the predicted values, with an error in the place of one that JSON cannot have, and count the others."""
    found: list[float] = values.tolist()
    predictions: list[float | PredictionError] = [*found]
    if not all(map(math.isfinite, found)):
        is_finite = np.isfinite(values)
        rides, features = list(compress(rides, is_finite)), list(compress(features, is_finite))
        values = values[is_finite]
        predictions = [v if math.isfinite(v) else PredictionError(f"the model predicted {v}") for v in found]
    if counter:
        # A model may change the features that it gets. If rides then cannot be counted, they are still predicted.
        with contextlib.suppress(Exception):
            hours = [one["hour"] for one in features] if "hour" in features[0] else ()
            counter.add(rides, values, hours)
    return predictions


def _as_values(answer: Any, rides: int) -> Floats:
    array = np.asarray(answer)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"it gave values of the type {array.dtype}, which are not real numbers")
    # The type is compared first because numpy.ma is a module that a cold start would load for this check alone.
    if type(answer) is not np.ndarray and np.ma.isMaskedArray(answer):
        array = np.ma.filled(answer.astype(float), math.nan)  # numpy would take the number behind the mask
    values: Floats = array.astype(float).ravel()  # some models return a column
    if len(values) != rides:
        raise ValueError(f"it gave {len(values)} predictions for {rides} rides")
    return values


def load_from_settings(settings: "ModelSettings") -> Model:
    """Load the model that the settings name. Raises ModelError as ``load_model`` and ``find_run`` do."""
    location, zone = find_location(settings), settings.time_zone
    return load_model(location, sha256=settings.sha256, version=settings.run_id, time_zone=zone)


def find_location(settings: "ModelSettings") -> str:
    """Return where the model is that the settings name. Raises ModelError as ``find_run`` does."""
    return settings.location or find_run(settings.bucket, settings.experiment_id, settings.run_id)


@dataclass(frozen=True)
class ModelDescription:
    """What an artifact says about its model, and the model's digest."""

    version: str
    """The id of the run that logged the model, unless the caller gave another version."""
    metadata: ModelMetadata
    sha256: str
    """The digest of the file that is loaded, or of the whole folder, as ``digests.find_digest`` describes it."""


def describe_model(location: str, *, sha256: str | None = None, version: str | None = None) -> ModelDescription:
    """Describe the model at ``location`` without loading it; the arguments and errors are those of ``load_model``."""
    artifact, description = open_pinned(location, sha256)
    name = version or _name_run(description, artifact.location)
    metadata = read_metadata(description, artifact.location)
    return ModelDescription(name, metadata, find_digest(artifact, description))


def load_model(
    location: str, *, sha256: str | None = None, version: str | None = None, time_zone: str = DEFAULT_TIME_ZONE
) -> Model:
    """Load the MLflow model at ``location``.

    Args:
        location: the folder or ``s3://`` URI that holds the ``MLmodel`` file.
        sha256: the hex digest that the model must have. It is that of the whole folder (there, ``find . -type f |
            LC_ALL=C sort | xargs sha256sum | sha256sum`` prints it), or that of the file that is loaded: the served
            form's if there is one, otherwise the serialized file of the sklearn flavor. Other flavors and models with
            code of their own only have the digest of the folder. It is verified if it is given, and required for a
            model that can run code when it is loaded.
        version: the version to tag predictions with; by default the run id that the artifact names.
        time_zone: the time zone in which a model that wants the pickup's time gets it.

    Raises:
        ModelError: if there is no such model, or if loading or using it here is unsafe or impossible.
    """
    artifact, description = open_pinned(location, sha256)
    metadata = read_metadata(description, artifact.location)
    call = _choose_call(load_calls(artifact, description, is_pinned=sha256 is not None), location, metadata)
    found = read_baseline(artifact, metadata)
    return Model(
        call,
        version or _name_run(description, artifact.location),
        metadata,
        time_zone,
        bins=Bins(*found) if found else None,
    )


def _find_zone(name: str) -> tzinfo:
    """Return a time zone. Raises ModelError if this system does not know it."""
    # Imported here because a model that does not want the time needs no time zones, which take milliseconds to import.
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ModelError(f"this system does not know the time zone {name}: install the package tzdata") from error


def _name_run(description: Mapping[str, Any], location: str) -> str:
    """Return the id of the run that logged the model. Raises ModelError if it is not an id."""
    run = description.get("run_id") or description.get("model_uuid")
    if not run:
        raise ModelError(f"{location}/{MLMODEL} names no run: set RUN_ID to tag predictions with")
    text = str(run)
    if isinstance(run, list | dict) or len(text) > MAX_VERSION_LENGTH or not text.isprintable():
        raise ModelError(f"{location}/{MLMODEL} names a run that is not an id: set RUN_ID to tag predictions with")
    return text


def _choose_call(
    calls: Iterable[Callable[[list[Features]], Any]], location: str, metadata: ModelMetadata
) -> Callable[[list[Features]], Any]:
    """Return the first way to call the model that predicts a sample ride.

    A model that predicts nothing is refused, because it would turn every ride of the stream into a rejection.
    """
    reasons = []
    sample = prepare_features(SAMPLE_RIDE, metadata.features)
    for call in calls:
        try:
            _as_values(call([sample.copy()]), 1)
        except Exception as error:
            reasons.append(in_one_line(error))
        else:
            return call
    raise ModelError(f"{location} cannot predict a ride with the features {sample}: {'; '.join(reasons)}")
