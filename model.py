"""The model: loading one safely, the features of a ride, and predicting a batch of rides.

This module reads MLflow's format without mlflow. Importing mlflow takes longer than the rest of a cold start, and it
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
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

import numpy as np

from artifacts import MLMODEL, Artifact, ModelError, describe, find_run, open_artifact

if TYPE_CHECKING:
    from rides import Ride
    from settings import ModelSettings

TRUSTED_TYPES = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree"]
"""The types that a skops file may hold besides those that skops trusts: the trees of scikit-learn's ensembles.

Loading a tree runs no code, but skops warns that forged node indices can crash ``predict``: pin the digest against it.
"""

Pipeline = Any  # a fitted scikit-learn estimator: anything with ``predict``


class PredictionError(Exception):
    """The model has no value for a ride. The message says why."""


class NotTriedError(PredictionError):
    """The call for the batch failed, and the time was over before the model was called again for this ride."""


class Features(TypedDict):
    """The model's input for a ride, in training and serving: the pair of zones, and the distance in miles."""

    PU_DO: str
    trip_distance: float


SAMPLE_FEATURES: Features = {"PU_DO": "130_205", "trip_distance": 3.66}
"""Features of an ordinary ride. A model that cannot predict it is refused when it is loaded."""


def prepare_features(ride: "Ride") -> Features:
    """Return the features of a ride, the same for training and serving."""
    return {"PU_DO": f"{ride.PULocationID}_{ride.DOLocationID}", "trip_distance": ride.trip_distance}


class Model:
    """A loaded model with its version."""

    def __init__(self, call: Callable[[list[Features]], Any], version: str) -> None:
        """Wrap ``call``, which returns a number, such as minutes, for each ride whose features it is given."""
        self._call = call
        self.version = version

    def predict(
        self, rides: "Sequence[Ride]", is_over: Callable[[], bool] = lambda: False
    ) -> list[float | PredictionError]:
        """Return each ride's predicted value, in order, or an error in its place if the model has no value for it.

        The model is called once for all rides. Only if that call raises, the batch is halved, and halved again, until
        each ride that the model cannot predict is alone. As soon as ``is_over`` returns True, no further half is
        tried, and its rides get a NotTriedError.
        """
        if not rides:
            return []
        try:
            values = _as_values(self._call([prepare_features(ride) for ride in rides]), len(rides))
            # JSON has no NaN and no infinity.
            return [v if math.isfinite(v) else PredictionError(f"the model predicted {v}") for v in values]
        except MemoryError:
            # Halves would run out of memory too. Lambda redelivers the batch, by then perhaps in a new sandbox.
            raise
        except Exception as error:
            if len(rides) == 1:
                return [PredictionError(f"the model raised {type(error).__name__}: {error}")]
        middle = len(rides) // 2
        predictions: list[float | PredictionError] = []
        for half in (rides[:middle], rides[middle:]):
            not_tried = [NotTriedError("the time was over")] * len(half)
            predictions += not_tried if is_over() else self.predict(half, is_over)
        return predictions


def _as_values(answer: Any, rides: int) -> list[float]:
    values: list[float] = np.asarray(answer, dtype=float).ravel().tolist()  # some models return a column
    if len(values) != rides:
        raise ValueError(f"it gave {len(values)} predictions for {rides} rides")
    return values


def load_from_settings(settings: "ModelSettings") -> Model:
    """Load the model that the settings name. Raises ModelError as ``load_model`` and ``find_run`` do."""
    location = settings.location or find_run(settings.bucket, settings.experiment_id, settings.run_id)
    return load_model(location, sha256=settings.sha256, version=settings.run_id)


def load_model(location: str, *, sha256: str | None = None, version: str | None = None) -> Model:
    """Load the MLflow model at ``location``.

    Args:
        location: the folder or ``s3://`` URI that holds the ``MLmodel`` file.
        sha256: the hex digest that the model must have: of the serialized file for the sklearn flavor, of the whole
            folder for others (``find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` prints it there). It is
            verified if it is given, and required for a model that can run code when it is loaded.
        version: the version to tag predictions with; by default the run id that the artifact names.

    Raises:
        ModelError: if there is no such model, or if loading or using it here is unsafe or impossible.
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
    version = version or description.get("run_id") or description.get("model_uuid")
    if not version:
        raise ModelError(f"{artifact.location}/{MLMODEL} names no run: set RUN_ID to tag predictions with")
    return Model(call, str(version))


def _check_predicts(call: Callable[[list[Features]], Any], location: str) -> None:
    """Refuse a model that predicts nothing. It would turn every ride of the stream into a rejection."""
    try:
        _as_values(call([SAMPLE_FEATURES]), 1)
    except Exception as error:
        reason = _in_one_line(error)
        raise ModelError(f"{location} cannot predict a ride with the features {SAMPLE_FEATURES}: {reason}") from error


def _load_sklearn(artifact: Artifact, flavor: Mapping[str, Any], sha256: str | None) -> Pipeline:
    _check_version(artifact, str(flavor.get("sklearn_version")))
    name, serialization = str(flavor.get("pickled_model")), str(flavor.get("serialization_format"))
    what = f"{artifact.location}/{name}"
    if serialization not in _DESERIALIZERS:
        raise ModelError(f"{artifact.location}: the serialization format {serialization} is not known here")
    with artifact.open(name) as file:
        serialized = file
        if serialization != "skops" or sha256 is not None:
            # These very bytes are loaded: the file could change after its digest was verified.
            content = file.read()
            _check_digest(what, f"a {serialization}", _digest(content), sha256)
            serialized = io.BytesIO(content)
        try:
            pipeline = _DESERIALIZERS[serialization](serialized)
        except Exception as error:
            raise ModelError(f"{what} cannot be loaded: {_in_one_line(error)}") from error
    return _on_one_core(pipeline)


def _load_skops(serialized: BinaryIO) -> Pipeline:
    # Imported here because it takes as long as loading a small pickle, which does not need it.
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.load(serialized, trusted=TRUSTED_TYPES)
    except UntrustedTypesFoundException as error:
        raise TypeError(f"{error} If you do trust them, add them to TRUSTED_TYPES in model.py.") from error


_DESERIALIZERS: dict[str, Callable[[BinaryIO], Pipeline]] = {
    "skops": _load_skops,
    # pickle reads what cloudpickle wrote. Neither is called unless the file has the pinned digest.
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
    lines = "".join(f"{_digest(content)}  ./{name}\n" for name, content in files.items())
    _check_digest(artifact.location, f"of the flavor {flavors}", _digest(lines.encode()), sha256)
    # MLflow loads a copy of the verified files. It lasts as long as the process, because some flavors keep reading it.
    folder = tempfile.mkdtemp(prefix="model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        pyfunc = mlflow.pyfunc.load_model(folder)
    except Exception as error:
        raise ModelError(f"{artifact.location} cannot be loaded: {_in_one_line(error)}") from error
    return lambda features: pyfunc.predict(pd.DataFrame(features))


def _check_digest(what: str, form: str, digest: str, sha256: str | None) -> None:
    """Refuse a model if no digest is pinned for it, or if its digest is not the pinned one."""
    if sha256 is None:
        raise ModelError(
            f"{what}, {form}, can run any code when it is loaded: if you trust it, set MODEL_SHA256={digest}"
        )
    if sha256.lower() != digest:
        raise ModelError(f"{what} is not what MODEL_SHA256 names: its digest is {digest}, not {sha256}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _check_version(artifact: Artifact, trained_with: str) -> None:
    """Refuse a model of another scikit-learn: the inner state of a pipeline changes from one minor to the next."""
    installed = importlib.metadata.version("scikit-learn")
    if trained_with.split(".")[:2] != installed.split(".")[:2]:
        raise ModelError(
            f"{artifact.location} was made with scikit-learn {trained_with} and here is {installed}:"
            " train it again, or install that version"
        )


def _on_one_core(pipeline: Pipeline) -> Pipeline:
    """Set every ``n_jobs`` to 1: on a function's one core, a thread pool costs more than it brings."""
    if not hasattr(pipeline, "predict"):
        raise ModelError(f"the artifact holds a {type(pipeline).__name__}, which cannot predict")
    for estimator in _estimators(pipeline):
        if hasattr(estimator, "n_jobs"):
            estimator.n_jobs = 1
    return pipeline


def _estimators(value: Any) -> Iterator[Any]:
    """Yield a fitted estimator and every one inside it, such as steps, fitted clones and members of an ensemble."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, list | tuple | ValuesView):
        for part in value:
            yield from _estimators(part)
