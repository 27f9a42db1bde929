"""The model: how to load one safely, its features, and predicting a batch of rides.

MLflow's format is read here without mlflow: importing that takes longer than everything else a cold start does, and it
trusts the types that the artifact itself names.
"""

import atexit
import hashlib
import importlib.metadata
import io
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

import numpy as np

from artifacts import MLMODEL, Artifact, ModelError, describe, find_run, open_artifact

if TYPE_CHECKING:
    from rides import Ride
    from settings import ModelSettings

TRUSTED_TYPES = [
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
]
"""What a skops file may hold beyond skops' own list: the trees of scikit-learn's ensembles.

Loading one runs no code, but skops warns that crafted node indices can crash ``predict``: a pinned digest covers that.
"""

Pipeline = Any
"""A fitted scikit-learn estimator: anything with ``predict``."""


class PredictionError(Exception):
    """The model has no duration for a ride. The message says why."""


class NotTriedError(PredictionError):
    """The time was over before the model was called for this ride."""


class Features(TypedDict):
    """What the model is trained on and asked with: the pair of zones, and the distance in miles."""

    PU_DO: str
    trip_distance: float


SAMPLE_FEATURES: Features = {"PU_DO": "130_205", "trip_distance": 3.66}
"""Those of a ride that every model can predict, or it is none for this function."""


def prepare_features(ride: "Ride") -> Features:
    """Return the features of a ride, the same for training and serving."""
    return {"PU_DO": f"{ride.PULocationID}_{ride.DOLocationID}", "trip_distance": ride.trip_distance}


class Model:
    """A loaded model with its version."""

    def __init__(self, call: Callable[[list[Features]], Any], version: str) -> None:
        """Wrap ``call``, which returns a number for each of the features it is given, in minutes."""
        self._call = call
        self.version = version

    def predict(
        self, rides: "Sequence[Ride]", is_over: Callable[[], bool] = lambda: False
    ) -> list[float | PredictionError]:
        """Return each ride's duration in minutes, in order, or an error in its place if the model has no answer.

        The model is called once for all rides. Only if that call raises, the batch is halved, and halved again, until
        each ride that the model cannot predict stands alone. As soon as ``is_over`` returns True, no further half is
        tried, and its rides get a NotTriedError.
        """
        return self._predict([prepare_features(ride) for ride in rides], is_over) if rides else []

    def _predict(self, features: list[Features], is_over: Callable[[], bool]) -> list[float | PredictionError]:
        try:
            return [_finite(duration) for duration in _as_durations(self._call(features), len(features))]
        except MemoryError:
            # Halving would only repeat it. Lambda redelivers the batch, by then perhaps in a new sandbox.
            raise
        except Exception as error:
            if len(features) == 1:
                return [PredictionError(f"the model raised {type(error).__name__}: {error}")]
        middle = len(features) // 2
        halves = (features[:middle], features[middle:])
        return [duration for half in halves for duration in self._predict_half(half, is_over)]

    def _predict_half(self, features: list[Features], is_over: Callable[[], bool]) -> Sequence[float | PredictionError]:
        if is_over():
            return [NotTriedError("the time was over")] * len(features)
        return self._predict(features, is_over)


def _as_durations(answer: Any, wanted: int) -> list[float]:
    durations: list[float] = np.asarray(answer, dtype=float).ravel().tolist()
    if len(durations) != wanted:
        raise ValueError(f"it gave {len(durations)} predictions for {wanted} rides")
    return durations


def _finite(duration: float) -> float | PredictionError:
    return duration if math.isfinite(duration) else PredictionError(f"the model predicted {duration}")


def load_from_settings(settings: "ModelSettings") -> Model:
    """Load the model that the settings name. Raises ModelError as ``load_model`` and ``find_run`` do."""
    location = settings.location or find_run(settings.bucket, settings.experiment_id, settings.run_id)
    return load_model(location, sha256=settings.sha256, version=settings.run_id)


def load_model(location: str, *, sha256: str | None = None, version: str | None = None) -> Model:
    """Load the MLflow model that lies in ``location``.

    Args:
        location: the folder or ``s3://`` URI that holds the ``MLmodel`` file.
        sha256: the hex digest that the model must have: of its serialized file for the sklearn flavor, of the whole
            folder for others (what ``find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` prints in it).
            Always verified; needed for whatever runs code when it is loaded.
        version: the version to tag predictions with; by default the run id that the artifact names.

    Raises:
        ModelError: where there is no such model, or it is not safe or not possible to use it here.
    """
    artifact = open_artifact(location)
    description = describe(artifact)
    flavors = description.get("flavors")
    if not isinstance(flavors, dict):
        raise ModelError(f"{location}: its MLmodel names no flavors")
    if isinstance(flavors.get("sklearn"), dict):
        call = _load_sklearn(artifact, flavors["sklearn"], sha256).predict
    elif "python_function" in flavors:
        call = _load_pyfunc(artifact, ", ".join(flavors), sha256)
    else:
        raise ModelError(f"{location}: its MLmodel names no flavor that can be loaded, only {list(flavors)}")
    _check_predicts(call, location)
    return Model(call, version or _own_version(artifact, description))


def _check_predicts(call: Callable[[list[Features]], Any], location: str) -> None:
    """Refuse a model that predicts nothing, which would turn every ride of the stream into a rejection."""
    try:
        _as_durations(call([SAMPLE_FEATURES]), 1)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{location} cannot predict a ride with the features {SAMPLE_FEATURES}: {reason}") from error


def _own_version(artifact: Artifact, description: Mapping[str, Any]) -> str:
    version = description.get("run_id") or description.get("model_uuid")
    if not version:
        raise ModelError(f"{artifact.location}/{MLMODEL} names no run: set RUN_ID to tag predictions with")
    return str(version)


def _load_sklearn(artifact: Artifact, flavor: Mapping[str, Any], sha256: str | None) -> Pipeline:
    _check_version(artifact, str(flavor.get("sklearn_version")))
    name, serialization = str(flavor.get("pickled_model")), str(flavor.get("serialization_format"))
    what = f"{artifact.location}/{name}"
    if serialization not in _DESERIALIZERS:
        raise ModelError(f"{artifact.location}: the serialization format {serialization} is not known here")
    needs_digest = serialization != "skops" or sha256 is not None
    with artifact.open(name) as file:
        serialized = _verified(file, what, serialization, sha256) if needs_digest else file
        try:
            pipeline = _DESERIALIZERS[serialization](serialized)
        except Exception as error:
            raise _not_loadable(what, error) from error
    return _on_one_core(pipeline)


def _verified(file: BinaryIO, what: str, serialization: str, sha256: str | None) -> BinaryIO:
    """Return the file's content once it is what the digest names: the very bytes, in case that the file changes."""
    serialized = file.read()
    digest = hashlib.sha256(serialized).hexdigest()
    if sha256 is None:
        raise _unpinned(f"{what}, a {serialization},", digest)
    _check_digest(what, digest, sha256)
    return io.BytesIO(serialized)


def _load_skops(serialized: BinaryIO) -> Pipeline:
    # Here and not above: importing skops takes as long as loading a small pickle does.
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.load(serialized, trusted=TRUSTED_TYPES)
    except UntrustedTypesFoundException as error:
        raise TypeError(f"{error} If you do trust them, add them to TRUSTED_TYPES in model.py.") from error


_DESERIALIZERS: dict[str, Callable[[BinaryIO], Pipeline]] = {
    "skops": _load_skops,
    # What cloudpickle writes, pickle reads. Neither is reached without a pinned digest.
    "cloudpickle": pickle.load,
    "pickle": pickle.load,
}


def _load_pyfunc(artifact: Artifact, flavors: str, sha256: str | None) -> Callable[[list[Features]], Any]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow.pyfunc
        import pandas as pd
    except ImportError as error:
        raise ModelError(
            f"{artifact.location} is of the flavor {flavors}, which needs mlflow ({error}):"
            ' build the image with --build-arg CATEGORIES="packages training", or log it with mlflow.sklearn'
        ) from error
    files = {name: artifact.read(name) for name in artifact.names()}
    digest = _folder_digest(files)
    _check_digest(artifact.location, digest, sha256)
    if sha256 is None:
        raise _unpinned(f"{artifact.location}, of the flavor {flavors},", digest)
    try:
        pyfunc = mlflow.pyfunc.load_model(_copied(files))
    except Exception as error:
        raise _not_loadable(artifact.location, error) from error
    return lambda features: pyfunc.predict(pd.DataFrame(features))


def _copied(files: Mapping[str, bytes]) -> str:
    """Write the files into a folder that lives as long as the process: some flavors go on reading theirs."""
    folder = tempfile.mkdtemp(prefix="model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _folder_digest(files: Mapping[str, bytes]) -> str:
    lines = (f"{hashlib.sha256(content).hexdigest()}  ./{name}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_digest(what: str, digest: str, sha256: str | None) -> None:
    if sha256 is not None and sha256.lower() != digest:
        raise ModelError(f"{what} is not what MODEL_SHA256 names: its digest is {digest}, not {sha256}")


def _not_loadable(what: str, error: Exception) -> ModelError:
    return ModelError(f"{what} cannot be loaded: {' '.join(f'{type(error).__name__}: {error}'.split())}")


def _unpinned(what: str, digest: str) -> ModelError:
    return ModelError(f"{what} can run any code when it is loaded: if you trust it, set MODEL_SHA256={digest}")


def _check_version(artifact: Artifact, trained_with: str) -> None:
    """Refuse another scikit-learn than the artifact's: a pipeline's inner state changes from one minor to the next."""
    installed = importlib.metadata.version("scikit-learn")
    if trained_with.split(".")[:2] != installed.split(".")[:2]:
        raise ModelError(
            f"{artifact.location} was made with scikit-learn {trained_with} and here is {installed}:"
            " train it again, or install that version"
        )


def _on_one_core(pipeline: Pipeline) -> Pipeline:
    """Set every ``n_jobs`` to 1: a thread pool costs more than it brings on a function's one core."""
    if not hasattr(pipeline, "predict"):
        raise ModelError(f"the artifact holds a {type(pipeline).__name__}, which cannot predict")
    for estimator in _estimators(pipeline):
        if hasattr(estimator, "n_jobs"):
            estimator.n_jobs = 1
    return pipeline


def _estimators(value: Any) -> Iterator[Any]:
    """Yield every estimator in a fitted one, wherever it keeps them: steps, clones that were fitted, members."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for part in value:
        yield from _estimators(part)
